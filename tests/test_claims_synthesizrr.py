"Claims of SynthesizRR: their tables are told, they read well, and every rule can come out both ways."
import re

import pytest

from planted_claims import PATH, both_verdicts, told_columns
from resynth.claims import check_claim, read_claims, read_published
from resynth.runs import rule_in_words

NOTEBOOKS = ["41_diversity", "42_mauve", "43_distillation", "44_prior_work", "45_student_feedback", "46_bootstrapping", "47_corpus_swapping", "48_retrieval"]
TASKS = {"44_prior_work": ["ag_news", "imdb", "sst2"], "47_corpus_swapping": ["ag_news", "hyperpartisan"]}
SIX = ["ag_news", "hyperpartisan", "toi_headlines", "category", "humor", "polarity"]
METHODS = ["gold", "FewGen 0-shot", "FewGen few-shot", "SynthesizRR 0-shot", "SynthesizRR RetrICL", "SynthesizRR Non-RetrICL"]
PRIOR = ["SunGen", "ReGen", "S3", "AttrPrompt"]
LEVELS = dict(seed=[0, 1, 2], item=range(60), order=range(1, 6), type=["mean", "GPE"], filtered=[0, 1], level=range(4), shots=[0, 1, 3, 8],
              corpus=["news_dominant", "news_regional", "random"], retriever=["dense", "sparse"])

CLAIMS = [c for c in read_claims(PATH) if c.paper == "SynthesizRR"]


def levels(claim):
    return LEVELS | dict(task=TASKS.get(claim.notebook, SIX), method=METHODS + (PRIOR if claim.notebook.startswith("44") else []))


def law(table, holds): return table.assign(all_unique=1.0, unique_share=0.8 if holds else 0.3)


def test_the_head_tells_every_table():
    assert {c.table for c in CLAIMS} == set(told_columns("SynthesizRR")) and all("seed" in c for c in told_columns("SynthesizRR").values())


def test_claims_name_their_place():
    assert {c.notebook for c in CLAIMS} == set(NOTEBOOKS)
    items = set(read_published(paper="SynthesizRR")["item"])
    for claim in CLAIMS:
        assert claim.id.startswith("sr-"), claim.id
        named = re.findall(r"Table \d+", claim.locator)
        assert named or "Figure" in claim.locator or "§" in claim.locator or "App." in claim.locator, claim.id
        assert set(named) <= items and len(rule_in_words(claim.rule)) > 10, claim.id
    assert len({c.text for c in CLAIMS}) == len(CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_a_claim_can_come_out_both_ways(claim):
    assert both_verdicts(claim, levels(claim), law) == ("supported", "contradicted")


def test_rules_name_only_columns_of_their_table():
    for claim in CLAIMS:
        rule = check_claim(claim).rule
        sides = [s for k in "abcd" if k in rule for s in (rule[k] if isinstance(rule[k], list) else [rule[k]])] + [rule.get("where", {})]
        named = {k for s in sides for k in s} | {rule[k] for k in ("x", "expected", "measured") if k in rule} | {rule.get("value", "correct")} - ({"correct"} if rule["kind"] == "law" else set())
        assert named <= set(told_columns("SynthesizRR")[claim.table]), claim.id
        for side in sides: assert set(side.get("method", "gold").split(",")) <= {*METHODS, *PRIOR}, claim.id
