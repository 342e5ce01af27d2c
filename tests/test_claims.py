"Claims: the bootstrap's promises, every rule coming out every way, the matrix."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from resynth.claims import (MARKS, RULES, Claim, check_claim, claims_matrix, decide, decide_claims, read_claims, read_published, render_matrix,
                            update_readme)
from resynth.comparison import Interval, accuracy_table, bootstrap_draws, compare, has_room, outcome_grid, paired_bootstrap, resample_weights
from resynth.profiles import ResynthError, load_profile

N_BOOT = 1000


def outcomes(task="tools", **methods):
    "Long table from (seeds, items) arrays; a trailing _h marks human labels, __ a minus."
    rows = []
    for name, grid in methods.items():
        human, method = int(name.endswith("_h")), name.removesuffix("_h").replace("__", "- ").replace("_", "-")
        rows += [dict(task=task, method=method, human=human, seed=s, item=i, correct=v, parsed=1)
                 for s, row in enumerate(grid) for i, v in enumerate(row)]
    return pd.DataFrame(rows)


def bernoulli(rng, p, n=150, n_seeds=3): return (rng.random((n_seeds, n)) < p).astype(int)


def reference(rng=None):
    "Zero-shot and gold rows of a task with room."
    rng = rng or np.random.default_rng(0)
    zero = bernoulli(rng, 0.2)
    return dict(zero_shot=zero, gold_h=np.maximum(zero, bernoulli(rng, 0.5)))


def claim(kind="difference", **rule):
    return check_claim(Claim("c", "P", "Table 1", "text", "11_main_results", {"kind": kind, **rule}))


# the bootstrap

@pytest.mark.parametrize("n", [1, 2, 3, 50])
def test_weights_are_shares(n):
    weights = resample_weights(n, 500, np.random.default_rng(0))
    assert weights.shape == (500, n)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    if n > 1: np.testing.assert_allclose(weights.mean(axis=0), 1 / n, atol=0.06)


def test_spread_is_the_standard_error():
    data = np.random.default_rng(1).normal(size=(1, 40))
    assert bootstrap_draws(data, 20000, 0).std() == pytest.approx(data.std(ddof=1) / np.sqrt(40), rel=0.03)


def test_blocks_change_nothing_but_memory():
    data = np.random.default_rng(2).normal(size=(3, 3000))
    draws = bootstrap_draws(data, 3000, 0)  # several blocks
    assert len(draws) == 3000
    assert draws.std() == pytest.approx(bootstrap_draws(data, 1300, 1).std(), rel=0.15)


def test_same_seed_same_interval():
    a, b = np.random.default_rng(3).integers(0, 2, (2, 3, 60))
    assert paired_bootstrap(a, b, N_BOOT) == paired_bootstrap(a, b, N_BOOT)
    assert paired_bootstrap(a, b, N_BOOT) != paired_bootstrap(a, b, N_BOOT, seed=1)


def test_swapping_mirrors_and_item_order_does_not_matter():
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, 2, (2, 3, 80))
    one, two = paired_bootstrap(a, b, 4000), paired_bootstrap(b, a, 4000)
    assert (one.effect, one.low) == (-two.effect, pytest.approx(-two.high, abs=0.01))
    order = rng.permutation(80)
    mixed = paired_bootstrap(a[:, order], b[:, order], 4000)
    assert mixed.effect == pytest.approx(one.effect) and mixed.low == pytest.approx(one.low, abs=0.015)


def test_no_effect_is_mostly_inconclusive_and_a_large_one_supported():
    rng, verdicts = np.random.default_rng(5), []
    for k in range(100):
        base = bernoulli(rng, 0.4)
        flip = lambda: np.where(rng.random(base.shape) < 0.15, 1 - base, base)
        verdicts.append(paired_bootstrap(flip(), flip(), 400, seed=k).verdict())
    assert verdicts.count("inconclusive") >= 90
    large = [paired_bootstrap(np.maximum(b, bernoulli(rng, 0.2)), b, 400).verdict() for b in (bernoulli(rng, 0.4) for _ in range(20))]
    assert large.count("supported") == 20


