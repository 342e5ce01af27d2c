"The bench of AIDE: data sets made once and clean, students shared, nothing lost unseen; with tiny random weights."
from dataclasses import replace

import pandas as pd
import pytest
from helpers import encode_letters, fails

from resynth import aide_bench as B
from resynth import tuning
from resynth.datasets import rows_to_frame
from resynth.models import load_encoder
from resynth.personas import PERSONAS
from resynth.profiles import load_profile, load_prompts
from resynth.tasks import Example
from resynth.teacher import LocalTeacher, StoredTeacher

TASK = "implicatures"
LONG = "the quick brown fox jumps over the lazy dog near the old stone bridge"  # 14 words


@pytest.fixture
def bench(tiny_lm, tmp_path, monkeypatch):
    "A bench whose models are tiny and random: the teacher keeps no form, students learn a little."
    monkeypatch.setenv("RESYNTH_CACHE", str(tmp_path))
    profile = load_profile("smoke", {"aide.lr": 0.02})
    name = profile.aide["teacher"]
    profile = replace(profile, models={**profile.models, "teacher": tiny_lm, name: tiny_lm})
    return B.AideBench(profile, B.open_named(profile, name), load_prompts("prompts/aide.toml"), PERSONAS[:8], encode_letters)


def written(questions, answers=None, method="AIDE"):
    "Rows as a method could have written them."
    return rows_to_frame([dict(row_id=f"r{i}", task=TASK, question=q, answer=(answers or ["yes", "no"])[i % 2], method=method) for i, q in enumerate(questions)])


def plant(bench, rows, seed=0, method="AIDE"): bench.kept["rows", TASK, method, seed, None, None, ()] = rows


def test_a_teacher_without_form_writes_nothing_and_all_is_counted(bench):
    for method in B.METHODS: assert len(B.make_rows(bench, TASK, method, 0)) == 0
    table = B.aide_losses(bench).set_index("method")
    assert list(table.index) == list(B.METHODS) and (table["rows"] == 0).all() and (table.asked > 0).all()
    assert (table.loc[list(B.METHODS[1:]), "asked"] == B.asked_rows(bench)).all()


def test_losses_that_do_not_add_up(bench):
    bench.losses.append(dict(task=TASK, method="AIDE", seed=0, asked=9, copy=3, rows=5))
    fails(lambda: B.aide_losses(bench), TASK, "do not add up")
    assert list(B.aide_losses(replace(bench, losses=[])).columns) == ["task", "method", "runs", "asked", "rows"]


def test_losses_are_summed_over_runs(bench):
    bench.losses += [dict(task=TASK, method="AIDE", seed=s, asked=9, copy=s, rows=9 - s) for s in (1, 2)] + [dict(task=TASK, method="gold", seed=0, asked=4, rows=4)]
    table = B.aide_losses(bench).set_index("method")
    assert table.loc["AIDE", ["runs", "asked", "copy", "rows"]].tolist() == [2, 18, 3, 15] and table.loc["gold", "copy"] == 0


def test_no_rows_no_tuning(bench):
    none, untuned = (B.method_outcomes(bench, TASK, m, 0) for m in ("AIDE", "zero-shot"))
    assert none.correct.equals(untuned.correct) and (none.n_rows == 0).all() and list(none["item"]) == [e.id for e in B.data_of(bench, TASK, 0).test]
    plant(bench, written(["one?"]))
    assert B.method_outcomes(bench, TASK, "AIDE", 0).correct.equals(untuned.correct)  # one row validates, none is left to learn from


def test_gold_students_learn_from_n_rows_and_are_found_again(bench, monkeypatch):
    first = B.method_outcomes(bench, TASK, "gold", 0)
    assert (first.n_rows == bench.profile.aide["n_rows"]).all() and len(first) == len(B.data_of(bench, TASK, 0).test)
    monkeypatch.setattr(tuning, "train_epochs", lambda *a: pytest.fail("trained twice"))
    assert B.method_outcomes(bench, TASK, "gold", 0).equals(first)


def test_runs_share_test_items_and_nothing_else(bench):
    zero, one = (B.data_of(bench, TASK, s) for s in (0, 1))
    assert zero.test == one.test and zero.seeds != one.seeds and B.data_of(bench, TASK, 0) is zero
    assert len(B.data_of(bench, TASK, 0, 1).seeds) == 1


