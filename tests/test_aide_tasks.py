"Tasks of AIDE: every field form, splits, seeds, three ways to measure, overlap; and what a wrong record is told."
import json
from dataclasses import replace

import pandas as pd
import pytest
from helpers import fails

from resynth import choice_tasks as C
from resynth.embedded_choices import EMBEDDED_CHOICES, embedded_choices
from resynth.profiles import choose_prompt, load_profile, load_prompts
from resynth.tasks import Example, check_example
from resynth.teacher import LocalTeacher

PROMPTS = load_prompts("prompts/aide.toml")
YES = dict(input="Speaker 1: 'Tea?' Speaker 2: 'Always.'", target_scores=dict(yes=1.0, no=0.0))


def right(example): return C.split_options(example.options)["ABCDEFGH".index(example.answer)]


@pytest.fixture(scope="module")
def tiny(tiny_lm): return LocalTeacher(tiny_lm)


# options

@pytest.mark.parametrize("options", [["a", "b"], ["x) y", "B) c", "d"], ["1", "12", "2"], ["A", "B", "C", "D", "E", "F", "G", "H"]])
def test_options_survive_the_line(options):
    for i in range(len(options)):
        example = C.make_choice("here", "Which?", options, i)
        if "B) c" not in options: assert sorted(C.split_options(example.options)) == sorted(options) and right(example) == options[i]


def test_the_order_depends_on_the_question_alone():
    first = C.make_choice("here", "Which one?", ["a", "b", "c", "d"], 2)
    again = C.make_choice("there", "Which one?", ["c", "d", "b", "a"], 0)
    assert (first.options, first.answer) == (again.options, again.answer)
    assert len({C.make_choice("", f"q{i}", ["a", "b", "c", "d"], 0).answer for i in range(60)}) == 4
    assert C.make_choice("", "Which one?", ["a", "b"], 1, shuffle=False).options == "A) a B) b"


@pytest.mark.parametrize("options, index, part", [(["a"], 0, "1 options"), (["a", " "], 0, "option 1 is empty"), (["a", "a"], 0, "'a' stands twice"), (["a", "b"], 2, "there are 2"), (list("abcdefghi"), 0, "9 options")])
def test_wrong_options(options, index, part): fails(lambda: C.make_choice("file line 3", "?", options, index), "file line 3", part)


# readers

@pytest.mark.parametrize("read, record, answer", [
    (C.read_bigbench, YES, "yes"),
    (C.read_bigbench, dict(inputs="1 + 1?\n  choice: 2\n  choice: 3\nA:", multiple_choice_targets=["2", "3"], multiple_choice_scores=[1, 0]), "2"),
    (C.read_bigbench, dict(input="When?\nWe know that:\nIt rained.\nOptions:\n(A) 1pm to 2pm\n(B) 3pm to 4pm", target="(B)"), "3pm to 4pm"),
    (C.read_code, dict(input="print(1)", target_scores={"prints one": 1, "prints two": 0}), "prints one"),
    (C.read_cause, dict(cause="It rained.", effect="It was wet."), "It rained."),
    (C.read_mmlu, dict(question="q", A="a", B="b", C="c", D="d", answer="D", subject="philosophy"), "d"),
    (C.read_mmlu, dict(question="q", choices=["a", "b", "c", "d"], answer=1), "b"),
    (C.read_mathqa, dict(query="Question: 1 + 1 ?\nA. 3\nB. 2\nAnswer: ", choices=["A", "B"], gold=1), "2"),
    (C.read_arc, dict(question=dict(stem="q", choices=[dict(text="x", label="A"), dict(text="y", label="B")]), answerKey="B"), "y"),
    (C.read_arc, dict(question="q", choices=dict(text=["x", "y"], label=["1", "2"]), answerKey="1"), "x"),
    (C.read_truthfulqa, {"Question": "q", "Best Answer": "Yes.", "Incorrect Answers": "No; yes. ; Never; Perhaps; Often"}, "Yes."),
    (C.read_truthfulqa, dict(question="q", mc1_targets=dict(choices=["t", "f"], labels=[1, 0])), "t"),
    (C.read_cfa, dict(text="Which is it? CHOICES: A: cash, B: shares, C: bets", gold=1), "shares"),
])
def test_every_form_of_a_record(read, record, answer):
    found = read("here", record)
    assert (right(found) if found.options else found.answer) == answer and "choice:" not in found.question and "(A)" not in found.question


