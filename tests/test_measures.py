"Self-BLEU and its companions against references, bounds, bad input and size."
import math
import time

import numpy as np
import pytest
from helpers import fails

from resynth.measures import MEASURE_SETTINGS, closest_lengths, distinct_n, mean_pairwise_cosine, ngram_similarity, self_bleu, self_bleu_orders, split_tokens


def random_texts(n, seed, n_words=25, longest=14):
    "Texts of 1 to `longest` words, some of them shorter than the highest order, some of them equal."
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{w}" for w in rng.integers(0, n_words, rng.integers(1, longest))) for _ in range(n)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("max_order", [1, 2, 3, 4, 5])
def test_self_bleu_equals_nltk(seed, max_order):
    nltk_bleu = pytest.importorskip("nltk.translate.bleu_score")
    texts = random_texts(25, seed, n_words=[5, 25, 200][seed % 3])
    tokens = [split_tokens(t) for t in texts]
    smooth, weights = nltk_bleu.SmoothingFunction().method1, (1 / max_order,) * max_order
    expected = [nltk_bleu.sentence_bleu(tokens[:i] + tokens[i + 1:], t, weights=weights, smoothing_function=smooth) for i, t in enumerate(tokens)]
    assert self_bleu(texts, max_order) == pytest.approx(np.mean(expected), abs=1e-12)


def test_orders_are_the_single_calls():
    texts = random_texts(30, 9)
    assert self_bleu_orders(texts) == {m: self_bleu(texts, m) for m in range(1, 6)}


def test_self_bleu_bounds_and_invariance():
    texts = random_texts(40, 1)
    assert self_bleu(["a b c d e"] * 5) == pytest.approx(1)
    assert self_bleu(["a b", "c d", "e f"]) == 0
    assert self_bleu(texts) == pytest.approx(self_bleu(texts[::-1]), abs=1e-12)
    assert 0 < self_bleu(texts) < 1


def test_brevity_penalty_uses_other_texts():
    # 2 of 2 words match; the closest other length is 4: exp(1 - 4/2)
    assert self_bleu_orders(["a b", "a b c d"], 1)[1] == pytest.approx((math.exp(-1) + 0.5) / 2)
    assert closest_lengths([4, 2]) == [2, 4]


def test_self_bleu_is_linear():
    words = np.random.default_rng(0).integers(0, 400, (10_000, 20))
    texts = [" ".join(map(str, row)) for row in words]
    start = time.process_time()
    self_bleu_orders(texts)
    assert time.process_time() - start < 30   # seconds of the processor; pairs would take hours


@pytest.mark.parametrize("call, said", [
    (lambda: self_bleu(["one"]), "at least 2"), (lambda: self_bleu([]), "at least 2"), (lambda: self_bleu("one text"), "list"),
    (lambda: self_bleu(["a", "", "b"]), "text 1 of 3"), (lambda: self_bleu(["a", "b"], 0), "max_order"), (lambda: distinct_n(["a"], 2), "shorter than 2"),
    (lambda: ngram_similarity(["a"], ""), "no tokens"), (lambda: ngram_similarity(["a"], "a", 0), "order"),
    (lambda: mean_pairwise_cosine(np.ones((1, 3))), "2 rows"), (lambda: mean_pairwise_cosine(np.ones((3, 3))), "must be 1"),
    (lambda: mean_pairwise_cosine(np.full((2, 2), np.nan)), "must be 1")])
def test_bad_input_is_one_line(call, said):
    fails(call, said)


def test_distinct_n_counts_repeats_between_texts():
    assert distinct_n(["a b", "b a"], 1) == 0.5
    assert distinct_n(["a b", "c d"], 2) == 1


def test_ngram_similarity_is_jaccard():
    a, b = set("abcd"), set("cdef")
    assert ngram_similarity([" ".join(a)], " ".join(b))[0] == pytest.approx(len(a & b) / len(a | b))
    assert ngram_similarity(["X y"], "x Y", 2)[0] == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mean_pairwise_cosine_equals_pairs(dtype):
    e = np.random.default_rng(3).normal(size=(60, 8)).astype(dtype)
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    c = e.astype(float) @ e.astype(float).T
    assert mean_pairwise_cosine(e) == pytest.approx(c[~np.eye(60, dtype=bool)].mean(), abs=1e-6)


def test_every_measure_names_its_settings():
    assert set(MEASURE_SETTINGS) == {"self_bleu", "distinct_n", "ngram_similarity", "mean_pairwise_cosine"}
