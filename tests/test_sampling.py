"""The size law of Appendix C and the rates of §3.2.2, in bulk."""
import numpy as np
import pytest

from resynth.profiles import ResynthError
from resynth.sampling import keep_rates, sample_proportionally, sample_size

RATIOS = (0.05, 0.1, 0.15, 0.2, 0.3, 1 / 3, 0.5, 0.7, 0.9, 1.0)


def test_size_law_up_to_two_thousand():
    for n in range(1, 2001):
        for r in RATIOS if n % 10 == 0 or n < 60 else RATIOS[n % 10 :: 10]:
            kept = sample_proportionally(np.arange(n), r, seed=n)
            assert abs(len(kept) - n * (1 + r) / 2) < 1 and len(np.unique(kept)) == len(kept)


@pytest.mark.parametrize("n,r", [(7, 0.3), (13, 0.1), (1, 0.5)])
def test_the_rounding_has_the_right_mean(n, r):
    rng = np.random.default_rng(0)
    sizes = [sample_size(n, r, rng) for _ in range(20000)]
    assert abs(np.mean(sizes) - n * (1 + r) / 2) < 0.02


def test_every_rank_is_kept_at_its_rate():
    n, draws = 50, 4000
    counts = np.zeros(n)
    for seed in range(draws): counts[sample_proportionally(-np.arange(n), 0.2, seed)] += 1
    assert np.abs(counts / draws - keep_rates(n, 0.2)).max() < 5 * np.sqrt(0.25 / draws)


def test_rates_step_down_by_the_ratio():
    assert np.allclose(keep_rates(10, 0.2), [1, 1, 0.8, 0.8, 0.6, 0.6, 0.4, 0.4, 0.2, 0.2])
    assert (keep_rates(7, 1.0) == 1).all()


def test_higher_scores_are_preferred_and_ties_are_stable():
    scores = np.array([0.0, 5.0, 5.0, 1.0])
    assert sample_proportionally(scores, 0.0).tolist() == [1, 2]
    assert sample_proportionally(np.zeros(6), 0.0).tolist() == [0, 1, 2]


def test_limits_and_errors():
    assert sample_proportionally(np.arange(9), 1.0).tolist() == list(range(9))
    assert len(sample_proportionally(np.array([]), 0.1)) == 0
    for bad in (-0.1, 1.5, 10): 
        with pytest.raises(ResynthError, match="sample ratio"): sample_proportionally(np.arange(5), bad)


def test_same_seed_same_sample():
    a, b, c = (sample_proportionally(np.arange(100), 0.1, s) for s in (1, 1, 2))
    assert (a == b).all() and set(a) != set(c)