def test_contracts_ask_what_their_task_asks():
    assert C.read_contract("", dict(text="Fees are due.", answer="No", task="cuad_no-solicit_of_employees")).question == "Fees are due. Is the clause about no solicit of employees?"
    assert C.read_contract("", dict(contract="Fees.", question="Are fees due?", answer="Yes", task="consumer_contracts_qa")).question == "Fees. Are fees due?"
    assert C.read_contract("", dict(text="Fees.", answer="Arbitration", task="unfair_tos")) is None


@pytest.mark.parametrize("read, record, parts", [
    (C.read_bigbench, dict(YES, target_scores=dict(yes=1, no=1)), ("2 options are right",)), (C.read_bigbench, dict(YES, target_scores=[1, 0]), ("'target_scores'", "an object")),
    (C.read_bigbench, dict(input="When?", target="(B)"), ("do not go together",)), (C.read_bigbench, dict(inpt="x"), ("did you mean 'inpt'?",)),
    (C.read_mmlu, dict(question="q", A="a", B="b", C="c", D="d", answer="E"), ("'answer' = 'E'", "A, B, C, D")), (C.read_mmlu, dict(question="q", A="a", B="b", C="c", answer="A"), ("field 'D' is missing",)),
    (C.read_arc, dict(question=dict(stem="q", choices=[dict(text="x", label="A"), dict(text="y", label="B")]), answerKey="C"), ("answerKey", "A, B")),
    (C.read_mathqa, dict(query="Question: ?\nA. 3\nAnswer: ", gold=0), ("1 options",)), (C.read_mathqa, dict(query="Question: ?\nA. 3\nB. \nC. 4\nAnswer: ", gold=2), ("option 1 is empty",)), (C.read_truthfulqa, {"Question": "q", "Best Answer": "Yes.", "Incorrect Answers": "yes."}, ("1 options",)),
    (C.read_contract, dict(text=" ", answer="Yes"), ("'text' is empty",)), (C.read_code, dict(input="print(1)"), ("field 'target' is missing",)),
])
def test_malformed_records(read, record, parts): fails(lambda: read("file line 3", record), "file line 3", *parts)


# local files and splits

def put(folder, name, **splits):
    (folder / name).mkdir()
    for split, records in splits.items(): (folder / name / f"{split}.jsonl").write_text("\n".join(json.dumps(r) for r in records))


def test_local_files_of_our_own(tmp_path, monkeypatch):
    monkeypatch.setenv("RESYNTH_DATA", str(tmp_path))
    code = [dict(input=f"print({i})", target=f"prints {i}") for i in range(12)]
    put(tmp_path, "bigbench_code_line_description", train=code[:6], test=code[6:])
    train, test = C.load_choices("code_line_description", "local")
    assert len(train) == len(test) == 6 and all(len(C.split_options(e.options)) == 4 and right(e) == e.question.replace("print(", "prints ").rstrip(")") for e in train + test)
    assert [e.options for e in train] == [e.options for e in C.load_choices("code_line_description", "local")[0]]
    fails(lambda: C.load_choices("code_line_description", "local", 9), "9 examples asked for, 6 there")
    fails(lambda: C.load_choices("truthfulqa", "local"), "truthfulqa/test.jsonl")
    put(tmp_path, "mmlu", train=[dict(question=f"q{i}", A="a", B="b", C="c", D="d", answer="A", subject=("philosophy", "marketing")[i % 2]) for i in range(6)],
        test=[dict(question="q0", A="a", B="b", C="c", D="d", answer="A", subject="philosophy")])
    fails(lambda: C.load_choices("philosophy", "local"), "train and test share a question")


