"The tasks of SoftSRV: readers and their errors, splits that share nothing, layouts, judging, and the embedded analogues."
import json
from dataclasses import replace

import pandas as pd
import pytest
from helpers import fails

from resynth import softsrv_tasks as K
from resynth.code_sandbox import Program, run_programs
from resynth.profiles import SOFT_TASK_NAMES, load_profile, load_prompts
from resynth.softsrv_embedded import SoftItem, embedded_items, question_words, split_of
from resynth.softsrv_tasks import SOFT_TASKS, TRANSFER, evaluate_items, judge, judge_answers, lay_out, load_items, open_items, read_number, soft_task, student_pairs
from resynth.teacher import LocalTeacher

PROMPTS = load_prompts("prompts/softsrv.toml")
REAL = ("mbpp", "gsm8k", "boolq")


@pytest.fixture(scope="module")
def teacher(tiny_lm): return LocalTeacher(replace(tiny_lm, precision="float32"))


@pytest.mark.parametrize("name", ["smoke", "laptop", "laptop_real", "gpu", "paper"])
def test_profiles_name_every_task(name):
    profile = load_profile(name)
    assert set(profile.soft_tasks) == set(SOFT_TASK_NAMES) == set(SOFT_TASKS) and profile.softsrv["tasks"] == (["gsm8k"] if name in ("smoke", "laptop") else list(REAL))
    for t in profile.soft_tasks.values(): assert (t["source"] == "hub") == bool(t["hub"])


def test_the_paper_profile_has_the_papers_numbers():
    profile = load_profile("paper")
    ss, tasks = profile.softsrv, profile.soft_tasks
    assert (ss["length"], ss["steps"], ss["lr"], ss["k"], ss["hidden"], ss["layers"]) == (128, 20_000, 5e-6, 2, 128, 3)
    assert (ss["temperature"], ss["template_temperature"], ss["n_a_prompt"], ss["n_clusters"], ss["n_features"], ss["ngram"]) == (1.0, 2.0, 10, 700, 100, 13)
    assert [tasks[t]["n_raw"] for t in REAL] == [100_000] * 3 and [tasks[t]["n_rows"] for t in REAL] == [50_000, 50_000, 20_000]
    assert [tasks[t]["shots"] for t in ("mbpp", "gsm8k", "transcoder", "mawps", "triviaqa")] == [3, 5, 3, 0, 5]
    assert (ss["tune_steps"], ss["tune_batch"], ss["tune_lr"], ss["tune_warmup"], ss["tune_length"], ss["tune_rank"]) == (2000, 16, 1e-6, 100, 8192, 0)
    assert (ss["mix_share"], ss["mix_steps"], ss["mauve_clusters"], ss["scale_grid"], ss["scale_task"]) == (0.2, 10_000, 32, [20_000, 50_000, 100_000], "boolq")
    assert profile.models[ss["student"]].hub == "google/gemma-2-2b"


def test_transfer_stays_in_its_domain():
    assert set(TRANSFER) == set(REAL) and set(TRANSFER.values()) == set(SOFT_TASKS) - set(REAL)
    assert all(SOFT_TASKS[a].domain == SOFT_TASKS[b].domain for a, b in TRANSFER.items())


MBPP = dict(text="Double it.", code="def f(x): return 2 * x", test_list=["assert f(1) == 2"], test_setup_code="")


@pytest.mark.parametrize("read, record, parts", [
    (K.read_mbpp, {**MBPP, "text": " "}, ["field 'text' is empty"]), (K.read_mbpp, {k: v for k, v in MBPP.items() if k != "code"}, ["field 'code' is missing"]), (K.read_mbpp, {**MBPP, "test_list": ["a", ""]}, ["'test_list'", "none of them empty"]),
    (K.read_mbpp, {**MBPP, "test_list": "assert 1"}, ["is not a list"]), (K.read_gsm, dict(question="q", answer="4"), ["no number behind ####"]), (K.read_boolq, dict(question="q", passage="p", answer=1), ["answer", "true or false"]),
    (K.read_boolq, dict(question="q", answer=True), ["'passage' is missing"]), (K.read_mawps, dict(sQuestion="q", lSolutions=["?"]), ["is no number"]), (K.read_mawps, dict(x=1), ["'Question' is missing"]),
    (K.read_triviaqa, dict(question="q", answer="a"), ["'answer'", "not an object"]), (K.read_triviaqa, dict(question="q", answer=dict(value="a")), ["'aliases' is missing"]), (K.read_transcoder, dict(cpp="c", python="p"), ["'test_list' is missing"])])
def test_wrong_records_are_told_with_their_place(read, record, parts): fails(lambda: read("file line 7", record), "file line 7", *parts)


