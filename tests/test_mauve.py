"MAUVE: known answers, parity with mauve-text where it is installed (GPL, tests only), features, and every error."
import math

import numpy as np
import pytest
from helpers import fails

from resynth.mauve import (REFERENCE, SYNTHESIZRR, MauveSettings, divergence_frontier, frontier_area, kl_nats, lm_features, mauve_floor, mauve_of_texts,
                           mauve_score, quantise, reduce_features, repeat_texts)
from resynth.profiles import ResynthError


def clouds(n, m, d=12, shift=0.7, seed=0):
    rng = np.random.default_rng(seed)
    scale = np.linspace(2, 0.2, d)
    return rng.normal(size=(n, d)) * scale, rng.normal(size=(m, d)) * scale + shift


@pytest.mark.parametrize("n, m, buckets, scaling, seed", [(200, 200, "auto", 5, 25), (300, 180, 30, 1, 3), (120, 400, 8, 2, 7)])
def test_parity_with_mauve_text(n, m, buckets, scaling, seed):
    mauve = pytest.importorskip("mauve")
    p, q = clouds(n, m, seed=seed)
    theirs = mauve.compute_mauve(p_features=p, q_features=q, num_buckets=buckets, mauve_scaling_factor=scaling, seed=seed, verbose=False)
    settings = MauveSettings(n_buckets=0 if buckets == "auto" else buckets, scaling=scaling)
    ours = mauve_score(p, q, settings, seeds=(seed + 2,))            # the reference adds 2 to its seed before k-means
    assert ours.n_buckets == theirs.num_buckets
    assert ours.mean == pytest.approx(theirs.mauve, abs=1e-6)
    assert frontier_area(divergence_frontier(theirs.p_hist, theirs.q_hist, scaling)) == pytest.approx(theirs.mauve, abs=1e-9)
    assert 0.02 < theirs.mauve < 0.99                                # far from both ends, where anything agrees


def test_kl_equals_scipy():
    stats = pytest.importorskip("scipy.stats")
    for seed in range(5):
        p, q = np.random.default_rng(seed).dirichlet(np.ones(9), size=2)
        assert kl_nats(p, q) == pytest.approx(stats.entropy(p, q), abs=1e-12) and kl_nats(p, q) > 0.05
    assert kl_nats(np.array([1.0, 0]), np.array([1.0, 0])) == 0 and kl_nats(np.array([0.5, 0.5]), np.array([1.0, 0])) == math.inf


@pytest.mark.parametrize("n, m, d", [(80, 50, 12), (20, 15, 60)], ids=["more texts than dimensions", "fewer"])
def test_components_equal_sklearn(n, m, d):
    decomposition = pytest.importorskip("sklearn.decomposition")
    p, q = clouds(n, m, d)
    both = np.concatenate([p, q]) / np.linalg.norm(np.concatenate([p, q]), axis=1, keepdims=True)
    for whiten in (False, True):
        low = np.concatenate(reduce_features(p, q, 0.9, whiten))
        wanted = decomposition.PCA(n_components=0.9, svd_solver="full", whiten=whiten).fit_transform(both)
        assert low.shape == wanted.shape and np.abs(np.abs(low) - np.abs(wanted)).max() < 1e-8
    assert reduce_features(p, q, 1.0)[0].shape == (n, min(d, n + m))


# known answers

@pytest.mark.parametrize("settings", [REFERENCE, SYNTHESIZRR])
def test_a_set_with_itself_is_one(settings):
    p, _ = clouds(150, 1)
    assert mauve_score(p, p[::-1], settings).values == (1.0,) * 5


@pytest.mark.parametrize("scaling", [1, 2, 5])
def test_disjoint_sets_lie_on_the_floor(scaling):
    assert mauve_floor(scaling) == pytest.approx(1 / math.comb(2 * scaling, scaling))
    curve = divergence_frontier(np.array([0.3, 0.7, 0, 0]), np.array([0, 0, 0.5, 0.5]), scaling, n_points=2001)
    assert frontier_area(curve) == pytest.approx(mauve_floor(scaling), abs=1e-5)
    p, q = clouds(100, 100, shift=50)
    assert mauve_score(p, q, MauveSettings(n_buckets=10, scaling=scaling), seeds=(0,)).mean == pytest.approx(mauve_floor(scaling), abs=0.003)


def test_it_falls_as_sets_separate_and_is_symmetric_in_the_histograms():
    values = [mauve_score(*clouds(300, 300, shift=s), seeds=(0, 1)).mean for s in (0, 0.5, 1, 3)]
    assert values == sorted(values, reverse=True) and values[0] - values[-1] > 0.3
    p, q = np.random.default_rng(1).dirichlet(np.ones(6), size=2)
    assert frontier_area(divergence_frontier(p, q)) == pytest.approx(frontier_area(divergence_frontier(q, p)))
    assert frontier_area(divergence_frontier(p, q)[::-1]) == frontier_area(divergence_frontier(p, q))


