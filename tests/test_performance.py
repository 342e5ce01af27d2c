"Ratios: verdicts at the largest size only, the right way round, and no promise about the bytes of a time."
import math

import numpy as np
import pandas as pd
import pytest
from helpers import fails

from resynth.performance import finish_timings, growth_exponent, homogeneity, ideal_ratio, judge_rows, one_row, raced, rank_agreement, read_goals
from resynth.profiles import load_profile, paper_of
from resynth.runs import start_run


def test_the_largest_size_decides_and_both_senses_hold():
    rows = [raced("MAUVE", "mauve-text", n, (1.0, s)) for n, s in ((10, 9.0), (20, 4.0))] + [one_row("MAUVE value", "mauve-text", 20, v) for v in (1e-9,)]
    table = judge_rows(rows)
    assert table.verdict.tolist() == ["", "not reached", "reached"]
    assert judge_rows([raced("MAUVE", "mauve-text", 5, (1.0, 5.0))]).verdict[0] == "reached"
    assert judge_rows([one_row("MAUVE", "mauve-text", 5, note="peer not installed")]).verdict[0] == "not measured"


def test_a_ratio_is_the_peer_over_us(): assert raced("MAUVE", "mauve-text", 1, (2.0, 10.0))["value"] == 5


def test_goals_are_read_and_checked(monkeypatch, tmp_path):
    assert len(read_goals()) > 10
    monkeypatch.setattr("resynth.performance.repo_root", lambda: tmp_path)
    (tmp_path / "reproducibility").mkdir()
    (tmp_path / "reproducibility" / "performance_goals.csv").write_text("measure,peer,unit,goal,sense\na,b,c,1,more\n")
    fails(read_goals, "performance_goals.csv", "at least")


def test_growth_and_tree():
    assert abs(growth_exponent(np.array([1, 10, 100]), np.array([2, 20, 200.0])) - 1) < 1e-9 and math.isnan(growth_exponent(np.array([1]), np.array([1.0])))
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 3, (40, 6)).tolist()
    assert ideal_ratio(rows) == 240 / len({tuple(r[: i + 1]) for r in rows for i in range(6)})


def test_equal_rankings_agree_exactly_and_one_swap_is_below_the_goal():
    rng, goal = np.random.default_rng(2), read_goals().set_index("measure").goal["ranking in bfloat16"]
    for n in range(2, 40):
        a = rng.normal(size=n)
        b = np.sort(a)
        b[[0, 1]] = b[[1, 0]]
        assert rank_agreement(a, 3 * a + 1) == 1 == goal and rank_agreement(a, -a) == -1
        assert rank_agreement(np.sort(a), b) == pytest.approx(1 - 4 / (n * (n - 1)), abs=1e-12) and rank_agreement(np.sort(a), b) < goal
    assert math.isnan(rank_agreement([1, 1], [1, 2]))


def test_homogeneity_sees_a_sharper_distribution():
    rng, p = np.random.default_rng(1), np.arange(1, 9) / 36
    assert homogeneity(rng.choice(8, 3000, p=p), rng.choice(8, 3000, p=p)) > 0.01
    assert homogeneity(rng.choice(8, 3000, p=p), rng.choice(8, 6000, p=p**1.5 / (p**1.5).sum())) < 1e-4


def test_pages_across_papers_have_settings_and_no_manifest(tmp_path):
    assert paper_of("91_performance") == "" and load_profile("smoke").settings_hash("") != load_profile("smoke", {"run.batch_rows": 7}).settings_hash("")
    run = start_run("91_performance", "smoke", results=tmp_path)
    run.table(pd.DataFrame({"a": [1]}), "table_ratios", "caption")
    finish_timings(run)
    assert {p.name for p in run.folder.iterdir()} == {"table_ratios.csv", "run.json"}