def test_coverage_is_near_its_name():
    rng, hits = np.random.default_rng(6), 0
    for k in range(300):
        item, cell = rng.normal(0, 0.4, (1, 60)), rng.normal(0, 0.4, (3, 60))
        low, high = np.quantile(bootstrap_draws(0.1 + item + cell, 400, k), [0.025, 0.975])
        hits += low <= 0.1 <= high
    assert 0.92 <= hits / 300 <= 0.995


def test_pairing_narrows():
    rng = np.random.default_rng(7)
    a = bernoulli(rng, 0.5, n=200)
    b = a * (rng.random(a.shape) < 0.9)
    paired = paired_bootstrap(a, b, N_BOOT)
    draws = bootstrap_draws(a.astype(float), N_BOOT, 1) - bootstrap_draws(b.astype(float), N_BOOT, 2)
    assert np.ptp(np.quantile(draws, [0.025, 0.975])) > 1.5 * (paired.high - paired.low)
    assert paired.verdict() == "supported"


def test_a_seed_that_disagrees_widens():
    agree = np.zeros((3, 100)); agree[:, :20] = 1
    differ = np.zeros((3, 100)); differ[0, :60] = 1
    zero = np.zeros((3, 100))
    assert paired_bootstrap(agree, zero, N_BOOT).verdict() == "supported"
    assert paired_bootstrap(differ, zero, N_BOOT).verdict() == "inconclusive"


def test_tasks_weigh_the_same():
    small, large = np.ones((3, 10)), np.zeros((3, 1000))
    assert paired_bootstrap([small, large], [0 * small, large], N_BOOT).effect == pytest.approx(0.5)


# outcomes

def test_grid_errors_name_the_fault():
    table = outcomes(**reference())
    with pytest.raises(ResynthError, match="did you mean 'method'"): outcome_grid(table, {"metod": "gold"})
    with pytest.raises(ResynthError, match="no outcome matches"): outcome_grid(table, {"method": "gild"})
    with pytest.raises(ResynthError, match="more than once"): outcome_grid(table, {"task": "tools"})
    with pytest.raises(ResynthError, match="item '3'"):
        outcome_grid(table[~((table["item"] == 3) & (table["seed"] == 1))], {"method": "gold"})


def test_other_items_cannot_be_compared():
    table = outcomes(**reference())
    table = table[~((table["method"] == "gold") & (table["item"] == 0))]
    with pytest.raises(ResynthError, match="different items"): compare(table, {"method": "gold"}, {"method": "zero-shot"})


def test_a_method_without_chance_is_repeated():
    parts = reference()
    one = outcomes(zero_shot=parts["zero_shot"][:1], gold_h=parts["gold_h"])
    row = compare(one, {"method": "gold"}, {"method": "zero-shot"}, n_boot=N_BOOT).iloc[0]
    assert row.n_seeds == 3 and row.effect == pytest.approx(parts["gold_h"].mean() - parts["zero_shot"][0].mean())


def test_row_order_does_not_matter():
    table = outcomes(**reference())
    a, b = {"method": "gold"}, {"method": "zero-shot"}
    pd.testing.assert_frame_equal(compare(table, a, b, n_boot=N_BOOT), compare(table.sample(frac=1, random_state=0), a, b, n_boot=N_BOOT))


def test_accuracy_counts_failures():
    table = outcomes(**reference())
    table.loc[:4, "parsed"] = 0
    found = accuracy_table(table, n_boot=N_BOOT).set_index("method")
    assert found.loc["zero-shot", "n_failed"] == 5 and found.loc["gold", "n_failed"] == 0
    assert found.loc["gold", "low"] < found.loc["gold", "em"] < found.loc["gold", "high"]