def test_the_curve_is_inside_the_unit_square_and_falls():
    p, q = np.random.default_rng(2).dirichlet(np.ones(30), size=2)
    curve = divergence_frontier(p, q, 5)
    assert curve.shape == (27, 2) and curve.min() == 0 and curve.max() == 1
    assert curve[0].tolist() == [1, 0] and curve[-1].tolist() == [0, 1] and (np.diff(curve[1:-1, 1]) >= 0).all() and (np.diff(curve[1:-1, 0]) <= 0).all()


def test_seeds_are_honoured_and_repeatable():
    p, q = clouds(200, 200)
    a, b = mauve_score(p, q), mauve_score(p, q)
    assert a == b and len(set(a.values)) > 1 and a.spread == pytest.approx(np.std(a.values, ddof=1))
    one = mauve_score(p, q, seeds=(3,))
    assert one.values == (a.values[3],) and math.isnan(one.spread)
    assert "30 buckets" in a.describe() and "scaling 1 (floor 0.5)" in a.describe() and "sd of 5" in a.describe()


def test_histograms_sum_to_one_and_keep_the_sides_apart():
    p, q = np.zeros((30, 2)), np.ones((10, 2))
    a, b = quantise(p, q, 2, 0)
    assert sorted(a) == [0, 1] and sorted(b) == [0, 1] and (a * b == 0).all()


def test_settings_are_those_of_the_sources():
    assert (REFERENCE.n_buckets, REFERENCE.scaling, REFERENCE.explained, REFERENCE.n_redo, REFERENCE.max_iter, REFERENCE.n_points, REFERENCE.whiten) == (0, 5, 0.9, 5, 500, 25, False)
    assert (SYNTHESIZRR.n_buckets, SYNTHESIZRR.scaling, SYNTHESIZRR.max_length) == (30, 1, 512)
    assert mauve_score(*clouds(200, 90), REFERENCE, seeds=(0,)).n_buckets == 9


# texts

def test_repeat_texts():
    texts = [str(i) for i in range(5)]
    assert sorted(repeat_texts(texts, 15)) == sorted(texts * 3) and repeat_texts(texts, 12)[:5] == repeat_texts(texts, 12)[5:10]
    assert len(set(repeat_texts(texts, 3))) == 3 and repeat_texts(texts, 5, seed=1) != repeat_texts(texts, 5, seed=2)
    with pytest.raises(ResynthError, match="no reference texts"): repeat_texts([], 3)


def test_lm_features_are_the_last_hidden_state(tiny_lm):
    import torch
    from resynth.models import load_lm, load_tokenizer
    model, tokenizer = load_lm(tiny_lm, "float32")[0], load_tokenizer(tiny_lm)
    texts = ["one", "one two three four five six seven", "eight nine"]
    got = lm_features(model, tokenizer, texts, batch=2)
    for text, row in zip(texts, got):
        ids = torch.tensor([tokenizer.encode(text).ids], device=model.device)
        with torch.inference_mode(): hidden = model(ids, output_hidden_states=True).hidden_states[-1][0]
        assert np.abs(row - hidden[-1].cpu().numpy()).max() < 1e-5
        assert np.abs(row - hidden.mean(0).cpu().numpy()).max() > 1e-3 or ids.shape[1] == 1
    assert np.abs(lm_features(model, tokenizer, texts, max_length=1)[1] - got[0]).max() < 1e-5      # both then read "one" alone
    with pytest.raises(ResynthError, match="text 1 of 2"): lm_features(model, tokenizer, ["a", ""])


def test_errors_are_one_line():
    p, q = clouds(20, 20)
    encode = lambda texts: np.random.default_rng(0).normal(size=(len(texts), 4))
    fails(lambda: mauve_score(p, q, MauveSettings(n_buckets=50)), "n_buckets = 50, but there are 40")
    fails(lambda: quantise(p, q, 1, 0), "n_buckets = 1")
    fails(lambda: mauve_score(p, q[:, :3]), "12 and 3 dimensions")
    fails(lambda: mauve_score(p, q[:1]), "generated features have shape (1, 12)")
    fails(lambda: mauve_score(p, np.where(np.arange(20)[:, None] == 4, np.nan, q)), "generated feature 4 of 20")
    fails(lambda: mauve_score(p * (np.arange(20) > 0)[:, None], q), "reference feature 0 of 20")
    fails(lambda: mauve_score(np.ones((5, 3)), np.ones((5, 3))), "all features are equal")
    fails(lambda: divergence_frontier(np.array([1.0]), np.array([1.0]), 0), "scaling = 0")
    fails(lambda: divergence_frontier(np.array([0.5, 0.4]), np.array([0.5, 0.5])), "sum to 1")
    fails(lambda: mauve_score(p, q, seeds=()), "at least one k-means seed")
    fails(lambda: mauve_of_texts(encode, ["a", " "], ["b", "c"]), "reference text 1 of 2")
    fails(lambda: mauve_of_texts(encode, ["a", "b"], "b c"), "at least 2 generated texts")
