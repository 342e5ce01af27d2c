"The bench of SoftSRV on tiny random weights: nothing lost unseen, students shared and kept on their way, mixtures and sizes, prompts that learn, MAUVE with people on top."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import encode_letters, fails

from resynth import soft_bench as B
from resynth import soft_tables as R
from resynth.claims import read_published
from resynth.datasets import rows_to_frame
from resynth.models import find_damage
from resynth.profiles import load_profile, load_prompts
from resynth.sft import adapters_dir

TASK = "gsm8k"


@pytest.fixture
def bench(tiny_lm, tmp_path, monkeypatch):
    "A bench whose models are tiny and random; contexts are counts of letters."
    monkeypatch.setenv("RESYNTH_CACHE", str(tmp_path))
    return make_bench(tiny_lm)


def make_bench(tiny_lm, changes=None):
    profile = load_profile("smoke", {"softsrv.context_layers": 1, "softsrv.tune_layers": 1, "softsrv.tune_lr": 0.02, "softsrv.tune_steps": 4, "softsrv.hidden": 4, **(changes or {})})
    names = {profile.softsrv[k] for k in ("backbone", "student", "context_model")}
    profile = replace(profile, models={**profile.models, "teacher": tiny_lm, **dict.fromkeys(names, tiny_lm)})
    encode = lambda texts, batch=32: encode_letters(texts).astype(np.float32)
    return B.SoftBench(profile, B.open_named(profile, profile.softsrv["backbone"]), load_prompts("prompts/softsrv.toml"), encode)


def written(n, method="SS_MC", task=TASK):
    "Rows as a method could have written them."
    return rows_to_frame([dict(row_id=f"r{i}", task=task, question=f"Mara buys {i} pens and {i + 2} books. How many things?", answer=f"The answer is {2 * i + 2}.", method=method) for i in range(n)])


def plant(bench, rows, method="SS_MC", seed=0, task=TASK): bench.kept["rows", task, method, seed] = rows


# sets

def test_every_question_is_accounted_for(bench):
    for method in ("SS_NP", "SS_MP2", "SS_MC", "PT_SR", "PT plain", "train"):
        try: B.make_rows(bench, TASK, method, 0)
        except B.ResynthError as error: assert "no question came out" in str(error) and method.startswith("PT")
    table = B.soft_losses(bench).set_index("method")
    assert {"SS_NP", "SS_MP2", "SS_MC", "train"} <= set(table.index)
    soft = table.loc[["SS_NP", "SS_MP2", "SS_MC"]]
    assert (soft["asked for"] == soft["cut off"] + soft["empty"] + soft["written"]).all() and (soft["asked for"] == bench.profile.soft_tasks[TASK]["n_raw"]).all()


def test_losses_that_do_not_add_up(bench):
    bench.losses.append(dict(task=TASK, method="PT", seed=0, written=9, copies=3, kept=5))
    fails(lambda: B.soft_losses(bench), TASK, "do not add up")
    assert B.soft_losses(replace(bench, losses=[])).empty


def test_names_that_are_not_there(bench):
    fails(lambda: B.make_rows(bench, TASK, "SS_MPx", 0), "unknown method 'SS_MPx'", "SS_MC")
    fails(lambda: B.splits_of(bench, "gsm8"), "did you mean 'gsm8k'?")
    assert B.kind_of("SS_MP16") == ("SS_MP", 16) and B.mixture_name(1) == "SS_NP" and B.mixture_name(4) == "SS_MP4"


def test_a_mixture_of_one_writes_what_the_plain_prompt_writes(bench):
    "k = 1 is SS_NP, so Figure 7 takes its point from there; trained apart, both give the same matrix, but for the order of sums."
    from resynth.soft_training import open_soft
    asked = [e.question for e in B.splits_of(bench, TASK)[0]]
    plain, mixed = open_soft(bench.profile, asked, 0, "SS_NP"), open_soft(bench.profile, asked, 0, "SS_MP", 1, bench.encode)
    fixed = plain(np.zeros((len(asked), 1), np.float32))  # reads no context
    assert mixed.losses[0] == plain.losses[0] and float((mixed(bench.encode(asked)) - fixed).abs().mean()) < 1e-4