@pytest.mark.parametrize("name", [n for n in C.CHOICE_SHAPES if n != "cfa"])
def test_real_files_load(name, real_data):
    real_data(C.CHOICE_SHAPES[name][3])
    train, test = C.load_choices(name, "local")
    task = C.choice_task(name, PROMPTS, train + test)
    for e in train + test: check_example(task, e)
    assert len(train) >= 16 and len(test) >= 19 and len({e.id for e in train + test}) == len(train) + len(test)


@pytest.mark.parametrize("name", EMBEDDED_CHOICES)
def test_embedded_tasks(name):
    train, test = C.load_choices(name, "embedded", 20, 40)
    task = C.choice_task(name, PROMPTS, train + test)
    for e in train + test: check_example(task, e)
    assert len(train) == 40 and len(test) == 20 and embedded_choices(name, "train", 8) == embedded_choices(name, "train", 12)[:8]
    if task.answer_kind != "number": assert len({e.answer for e in train}) > 1


def test_every_task_has_its_words():
    for name, (title, benchmark, kind, folder) in C.CHOICE_SHAPES.items():
        assert PROMPTS[f"definition_{name}"].text and PROMPTS[f"instruction_{name}"].text.endswith(".") and kind in ("option", "label", "number")
    assert {n for n, s in C.CHOICE_SHAPES.items() if s[2] == "label"} == set(C.LABELS)


# seeds

def test_seeds_are_spread_and_never_test_items():
    train = [Example(f"t{i}", f"question {i}", "yes" if i % 4 else "no") for i in range(40)]
    drawn = C.draw_seeds(train, 10)
    assert [e.answer for e in drawn].count("yes") == 5 and len({e.id for e in drawn}) == 10 and drawn != C.draw_seeds(train, 10, 1) and drawn == C.draw_seeds(train, 10)
    fails(lambda: C.draw_seeds(train, 41), "41 seeds asked for, 40")
    fails(lambda: C.check_seeds(drawn, [replace(drawn[3], id="test-1", question=drawn[3].question.upper())]), "is in the test data (test-1)", "refused")