def test_forms_of_mawps():
    forms = [dict(sQuestion="2 and 3 ?", lSolutions=[5.0]), dict(original_text="2 and 3 ?", ans=5.0), dict(Question="N_00 and N_01 ?", Numbers="2.0 3.0", Answer=5.0)]
    assert {(e.question, e.answer) for r in forms for e in [K.read_mawps("x", r)]} == {("2 and 3 ?", "The answer is 5.")}


def write_local(folder, name, train, test):
    (folder / name).mkdir()
    for split, records in (("train", train), ("test", test)): (folder / name / f"{split}.jsonl").write_text("\n".join(map(json.dumps, records)))


def test_local_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RESYNTH_DATA", str(tmp_path))
    record = lambda i: {**MBPP, "text": f"Write function number {i}."}
    write_local(tmp_path, "mbpp", [record(i) for i in (1, 2, 3, 3)], [record(i) for i in (7, 8)])
    train, test = load_items("mbpp", "local")
    assert len(train) == 3 and len(test) == 2 and "1 repeated questions left out" in capsys.readouterr().err
    assert load_items("mbpp", "local", 2, 1)[0] == load_items("mbpp", "local", 2, 1)[0] and len(load_items("mbpp", "local", 2, 1)[0]) == 2
    fails(lambda: load_items("mbpp", "local", 9), "9 items asked for, 3 there")
    write_local(tmp_path, "gsm8k", [dict(question="One and one?", answer="2\n#### 2")], [dict(question="one and ONE", answer="2\n#### 2")])
    fails(lambda: load_items("gsm8k", "local"), "train and test share a question")
    fails(lambda: load_items("boolq", "local"), "boolq/test.jsonl", "RESYNTH_DATA")
    fails(lambda: load_items("boolq", "locl"), "did you mean 'local'?")
    fails(lambda: load_items("transcoder", "hub"), "no dataset id")


@pytest.mark.parametrize("name", REAL)
def test_real_data(name, real_data):
    real_data(name)
    train, test = open_items("laptop_real", name)
    sizes = load_profile("laptop_real").soft_tasks[name]
    assert (len(train), len(test)) == (sizes["n_train"], sizes["n_test"]) and len({e.id for e in train + test}) == len(train) + len(test)
    if name == "mbpp": assert [v.why for v in run_programs([Program(e.answer, e.tests, e.setup) for e in test[:30]])] == ["passed"] * 30
    elif name == "gsm8k": assert judge_answers(soft_task(name), test, [e.answer for e in test]).correct.all()
    else: assert 0.4 < sum(e.answer == "True" for e in test) / len(test) < 0.8 and all(e.question.startswith("PASSAGE: ") and "\nQUESTION: " in e.question for e in test)


# layout

@pytest.mark.parametrize("name", SOFT_TASK_NAMES)
@pytest.mark.parametrize("style", ["completion", "chat"])
def test_layout(name, style):
    task, (train, test) = soft_task(name), load_items(name, "embedded", 4, 3)
    item, shots = test[0], train[:2]
    text = lay_out(PROMPTS, task, item, shots, style)
    assert text.count(item.question) == 1 and all(s.question in text and s.answer in text for s in shots)
    assert text.index(shots[0].question) < text.index(shots[1].question) < text.index(item.question)
    tail = text[text.index(item.question):]
    assert item.answer not in tail.replace(item.question, "") and all(t in tail for t in item.tests) and (style == "chat" or tail.rstrip().endswith(":"))
    bare = lay_out(PROMPTS, task, replace(item, tests=()), (), style)
    assert "must pass" not in bare and "\n\n\n" not in bare and not bare.startswith("\n")
    fails(lambda: lay_out(PROMPTS, task, replace(item, question=shots[0].question.upper()), shots, style), "leave it out of the shots")


def test_student_pairs_ask_what_evaluation_asks():
    for name in SOFT_TASK_NAMES:
        items = [replace(e, tests=()) for e in embedded_items(name, "train", 3)]
        for (prompt, answer), e in zip(student_pairs(PROMPTS, soft_task(name), items), items):
            assert prompt == lay_out(PROMPTS, soft_task(name), e) and answer.strip() == e.answer and answer.endswith("\n\n") and not (prompt + answer).count("  Tr")
    fails(lambda: student_pairs(PROMPTS, soft_task("mbpp"), []), "nothing to tune on")


# judging

@pytest.mark.parametrize("text, number", [
    ("2 + 3 = 5. The answer is 5.", "5"), ("So she pays $1,250.50", "1250.50"), ("The answer is -4", "-4"), ("12 apples, 7 pears, so 19", "19"), ("x = 3.", "3"), ("20%", "20%"), ("", None), ("nothing", None),
    ("The answer is 8. Next question: 9 + 9", "8")])
def test_numbers_are_read(text, number): assert read_number(text) == number