def test_room_ignores_the_method_under_test():
    parts = reference()
    assert has_room(outcomes(**parts, V_Synthesis=parts["gold_h"]), n_boot=N_BOOT) == {"tools": True}
    assert has_room(outcomes(zero_shot=parts["zero_shot"], gold_h=parts["zero_shot"]), n_boot=N_BOOT) == {"tools": False}


def test_room_looks_at_untuned_rows_only():
    parts = reference()
    table = pd.concat([outcomes(**parts).assign(sft=0), outcomes(gold_h=0 * parts["gold_h"]).assign(sft=1)])
    assert has_room(table, n_boot=N_BOOT) == {"tools": True}


# rules, each coming out every way

def better_and_worse():
    rng, parts = np.random.default_rng(8), reference()
    middle = bernoulli(rng, 0.35)
    return parts | dict(V_Synthesis=np.maximum(middle, bernoulli(rng, 0.3)), Self_ICL=middle)


A, B = dict(method="V-Synthesis", human=0), dict(method="Self-ICL", human=0)


@pytest.mark.parametrize("rule, verdict", [
    (dict(a=A, b=B), "supported"), (dict(a=B, b=A), "contradicted"), (dict(a=A, b=B, sign=-1), "contradicted"),
    (dict(a=A, b=[B, dict(method="zero-shot")]), "supported"), (dict(a=B, b=[A, dict(method="zero-shot")]), "contradicted")])
def test_difference(rule, verdict):
    assert decide(claim(**rule), outcomes(**better_and_worse()), n_boot=N_BOOT)["verdict"] == verdict


def test_difference_of_equals_is_inconclusive():
    parts = better_and_worse() | dict(Self_ICL=better_and_worse()["V_Synthesis"])
    row = decide(claim(a=A, b=B), outcomes(**parts), n_boot=N_BOOT)
    assert (row["verdict"], row["effect"]) == ("inconclusive", 0)


def test_against_a_list_the_hardest_rival_is_reported():
    table = outcomes(**better_and_worse())
    row = decide(claim(a=A, b=[dict(method="zero-shot"), B]), table, n_boot=N_BOOT)
    assert row["effect"] == pytest.approx(decide(claim(a=A, b=B), table, n_boot=N_BOOT)["effect"])


def test_floor_needs_no_room():
    parts = better_and_worse()
    row = decide(claim(a=A, b=B), outcomes(**parts | dict(gold_h=parts["zero_shot"])), n_boot=N_BOOT)
    assert (row["verdict"], row["floor"], row["tasks"]) == ("floor", "tools", "")


def test_a_task_on_the_floor_is_left_out_and_named():
    good, low = better_and_worse(), better_and_worse()
    low |= dict(gold_h=low["zero_shot"], V_Synthesis=low["zero_shot"], Self_ICL=low["zero_shot"])
    both = pd.concat([outcomes(**good), outcomes("maths", **low)])
    row, alone = (decide(claim(a=A, b=B), t, n_boot=N_BOOT) for t in (both, outcomes(**good)))
    assert (row["tasks"], row["floor"]) == ("tools", "maths") and row["effect"] == pytest.approx(alone["effect"])


def test_the_floor_rule_cannot_be_forgotten():
    parts = better_and_worse()
    bare = outcomes(V_Synthesis=parts["V_Synthesis"], Self_ICL=parts["Self_ICL"])
    with pytest.raises(ResynthError, match="floor rule"): decide(claim(a=A, b=B), bare)
    assert decide(claim(a=A, b=B), bare, room={"tools": True}, n_boot=N_BOOT)["verdict"] == "supported"


def test_too_few_seeds_decide_nothing():
    table = outcomes(**better_and_worse())
    assert decide(claim(a=A, b=B), table[table["seed"] < 2])["verdict"] == "not run"


