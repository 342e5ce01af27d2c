"""Tasks, datasets and embedded data: parsers, every bad record, disjoint splits, synthetic tables."""
import json
import random
from dataclasses import replace

import pytest
from helpers import fails

import resynth.datasets as D
from resynth.datasets import (SYNTHETIC_COLUMNS, check_disjoint, load_examples, load_split, load_synthetic, load_task, read_records,
                              rows_to_frame, save_synthetic, to_examples)
from resynth.embedded import TOOL_REQUESTS, TOOLS, embedded_examples
from resynth.profiles import TASK_NAMES, load_profile, repo_root
from resynth.tasks import (TASK_SHAPES, Example, check_example, exact_match, format_example, format_input, format_opening, make_task, one_line,
                           parse_answer, parse_example)

TASKS = tuple(TASK_SHAPES)


def test_tasks_have_the_names_of_profiles(): assert set(TASKS) == set(TASK_NAMES)


# ---------------------------------------------------------------- answers

TOOL = make_task("metatool", "T", labels=("FinanceTool", "PDF&URLTool", "Finance"))
OPTION = make_task("medqa", "T", labels=tuple("ABCDE"))
NUMBER = make_task("finqa", "T")
MATH = make_task("math", "T")


@pytest.mark.parametrize("task, text, wanted", [
    (TOOL, " FinanceTool", "FinanceTool"), (TOOL, "finance tool, because", "FinanceTool"), (TOOL, "pdf & url tool.", "PDF&URLTool"),
    (TOOL, "FinanceTools", None), (TOOL, "I would take FinanceTool", None), (TOOL, "The answer is FinanceTool.", "FinanceTool"),
    (TOOL, "Finance, or FinanceTool", "Finance"), (TOOL, "", None), (TOOL, "\nFinanceTool", "FinanceTool"),
    (OPTION, " C", "C"), (OPTION, "(b) x", "B"), (OPTION, "A patient", None), (OPTION, "G", None), (OPTION, "the answer is (D).", "D"), (OPTION, "E\nBecause", "E"),
    (NUMBER, "1,234.5", "1234.5"), (NUMBER, "$ -181 ( 181 )", "-181"), (NUMBER, "-$5", "-5"), (NUMBER, "about 12.5 %", "12.5%"), (NUMBER, ".5", ".5"),
    (NUMBER, "2 + 2 = 4\n#### 4", "4"), (NUMBER, "none", None), (NUMBER, "3.", "3"),
    (MATH, "\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"), (MATH, "$\\dfrac12$", "\\frac{1}{2}"), (MATH, "x = 7", "7"), (MATH, "", None), (MATH, "1,000", "1000"),
    (MATH, "12 ways", "12"), (MATH, "(1, 2)", "(1,2)"),
])
def test_parse_answer(task, text, wanted):
    assert parse_answer(task, text) == wanted


@pytest.mark.parametrize("task, text, gold, right", [
    (NUMBER, "21.9%", "0.219", True), (NUMBER, "21.9", "0.219", False), (NUMBER, "0.22", "0.21923", False), (NUMBER, "0.2192", "0.21923", True),
    (NUMBER, "100", "-100", False), (NUMBER, "0", "0", True), (NUMBER, "0.0001", "0", False),
    (MATH, "0.5", "\\frac12", True), (MATH, "2/4", "1/2", True), (MATH, "0.333", "1/3", False), (MATH, "1/0", "1/2", False), (MATH, "x+1", "$x + 1$", True),
])
def test_exact_match(task, text, gold, right):
    assert exact_match(task, parse_answer(task, text), gold) is right


def test_gold_outside_the_label_space_is_an_error_not_a_miss():
    fails(lambda: exact_match(TOOL, "FinanceTool", "NoTool"), "gold answer 'NoTool'")
    assert exact_match(TOOL, None, "FinanceTool") is False


def test_parsers_survive_any_text():
    rng = random.Random(0)
    alphabet = "ab AZ09.,%$-()\n\\{}#:/&é−frac boxed answer is"
    for _ in range(3000):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 40)))
        for task in (TOOL, OPTION, NUMBER, MATH):
            first = parse_answer(task, text)
            if first is not None:
                exact_match(task, first, first)
            if first is not None and task is not MATH:
                assert parse_answer(task, first) == first


# ---------------------------------------------------------------- tasks and examples

def test_bad_tasks():
    fails(lambda: make_task("metatool", " \n", labels=("a", "b")), "empty task definition", "definition_metatool")
    fails(lambda: make_task("mat", "T"), "did you mean 'math'?")
    fails(lambda: make_task("metatool", "T"), "at least 2 labels")