def test_rows_that_the_test_data_shine_through_are_taken_out(bench):
    data = B.data_of(bench, TASK, 0)
    leaks = [data.test[0].question.upper(), f"Please: {LONG}", data.seeds[0].question]
    gold = tuple(Example(f"g{i}", q, "yes") for i, q in enumerate([*leaks, "a clean question?"]))
    bench.kept["data", TASK, 0, None] = replace(data, gold=gold, test=(*data.test, Example("t", f"Well, {LONG}!", "no")))
    rows = B.make_rows(bench, TASK, "gold", 0)
    assert list(rows.question) == ["a clean question?"]
    loss = bench.losses[-1]
    assert (loss["asked"], loss["a test item"], loss["13 words of a test item"], loss["a seed"], loss["rows"]) == (4, 1, 1, 1, 1)


def test_a_leak_is_seen(bench):
    data = B.data_of(bench, TASK, 0)
    plant(bench, written(["fine?", data.test[0].question, data.seeds[0].question]))
    table = B.shared_rows(bench).set_index("method").loc["AIDE"]
    assert (table["rows"], table["test_item"], table["seed"], table["seeds_in_test"]) == (3, 1, 1, 0)


def test_the_residual_connection_is_cut_to_the_tree(bench):
    wide = replace(bench, profile=load_profile("smoke", {"aide.depth": 4, "aide.residual": 3}))
    assert [B.settings_of(wide, TASK, **c).residual for c in ({}, dict(depth=2), dict(depth=4), dict(depth=2, residual=1))] == [3, 2, 3, 1]


def test_students_are_paired_like_items():
    one = pd.DataFrame(dict(item=["a", "b"], student="x", correct=1))
    assert B.pool_students(one).equals(one)
    assert list(B.pool_students(pd.concat([one, one.assign(student="y")]))["item"]) == ["x/a", "x/b", "y/a", "y/b"]


@pytest.mark.parametrize("gold, supported", [(lambda s, i: 1, True), (lambda s, i: int(i % 2), False), (lambda s, i: 0, False)])
def test_the_control_stops_where_tuning_does_not_help(bench, gold, supported):
    rows = [dict(task="ag_news", method=m, seed=s, item=str(i), student="x", correct=f(s, i)) for m, f in (("zero-shot", lambda s, i: int(i % 2)), ("gold", gold)) for s in range(3) for i in range(20)]
    if supported: assert B.control_gain(bench, pd.DataFrame(rows)).low.item() > 0
    else: fails(lambda: B.control_gain(bench, pd.DataFrame(rows)), "control task 'ag_news'", "tuning or scoring is wrong")


def test_one_run_decides_nothing_about_the_control(bench):
    rows = [dict(task="ag_news", method=m, seed=0, item=str(i), student="x", correct=0) for m in ("zero-shot", "gold") for i in range(5)]
    assert B.control_gain(bench, pd.DataFrame(rows)).effect.item() == 0


def test_the_encoder_remembers(tmp_path, monkeypatch, profile, tiny_student):
    from resynth.store import Store
    monkeypatch.setenv("RESYNTH_CACHE", str(tmp_path / "cache"))
    store, texts = Store(tmp_path / "s.sqlite"), ["a", "b", "a long one"]
    make = lambda load, longest: B.remembered_encoder(load, store, dict(model="tiny"), longest=longest)
    for longest in (3, 2):
        first = make(lambda: load_encoder(replace(tiny_student, role="encoder")), longest)(texts)
        assert (make(lambda: pytest.fail("computed twice"), longest)(texts) == first).all() and first.shape[0] == 3


def test_faults(bench):
    fails(lambda: B.make_rows(bench, TASK, "Evol-Instrct", 0), "did you mean 'Evol-Instruct'?")
    fails(lambda: B.data_of(bench, "implicature", 0), "did you mean 'implicatures'?")
    fails(lambda: B.open_named(load_profile("smoke"), "SmolLM2"), "unknown model", "SmolLM2-135M-Instruct")


def test_a_bench_opens_its_own_teacher(bench):
    assert isinstance(bench.teacher, StoredTeacher) and isinstance(bench.teacher.teacher, LocalTeacher) and "stand-in" in bench.teacher.revision
