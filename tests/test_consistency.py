"""Consistency measures: values by hand, agreement with a direct computation, counts of what is asked."""
import numpy as np
import pytest
from helpers import fails, frameworks_of, make_examples

from resynth.consistency import (METRICS, CountingEncoder, CountingTeacher, demonstration_texts, embedding_scorer, growth_exponent,
                                 judge_scorer, make_scorer, measure_cost, rate_with_judge, score_ngram)
from resynth.models import load_encoder
from resynth.profiles import fill
from resynth.tasks import Example, Task
from resynth.teacher import LocalTeacher, Sampling

TASK = Task(name="tools", title="Tools", definition="Decide which tool answers the question. Tools: WeatherTool, FlightTool, RecipeTool.",
            fields=(("question", "Question:"), ("answer", "Tool:")), answer_kind="label", labels=("WeatherTool", "FlightTool", "RecipeTool"))
SIX = make_examples([("Will it rain in Oslo today?", "WeatherTool"), ("When does the plane to Rome leave?", "FlightTool"),
                     ("How do I bake a pie?", "RecipeTool"), ("Who wrote Faust?", "Johann Goethe"),
                     ("What is seven times eight?", "Fifty-six"), ("Name a red fruit.", "Strawberry")])


@pytest.fixture(scope="module")
def teacher(profile): return LocalTeacher(profile.models["teacher"])


@pytest.fixture(scope="module")
def small(tiny_lm): return LocalTeacher(tiny_lm)


@pytest.fixture(scope="module")
def encode(profile): return load_encoder(profile.models["encoder"])


@pytest.fixture(scope="module")
def scorers(prompts, encode): return {name: make_scorer(name, encode, prompts["judge_consistency"]) for name in METRICS}


def test_metrics_are_the_rows_of_table_3():
    assert list(METRICS) == ["NGram", "Embedding", "LLM-as-Judge", "V-Score"]
    assert all(form.startswith("O(N") for form in METRICS.values())


def test_ngram_by_hand():
    task = Task(name="t", title="T", definition="Q: b c A: d", fields=(("question", "Q:"), ("answer", "A:")), answer_kind="number")
    one = [Example(id="0", question="x b c", answer="d")]  # Q : x b c A d against Q : b c A d
    assert score_ngram(None, task, one)[0] == 6 / 7
    assert score_ngram(None, task, one, order=2)[0] == 5 / 8  # shared: "Q :", "b c", "c A", "A :", ": d"; T has 6 pairs, z has 7
    assert score_ngram(None, TASK, SIX)[0] == 4 / 20


def test_embedding_is_the_cosine_and_separates(encode, scorers):
    ours = scorers["Embedding"](None, TASK, SIX, [], 0)
    d = encode([TASK.definition])[0]
    for score, text in zip(ours, demonstration_texts(TASK, SIX)):
        z = encode([text])[0]
        assert abs(score - z @ d / np.linalg.norm(z) / np.linalg.norm(d)) < 1e-5
    assert ours[:3].min() > ours[3:].max()


def test_judge_equals_the_models_own_probabilities(teacher, prompts):
    import torch
    prompt = prompts["judge_consistency"]
    asked = [fill(prompt, task_definition=TASK.definition, demonstration=t) for t in demonstration_texts(TASK, SIX[2:4])]
    ours = rate_with_judge(teacher, asked)
    assert np.allclose(ours.sum(1), 1)
    p = []
    for k in range(1, 6):  # one prompt, one digit at a time, by the library's own forward pass
        head = teacher.tokenizer.encode(teacher.spec.start_token + asked[1], add_special_tokens=False).ids
        ids = teacher.tokenizer.encode(teacher.spec.start_token + asked[1] + f" {k}", add_special_tokens=False).ids
        with torch.inference_mode(): log_p = teacher.lm(torch.tensor([ids])).logits.float().log_softmax(-1)[0]
        p.append(np.exp(sum(float(log_p[t - 1, ids[t]]) for t in range(len(head), len(ids)))))
    assert np.abs(ours[1] - np.array(p) / sum(p)).max() < 1e-4
    rating = judge_scorer(prompt)(teacher, TASK, SIX[3:4], [], 0)[0]
    assert abs(rating - np.dot(np.arange(1, 6), p) / sum(p)) < 1e-3


def test_judge_reads_its_scale_the_right_way_round(teacher):
    low, middle, high = rate_with_judge(teacher, [f"Rating: {k}\n" * 6 + "Rating:" for k in (1, 3, 5)]) @ np.arange(1, 6)
    assert low < 1.5 < 2.5 < middle < 3.5 < 4.5 < high