@pytest.mark.parametrize("changes, parts", [
    (dict(question=""), ["field 'question' is empty"]), (dict(answer=""), ["field 'answer' is empty"]), (dict(options=""), ["field 'options' is empty"]),
    (dict(answer="F"), ["outside the label space", "A, B, C, D, E"]), (dict(answer="E"), ["no 'E)'"]),
])
def test_bad_examples(changes, parts):
    example = Example("x", "q", "A", options="A) a B) b")
    fails(lambda: check_example(OPTION, replace(example, **changes), "file line 9"), "file line 9", *parts)


@pytest.mark.parametrize("name", TASKS)
def test_printing_is_undone_by_reading(name):
    task = load_task("smoke", name) if name in load_profile("smoke").tasks else make_task(name, "T")
    for example in embedded_examples(name, "train", 40):
        text = format_example(task, example)
        assert "\n\n" not in text and text.startswith(format_input(task, example)) and text.startswith(format_opening(task, example.context))
        back = parse_example(task, text[len(format_opening(task, example.context)) - len("Question:"):], example.id, example.context, example.type)
        assert back == replace(example, question=one_line(example.question), solution="")


def test_what_is_no_demonstration_is_none():
    for text in ("", "Question: q", "Question: q\nTool: Hammer", "Question:\nTool: FinanceTool", "Tool: FinanceTool\nQuestion: q"):
        assert parse_example(TOOL, text, "x") is None
    assert parse_example(OPTION, "Question: q\nOptions: A) a B) b\nAnswer: D", "x") is None


# ---------------------------------------------------------------- embedded data

@pytest.mark.parametrize("name", TASKS)
def test_embedded_is_deterministic_distinct_and_disjoint(name):
    task = make_task(name, "T", labels={"metatool": TOOLS, "medqa": tuple("ABCDE")}.get(name, ()))
    train = [e for seed in range(4) for e in embedded_examples(name, "train", 150, seed)]
    test = embedded_examples(name, "test", 300)
    check_disjoint(train, test)
    assert test == embedded_examples(name, "test", 300) and embedded_examples(name, "test", 20) == test[:20]
    assert len({D.question_key(e) for e in test}) == 300 and len({e.id for e in test}) == 300
    assert embedded_examples(name, "train", 20, 0) != embedded_examples(name, "train", 20, 1)
    for example in test:
        check_example(task, example)


def test_embedded_metatool_is_varied():
    requests = [half.split("; ") for text in TOOL_REQUESTS.values() for half in text.split("|")]
    train, test = sum(requests[::2], []), sum(requests[1::2], [])
    assert len(set(train)) >= 25 and len(set(test)) >= 25 and not set(train) & set(test)
    assert len(TOOLS) == 10


def test_embedded_errors():
    fails(lambda: embedded_examples("maths", "train", 3), "did you mean 'math'?")
    fails(lambda: embedded_examples("math", "tset", 3), "did you mean 'test'?")
    fails(lambda: load_examples("metatool", "test", "embedded", 3, n_tools=5), "exactly 10 tools")


# ---------------------------------------------------------------- local files, good and bad

GOOD = {
    "metatool": [{"Query": f"question {i}", "Tool": "ab"[i % 2]} for i in range(6)],
    "gsm8k": [{"question": f"question {i}", "answer": f"It is <<{i}+1={i + 1}>>{i + 1}.\n#### {i + 1:,}"} for i in range(6)],
    "medqa": [{"question": f"question {i}", "options": {"B": "b", "A": "a"}, "answer_idx": "B", "answer": "b", "meta_info": "step1"} for i in range(6)],
    "convfinqa": [{"questions": ["first?", f"question {i}"], "answer": i / 3, "text": "t", "table": "a | 1", "golden_text": "", "golden_table": f"a | {i}\n \n"} for i in range(6)],
    "finqa": [{"id": f"page-{i}", "pre_text": ["before ."], "post_text": ["after ."], "table": [["", "2019"], ["sales", str(i)]],
               "qa": {"question": f"question {i}", "exe_ans": i / 3, "gold_inds": {"table_1": f"the sales of 2019 is {i} ;"}}} for i in range(6)],
    "math": [{"problem": f"question {i}", "solution": f"so $\\boxed{{{i}}}$.", "type": "Number Theory", "level": "Level 1"} for i in range(6)],
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("RESYNTH_DATA", str(tmp_path))
    monkeypatch.setattr(D, "_TOLD", set())
    for name, records in GOOD.items():
        (tmp_path / name).mkdir()
        for split, part in (("train", records[:4]), ("test", records[4:])):
            (tmp_path / name / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part))
    return tmp_path


