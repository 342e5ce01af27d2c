"Tables in which a claim holds, or its opposite does: what the tests of the claims of each paper share."
import itertools
import re
from functools import cache

import numpy as np
import pandas as pd

from resynth.claims import decide
from resynth.profiles import repo_root

PATH = repo_root() / "reproducibility" / "claims.toml"


@cache
def told_columns(paper):
    "Columns of each table, as the lines before the paper's claims tell them."
    head = PATH.read_text(encoding="utf-8").split(f"# {paper} (arXiv")[1].split("[[claim]]")[0]
    return {name: rest.split() for name, rest in re.findall(r"^#   (\w+) +((?:task)(?: \w+)+) *(?:\(|$)", head, re.M)}


def empty_table(claim, levels):
    "All rows of a claim's table, its numbers drawn around one half; `levels` are the values of each key, or of several that go together."
    columns = told_columns(claim.paper)[claim.table]
    many = lambda x: x if isinstance(x, tuple) else (x,)
    sets = {many(k): [many(v) for v in values] for k, values in levels.items() if set(many(k)) <= set(columns)}
    keys = [c for k in sets for c in k]
    table = pd.DataFrame([sum(row, ()) for row in itertools.product(*sets.values())], columns=keys)
    rng = np.random.default_rng(0)
    for c in columns:
        if c not in keys: table[c] = rng.integers(0, 2, len(table)) if c == "correct" else 0.5 + 0.02 * rng.normal(size=len(table))
    return table


def matching(table, where):
    "The rows that a filter names."
    ends = {"smallest": lambda x: x[x > 0].min(), "largest": lambda x: x.max()}
    return np.logical_and.reduce([table[k] == (ends[v](table[k]) if v in ends else v) for k, v in where.items()])


def planted(claim, levels, holds, law):
    "A table in which a claim holds, or its opposite does; `law(table, holds)` plants a law."
    rule, table, rng = claim.rule, empty_table(claim, levels), np.random.default_rng(1)
    value, up = rule.get("value", "correct"), 1 if (rule.get("sign", 1) > 0) == holds else -1
    if rule["kind"] == "law": return law(table, holds)
    if "x" in rule:
        x = (table[rule["x"]] - table[rule["x"]].min()) / (table[rule["x"]].max() - table[rule["x"]].min())
        level = 0.5 + 0.4 * up * ((x if rule["kind"] == "trend" else 1 - 4 * (x - 0.5) ** 2) - 0.5)
        return table.assign(**{value: (rng.random(len(table)) < level).astype(int) if value == "correct" else level + 0.01 * rng.normal(size=len(table))})
    rows = matching(table, rule["a"]) & (table["task"].isin(rule["tasks"]) if "tasks" in rule else True)
    return table.assign(**{value: np.where(rows, (up > 0) if value == "correct" else 0.5 + 0.3 * up, table[value]).astype(float)})


def verdict(claim, table): return decide(claim, table, dict.fromkeys(table["task"], True), n_boot=300)["verdict"]


def both_verdicts(claim, levels, law=None): return tuple(verdict(claim, planted(claim, levels, holds, law)) for holds in (True, False))
