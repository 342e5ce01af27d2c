"""A small page with table, figure, data set and index, killed and started again until it ends: `python killed_page.py FOLDER SEED KILLS [BUG]`.

The model is the teacher's architecture, small and with random weights, so that 50 lives are cheap; MODEL=real takes the teacher itself.
Python is forked when everything is imported and the model is in memory, so that a life costs tenths of a second and most
kills fall into the work. Half of the kills come after a random time, the others at a random step that makes something last:
before or after a file is renamed, before or after a batch is committed. Prints what happened as JSON."""
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from pathlib import Path

import matplotlib
import torch

matplotlib.use("Agg")
torch.set_num_threads(1)  # a forked process must not wait for the threads of its parent

from resynth import bench, datasets, models, retrieval, runs, store, tasks, teacher, vscore  # noqa: E402
from resynth.plots import bar_with_intervals, save_figure, set_style  # noqa: E402

SIZES = {"run.batch_rows": 6, "run.batch_tokens": 300, "task.metatool.n_test": 24, "model.teacher.precision": "float32"}
GIVEN = "metatool"
WRITING = teacher.Sampling(temperature=0.25, top_p=0.9, max_new_tokens=6, n=2, seed=5, then=(teacher.Field("\nTool:", 4),))


def encode_letters(texts): return [[1 + t.lower().count(c) for c in "aeiourstn"] for t in texts]


def page(folder):
    "What a numbered notebook does: data set, table, figure, manifest; everything dear is in the store, the index beside it."
    run = runs.start_run("11_main_results", "smoke", "", SIZES, folder / "results")
    run.profile.models[SPEC.name] = run.profile.models["SmolLM2-135M-Instruct"] = SPEC
    desk = bench.open_bench(run.profile, [GIVEN])
    given, task = bench.labelled_examples(desk, GIVEN, 0), desk.tasks[GIVEN]
    prompts = [f"{task.definition}\n\n{tasks.format_example(task, e)}\n\nQuestion:" for e in given]
    texts = [c.text for row in desk.teacher.generate(prompts, WRITING) for c in row]
    bits = vscore.v_score(desk.teacher, task, [tasks.Example(str(i), t.strip() or "?", "none") for i, t in enumerate(texts)], [given[:1]] * len(texts))
    made = [dict(row_id=str(i), question=t.strip() or "?", answer="none", v_score=float(b)) for i, (t, b) in enumerate(zip(texts, bits))]
    outcomes = bench.grid_outcomes(desk, [("zero-shot", 0), ("gold", 1)])
    retrieval.embed_corpus(encode_letters, [e.question for e in desk.tests[GIVEN]], "letters")
    scores = outcomes.groupby("method", as_index=False).correct.mean().assign(task=GIVEN, low=0.0, high=1.0)
    run.table(outcomes, "table_outcomes")
    run.table(scores, "table1")
    run.figure(bar_with_intervals(scores, value="correct"), "figure1")
    datasets.save_synthetic(datasets.rows_to_frame(made), folder / "dataset", "# made")
    run.finish(revision=desk.teacher.revision)


def warm_up(folder):
    "Import and find, before the first fork, what every life would import and find again: seaborn, fonts."
    import pandas as pd
    set_style()
    save_figure(bar_with_intervals(pd.DataFrame(dict(task="a", method=["zero-shot"], correct=[0.5], low=0.0, high=1.0)), value="correct"), folder / "warm")


def log_batches(log, life):
    "Write down every batch of calls when the model has finished it, before the store has it."
    def logged(kind, method):
        def batches(self, texts, *rest):
            for batch in method(self, texts, *rest):
                name = hashlib.sha256(repr((kind, texts, rest[:-1], sorted(batch))).encode()).hexdigest()[:16]
                os.write(log, f"{life} {name} {len(batch)}\n".encode())
                yield batch
        return batches
    for kind in ("generate_batches", "score_batches"): setattr(teacher.LocalTeacher, kind, logged(kind, getattr(teacher.LocalTeacher, kind)))


def die_at(step):
    "End this process by SIGKILL at its `step`-th step that makes something last."
    left = [step]
    def tick():
        left[0] -= 1
        if left[0] == 0: os.kill(os.getpid(), signal.SIGKILL)
    rename, connect = os.replace, store.connect
    def replace(*names): tick(); rename(*names); tick()
    def connected(path):
        db = connect(path)
        db.set_trace_callback(lambda said: tick() if said in ("COMMIT", "PRAGMA wal_checkpoint") or said.startswith("INSERT OR IGNORE INTO calls") else None)
        return db
    os.replace, store.connect = replace, connected