@pytest.mark.parametrize("name", TASKS)
def test_official_field_names_load(root, name):
    train, test = load_examples(name, "train", "local"), load_examples(name, "test", "local")
    assert (len(train), len(test)) == (4, 2) and check_disjoint(train, test) == 6
    assert load_examples(name, "train", "local", 3) == train[:3]
    assert all(e.id.startswith(f"{name}-train-") for e in train)
    wanted = {"gsm8k": dict(answer="5", solution="It is 5."), "medqa": dict(answer="B", options="A) a B) b", type="step1"),
              "convfinqa": dict(question="first? question 4", answer="1.33333", context="a | 4"), "math": dict(answer="4", type="number theory"),
              "finqa": dict(answer="1.33333", context="the sales of 2019 is 4 ;"), "metatool": dict(answer="a")}[name]
    found = next(e for e in test if e.question.endswith("question 4"))
    assert {k: getattr(found, k) for k in wanted} == wanted


def test_other_published_forms(root):
    (root / "finqa" / "train.jsonl").unlink()
    (root / "finqa" / "train.json").write_text(json.dumps(GOOD["finqa"][:4]))
    assert len(load_examples("finqa", "train", "local")) == 4
    assert D.read_finqa("w", GOOD["finqa"][0], whole=True).context == "before .\n| 2019\nsales | 0\nafter ."
    (root / "math" / "train.jsonl").unlink()
    (root / "math" / "train" / "algebra").mkdir(parents=True)
    (root / "math" / "train" / "algebra" / "7.json").write_text(json.dumps(GOOD["math"][0]))
    assert load_examples("math", "train", "local")[0].answer == "0"
    for split in ("train", "test"):
        (root / "metatool" / f"{split}.jsonl").unlink()
    rows = [f'"question {i}, with a comma",{"ab"[i % 2]}' for i in range(40)]
    (root / "metatool" / "all_clean_data.csv").write_text("Query,Tool\n" + "\n".join(rows) + "\n")
    train, test = (load_examples("metatool", s, "local") for s in ("train", "test"))
    assert (len(train), len(test)) == (28, 12) and check_disjoint(train, test) == 40


BAD = [
    ("metatool", {"Tool": "a"}, "'Query' is missing"), ("metatool", {"Query": "q", "Tool": ""}, "'Tool' is empty"), ("metatool", {"Query": 3, "Tool": "a"}, "'Query'"),
    ("metatool", {"query": "q", "Tool": "a"}, "did you mean 'query'?"),
    ("gsm8k", {"question": "q", "answer": "no mark"}, "'answer' has no number"), ("gsm8k", {"question": " ", "answer": "x\n#### 1"}, "'question' is empty"),
    ("medqa", {"question": "q", "options": "A", "answer_idx": "A"}, "'options'"), ("medqa", {"question": "q", "options": {"A": "a", "B": "b"}, "answer_idx": "C"}, "'answer_idx' = 'C'"),
    ("math", {"problem": "p", "solution": "3"}, "'solution' has no"), ("math", {"solution": "\\boxed{3}"}, "'problem' is missing"),
    ("finqa", {"pre_text": [], "post_text": [], "table": [], "qa": {"question": "q", "exe_ans": "x", "gold_inds": {"a": "b"}}}, "'exe_ans'"),
    ("finqa", {"pre_text": [], "post_text": [], "table": [], "qa": {"question": "q", "exe_ans": 1}}, "'gold_inds' is missing"),
    ("convfinqa", {"questions": [], "answer": 1, "golden_text": "a", "golden_table": ""}, "'questions'"),
    ("convfinqa", {"questions": ["q"], "answer": True, "golden_text": "a", "golden_table": ""}, "'answer'"),
    ("convfinqa", {"questions": ["q"], "answer": 1, "golden_table": ""}, "'golden_text' is missing"),
]


@pytest.mark.parametrize("name, record, part", BAD)
def test_a_wrong_record_names_file_line_and_field(root, name, record, part):
    file = root / name / "train.jsonl"
    file.write_text(file.read_text() + "\n" + json.dumps(record) + "\n")  # a blank line counts: the record is on line 6
    fails(lambda: load_examples(name, "train", "local"), f"{name}/train.jsonl line 6: field", part)


def test_a_wrong_csv_record_names_its_line(root):
    (root / "metatool" / "train.jsonl").unlink()
    (root / "metatool" / "train.csv").write_text('Query,Tool\n"two\nlines",a\nq,\n')
    fails(lambda: load_examples("metatool", "train", "local"), "metatool/train.csv line 4: field 'Tool' is empty")


