"Claims of AIDE: their tables are told, they read well, and every rule can come out both ways."
import itertools
import re
from functools import cache

import numpy as np
import pandas as pd
import pytest

from resynth.claims import check_claim, decide, read_claims, read_published
from resynth.profiles import CHOICE_TASK_NAMES, repo_root
from resynth.runs import rule_in_words

PATH = repo_root() / "reproducibility" / "claims.toml"
NOTEBOOKS = ["21_gold_or_synthetic", "22_synthesis_methods", "23_components", "24_seeds_depth_residual", "25_which_teacher", "26_relevance_diversity"]
MMLU = ["high_school_biology", "college_computer_science", "philosophy", "electrical_engineering", "marketing"]
TASKS = {"21_gold_or_synthetic": [*MMLU, "cfa", "arc_challenge", "gsm8k", "truthfulqa", "medqa"]}
BIG_BENCH = ["code_line_description", "cause_and_effect", "implicatures", "elementary_math", "temporal_sequences"]
METHODS = ["gold", "zero-shot", "AIDE", "Evol-Instruct", "Prompt2Model", "DataTune", "plain"]
LEVELS = dict(seed=[0, 1, 2], item=range(60), method=METHODS, attributes=[0, 1], personas=[0, 1], given=[2, 6, 10], demonstrations=[0, 1], depth=[2, 3, 4],
              teacher=["none", "first", "second"], pair=["own", "other", "bound"], hop=[1, 2, 3])

CLAIMS = [c for c in read_claims(PATH) if c.paper == "AIDE"]


@cache
def columns():
    "Columns of each table, as the lines before the paper's claims tell them."
    head = PATH.read_text(encoding="utf-8").split("# AIDE (arXiv")[1].split("[[claim]]")[0]
    return {name: rest.split() for name, rest in re.findall(r"^#   (\w+) +((?:task)(?: \w+)+) *(?:\(|$)", head, re.M)}


def levels(claim):
    residual = [0, 1] if claim.table in ("components", "drift") else [1, 2, 3, 4]
    return LEVELS | dict(task=TASKS.get(claim.notebook, BIG_BENCH), residual=residual)


def empty_table(claim):
    "All rows of a claim's table, its numbers drawn around one half."
    keys = [c for c in columns()[claim.table] if c in levels(claim)]
    table = pd.DataFrame(list(itertools.product(*(levels(claim)[k] for k in keys))), columns=keys)
    rng = np.random.default_rng(0)
    for c in columns()[claim.table]:
        if c not in keys: table[c] = rng.integers(0, 2, len(table)) if c == "correct" else 0.5 + 0.02 * rng.normal(size=len(table))
    return table


def matching(table, where):
    "The rows that a filter names."
    named = {k: {"smallest": lambda k: table[k][table[k] > 0].min(), "largest": lambda k: table[k].max()}.get(v, lambda k, v=v: v)(k) for k, v in where.items()}
    return np.logical_and.reduce([table[k] == v for k, v in named.items()])


def planted(claim, holds):
    "A table in which a claim holds, or its opposite does."
    rule, table, rng = claim.rule, empty_table(claim), np.random.default_rng(1)
    value, up = rule.get("value", "correct"), 1 if (rule.get("sign", 1) > 0) == holds else -1
    if rule["kind"] == "law": return table.assign(promised=12.0, accounted=12.0 if holds else 11.0)
    if "x" in rule:
        x = (table[rule["x"]] - table[rule["x"]].min()) / (table[rule["x"]].max() - table[rule["x"]].min())
        height = x if rule["kind"] == "trend" else 1 - 4 * (x - 0.5) ** 2
        level = 0.5 + 0.4 * up * (height - 0.5)
        return table.assign(**{value: (rng.random(len(table)) < level).astype(int) if value == "correct" else level + 0.01 * rng.normal(size=len(table))})
    rows = matching(table, rule["a"]) & (table["task"].isin(rule["tasks"]) if "tasks" in rule else True)
    return table.assign(**{value: np.where(rows, (up > 0) if value == "correct" else 0.5 + 0.3 * up, table[value]).astype(float)})


def verdict(claim, table): return decide(claim, table, dict.fromkeys(table["task"], True), n_boot=300)["verdict"]


def test_the_head_tells_every_table(): assert {c.table for c in CLAIMS} == set(columns()) and all("seed" in c for c in columns().values())


def test_claims_read_well():
    assert list(dict.fromkeys(c.notebook for c in CLAIMS)) == NOTEBOOKS and len({c.id for c in CLAIMS}) == len(CLAIMS) == len({c.text for c in CLAIMS})
    items = set(read_published(paper="AIDE")["item"])
    for claim in CLAIMS:
        assert claim.id.startswith("ai-") and claim.paper == "AIDE" and claim.text.endswith(".") and 20 < len(claim.text) < 140, claim.id
        assert set(re.findall(r"Table \d+", claim.locator)) <= items and len(rule_in_words(claim.rule)) > 10, claim.id
        assert set(claim.rule.get("tasks", [])) <= set(CHOICE_TASK_NAMES), claim.id


def test_no_two_claims_share_a_rule():
    rules = [(c.notebook, repr(sorted(c.rule.items(), key=lambda kv: kv[0]))) for c in CLAIMS]
    assert len(set(rules)) == len(rules)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_a_claim_can_come_out_both_ways(claim):
    good, bad = verdict(claim, planted(claim, True)), verdict(claim, planted(claim, False))
    assert good == "supported" and bad == "contradicted"


def test_rules_name_only_columns_of_their_table():
    for claim in CLAIMS:
        rule = check_claim(claim).rule
        sides = [rule[k] for k in "ab" if k in rule] + [rule.get("where", {})]
        named = {k for s in sides for k in s} | {rule[k] for k in ("x", "expected", "measured") if k in rule} | ({rule.get("value", "correct")} if rule["kind"] != "law" else set())
        assert named <= set(columns()[claim.table]), claim.id
        assert {s["method"] for s in sides if "method" in s} <= set(METHODS), claim.id