# students

def test_rates_are_the_librarys():
    from transformers import get_cosine_schedule_with_warmup
    s = B.StudentSettings(steps=20, lr=0.5, warmup=6)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=s.lr)
    schedule, theirs = get_cosine_schedule_with_warmup(optimiser, s.warmup, s.steps), []
    for _ in range(s.steps + 1):
        theirs.append(optimiser.param_groups[0]["lr"])
        optimiser.step(); schedule.step()
    ours = B.warm_rates(s)
    assert np.allclose(ours[:6], theirs[1:7]) and np.allclose(ours[6:], theirs[6:20])  # theirs begins at 0, a step that learns nothing


def test_a_student_is_tuned_once_and_shared(bench, monkeypatch):
    plant(bench, written(4))
    first, count = B.method_outcomes(bench, TASK, "SS_MC", 0), []
    real = B.train_student
    monkeypatch.setattr(B, "train_student", lambda *a, **k: count.append(1) or real(*a, **k))
    again = replace(bench, kept={**bench.kept}, losses=[])
    again.teacher = B.open_named(bench.profile, bench.profile.softsrv["backbone"])
    assert B.method_outcomes(again, TASK, "SS_MC", 0).equals(first) and not count
    plant(again, written(3))
    B.method_outcomes(again, TASK, "SS_MC", 0)
    assert count == [1]


def test_kept_on_the_way_is_stopped_there(bench):
    plant(bench, written(4))
    whole, half = B.student_of(bench, TASK, "SS_MC", 0).teacher, B.student_of(bench, TASK, "SS_MC", 0, stop=2).teacher
    whole.folder
    on_the_way = adapters_dir() / half.key
    assert not find_damage(on_the_way, full=True)
    kept = (on_the_way / "adapter_model.safetensors").read_bytes()
    on_the_way.rename(on_the_way.with_name("aside"))
    assert (half.folder / "adapter_model.safetensors").read_bytes() == kept != (whole.folder / "adapter_model.safetensors").read_bytes()
    assert len(half.losses) == 2 and half.losses == whole.losses[:2] and len(whole.losses) == 4


def test_only_the_highest_layers_learn(bench, tiny_lm):
    plant(bench, written(4))
    student, base = B.student_of(bench, TASK, "SS_MC", 0).teacher.lm.state_dict(), bench.teacher.teacher.lm.state_dict()
    moved = {name.split(".")[2] for name in base if not torch.equal(base[name], student[name])}
    assert moved == {str(bench.teacher.teacher.lm.config.num_hidden_layers - 1)}


def test_all_weights_learn_at_rank_0(bench):
    whole = replace(bench, profile=replace(bench.profile, softsrv={**bench.profile.softsrv, "tune_rank": 0, "tune_lr": 0.01}), kept={})
    plant(whole, written(4))
    student = B.student_of(whole, TASK, "SS_MC", 0).teacher
    base, tuned = bench.teacher.teacher.lm.state_dict(), student.lm.state_dict()
    assert len(student.losses) == 4 and sum(not torch.equal(base[n], tuned[n]) for n in base) > 0.8 * len(base)
    assert torch.equal(B.load_whole(student.spec, student.folder, student.precision).state_dict()["model.norm.weight"], tuned["model.norm.weight"])


def test_nothing_kept_nothing_tuned(bench):
    plant(bench, written(0))
    none, untuned = (B.method_outcomes(bench, TASK, m, 0) for m in ("SS_MC", "untuned"))
    assert none.correct.equals(untuned.correct) and (none.n_rows == 0).all()


def test_rows_that_are_too_long(bench):
    short = replace(bench, profile=replace(bench.profile, softsrv={**bench.profile.softsrv, "tune_length": 8}))
    plant(short, written(2))
    fails(lambda: B.student_of(short, TASK, "SS_MC", 0), "longer than softsrv.tune_length = 8")


