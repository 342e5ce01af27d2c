"Claims and published numbers of SoftSRV: well formed, every rule can come out both ways, and the paper's tables say what the claims say."
import re
from functools import cache

import pytest

from planted_claims import PATH, both_verdicts, told_columns
from resynth.claims import check_claim, read_claims, read_published
from resynth.profiles import SOFT_TASK_NAMES
from resynth.runs import rule_in_words
from resynth.softsrv_tasks import SOFT_TASKS, TRANSFER

NOTEBOOKS = ["31_parameterisations", "32_finetuning_curves", "33_out_of_domain", "34_post_training_mix", "35_data_scaling", "36_softsrv_mauve", "37_curated"]
METHODS = ["SS_NP", "SS_MP2", "SS_MC", "PT", "PT_SR", "PT plain", "curated", "train", "untuned", "post-training + train", "post-training + SS_MC"]
LEVELS = dict(seed=[0, 1, 2], item=range(60), method=METHODS, size=[10, 20, 40], reference=["test", "train"], kind=["found", "bound"], k=[1, 2, 4])
CELLS = {"Table 1": 9, "Table 2": 6, "Table 3": 6, "Table 4": 11, "Table 5": 34, "§3.3": 3, "§3.7": 1, "A.3": 3, "Figure 7": 3, "A.1": 1}


@cache
def table(item): return read_published(paper="SoftSRV", item=item)


def value(item, row, column, metric=None):
    rows = table(item).query("row == @row and column == @column")
    return float((rows if metric is None else rows[rows["metric"] == metric])["value"].item())


# published numbers

def test_every_printed_number_is_there():
    rows = read_published(paper="SoftSRV")
    assert rows.groupby("item").size().to_dict() == CELLS and rows["value"].notna().all() and set(rows["column"]) <= {t.title for t in SOFT_TASKS.values()}
    assert rows[rows["unit"].isin(["share", "MAUVE"])]["value"].between(0.1, 1).all()


def test_table_5_repeats_table_4():
    one, other = table("Table 4"), table("Table 5").query("metric == 'MAUVE to test'")
    both = one.merge(other, on=["row", "column"])
    assert len(both) == 11 and (both["value_x"] == both["value_y"]).all() and len(other) == 17
    assert (table("Table 5").query("metric == 'MAUVE to train' and row == 'train'")["value"] == 1).all()


def test_claims_say_what_the_tables_say():
    "Each direction that a claim tests is the one of the paper's own table, but for those that its text marks."
    t1 = lambda a, b: [value("Table 1", a, t) > value("Table 1", b, t) for t in ("MBPP", "GSM8K", "BoolQ")]
    assert t1("SS_MP2", "SS_NP") == [True, False, True] and all(t1("SS_MC", "SS_NP") + t1("SS_MC", "SS_MP2"))
    assert [value("Table 2", "SS_MC", t) > value("Table 2", "PT", t) for t in ("Transcoder", "TriviaQA", "MAWPS")] == [True, True, False]
    assert [value("Table 3", "post-training + SS_MC", t) > value("Table 3", "post-training + train", t) for t in ("MBPP", "GSM8K", "BoolQ")] == [True, True, False]
    near = lambda a, b, t, ref="test": value("Table 5", a, t, f"MAUVE to {ref}") > value("Table 5", b, t, f"MAUVE to {ref}")
    assert all(near("SS_MC", "PT", t) and near("train", "SS_MC", t) for t in ("MBPP", "GSM8K", "BoolQ")) and near("SS_NP", "SS_MC", "MBPP")
    assert [near("SS_MC", "PT", t, "train") for t in ("MBPP", "GSM8K", "BoolQ")] == [False, True, True]
    assert all(near("SS_MC", "PT_SR", t) and near("PT", "PT_SR", t) for t in ("MBPP", "GSM8K"))


def test_sizes_are_those_of_the_profile():
    from resynth.profiles import load_profile
    paper = load_profile("paper")
    for row in table("§3.3").itertuples(): assert paper.soft_tasks[{t.title: n for n, t in SOFT_TASKS.items()}[row.column]]["n_rows"] == row.value
    assert paper.softsrv["k"] == 2 and set(table("Figure 7")["value"]) == {2, 4}


# claims

CLAIMS = [c for c in read_claims(PATH) if c.paper == "SoftSRV"]


def levels(claim):
    tasks = dict(task=list(TRANSFER.values()) if claim.table == "transfer" else list(TRANSFER))
    if claim.table != "bases": return LEVELS | tasks
    return {k: v for k, v in LEVELS.items() if k not in ("method", "k")} | tasks | {("method", "k"): [("SS_NP", 1), ("SS_MP2", 2), ("SS_MP4", 4)]}


def test_the_head_tells_every_table(): assert {c.table for c in CLAIMS} == set(told_columns("SoftSRV")) and all("seed" in c for c in told_columns("SoftSRV").values())


def test_claims_read_well():
    assert list(dict.fromkeys(c.notebook for c in CLAIMS)) == NOTEBOOKS and len({c.id for c in CLAIMS}) == len(CLAIMS) == len({c.text for c in CLAIMS}) == 28
    items = set(read_published(paper="SoftSRV")["item"])
    for claim in CLAIMS:
        assert claim.id.startswith("ss-") and claim.paper == "SoftSRV" and claim.text.endswith(".") and 20 < len(claim.text) < 140, claim.id
        assert set(re.findall(r"Table \d+", claim.locator)) <= items and len(rule_in_words(claim.rule)) >= 10 and set(claim.rule.get("tasks", [])) <= set(SOFT_TASK_NAMES), claim.id


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_a_claim_can_come_out_both_ways(claim): assert both_verdicts(claim, levels(claim)) == ("supported", "contradicted")


def test_rules_name_only_columns_of_their_table():
    for claim in CLAIMS:
        rule = check_claim(claim).rule
        sides = [rule[k] for k in "abcd" if k in rule] + [rule.get("where", {})]
        named = {k for s in sides for k in s} | {rule[k] for k in ("x",) if k in rule} | {rule.get("value", "correct")}
        assert named <= set(told_columns("SoftSRV")[claim.table]) and {s["method"] for s in sides if "method" in s} <= set(METHODS), claim.id
