"A run killed at fifty random moments ends with the bytes of an undisturbed one, and pays for no finished batch twice."
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def killed(tmp_path, kills, bug=""):
    "Run `killed_page.py`; what it reports."
    script = Path(__file__).with_name("killed_page.py")
    done = subprocess.run([sys.executable, script, tmp_path / "lives", "0", str(kills), bug], capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr.strip().splitlines()[-1:]
    return json.loads(done.stdout)


def test_fifty_kills_change_no_byte_and_cost_the_batch_in_flight(tmp_path):
    report = killed(tmp_path, 50)
    assert report["kills"] == 50 and report["rounds"] >= 2 and report["stable"]
    kinds = {Path(name).suffix for name in report["files"]}
    assert kinds >= {".csv", ".svg", ".png", ".json", ".parquet", ".sum"} and "calls" in report["files"]
    assert not report["different"]
    assert report["twice"] == 0 and 0 < report["repaid"] <= report["kills"] * report["largest"]


@pytest.mark.parametrize("bug, tells", [("late commit", "twice"), ("one stream", "different")])
def test_the_kills_find_a_planted_bug(tmp_path, bug, tells):
    assert killed(tmp_path, 8, bug)[tells]