@pytest.mark.parametrize("text, part", [('{"Query": "a"', "not JSON"), ("[1, 2]", "object is wanted"), ("\x00", "not JSON")])
def test_malformed_lines(root, text, part):
    file = root / "metatool" / "train.jsonl"
    file.write_text(file.read_text() + text)
    fails(lambda: load_examples("metatool", "train", "local"), "metatool/train.jsonl line 5", part)


def test_not_text_missing_file_missing_root(root, monkeypatch):
    (root / "metatool" / "train.jsonl").write_bytes(b"\xff\xfe\x00")
    fails(lambda: load_examples("metatool", "train", "local"), "not UTF-8")
    (root / "metatool" / "train.jsonl").unlink()
    fails(lambda: load_examples("metatool", "train", "local"), "none of metatool/train.jsonl")
    monkeypatch.setenv("RESYNTH_DATA", str(root / "nowhere"))
    fails(lambda: load_examples("metatool", "train", "local"), "is no folder")
    monkeypatch.delenv("RESYNTH_DATA")
    fails(lambda: load_examples("metatool", "train", "local"), "RESYNTH_DATA is not set")


def test_label_outside_the_label_space(root):
    (root / "metatool" / "test.jsonl").write_text('{"Query": "q", "Tool": "c"}\n')
    fails(lambda: load_examples("metatool", "test", "local"), "metatool/test.jsonl line 1: field 'answer' = 'c'", "allowed: a, b")


def test_numbers_that_do_not_fit(root):
    fails(lambda: load_examples("metatool", "test", "local", 3), "3 examples asked for, 2 there")
    fails(lambda: load_examples("metatool", "train", "local", n_tools=3), "n_tools = 3", "has 2 tools")
    fails(lambda: load_examples("metatol", "test", "local"), "did you mean 'metatool'?")
    fails(lambda: load_examples("metatool", "tests", "local"), "did you mean 'test'?")
    fails(lambda: load_examples("metatool", "test", "locla"), "did you mean 'local'?")
    fails(lambda: load_examples("metatool", "test", "hub"), "task.metatool.hub")


def test_repeated_and_yes_no_questions_are_counted(root, capsys):
    file = root / "convfinqa" / "train.jsonl"
    yes = json.dumps(GOOD["convfinqa"][0] | {"answer": "yes", "questions": ["is it?"]})
    file.write_text(file.read_text() + file.read_text().splitlines()[0] + "\n" + yes + "\n")
    assert len(load_examples("convfinqa", "train", "local")) == 4
    said = capsys.readouterr().err
    assert "1 repeated questions left out" in said and "1 yes/no questions left out" in said


def test_a_leak_is_named():
    a = [Example("train-1", "Will it  rain?", "x")]
    fails(lambda: check_disjoint(a, [Example("test-1", "will it rain?", "y")]), "will it rain?", "train-1", "test-1")
    assert check_disjoint(a, [Example("test-1", "Will it rain?", "y", context="another report")]) == 2


def test_top_tools_breaks_ties_by_name():
    examples = [Example(str(i), "q", t) for i, t in enumerate("d c b a a".split())]
    assert D.top_tools(examples, 3) == D.top_tools(examples[::-1], 3) == ("a", "b", "c")


def test_hub_errors_are_one_line(monkeypatch):
    import datasets

    def broken(*a, **k):
        raise ConnectionError("no\nroute")
    monkeypatch.setattr(datasets, "load_dataset", broken)
    fails(lambda: load_examples("gsm8k", "test", "hub", hub="openai/gsm8k"), "task 'gsm8k', source 'hub': openai/gsm8k", "cannot be loaded: no route")


def test_hub_rows_in_official_names(monkeypatch):
    import datasets
    asked = []

    def rows(hub, **kw):
        asked.append((hub, kw.get("name"), kw["split"]))
        return [r | {"problem": f"{kw.get('name')} {kw['split']} {r['problem']}"} for r in GOOD["math"]]
    monkeypatch.setattr(datasets, "load_dataset", rows)
    found = load_examples("math", "test", "hub", hub="some/math", hub_config="algebra,geometry")
    assert len(found) == 12 and len({e.id for e in found}) == 12 and ("some/math", "geometry", "test") in asked


# ---------------------------------------------------------------- profiles to tasks

@pytest.mark.parametrize("name", ["math", "metatool", "finqa", "medqa"])
def test_smoke_tasks(name):
    task, sizes = load_task("smoke", name), load_profile("smoke").tasks[name]
    train, test = load_split("smoke", name, "train"), load_split("smoke", name, "test")
    assert (len(train), len(test)) == (sizes.n_labelled, sizes.n_test) and check_disjoint(train, test)
    assert "{" not in task.definition + task.instruction
    if name == "metatool":
        assert all(t in task.definition and t in task.instruction for t in TOOLS)