def test_judge_prefers_what_fits_when_it_is_shown_how(teacher, prompts):
    # the bare 135M judge cannot tell (see the notebook); with two rated cases in its prompt it can
    from dataclasses import replace
    prompt = prompts["judge_consistency"]
    shown = [fill(prompt, task_definition=TASK.definition, demonstration=text) + f" {k}\n\n" for text, k in
             (("Question: Is there snow in Kiruna?\nTool: WeatherTool", 5), ("Question: Who painted Guernica?\nTool: Pablo Picasso", 1),
              ("Question: How long do I boil eggs?\nTool: RecipeTool", 5), ("Question: What is two plus two?\nTool: Four", 1))]
    ratings = judge_scorer(replace(prompt, text="".join(shown) + prompt.text))(teacher, TASK, SIX[1:5], [], 0)
    assert ratings[:2].min() > ratings[2:].max()


def test_scores_do_not_depend_on_order_or_company(small, scorers):
    for name, score in scorers.items():
        whole = score(small, TASK, SIX[:4], SIX[4:], 1)
        assert whole.shape == (4,) and np.isfinite(whole).all(), name
        assert np.abs(score(small, TASK, SIX[3::-1], SIX[4:], 1)[::-1] - whole).max() < 1e-3, name
        assert abs(score(small, TASK, SIX[2:3], SIX[4:], 1)[0] - whole[2]) < 1e-3, name


def test_nothing_to_score(small, scorers):
    for name in ("NGram", "Embedding", "LLM-as-Judge"): assert scorers[name](small, TASK, [], [], 2).shape == (0,)


def test_costs_are_counted_exactly(small, scorers, encode, profile):
    encoder = CountingEncoder(encode, profile.models["encoder"])
    costs = {name: measure_cost(score, small, TASK, SIX, SIX, 0, (1, 2)) for name, score in scorers.items() if name != "Embedding"}
    costs["Embedding"] = measure_cost(embedding_scorer(encoder), small, TASK, SIX, SIX, 0, (1, 2), encoder)
    assert costs["LLM-as-Judge"].teacher_calls.tolist() == [5, 10] and costs["V-Score"].teacher_calls.tolist() == [2, 4]
    assert costs["Embedding"].encoder_texts.tolist() == [2, 3] and costs["Embedding"].teacher_calls.tolist() == [0, 0]
    assert costs["NGram"].cost.tolist() == [0, 0]
    count = lambda text: len(small.tokenizer.encode(small.spec.start_token + text, add_special_tokens=False).ids)
    z = demonstration_texts(TASK, SIX)[0]
    tokens = count(TASK.definition + "\n\n" + z) + count(z)
    first = costs["V-Score"].iloc[0]
    assert first.teacher_tokens == tokens and first.cost == 2 * small.spec.parameters * tokens
    assert list(first.index) == ["n", "teacher_calls", "teacher_tokens", "encoder_texts", "encoder_tokens", "cost", "seconds"]


def test_counting_passes_answers_on(small):
    counting = CountingTeacher(small)
    pairs, sampling = [("Country: France\nCapital:", " Paris")], Sampling(max_new_tokens=3)
    assert counting.score(pairs) == small.score(pairs)
    before = counting.tokens
    made = counting.generate([pairs[0][0]], sampling)
    assert made == small.generate([pairs[0][0]], sampling)
    assert counting.calls == 2 and counting.tokens > before + made[0][0].tokens and counting.revision == small.revision


def test_growth_exponents():
    n = np.array([4, 8, 16, 32])
    assert growth_exponent(n, 7 * n) == pytest.approx(1) and growth_exponent(n, 3 * n**2) == pytest.approx(2)
    assert growth_exponent(n, 5 + 0 * n) == pytest.approx(0) and np.isnan(growth_exponent(n, 0 * n))


@pytest.mark.parametrize("call, words", [
    (lambda t, p: make_scorer("VScore"), "did you mean 'V-Score'"),
    (lambda t, p: make_scorer("Embedding"), "encode="),
    (lambda t, p: make_scorer("LLM-as-Judge"), "prompt="),
    (lambda t, p: judge_scorer(p["inference"]), "no judge's prompt"),
    (lambda t, p: measure_cost(score_ngram, t, TASK, SIX, sizes=(2, 7)), "size 7 is above the 6"),
    (lambda t, p: growth_exponent([3], [1.0]), "2 different sizes"),
])
def test_bad_input_is_one_line(small, prompts, call, words):
    fails(lambda: call(small, prompts), words)


def test_import_is_light():
    assert frameworks_of("resynth.consistency", "resynth.sft") == "[]"