def test_difference_of_differences():
    rng, parts = np.random.default_rng(9), reference()
    parts |= dict(V_Synthesis=np.maximum(parts["zero_shot"], bernoulli(rng, 0.4)), V_Synthesis_h=np.maximum(parts["gold_h"], bernoulli(rng, 0.05)))
    rule = dict(a=A, b=dict(method="zero-shot"), c=dict(method="V-Synthesis", human=1), d=dict(method="gold"))
    table = outcomes(**parts)
    assert decide(claim("difference_of_differences", **rule), table, n_boot=N_BOOT)["verdict"] == "supported"
    back = dict(a=rule["c"], b=rule["d"], c=rule["a"], d=rule["b"])
    assert decide(claim("difference_of_differences", **back), table, n_boot=N_BOOT)["verdict"] == "contradicted"


def test_task_contrast_wants_both_sides():
    rng, parts = np.random.default_rng(10), reference()
    tools = outcomes(**parts, V_Synthesis=np.maximum(parts["zero_shot"], bernoulli(rng, 0.4)))
    maths = outcomes("gsm8k", **parts, V_Synthesis=parts["zero_shot"])
    rule = claim("task_contrast", a=A, b=dict(method="zero-shot"), tasks=["tools"], other_tasks=["math", "gsm8k"])
    assert decide(rule, pd.concat([tools, maths]), n_boot=N_BOOT)["verdict"] == "supported"
    swapped = claim("task_contrast", a=A, b=dict(method="zero-shot"), tasks=["gsm8k"], other_tasks=["tools"])
    assert decide(swapped, pd.concat([tools, maths]), n_boot=N_BOOT)["verdict"] == "contradicted"
    assert decide(rule, tools, n_boot=N_BOOT)["verdict"] == "not run"  # the other side is not in the table
    assert decide(rule, pd.concat([tools, maths]), {"tools": True, "gsm8k": False}, n_boot=N_BOOT)["verdict"] == "floor"


def curve(rates, x="ratio", grid=None):
    rng, parts = np.random.default_rng(11), reference()
    grid = grid or np.linspace(0, 1, len(rates))
    uniform = rng.random((3, 150))
    points = [outcomes(V_Synthesis=(uniform < p).astype(int)).assign(**{x: g}) for g, p in zip(grid, rates)]
    return pd.concat([outcomes(**parts), *points], ignore_index=True)


@pytest.mark.parametrize("rates, verdict", [([.2, .3, .4], "supported"), ([.4, .3, .2], "contradicted"), ([.3, .3, .3], "inconclusive")])
def test_trend(rates, verdict):
    row = decide(claim("trend", x="ratio", where=A), curve(rates), n_boot=N_BOOT)
    assert row["verdict"] == verdict
    if verdict == "supported": assert row["effect"] == pytest.approx(0.2, abs=0.06)


@pytest.mark.parametrize("rates, verdict, plateau", [
    ([.2, .5, .6, .5, .2], "supported", "supported"), ([.6, .3, .2, .3, .6], "contradicted", "contradicted"),
    ([.1, .2, .3, .4, .5], "inconclusive", "inconclusive"), ([.1, .4, .55, .6, .6], "inconclusive", "supported")])
def test_inverted_u_wants_a_top_inside(rates, verdict, plateau):
    table = curve(rates)
    assert decide(claim("inverted_u", x="ratio", where=A), table, n_boot=N_BOOT)["verdict"] == verdict
    assert decide(claim("plateau", x="ratio", where=A), table, n_boot=N_BOOT)["verdict"] == plateau


def test_x_min_leaves_out_points():
    table = curve([.9, .2, .3, .4], x="iteration", grid=[0, 1, 2, 3])
    assert decide(claim("trend", x="iteration", where=A), table, n_boot=N_BOOT)["verdict"] == "contradicted"
    assert decide(claim("trend", x="iteration", x_min=1, where=A), table, n_boot=N_BOOT)["verdict"] == "supported"


def test_smallest_is_the_least_positive():
    table = curve([.0, .6, .1], x="n_labelled", grid=[0, 8, 64])
    rule = dict(a={**A, "n_labelled": "smallest"}, b=dict(method="zero-shot"))
    assert decide(claim(**rule), table, n_boot=N_BOOT)["effect"] > 0.3
    assert decide(claim(a={**A, "n_labelled": "largest"}, b=dict(method="zero-shot")), table, n_boot=N_BOOT)["effect"] < 0


