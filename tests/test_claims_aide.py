"Claims of AIDE: their tables are told, they read well, and every rule can come out both ways."
import re

import pytest

from planted_claims import PATH, both_verdicts, told_columns
from resynth.claims import check_claim, read_claims, read_published
from resynth.profiles import CHOICE_TASK_NAMES
from resynth.runs import rule_in_words

NOTEBOOKS = ["21_gold_or_synthetic", "22_synthesis_methods", "23_components", "24_seeds_depth_residual", "25_which_teacher", "26_relevance_diversity"]
MMLU = ["high_school_biology", "college_computer_science", "philosophy", "electrical_engineering", "marketing"]
TASKS = {"21_gold_or_synthetic": [*MMLU, "cfa", "arc_challenge", "gsm8k", "truthfulqa", "medqa"]}
BIG_BENCH = ["code_line_description", "cause_and_effect", "implicatures", "elementary_math", "temporal_sequences"]
METHODS = ["gold", "zero-shot", "AIDE", "Evol-Instruct", "Prompt2Model", "DataTune", "plain"]
LEVELS = dict(seed=[0, 1, 2], item=range(60), method=METHODS, attributes=[0, 1], personas=[0, 1], given=[2, 6, 10], demonstrations=[0, 1], depth=[2, 3, 4],
              teacher=["none", "first", "second"], pair=["own", "other", "bound"], hop=[1, 2, 3])

CLAIMS = [c for c in read_claims(PATH) if c.paper == "AIDE"]


def levels(claim):
    residual = [0, 1] if claim.table in ("components", "drift") else [1, 2, 3, 4]
    return LEVELS | dict(task=TASKS.get(claim.notebook, BIG_BENCH), residual=residual)


def law(table, holds): return table.assign(promised=12.0, accounted=12.0 if holds else 11.0)


def test_the_head_tells_every_table(): assert {c.table for c in CLAIMS} == set(told_columns("AIDE")) and all("seed" in c for c in told_columns("AIDE").values())


def test_claims_read_well():
    assert list(dict.fromkeys(c.notebook for c in CLAIMS)) == NOTEBOOKS and len({c.id for c in CLAIMS}) == len(CLAIMS) == len({c.text for c in CLAIMS})
    items = set(read_published(paper="AIDE")["item"])
    for claim in CLAIMS:
        assert claim.id.startswith("ai-") and claim.paper == "AIDE" and claim.text.endswith(".") and 20 < len(claim.text) < 140, claim.id
        assert set(re.findall(r"Table \d+", claim.locator)) <= items and len(rule_in_words(claim.rule)) > 10, claim.id
        assert set(claim.rule.get("tasks", [])) <= set(CHOICE_TASK_NAMES), claim.id


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_a_claim_can_come_out_both_ways(claim):
    assert both_verdicts(claim, levels(claim), law) == ("supported", "contradicted")


def test_rules_name_only_columns_of_their_table():
    for claim in CLAIMS:
        rule = check_claim(claim).rule
        sides = [rule[k] for k in "ab" if k in rule] + [rule.get("where", {})]
        named = {k for s in sides for k in s} | {rule[k] for k in ("x", "expected", "measured") if k in rule} | ({rule.get("value", "correct")} if rule["kind"] != "law" else set())
        assert named <= set(told_columns("AIDE")[claim.table]), claim.id
        assert {s["method"] for s in sides if "method" in s} <= set(METHODS), claim.id