def test_names_are_judged():
    item = SoftItem("i", "q", "The Netherlands", aliases=("Holland",))
    right = [judge(soft_task("triviaqa"), item, t)[1] for t in (" netherlands", "the Netherlands.", "HOLLAND\nand more", "Belgium", "", "Nether lands")]
    assert right == [True, True, True, False, False, False]
    fails(lambda: judge(soft_task("gsm8k"), SoftItem("i", "q", "none"), "4"), "holds no number")


@pytest.mark.parametrize("name", [n for n in SOFT_TASK_NAMES if n != "boolq"])
def test_references_are_right_and_strangers_wrong(name):
    task, items = soft_task(name), embedded_items(name, "test", 8)
    answers = [e.answer for e in items]
    assert judge_answers(task, items, answers).correct.all() and judge_answers(task, items, answers[1:] + answers[:1]).correct.mean() < 0.6
    empty = judge_answers(task, items, [""] * 8)
    assert not empty.correct.any() and (not empty.parsed.any() or task.metric == "tests")


@pytest.mark.parametrize("name", SOFT_TASK_NAMES)
def test_evaluation_runs(teacher, name):
    train, test = load_items(name, "embedded", 3, 4)
    frame = evaluate_items(teacher, PROMPTS, soft_task(name), test, train[:2], 6, seconds=1)
    assert list(frame.columns) == ["item", "predicted", "parsed", "correct"] and list(frame["item"]) == [e.id for e in test] and frame.correct.isin([0, 1]).all()
    if name == "boolq":
        scores = teacher.score([(lay_out(PROMPTS, soft_task(name), e, train[:2]), f" {w}") for e in test for w in ("True", "False")])
        assert list(frame.predicted) == ["True" if a.bits <= b.bits else "False" for a, b in zip(scores[::2], scores[1::2])]


def test_too_many_shots(teacher): fails(lambda: K.evaluate_soft(load_profile("smoke", {"soft_task.mawps.shots": 60}), teacher, "mawps"), "60 shots asked for, 4 training items")


# embedded

@pytest.mark.parametrize("name", SOFT_TASK_NAMES)
def test_embedded_splits_share_nothing(name):
    n = 20 if name == "triviaqa" else 120
    train, test = embedded_items(name, "train", n), embedded_items(name, "test", n if name != "triviaqa" else 15)
    keys = [{question_words(e.question) for e in part} for part in (train, test)]
    assert not keys[0] & keys[1] and len(keys[0]) == len(train) == n and [e.id for e in train] == [f"{name}-train-{i}" for i in range(n)]
    assert train == embedded_items(name, "train", n) and train[:5] == embedded_items(name, "train", n)[:5]
    if name != "triviaqa": assert train != embedded_items(name, "train", n, seed=1)


@pytest.mark.parametrize("name", ["smoke", "laptop", "laptop_real"])
def test_profiles_ask_for_no_more_than_there_is(name):
    profile = load_profile(name)
    for task, sizes in profile.soft_tasks.items():
        if sizes["source"] == "embedded": assert tuple(map(len, open_items(profile, task))) == (sizes["n_train"], sizes["n_test"])


def test_embedded_code_is_right():
    items = embedded_items("mbpp", "train", 150) + embedded_items("mbpp", "test", 50) + embedded_items("transcoder", "train", 60)
    assert [v.why for v in run_programs([Program(e.answer, e.tests) for e in items])] == ["passed"] * len(items)
    assert len({e.question.split("(")[0] for e in items}) > 60


@pytest.mark.parametrize("split", ["train", "test"])
def test_embedded_passages_answer_their_questions(split):
    items = embedded_items("boolq", split, 150)
    assert 0.38 < sum(e.answer == "True" for e in items) / len(items) < 0.62
    for e in items:  # whatever a True question asks about stands in the passage
        passage, question = e.question.split("\nQUESTION: ")
        numbers = [w for w in question.split() if w.isdigit()]
        if e.answer == "True": assert all(w in passage for w in numbers), e
        elif numbers: assert not all(f" {w} " in passage.replace(",", " ").replace(".", " ").replace(";", " ") for w in numbers), e


def test_embedded_sums_are_right():
    for e in embedded_items("mawps", "train", 80):
        rule, _, number = e.answer.split(". The answer")[0].partition(" = ")
        assert eval(rule) == float(number) == float(read_number(e.answer)) >= 0


def test_embedded_errors():
    fails(lambda: embedded_items("mbp", "train", 1), "did you mean 'mbpp'?"), fails(lambda: embedded_items("mbpp", "tran", 1), "did you mean 'train'?"), fails(lambda: embedded_items("triviaqa", "test", 999), "999 embedded items asked for")
    assert split_of("What is it?") == split_of("what is IT")


def test_frames_are_plain():
    frame = pd.DataFrame([vars(t) for t in SOFT_TASKS.values()])
    assert list(frame["metric"]) == ["tests", "number", "boolean", "tests", "number", "name"]