def group_table(shape, noise=0.01):
    rng = np.random.default_rng(12)
    x = np.tile(np.linspace(-1, 1, 12), 3)
    return pd.DataFrame(dict(task="tools", seed=np.repeat([0, 1, 2], 12), group=np.tile(range(12), 3), consistency=5 + x, gain=shape(x) + rng.normal(0, noise, 36)))


@pytest.mark.parametrize("shape, verdict", [(lambda x: -0.2 * x**2, "supported"), (lambda x: 0.2 * x**2, "contradicted"),
                                            (lambda x: 0.1 * x, "inconclusive"), (lambda x: 0.3 * x - 0.1 * x**2, "inconclusive")])
def test_groups(shape, verdict):
    rule = claim("inverted_u", x="consistency", value="gain", unit="row", needs_room=True)
    assert decide(rule, group_table(shape), room={"tools": True}, n_boot=N_BOOT)["verdict"] == verdict
    assert decide(rule, group_table(shape), room={"tools": False}, n_boot=N_BOOT)["verdict"] == "floor"


def test_trend_over_rows():
    rule = claim("trend", x="consistency", value="gain", unit="row", sign=-1)
    row = decide(rule, group_table(lambda x: -0.1 * x), n_boot=N_BOOT)
    assert row["verdict"] == "supported" and row["effect"] == pytest.approx(-0.2, abs=0.02)


def test_law():
    table = pd.DataFrame(dict(expected=[5.5, 11.0], measured=[6, 11]))
    rule = lambda tolerance: claim("law", expected="expected", measured="measured", tolerance=tolerance)
    assert [decide(rule(t), table)["verdict"] for t in (1.0, 0.4)] == ["supported", "contradicted"]


def test_costs_need_no_room():
    costs = pd.DataFrame([dict(seed=s, method=m, cost=c + s) for m, c in (("NGram", 0), ("Embedding", 5), ("V-Score", 50)) for s in range(3)])
    rule = dict(a=dict(method="V-Score"), b=[dict(method="NGram"), dict(method="Embedding")], table="costs", value="cost")
    assert decide(claim(**rule), costs, n_boot=N_BOOT)["verdict"] == "supported"
    assert decide(claim(**rule, sign=-1), costs, n_boot=N_BOOT)["verdict"] == "contradicted"


# the files

def test_rules_are_checked():
    with pytest.raises(ResynthError, match="did you mean 'trend'"): claim("trends", x="ratio")
    with pytest.raises(ResynthError, match="lacks the key 'b'"): claim(a=A)
    with pytest.raises(ResynthError, match="did you mean 'tolerance'"): claim("law", expected="a", measured="b", tolerance=1, tolerence=2)
    with pytest.raises(ResynthError, match="sign"): claim(a=A, b=B, sign=0)


def test_claims_file_errors(tmp_path):
    entry = '[[claim]]\nid = "x"\npaper = "P"\nlocator = "T"\ntext = "t"\nnotebook = "11_a"\nrule = { kind = "trend", x = "r" }\n'
    for text, message in ((entry + entry, "stands twice"), (entry.replace("paper", "papr"), "claim 'x'"), ("[[claim", "claims.toml")):
        (tmp_path / "claims.toml").write_text(text)
        with pytest.raises(ResynthError, match=message): read_claims(tmp_path / "claims.toml")


def test_published_errors_name_the_line(tmp_path):
    head = "paper,item,row,column,metric,value,unit,spread,n,locator,note\n"
    for text, message in ((head + "P,T,r,c,EM,1.0\n", "line 2"), (head + "P,T,r,c,EM,one,,,,,\n", "line 2.*'one'"), ("paper\n", "line 1")):
        (tmp_path / "published.csv").write_text(text)
        with pytest.raises(ResynthError, match=message): read_published(tmp_path / "published.csv")