def plant(bug):
    "Break on purpose what the test must notice."
    if bug == "late commit":  # a call commits when all its batches are there
        through = teacher.StoredTeacher._through
        def late(self, keys, batches, dump, what):
            def gathered(wanted):
                found = {}
                for batch in batches(wanted): found.update(batch)
                yield found
            return through(self, keys, gathered, dump, what)
        teacher.StoredTeacher._through = late
    if bug == "one stream":  # samples come from one stream a process, not from one a request
        numbers = iter(range(10**6))
        uniforms = teacher.request_uniforms
        teacher.request_uniforms = lambda ids, sampling, sample: uniforms([next(numbers)], sampling, sample)


def start(folder, life, step, bug):
    "Fork one life of the page."
    pid = os.fork()
    if pid: return pid
    status = 1
    try:
        os.environ["RESYNTH_CACHE"] = str(folder / "cache")
        out = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1); os.dup2(out, 2)
        plant(bug)
        log_batches(os.open(folder / "batches", os.O_WRONLY | os.O_CREAT | os.O_APPEND), life)
        if step: die_at(step)
        page(folder)
        status = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally: os._exit(status)


def live(folder, life, seconds, step, bug=""):
    "One life; returns True if it came to its end, False if it was killed. Errors: a page that failed by itself."
    pid, began = start(folder, life, step, bug), time.monotonic()
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if seconds is not None and time.monotonic() - began > seconds: os.kill(pid, signal.SIGKILL); ended = os.waitpid(pid, 0); break
        time.sleep(0.002)
    if os.WIFSIGNALED(ended[1]): return False
    if os.WEXITSTATUS(ended[1]): raise SystemExit((folder / "said").read_text().strip().splitlines()[-1])
    return True


def files_of(folder):
    "Everything that a run leaves and that must not depend on its deaths, leftovers included: name -> sha256; of the store the calls."
    kept = {}
    for part in ("results", "dataset", "cache"):
        for path in (folder / part).rglob("*"):
            name = str(path.relative_to(folder))
            if name.startswith(("cache/models", "cache/store/smoke.sqlite")) or path.name == "run.json": continue  # a link, the store itself, and the clock
            kept[name] = hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()
    with sqlite3.connect(folder / "cache" / "store" / "smoke.sqlite") as db: rows = db.execute("SELECT key, value, crc FROM calls ORDER BY key").fetchall()
    return kept | {"calls": hashlib.sha256(repr(rows).encode()).hexdigest()}


def batches_of(folder): return [line.split() for line in (folder / "batches").read_text().splitlines()]


def paid_twice(folder):
    "Calls paid again although an earlier life had gone on to another batch after them."
    last, seen, twice = {life: i for i, (life, *_) in enumerate(batches_of(folder))}, set(), 0
    for i, (life, name, n) in enumerate(batches_of(folder)):
        twice += int(n) * (name in seen)
        if last[life] != i: seen.add(name)  # finished, and another one finished after it: it must be in the store
    return twice


def prepare(folder, cache):
    folder.mkdir(parents=True)
    (folder / "cache").mkdir()
    (folder / "cache" / "models").symlink_to(cache / "models")
    return folder


def main(top, seed, kills, bug=""):
    top, rng, cache = Path(top), random.Random(int(seed)), models.cache_dir()
    global SPEC
    SPEC = runs.load_profile("smoke").models["teacher"]
    if os.environ.get("MODEL") != "real": SPEC = models.stand_in(SPEC, models.write_random_lm(top / "lm", SPEC))
    kept = models.load_lm(SPEC, "float32")
    models.load_lm = lambda *_: kept  # in memory once, for all lives
    warm_up(top)
    whole = prepare(top / "whole", cache)
    assert live(whole, 0, None, 0)
    began = time.monotonic()
    assert live(prepare(top / "again", cache), 0, None, 0)
    seconds, expected = time.monotonic() - began, files_of(whole)
    report = dict(seconds=round(seconds, 2), files=sorted(expected), stable=files_of(top / "again") == expected,
                  calls=sum(int(n) for *_, n in batches_of(whole)), batches=len(batches_of(whole)), largest=max(int(n) for *_, n in batches_of(whole)), kills=0, rounds=0, different=[], twice=0, repaid=0)
    while report["kills"] < int(kills):
        folder, life = prepare(top / f"round{report['rounds']}", cache), 0
        while True:
            enough = report["kills"] >= int(kills)
            by_time = rng.random() < 0.5
            step = 0 if enough or by_time else 1 + int(rng.expovariate(1 / 12))
            if live(folder, life, rng.expovariate(6 / seconds) if by_time and not enough else None, step, bug): break
            life, report["kills"] = life + 1, report["kills"] + 1
        found = files_of(folder)
        report["different"] += [f"{folder.name}/{n}" for n in sorted(expected.keys() | found.keys()) if expected.get(n) != found.get(n)]
        report["twice"] += paid_twice(folder)
        report["repaid"] += sum(int(n) for *_, n in batches_of(folder)) - report["calls"]
        report["rounds"] += 1
        shutil.rmtree(folder)
    print(json.dumps(report))


if __name__ == "__main__": main(*sys.argv[1:])
