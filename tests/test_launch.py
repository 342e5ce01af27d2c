"""Training in several processes of this machine: the same step as in one, one writer, and no process left behind."""
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import fails
from safetensors.torch import load_file

from resynth import launch, models, sft, soft_bench, students, tuning
from resynth.profiles import load_profile

# rows with 1 to 9 answer tokens each: shares of a batch that are averaged, not added, give another loss
ROWS = [([int(i) for i in np.random.default_rng(n).integers(300, 4000, 12 + n)], 1 + n % 9) for n in range(11)]


def two(spec): return replace(spec, processes=2)


def adapters(spec, settings, train, folder, monkeypatch):
    "Factors and losses of one adapter, trained into its own folder."
    monkeypatch.setenv("RESYNTH_ADAPTERS", str(folder))
    made = sft.find_or_train(spec, "float32", ROWS, settings, 0, "key", train)
    return load_file(made / "adapter_model.safetensors"), json.loads((made / "losses.json").read_text())


def distance(a, b):  # of two models, as a part of their norm
    apart = sum(float((a[k] - b[k]).square().sum()) for k in a) ** 0.5
    return apart / sum(float(v.square().sum()) for v in a.values()) ** 0.5


@pytest.mark.parametrize("settings, train", [
    (tuning.EpochSettings(epochs=2, batch=3, lr=0.01, rank=2), tuning.train_epochs),  # 10 rows of which the last batch has one
    (soft_bench.StudentSettings(steps=4, batch=5, lr=0.01, rank=2, warmup=1, stop=4), partial(soft_bench.train_points, points={2: "half"}))])
def test_an_adapter_is_that_of_one_process(tiny_lm, tmp_path, monkeypatch, settings, train):
    alone, losses = adapters(tiny_lm, settings, train, tmp_path / "one", monkeypatch)
    shared, told = adapters(two(tiny_lm), settings, train, tmp_path / "two", monkeypatch)
    told, losses = (x["train"] + x["validation"] if isinstance(x, dict) else x for x in (told, losses))
    assert told == pytest.approx(losses, abs=2e-5) and len(told) >= 4
    assert distance(alone, shared) < 1e-3
    monkeypatch.setattr(launch, "share", lambda batch: batch[::2])
    half, _ = adapters(tiny_lm, settings, train, tmp_path / "half", monkeypatch)  # a process that nobody adds to
    assert distance(alone, half) > 1e-2
    assert (tmp_path / "two" / "half").is_dir() == isinstance(train, partial)


def test_a_whole_student_is_that_of_one_process(tiny_lm, tmp_path, monkeypatch):
    settings = soft_bench.StudentSettings(steps=3, batch=5, lr=1e-3, rank=0, warmup=1, stop=3)
    def tuned(spec, folder):
        monkeypatch.setenv("RESYNTH_ADAPTERS", str(folder))
        return load_file(soft_bench.find_or_tune_whole(spec, ROWS, settings, 0, "key") / soft_bench.WHOLE)
    alone, shared = tuned(tiny_lm, tmp_path / "one"), tuned(two(tiny_lm), tmp_path / "two")
    before = models.load_lm(tiny_lm, "float32")[0].state_dict()
    assert distance(alone, shared) < 0.02 * distance(alone, {k: before[k] for k in alone})


def test_a_classifier_is_that_of_one_process(tiny_student, tmp_path, monkeypatch):
    from test_students import FAST, SPACE, task
    (texts, labels), said = task(21, 0), {}  # a last batch of five rows, shared three to two
    for n in (1, 2):
        monkeypatch.setenv("RESYNTH_STUDENTS", str(tmp_path / str(n)))
        said[n] = students.run_student(replace(tiny_student, processes=n), texts, labels, SPACE, texts, FAST, record=True)
    assert np.abs(said[1].probabilities - said[2].probabilities).max() < 1e-3
    assert said[1].losses == pytest.approx(said[2].losses, rel=1e-4) and said[2].history.shape == said[1].history.shape
    assert len(said[1].losses) == FAST.epochs


def test_what_goes_wrong_is_one_line(tiny_lm, tmp_path, monkeypatch):
    monkeypatch.setenv("RESYNTH_ADAPTERS", str(tmp_path))
    wild = sft.TuneSettings(steps=6, batch=4, lr=1e30)
    fails(lambda: sft.find_or_train(two(tiny_lm), "float32", ROWS, wild, 0, "key"), "the loss is nan at step 1 of 6; lower lr")
    assert not (tmp_path / "key").exists()
    fails(lambda: launch.launch(2, os._exit, 7), "one ended with status 7")
    monkeypatch.setattr(models, "device_name", lambda: "cuda"), monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    fails(lambda: launch.launch(2, max, 1, 2), "this machine has 1 GPU; lower 'processes'")


def test_no_process_survives_the_run(tmp_path):
    "SIGKILL of the process that launched: nobody is there to stop the others."
    code = f"from resynth.launch import launch; import runpy; launch(2, runpy.run_path, {str(tmp_path / 'job.py')!r})"
    (tmp_path / "job.py").write_text(f"import os, time, pathlib; pathlib.Path({str(tmp_path)!r}, f'pid-{{os.getpid()}}').touch(); time.sleep(300)")
    run = subprocess.Popen([sys.executable, "-c", code])
    pids = lambda: [int(path.name[4:]) for path in tmp_path.glob("pid-*")]
    try: waits_for(lambda: len(pids()) == 2, 120)
    finally: run.send_signal(signal.SIGKILL); run.wait()
    waits_for(lambda: not any(Path(f"/proc/{pid}").exists() and "Z" != Path(f"/proc/{pid}/stat").read_text().split()[2] for pid in pids()), 30)


def waits_for(true, seconds):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


def test_processes_decide_no_answer():
    plain, spread = load_profile("smoke"), load_profile("smoke", {"model.teacher.processes": 4})
    assert spread.models["teacher"].processes == 4 and plain.models["teacher"].processes == 1
    assert spread.settings_hash("aide") == plain.settings_hash("aide")
    fails(lambda: load_profile("smoke", {"model.teacher.processes": 0}), "processes")