def test_a_rate_far_too_high_is_told(bench):
    wild = replace(bench, profile=replace(bench.profile, softsrv={**bench.profile.softsrv, "tune_lr": 1.0, "tune_warmup": 0}), kept={})
    plant(wild, written(4))
    student = B.student_of(wild, TASK, "SS_MC", 0).teacher
    student.settings = replace(student.settings, lr=1e30)
    fails(lambda: student.lm, "the loss is", "softsrv.tune_lr")


# grids

def test_curves_start_untuned_and_sizes_are_beginnings(bench):
    for method in ("SS_MC", "PT"): plant(bench, written(4, method))
    curve = B.curve_outcomes(bench, TASK, ("SS_MC",))
    assert sorted(curve.step.unique()) == [0, 2, 4] and (curve[curve.step == 0].correct.tolist() == B.method_outcomes(bench, TASK, "untuned", 0).correct.tolist())
    assert curve[curve.step == 4].epochs.iloc[0] == 4 * bench.profile.softsrv["tune_batch"] / 4
    task = bench.profile.softsrv["scale_task"]
    for method in ("SS_MC", "PT"): plant(bench, written(4, method, task), method, task=task)
    sizes = B.size_outcomes(bench)
    assert sorted(sizes["size"].unique()) == [2, 4] and (sizes.n_rows == sizes["size"]).all()


def test_students_are_tested_on_another_task(bench):
    for method in ("SS_MC", "PT"): plant(bench, written(4, method), method)
    found = B.transfer_outcomes(bench, [TASK])
    assert set(found.task) == {"mawps"} and set(found["item"]) == {e.id for e in B.splits_of(bench, "mawps")[1]}


@pytest.mark.parametrize("n_general, n_added, share", [(3, 50, 0.2), (50, 3, 0.2), (10, 10, 0.5), (7, 1, 0.9)])
def test_mixtures_keep_their_shares_and_lose_nothing(n_general, n_added, share):
    mixed = B.mix_pairs([("g", str(i)) for i in range(n_general)], [("a", str(i)) for i in range(n_added)], share)
    assert len(set(mixed)) == n_general + n_added and abs(np.mean([p == "a" for p, _ in mixed]) - share) < 0.02


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_shares_without_a_side(share): fails(lambda: B.mix_pairs([("g", "")], [("a", "")], share), "above 0, below 1")


def test_general_questions_are_of_no_soft_task(bench):
    pairs = B.general_pairs(bench, "completion", "\n\n")
    tests = {e.question for name in bench.profile.soft_tasks for e in B.splits_of(bench, name)[1]}
    assert len(pairs) == len(B.GENERAL) * B.EACH and not any(q in p for p, _ in pairs for q in tests) and not set(B.GENERAL) & set(bench.profile.soft_tasks)


def test_room_is_what_the_training_set_gives(bench, monkeypatch):
    made = lambda b, names, methods: pd.DataFrame([dict(task=t, method=m, seed=s, item=i, correct=int(m == "train" and t == "boolq"), parsed=1) for t in names for m in methods for s in range(3) for i in range(9)])
    monkeypatch.setattr(B, "grid_outcomes", made)
    assert B.train_room(bench, ["boolq", "gsm8k", "boolq"]) == {"boolq": True, "gsm8k": False}


def test_contamination_counts_what_was_judged(bench):
    bench.losses += [{"task": TASK, "method": "SS_MC", "seed": 0, "written": 9, "in the test set": 1, "without an answer": 1, "kept": 2},
                     {"task": TASK, "method": "PT", "seed": 0, "written": 4, "in the test set": 0, "kept": 4}, {"task": TASK, "method": "train", "seed": 0, "written": 99, "kept": 99}]
    table = B.contamination_table(bench, R.contamination_bounds()).set_index("kind").share
    assert table["found"] == pytest.approx(1 / 8) and table["bound"] == 0.001


