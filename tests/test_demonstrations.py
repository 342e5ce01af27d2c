"BM25 against rank_bm25, its ties and errors, and the choice of demonstrations."
import time
from dataclasses import replace

import numpy as np
import pytest
from helpers import fails

from resynth.demonstrations import BM25Retriever, count_words, rank_top, select_demonstrations, tokenize_words
from resynth.tasks import Example, make_task


def random_texts(n, seed, n_words=60):
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{min(int(w), n_words)}" for w in rng.zipf(1.4, rng.integers(1, 25))) for _ in range(n)]


@pytest.fixture
def task(): return make_task("metatool", "Choose a tool.", labels=("A", "B"))


def examples(texts, prefix="p"): return [Example(f"{prefix}{i}", t, "A") for i, t in enumerate(texts)]


@pytest.mark.parametrize("n, seed", [(1, 0), (2, 1), (3, 2), (40, 3), (300, 4)])
def test_scores_equal_rank_bm25(n, seed):
    rank_bm25 = pytest.importorskip("rank_bm25")
    documents, queries = random_texts(n, seed), random_texts(20, 100 + seed) + ["unknown words only", "w1 w1 w1", ""]
    reference = rank_bm25.BM25Okapi([tokenize_words(d) for d in documents])
    expected = np.array([reference.get_scores(tokenize_words(q)) for q in queries])
    assert np.abs(BM25Retriever(documents).scores(queries) - expected).max() < 1e-9
    assert (expected != 0).any()


def test_the_floor_is_at_work():
    documents = ["common a", "common b", "common c", "d e f"]
    assert (BM25Retriever(documents).scores(["common"])[0][:3] > 0).all()            # a floor of 0 or no floor would fail
    assert BM25Retriever(documents, epsilon=0).scores(["common"])[0].max() == 0


def test_search_agrees_with_a_full_sort():
    documents, queries = random_texts(200, 5), random_texts(30, 6)
    retriever = BM25Retriever(documents)
    scores = np.round(retriever.scores(queries), 9)
    ids, found = retriever.search(queries, 7)
    expected = [sorted(range(200), key=lambda d: (-row[d], d))[:7] for row in scores]
    assert ids.tolist() == expected and ids.shape == found.shape == (30, 7)
    assert np.allclose(np.take_along_axis(retriever.scores(queries), ids, 1), found)


def test_ties_go_to_the_lower_number():
    ids, _ = BM25Retriever(["a b", "same words", "c d", "e f", "same words", "g h", "i j"]).search(["same", "nothing known"], 4)
    assert ids.tolist() == [[1, 4, 0, 2], [0, 1, 2, 3]]
    assert rank_top(np.array([0.3, 0.1 + 0.2, 0.3]), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("k", [0, -1, 4])
def test_k_out_of_range_is_one_line(k):
    fails(lambda: BM25Retriever(["a", "b", "c"]).search(["a"], k), f"k = {k}", "3 documents")


def test_empty_corpus_and_wordless_documents():
    fails(lambda: BM25Retriever([]), "empty")
    assert np.isfinite(BM25Retriever(["", "?!"]).scores(["a"])).all()


def test_company_does_not_change_anything():
    retriever, queries = BM25Retriever(random_texts(50, 7)), [*random_texts(30, 8), "of none known", ""]
    product = (count_words(queries, retriever.vocabulary)[0] @ retriever.weights).toarray()  # of two sparse matrices
    assert np.array_equal(retriever.scores(queries), product) and (product[:30].max(axis=1) > 0).all() and not product[-1].any()
    assert np.array_equal(retriever.search(queries, 5)[0], [retriever.search([q], 5)[0][0] for q in queries])


def test_an_example_never_gets_itself(task):
    pool = examples(["play jazz", "play rock", "Play  Jazz!", "rain in oslo"])
    chosen = select_demonstrations(task, pool, pool, 3)
    assert 0 not in chosen[0] and 2 not in chosen[0] and 0 not in chosen[2]
    assert select_demonstrations(task, pool, pool[:1], 1, exclude_self=False) == [[0]]


def test_same_question_about_another_report_is_another_item():
    task = make_task("finqa", "Answer from the report.")
    pool = [Example("a", "what is the growth?", "1", context="2020: 5"), Example("b", "what is the growth?", "2", context="2021: 7")]
    assert select_demonstrations(task, pool, pool[:1], 2) == [[1]]


def test_small_pools_and_zero_shots(task):
    pool, asked = examples(["a b", "b c"]), examples(["b", "c"], "t")
    assert [sorted(row) for row in select_demonstrations(task, pool, asked, 9)] == [[0, 1], [0, 1]]
    assert select_demonstrations(task, [], asked, 3) == [[], []] == select_demonstrations(task, pool, asked, 0)
    assert select_demonstrations(task, pool[:1], pool[:1], 3) == [[]] and select_demonstrations(task, pool, [], 3) == []
    fails(lambda: select_demonstrations(task, pool, asked, -1), "k = -1")


def test_answers_and_solutions_are_not_read(task):
    pool, asked = examples(random_texts(40, 9)), examples(random_texts(10, 10), "t")
    secret = [replace(m, answer="B", solution=asked[0].question) for m in pool]
    assert select_demonstrations(task, secret, asked, 3) == select_demonstrations(task, pool, asked, 3)


def test_choice_does_not_depend_on_neighbours(task):
    pool, asked = examples(random_texts(60, 11)), examples(random_texts(20, 12), "t")
    together = select_demonstrations(task, pool, asked, 3)
    assert together == [select_demonstrations(task, pool, [a], 3)[0] for a in asked]


def test_large_pools_are_quick(task):
    pool, asked = examples(random_texts(5000, 13, 3000)), examples(random_texts(500, 14, 3000), "t")
    start = time.process_time()
    select_demonstrations(task, pool, asked, 3)
    assert time.process_time() - start < 10