def test_every_claim_of_a_notebook_is_decided():
    profile = load_profile("laptop", {"run.n_boot": 500})
    table = outcomes(**better_and_worse() | dict(V_Synthesis_h=bernoulli(np.random.default_rng(0), 0.5), Self_ICL_h=bernoulli(np.random.default_rng(1), 0.4)))
    table["task"] = "metatool"
    found = decide_claims("11_main_results", {"outcomes": table}, profile)
    assert list(found["claim_id"]) == [c.id for c in read_claims(notebook="11_main_results")]
    by_id = found.set_index("claim_id")["verdict"]
    assert by_id["vs-t1-scratch"] == "supported" and by_id["vs-t1-scale"] == "not run" and by_id["vs-t1-tool-use"] == "not run"
    smoke = decide_claims("11_main_results", {"outcomes": table}, load_profile("smoke"))
    assert set(smoke["verdict"]) == {"not run"}
    with pytest.raises(ResynthError, match="table 'outcomes', given are outcome "): decide_claims("11_main_results", {"outcome": table}, profile)


def test_claims_survive_csv(tmp_path):
    row = decide(claim(a=A, b=B), outcomes(**better_and_worse()), n_boot=N_BOOT)
    folder = tmp_path / "laptop" / "11_main_results"
    folder.mkdir(parents=True)
    pd.DataFrame([row]).to_csv(folder / "table_claims.csv", index=False)
    for other in ("smoke", "laptop+abc123"):
        (tmp_path / other / "11_main_results").mkdir(parents=True)
        pd.DataFrame([row]).to_csv(tmp_path / other / "11_main_results" / "table_claims.csv", index=False)
    matrix = claims_matrix(tmp_path, [claim(a=A, b=B)])
    assert list(matrix.columns[5:]) == ["laptop", "laptop_real"]
    assert matrix["laptop"][0].startswith("supported (+0.") and matrix["laptop_real"][0] == "not run"
    assert "1 supported" in render_matrix(matrix)


def test_readme_outside_the_marks_is_kept(tmp_path):
    matrix, page = claims_matrix(tmp_path, [claim(a=A, b=B)]), tmp_path / "README.md"
    page.write_text(f"# a\n{MARKS[0]}\n{MARKS[1]}\n## b | c\n")
    assert update_readme(page, matrix) and not update_readme(page, matrix)
    assert page.read_text().startswith("# a\n") and page.read_text().endswith("\n## b | c\n")


def test_interval_reads_well():
    assert str(Interval(0.1234, -0.01, 0.25, 10, 3)) == "+0.123 [-0.010, +0.250]"
    assert [Interval(0, *limits, 1, 1).verdict() for limits in ((0, 0), (0.1, 0.2), (-0.2, -0.1))] == ["inconclusive", "supported", "contradicted"]


def test_no_two_claims_share_a_rule():
    rules = [(c.notebook, repr(sorted(c.rule.items()))) for c in read_claims()]
    assert len(set(rules)) == len(rules)


def test_every_rule_kind_is_exercised_by_a_claim():
    assert {c.rule["kind"] for c in read_claims()} == set(RULES)


def test_a_claim_about_tasks_that_are_not_there_is_not_run():
    frame = pd.DataFrame([dict(task="math", method=m, seed=s, item=i, correct=int(m == "gold")) for m in ("gold", "zero-shot") for s in range(3) for i in range(9)])
    rule = dict(kind="difference", a=dict(method="gold"), b=dict(method="zero-shot"), tasks=["imdb"])
    claim = Claim(id="x", paper="P", locator="L", text="t", notebook="11_main_results", rule=rule)
    row = decide(claim, frame, room={"math": True})
    assert row["verdict"] == "not run" and row["note"] == "no such task in this profile"
    assert decide(replace(claim, rule=rule | dict(tasks=["math"])), frame, room={"math": False})["verdict"] == "floor"
