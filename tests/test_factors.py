"Studies of one factor: tables from outcomes of known size, fits of known shape, and what is refused. No model."
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers import fails

from resynth.claims import decide_claims, read_published
from resynth.factors import SWEEPS, TABLE7, draw_groups, draw_sweeps, fit_band, group_size, group_table, sweep_table, table7
from resynth.profiles import load_profile

HOW = SimpleNamespace(name="made by hand", run=dict(n_boot=400, confidence=0.95), seeds=(0, 1, 2))


def rows(n_right, n=20, seeds=3, **labels):
    "Outcomes with `n_right` of n items right in every seed."
    return pd.DataFrame([dict(task="metatool", seed=s, item=f"i{i:02d}", correct=int(i < n_right), parsed=1, n_pool=5, **labels)
                         for s in range(seeds) for i in range(n)])


def references(): return pd.concat([rows(4, method="zero-shot", human=0), rows(16, method="gold", human=1)], ignore_index=True)


def grouped(em):
    "Groups with given numbers of right items, consistency 0, 1, 2, ..., the same in every seed but for a little."
    parts = [rows(right, method="V-Score", human=0, group=k) for k, right in enumerate(em)]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(consistency=table.group + 0.01 * table.seed, diversity=0.9 - 0.1 * table.group)


def test_a_group_is_half_of_few_candidates():
    bench = SimpleNamespace(profile=SimpleNamespace(vsynthesis=dict(group_size=12)))
    assert [group_size(bench, n) for n in (0, 1, 2, 9, 24, 500)] == [0, 0, 1, 4, 12, 12]


def test_gain_is_over_zero_shot_of_the_same_seed():
    zero = pd.concat([rows(n, seeds=1, method="zero-shot", human=0).assign(seed=s) for s, n in enumerate((2, 4, 6))])
    table = group_table(pd.concat([zero, grouped([8, 10])], ignore_index=True))
    assert len(table) == 6 and np.allclose(table.em, [0.4, 0.5] * 3)
    assert np.allclose(table.sort_values(["seed", "group"]).gain, [0.3, 0.4, 0.2, 0.3, 0.1, 0.2])


def test_a_group_without_diversity_stays():
    outcomes = pd.concat([references(), grouped([8]).assign(diversity=np.nan)], ignore_index=True)
    assert len(group_table(outcomes)) == 3


def test_no_groups_is_one_line():
    fails(lambda: group_table(references()), "no groups", "n_inputs")


@pytest.mark.parametrize("em, verdict", [([4, 9, 13, 15, 15, 13, 9, 4], "supported"), ([15, 9, 6, 4, 4, 6, 9, 15], "contradicted"),
                                         ([4, 6, 8, 10, 12, 14, 16, 18], "inconclusive")])
def test_the_hill_is_decided_from_the_table(em, verdict):
    groups = group_table(pd.concat([references(), grouped(em)], ignore_index=True))
    claims = decide_claims("15_consistency_groups", {"groups": groups}, HOW, {"metatool": True}).set_index("claim_id")
    assert claims.verdict["vs-groups-hill"] == verdict
    assert claims.verdict["vs-groups-diversity"] == "supported"


def test_without_room_the_hill_is_floor_and_diversity_is_not():
    groups = group_table(pd.concat([references(), grouped([4, 9, 13, 9, 4])], ignore_index=True))
    claims = decide_claims("15_consistency_groups", {"groups": groups}, HOW, {"metatool": False}).set_index("claim_id")
    assert claims.verdict["vs-groups-hill"] == "floor" and claims.verdict["vs-groups-diversity"] == "supported"


def test_the_band_holds_the_fit_and_widens_at_the_ends():
    rng = np.random.default_rng(0)
    x = np.linspace(0, 10, 40)
    band = fit_band(x, x + rng.normal(0, 1, 40), np.repeat(range(4), 10), 1, HOW)
    assert ((band.low <= band.fit) & (band.fit <= band.high)).all()
    width = band.high - band.low
    assert width.iloc[[0, -1]].min() > width.iloc[20:30].min() and abs(np.polyfit(band.x, band.fit, 1)[0] - 1) < 0.2
    assert len(fit_band(x[:2], x[:2], np.zeros(2), 2, HOW)) == 0