def test_reasoning_and_empty_definition(tmp_path):
    profile = load_profile("smoke", {"task.math.reasoning": True})
    assert "step by step" in load_task(profile, "math").instruction
    text = (repo_root() / "reproducibility/prompts/vsynthesis.toml").read_text()
    start = text.index('text = """A competition')
    own = tmp_path / "own.toml"
    own.write_text(text[:start] + 'text = "  "\n' + text[text.index('"""', start + 12) + 3:])
    fails(lambda: load_task(load_profile("smoke", {"vsynthesis.prompts": str(own)}), "math"), "definition_math", "empty text")
    fails(lambda: load_task(load_profile("smoke", {"vsynthesis.prompts": "prompts/none.toml"}), "math"), "none.toml: cannot be read")
    fails(lambda: load_task("smoke", "gsm8k"), "unknown task 'gsm8k'")


@pytest.mark.parametrize("name", ["gsm8k", "metatool", "convfinqa", "medqa"])
def test_real_subsets_load_and_are_disjoint(name, real_data):
    real_data(name)
    task = load_task("laptop_real", name)
    train, test = load_split("laptop_real", name, "train"), load_split("laptop_real", name, "test")
    everything = load_examples(name, "train", "local", n_tools=10 if name == "metatool" else 0)
    check_disjoint(everything, test)
    assert len(task.labels) == {"metatool": 10, "medqa": 4}.get(name, 0)
    assert all(exact_match(task, parse_answer(task, format_example(task, e)[len(format_input(task, e)):]), e.answer) for e in train + test)


# ---------------------------------------------------------------- synthetic datasets

def rows(n=5):
    return [dict(row_id=f"r{i}", task="metatool", question=f"q {i}", answer="SkyCast", method="m", iteration=i, v_score=i / 3 if i else None, verified=bool(i % 2)) for i in range(n)]


def test_synthetic_bytes_and_round_trip(tmp_path):
    frame = rows_to_frame(rows())
    one, two = save_synthetic(frame, tmp_path / "a", "# card"), save_synthetic(load_synthetic(tmp_path / "a"), tmp_path / "b", "# card")
    assert one.read_bytes() == two.read_bytes() and list(load_synthetic(one).columns) == list(SYNTHETIC_COLUMNS)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["README.md", "data.parquet"]
    assert [e.id for e in to_examples(frame)] == [f"r{i}" for i in range(5)]
    empty = rows_to_frame([])
    save_synthetic(empty, tmp_path / "empty", "# none")
    assert len(load_synthetic(tmp_path / "empty")) == 0


@pytest.mark.parametrize("change, part", [
    (dict(vscore=1), "did you mean 'v_score'?"), (dict(question=" "), "'question' is empty"), (dict(answer=None), "'answer' is empty"), (dict(row_id="r1"), "row_id 'r1' stands 2 times"),
])
def test_bad_synthetic_rows(change, part):
    made = rows()
    made[2] |= change
    fails(lambda: rows_to_frame(made), part)


def test_damaged_and_foreign_synthetic_files(tmp_path):
    file = save_synthetic(rows_to_frame(rows()), tmp_path / "a", "# card")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    fails(lambda: load_synthetic(tmp_path / "a"), "no readable Parquet file")
    fails(lambda: load_synthetic(tmp_path / "nothing.parquet"), "no readable Parquet file")
    import pandas as pd
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "x.parquet")
    fails(lambda: load_synthetic(tmp_path / "x.parquet"), "column 'row_id' is missing")


def test_a_refusing_disk_leaves_the_old_file(tmp_path):
    import resource
    file = save_synthetic(rows_to_frame(rows()), tmp_path / "a", "# card")
    before, limits = file.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))  # a disk with room for ten bytes a file
    try: fails(lambda: save_synthetic(rows_to_frame(rows(3)), tmp_path / "a", "# card"), "data.parquet", "File too large")
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == before and len(list((tmp_path / "a").iterdir())) == 2


def test_read_records_of_an_odd_file(tmp_path):
    (tmp_path / "a.json").write_text("[{}, 3")
    fails(lambda: read_records(tmp_path / "a.json"), "a.json line 1: not JSON")
    (tmp_path / "b.json").write_text('["text"]')
    assert read_records(tmp_path / "b.json")[0][0] == "b.json record 1"
    fails(lambda: D.read_metatool("b.json record 1", "text"), "a record with fields is wanted")
