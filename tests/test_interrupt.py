"Ctrl-C in a numbered notebook: one line, status 130, nothing half-written, finished calls kept, and the next run ends with the same bytes."
import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from resynth.models import cache_dir
from resynth.profiles import repo_root

PAGE = "15_consistency_groups"  # one task: the cheapest page that asks for all kinds of calls


def project(folder):
    "A project of its own with an empty cache, the models shared."
    models = cache_dir() / "models"
    (folder / "cache").mkdir(parents=True)
    (folder / "cache" / "models").symlink_to(models)
    shutil.copy(repo_root() / "settings.ini", folder)
    shutil.copytree(repo_root() / "reproducibility", folder / "reproducibility")
    return folder


def start(folder):
    "`resynth reproduce` as a terminal starts it: in a process group of its own."
    env = dict(os.environ, RESYNTH_ROOT=str(folder), RESYNTH_CACHE=str(folder / "cache"), OMP_NUM_THREADS="1")
    words = [sys.executable, "-m", "resynth.command_line", "reproduce", "--profile", "smoke", "--nb", PAGE]
    return subprocess.Popen(words, env=env, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a shell's background job ignores it, and so would its children


def calls(folder):
    "The rows of the store that are finished; {} while there is no store."
    try:
        with sqlite3.connect(f"file:{folder / 'cache' / 'store' / 'smoke.sqlite'}?mode=ro", uri=True) as db: return {k: (v, crc) for k, v, crc in db.execute("SELECT key, value, crc FROM calls")}
    except sqlite3.Error: return {}


def files(folder):
    "Everything below a project but its sources, its models, the store and the clock, hidden files and folders too: name -> sha256."
    kept = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if name.startswith(("reproducibility", "cache/models", "cache/store/smoke.sqlite")) or path.name == "run.json": continue
        kept[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return kept


def interrupt(folder, ready):
    "Start a run, send SIGINT to its whole group when `ready()`; its process, output and errors."
    child, began = start(folder), time.monotonic()
    while child.poll() is None and not ready():
        if time.monotonic() - began > 600: os.killpg(child.pid, signal.SIGKILL); pytest.fail("the run never came to the moment of the signal")
        time.sleep(0.01)
    assert child.poll() is None, child.communicate()
    os.killpg(child.pid, signal.SIGINT)
    return child, *child.communicate(timeout=120)


def kernels(folder):
    "Processes that still belong to a project, by what their environment says."
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")) if os.path.isdir("/proc") else ():
        try: mine = f"RESYNTH_ROOT={folder}".encode() in open(f"/proc/{pid}/environ", "rb").read().split(b"\0")
        except OSError: continue
        if mine: found.append(pid)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = project(tmp_path_factory.mktemp("undisturbed") / "project")
    out, err = (child := start(folder)).communicate(timeout=600)
    assert child.returncode == 0, (out, err)
    return files(folder), calls(folder)


@pytest.mark.parametrize("moment", ["first rows", "tables in the making"])
def test_ctrl_c_loses_nothing_and_leaves_nothing_half_made(moment, undisturbed, tmp_path):
    folder = project(tmp_path / "project")
    staging = folder / "results" / "smoke" / f".{PAGE}.new"
    child, out, err = interrupt(folder, (lambda: calls(folder)) if moment == "first rows" else staging.exists)
    assert child.returncode == 130, (out, err)
    assert len(err.strip().splitlines()) == 1 and "interrupted" in err and "FAILED" not in out
    kept = calls(folder)
    assert kept and kept.items() <= undisturbed[1].items()
    assert not kernels(folder), "the page's own process lives on"
    left = [n for n in files(folder) if n.startswith(("results", ".cache")) and files(folder)[n] != "folder" or ".new" in n]
    assert not left, f"half made: {left}"
    out, err = (again := start(folder)).communicate(timeout=600)
    assert again.returncode == 0 and (files(folder), calls(folder)) == undisturbed, (out, err)
