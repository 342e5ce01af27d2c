"Baselines in words: lists that are cut, rounds that end, programs that must run, and an account that adds up."
from dataclasses import replace

import pytest
from helpers import fails

from resynth.profiles import choose_prompt, fill, load_profile, load_prompts
from resynth.prompt_templates import TEMPLATES, refine, says_stop, split_questions, synthesize_template, train_rows, write_curated, write_plain, write_pt
from resynth.soft_generation import Written
from resynth.softsrv_embedded import embedded_items
from resynth.softsrv_tasks import SOFT_TASKS, soft_task
from resynth.teacher import LocalTeacher

MATH = soft_task("gsm8k")
ITEMS = embedded_items("gsm8k", "train", 5)
PROMPTS = load_prompts("prompts/softsrv.toml")


@pytest.fixture(scope="module")
def teacher(profile): return LocalTeacher(profile.models["teacher"])  # a random model never ends a question


@pytest.mark.parametrize("text, whole, n, found", [
    (" a?\n\nQuestion 2: b?\n\nQuestion 3: c?", True, 10, ["a?", "b?", "c?"]), (" a?\nQuestion 2: b", False, 10, ["a?"]), (" a", False, 10, []), ("", True, 10, []), (" a? Question 2: b? Question 3: c?", True, 2, ["a?", "b?"]),
    (" PASSAGE: p\nQUESTION: q\n\nPassage and Question 2: PASSAGE: r\nQUESTION: s", True, 10, ["PASSAGE: p\nQUESTION: q", "PASSAGE: r\nQUESTION: s"]), ("Question 12: a?", True, 10, ["a?"]), ("1: 2: 3:", True, 10, ["1: 2: 3:"])])
def test_lists_are_cut(text, whole, n, found): assert split_questions(text, whole, n) == found


@pytest.mark.parametrize("text, stop", [("Stop", True), (" stop.", True), ("'Stop'", True), ("STOP\nmore", True), ("Stopping", False), ("Do not stop", False), ("", False)])
def test_stop(text, stop): assert says_stop(text) == stop


@pytest.mark.parametrize("name", ["mbpp", "gsm8k", "boolq"])
@pytest.mark.parametrize("style", ["completion", "chat"])
def test_every_template_is_there_and_keeps_its_fields(name, style):
    for prompt, fields in ((f"question_{name}", {"question", "n"}), (f"answer_{name}", {"question"}), ("critique", {"kind", "question"}), (f"refine_{name}", {"question", "critique"})):
        found = choose_prompt(PROMPTS, prompt, style)
        assert found.form == style and set(found.fields) == fields and found.paper == "SoftSRV" and found.locator.startswith("Figure")
        text = fill(found, **{f: f"<{f}>" for f in fields})
        assert all(f"<{f}>" in text for f in fields)
    assert "<question>" == fill(PROMPTS["answer_direct_chat"], question="<question>")  # nothing but the question (3.3)
    assert PROMPTS[f"kind_{name}"].text


def test_all_figures_are_there():
    told = " ".join(p.locator for p in PROMPTS.values())
    assert all(f"Figure {n}" in told for n in (8, 9, 10, 11)) and all(f"ask_{t}" in PROMPTS and f"ask_{t}_chat" in PROMPTS and f"shot_{t}" in PROMPTS for t in SOFT_TASKS)
    assert "Stop" in PROMPTS["refine_gsm8k"].text and "Stop" in PROMPTS["refine_mbpp_chat"].text


def test_questions_come_in_rounds(teacher):
    few, write = ITEMS[:2], lambda seed: write_pt(teacher, PROMPTS, MATH, ITEMS[:2], 3, n_a_prompt=1, temperature=0.7, max_new_tokens=40, seed=seed, patience=3)
    written, account = write(1)
    order = [(w.round, [e.id for e in few].index(w.source)) for w in written]
    assert order == sorted(order) and len(written) <= 3 and account["prompts"] <= 9 and all(w.text for w in written) and order[-1][0] > 0
    assert written == write(1)[0] != write(2)[0]


def test_no_question_at_all(teacher): fails(lambda: write_pt(teacher, PROMPTS, MATH, ITEMS, 2, n_a_prompt=1, temperature=1.0, max_new_tokens=1, patience=1), "GSM8K: no question came out of 2 prompts", "lower the temperature")