@pytest.mark.parametrize("name", list(load_profile("smoke").choice_tasks))
def test_no_question_stands_in_two_parts(name):
    data = C.open_choices("smoke", name)
    parts = [{C.question_key(e) for e in part} for part in (data.seeds, data.gold, data.test)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert C.open_choices("smoke", name, seed=1).test == data.test
    fails(lambda: C.open_choices("smoke", name, n_seeds=0), "no seeds")


# measuring

def test_three_ways_agree_on_counts(tiny):
    data = C.open_choices("smoke", "arc_challenge")
    prompt = choose_prompt(PROMPTS, "inference", tiny.spec.prompt_style)
    for by in C.WAYS:
        frame = C.evaluate_choices(tiny, data.task, prompt, list(data.test), by)
        assert list(frame.item) == [e.id for e in data.test] and (by == "generation" or frame.parsed.all()) and (frame.correct <= frame.parsed).all()
    fails(lambda: C.evaluate_choices(tiny, data.task, prompt, list(data.test), "tex"), "did you mean 'text'?")


def test_the_cheapest_option_is_chosen(tiny):
    data = C.open_choices("smoke", "arc_challenge")
    prompt = choose_prompt(PROMPTS, "inference", tiny.spec.prompt_style)
    for by in ("letter", "text"):
        scores = C.score_options(tiny, data.task, prompt, list(data.test), by)
        frame = C.evaluate_choices(tiny, data.task, prompt, list(data.test), by)
        assert [min(row, key=lambda p: p[1])[0] for row in scores] == list(frame.predicted) and all([a for a, _ in row] == list(data.task.labels) for row in scores)


def test_numbers_have_no_options(tiny):
    train, test = C.load_choices("gsm8k", "embedded", 2, 4)
    task = C.choice_task("gsm8k", PROMPTS, train, 8)
    prompt = choose_prompt(PROMPTS, "inference", tiny.spec.prompt_style)
    fails(lambda: C.score_options(tiny, task, prompt, test), "no options to price")
    frame = C.evaluate_votes(tiny, task, prompt, test, train, votes=3)
    assert len(frame) == 2 and len(C.evaluate_choices(tiny, task, prompt, test)) == 2
    fails(lambda: C.evaluate_votes(tiny, task, prompt, test, test), "share a question")


@pytest.mark.parametrize("votes, winner", [(["1", "2", "2"], "2"), (["1", "2"], "1"), (["2", "1", "1", "2"], "2"), ([None, None, "3"], "3"), ([], None), ([None], None)])
def test_votes(votes, winner): assert C.vote_answers(votes) == winner


# overlap

def test_overlap_by_hand():
    words = [f"w{i}" for i in range(20)]
    test = [Example("t", " ".join(words), "A"), Example("u", "a short one", "B")]
    made = [" ".join(["x", *words[3:15]]), " ".join(["x", *words[3:16], "y"]), "A short, one!", "the seed", "another"]
    kept, lost = C.remove_overlap(pd.DataFrame(dict(question=made)), test, [Example("s", "The seed", "A")])
    assert list(kept.question) == [made[0], made[4]] and lost == {"test item": 1, "seed": 1, "overlap": 1}
    assert len(C.remove_overlap(pd.DataFrame(dict(question=made)), [], [])[0]) == 5
    worded = [*test, Example("v", " ".join([*words[3:16], "z"]), "B")]  # the run is now of two items; one with another word beside it is not
    kept, lost = C.remove_overlap(pd.DataFrame(dict(question=[*made, " ".join(["q", *words[6:19]])])), worded)
    assert lost == {"test item": 1, "seed": 0, "overlap": 1} and made[1] in list(kept.question)
    assert C.count_wording(kept, worded) == 1 and C.count_wording(kept, test) == 0


def test_questions_with_an_option_twice_are_left_out_and_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RESYNTH_DATA", str(tmp_path))
    record = lambda i, last: dict(question=f"What is {i}?", A="a", B="b", C="c", D=last, answer="A", subject="marketing")
    put(tmp_path, "mmlu", train=[record(1, "d"), record(2, "a")], test=[record(3, "d")])
    C._TOLD.clear()
    train, test = C.load_choices("marketing", "local")
    assert len(train) == len(test) == 1 and "marketing train: 1 questions left out" in capsys.readouterr().err


@pytest.mark.parametrize("n_test, n_train, sizes", [(0, 0, (10, 20)), (15, 0, (15, 15)), (0, 4, (4, 26)), (15, 6, (6, 15))])
def test_a_single_file_is_cut_into_train_and_test(n_test, n_train, sizes, monkeypatch):
    records = [(f"hub row 0.{i}", dict(inputs=f"Speaker 1: '{i}?' Speaker 2: 'Hm.'", multiple_choice_targets=["yes", "no"], multiple_choice_scores=[i % 2, 1 - i % 2])) for i in range(30)]
    asked = []
    monkeypatch.setattr(C, "_hub_records", lambda name, split, *address: (asked.append(split) or records, False))
    train, test = C.load_choices("implicatures", "hub", n_test, n_train, hub="x")
    assert (len(train), len(test)) == sizes and not {C.question_key(e) for e in train} & {C.question_key(e) for e in test} and set(asked) == {"train+validation"}
    again = C.load_choices("implicatures", "hub", n_test, n_train, seed=1, hub="x")
    assert {e.question for e in again[1]} == {e.question for e in test}


def test_hub_splits_of_tasks_with_their_own(monkeypatch):
    asked = []
    record = lambda split: dict(question=f"{split}?", choices=["a", "b", "c", "d"], answer=2, subject="marketing")
    monkeypatch.setattr(C, "_hub_records", lambda name, split, *address: (asked.append(split) or [(f"hub row 0.{i}", record(f"{split} {i}")) for i in range(3)], False))
    train, test = C.load_choices("marketing", "hub", hub="x")
    assert asked == ["test", "validation"] and len(train) == len(test) == 3