def sweeps():
    points = {"iterations": ("iteration", {0: 4, 1: 8, 2: 12, 3: 14}), "scales": ("scale", {0.25: 8, 0.5: 12, 1.0: 13}),
              "labels": ("n_labelled", {0: 13, 8: 14, 32: 15})}
    return {t: pd.concat([*(rows(n, method="V-Synthesis", human=int(f == "n_labelled" and x > 0), **{f: x}) for x, n in grid.items()), references()],
                         ignore_index=True) for t, (f, grid) in points.items()}


def test_sweeps_tabulate_every_point_and_no_reference():
    table = sweep_table(sweeps(), HOW)
    assert table.groupby("figure").size().to_dict() == {"Figure 5": 4, "Figure 6": 3, "Figure 7": 3}
    assert np.allclose(table[table.figure == "Figure 5"].gain, [0, 0.2, 0.4, 0.5])
    assert (table.n_seeds == 3).all() and (table.n_items == 20).all()


def test_the_claims_on_factors_read_the_sweeps():
    claims = decide_claims("16_factors", sweeps(), HOW).set_index("claim_id")
    assert set(claims.tasks) == {"metatool"}
    assert claims.verdict["vs-f5-rise"] == claims.verdict["vs-f6-rise"] == claims.verdict["vs-f5-first"] == "supported"
    assert claims.effect["vs-f5-first"] == pytest.approx(0.2) and claims.effect["vs-f7-small"] == pytest.approx(0.5)


def test_a_missing_point_of_a_claim_is_one_line():
    tables = sweeps()
    tables["iterations"] = tables["iterations"][tables["iterations"].iteration != 1]
    fails(lambda: decide_claims("16_factors", tables, HOW), "iteration")


def table7_parts(right):
    return pd.concat([rows(n, method=m, human=h, sft=s, n_trained=s * 5) for (m, h, s), n in right.items()], ignore_index=True)


RIGHT = {("zero-shot", 0, 0): 4, ("V-Synthesis", 0, 0): 9, ("gold", 1, 0): 16, ("V-Synthesis", 1, 0): 17,
         ("V-Synthesis", 0, 1): 12, ("gold", 1, 1): 12, ("V-Synthesis", 1, 1): 18}


def test_table_7_has_the_papers_eight_rows_and_names_the_copy():
    table = table7(table7_parts(RIGHT), read_published(paper="V-Synthesis", item="Table 7"), HOW)
    assert list(zip(table.way, table.data)) == list(TABLE7) and table.paper.isna().all()
    plain = table[table.data == "w/o. Human"]
    assert plain.em.tolist() == [0.2, 0.2] and plain.note.tolist() == ["", "the untuned model"] and (table.note != "").sum() == 1


def test_table_7_shows_a_published_value_that_somebody_fills_in():
    published = read_published(paper="V-Synthesis", item="Table 7")
    published.loc[(published.row == "SFT: w. Human") & (published.column == "MetaTool"), "value"] = 61.5
    table = table7(table7_parts(RIGHT), published, HOW).set_index(["way", "data"])
    assert table.paper["SFT", "w. Human"] == pytest.approx(0.615) and table.paper.notna().sum() == 1


def test_the_claims_on_tuning_read_the_outcomes():
    claims = decide_claims("17_sft", {"outcomes": table7_parts(RIGHT)}, HOW).set_index("claim_id")
    assert claims.verdict.to_dict() == {"vs-t7-scratch": "supported", "vs-t7-labels": "supported"}
    assert claims.effect["vs-t7-scratch"] == pytest.approx(0.4) and claims.effect["vs-t7-labels"] == pytest.approx(0.3)


def test_figures_draw_few_points_and_equal_levels(tmp_path):
    groups = group_table(pd.concat([references(), grouped([8])], ignore_index=True)).assign(diversity=np.nan)
    draw_groups(groups, HOW, 0.2).savefig(tmp_path / "a.png")
    draw_sweeps(sweep_table(sweeps(), HOW), {"zero-shot": 0.2, "gold": 0.2}).savefig(tmp_path / "b.png")


def test_every_sweep_has_its_grid_in_every_profile():
    for name in ("smoke", "laptop", "laptop_real", "gpu", "paper"):
        v = load_profile(name).vsynthesis
        assert 1 in v["iteration_grid"] and 1.0 in v["scale_grid"] and 0 in v["label_grid"] and len(v["label_grid"]) > 1
    assert {f for f, *_ in SWEEPS.values()} == {"iteration", "scale", "n_labelled"}