# what a prompt learns, and likeness

def test_trained_prompts_price_new_questions_below_random_and_empty_ones(tiny_lm, tmp_path, monkeypatch):
    monkeypatch.setenv("RESYNTH_CACHE", str(tmp_path))
    bench = make_bench(tiny_lm, {"softsrv.steps": 60, "softsrv.batch": 8, "softsrv.lr": 0.05, "softsrv.length": 6, "softsrv.checkpoint_every": 100, "soft_task.mbpp.n_train": 24, "soft_task.mbpp.n_test": 12})
    table = B.reconstruction_bits(bench, "mbpp")
    assert list(table.method) == ["SS_NP", "SS_MP2", "SS_MC"] and (table.bits < table[["random", "empty"]].min(axis=1)).all()


def test_human_questions_are_nearest_to_human_questions(tiny_lm, tmp_path, monkeypatch):
    monkeypatch.setenv("RESYNTH_CACHE", str(tmp_path))
    bench = make_bench(tiny_lm, {f"soft_task.{TASK}.n_train": 40, f"soft_task.{TASK}.n_test": 40, "softsrv.mauve_clusters": 8})
    rng = np.random.default_rng(0)
    for method in B.SIMILAR[:-1]:
        noise = ["".join(rng.choice(list("aeiou rst"), 40)) for _ in range(40)]
        plant(bench, written(40, method).assign(question=noise), method)
    table = B.similarity_outcomes(bench, [TASK]).set_index(["method", "reference"]).mauve
    assert table["train", "train"] == 1 and all(table["train", "test"] > table[m, "test"] for m in B.SIMILAR[:-1])


def test_sets_are_compared_at_one_size_and_empty_ones_left_out(bench):
    for method, n in (("PT", 6), ("PT_SR", 9), ("SS_NP", 0), ("SS_MP2", 3), ("SS_MC", 5)): plant(bench, written(n, method), method)
    methods = B.similar_methods(bench, TASK)
    assert methods == ["PT", "PT_SR", "SS_MC", "train"]
    assert {len(q) for q in B.question_sets(bench, TASK, 0, methods).values()} == {5}


# tables

def outcomes(methods, tasks=("mbpp", "boolq"), seeds=3):
    rng = np.random.default_rng(1)
    return pd.DataFrame([dict(task=t, method=m, seed=s, item=i, correct=int(rng.random() < 0.3 + 0.2 * k), parsed=1, n_rows=5) for t in tasks for k, m in enumerate(methods) for s in range(seeds) for i in range(30)])


def test_a_method_that_one_task_lacks():
    frame = outcomes(("train", "SS_MC", "PT", "PT_SR"))
    frame = frame[(frame.task != "boolq") | (frame.method != "PT_SR")]
    table = R.soft_table(frame, {"PT": ("PT_SR", "higher"), "SS_MC": ("PT", "higher")}, load_profile("smoke"), dict(mbpp=True, boolq=True)).set_index(["task", "method"])
    assert table.against["mbpp", "PT"] == "PT_SR" and table.against["boolq", "PT"] == "" and table.against["boolq", "SS_MC"] == "PT" and "mean" not in table.index.get_level_values(0)


def test_every_printed_accuracy_finds_its_cell():
    known = read_published(paper="SoftSRV")
    for r in known[known["item"].isin(["Table 1", "Table 2", "Table 3"])].itertuples():
        task = next(n for n, t in R.SOFT_TASKS.items() if t.title == r.column)
        assert R.soft_value(r.item, r.row, task) == r.value
    for r in known[known["item"].isin(["Table 4", "Table 5"])].itertuples():
        task = next(n for n, t in R.SOFT_TASKS.items() if t.title == r.column)
        assert R.soft_value(r.item, r.row, task, r.metric) == r.value
    assert np.isnan(R.soft_value("Table 4", "PT_SR", "boolq")) and np.isnan(R.soft_value("Table 1", "SS_MC", "mean"))