def test_plain_is_for_gsm8k(teacher):
    fails(lambda: write_plain(teacher, PROMPTS, soft_task("boolq"), ITEMS, 2), "no template plain_boolq", "Figure 10")
    assert choose_prompt(PROMPTS, "plain_gsm8k", "completion").fields == ("question",)


def test_refinement_accounts_for_every_question(teacher):
    written = [Written(e.question, e.id, 1) for e in ITEMS]
    refined, account = refine(teacher, PROMPTS, MATH, written, rounds=1, max_new_tokens=30)
    assert sum(account.values()) == 5 and [(w.source, w.round) for w in refined] == [(w.source, w.round) for w in written]
    assert sum(a.text != b.text for a, b in zip(refined, written)) <= account["rewritten"]
    again, more = refine(teacher, PROMPTS, MATH, written, rounds=3, max_new_tokens=30)
    assert sum(more.values()) <= 5 + 2 * 5 and more["rewritten"] >= account["rewritten"]
    assert refine(teacher, PROMPTS, MATH, written, rounds=0) == (written, {"stopped": 0, "rewritten": 0, "no new question": 0})
    assert refine(teacher, PROMPTS, MATH, [], rounds=2)[0] == []


def test_rewriting_ends_at_stop(profile):
    "A real model with another prompt file: one whose rewriter repeats a word."
    teacher, written = LocalTeacher(profile.models["teacher"]), [Written(e.question, e.id, 0) for e in ITEMS[:3]]
    def repeats(word):
        text = "".join(f"Word: {word}\nAgain: {word}\n\n" for _ in range(3)) + f"{{question}}{{critique}}\n\nWord: {word}\nAgain:"
        return {**PROMPTS, "refine_gsm8k": replace(PROMPTS["refine_gsm8k"], text=text, stop=("\n",))}
    assert refine(teacher, repeats("Stop"), MATH, written, rounds=3, max_new_tokens=12) == (written, {"stopped": 3, "rewritten": 0, "no new question": 0})
    refined, account = refine(teacher, repeats("apples"), MATH, written, rounds=2, max_new_tokens=12)
    assert [w.text for w in refined] == ["apples"] * 3 and account == {"stopped": 0, "rewritten": 6, "no new question": 0}


def test_curated_questions_have_numbers_and_programs_that_run(teacher):
    curated, account = write_curated(teacher, PROMPTS, ITEMS, 6, max_new_tokens=56, seed=2)
    assert account["asked for"] == len(curated) + account["no number"] + account["does not run"] == 6
    assert curated and all(any(c.isdigit() for c in w.text) for w in curated)  # most programs of this model run; none would if their layout were lost
    none, lost = write_curated(teacher, {**PROMPTS, "curated_program": replace(PROMPTS["curated_program"], text="{question}\n\nWord: apples\nAgain: apples\n\nWord: apples\nAgain:", stop=("\n",))}, ITEMS, 6, max_new_tokens=56, seed=2)
    assert not none and lost["does not run"] == 6 - lost["no number"] > 0


def test_the_training_set_as_rows():
    rows = train_rows(MATH, ITEMS)
    assert list(rows.question) == [e.question for e in ITEMS] and list(rows.answer) == [e.answer for e in ITEMS] and set(rows.method) == {"train"}
    fails(lambda: train_rows(MATH, []), "no training items")


@pytest.mark.parametrize("method", TEMPLATES)
def test_the_account_adds_up(teacher, method):
    profile = load_profile("smoke", {"softsrv.template_temperature": 0.7, "softsrv.n_a_prompt": 1, "soft_task.gsm8k.max_question_tokens": 40})
    rows, account = synthesize_template(profile, PROMPTS, MATH, ITEMS, embedded_items("gsm8k", "test", 3), teacher, 0, method, n_raw=4, n_rows=3)
    assert account["written"] == account["kept"] + sum(account[k] for k in ("copies", "not drawn", "in the test set", "without an answer")) and len(rows) == account["kept"]
    assert set(rows.method) <= {method} and rows.row_id.is_unique


def test_an_unknown_method(teacher):
    fails(lambda: synthesize_template(load_profile("smoke"), PROMPTS, MATH, ITEMS, [], teacher, 0, "PTSR"), "unknown method 'PTSR'", "PT, PT_SR, PT plain, curated")
