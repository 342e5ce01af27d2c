"Tables of a run: references and verdicts, the paper's cells, checks, losses, sizes, sentences. No model is loaded."
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from resynth.claims import PUBLISHED_COLUMNS, read_published
from resynth.profiles import ResynthError
from resynth.tables import (PAPER_TASKS, add_paper_values, answered_items, claim_sentence, comparison_table, cost_sizes, cost_table,
                            draw_metrics, draw_ratios, equal_size_quality, name_rows, note_seconds, paper_cell, row_verdict, size_sweep)
from resynth.tasks import Task

PROFILE = SimpleNamespace(run=dict(n_boot=200, confidence=0.95))


def outcomes(right, n=20, seeds=3):
    return pd.DataFrame([dict(task=task, method=method, human=human, seed=seed, item=f"i{i}", correct=int(i < k), parsed=int(i > 0))
                         for (task, method, human), k in right.items() for seed in range(seeds) for i in range(n)])


MICRO = {("tools", "zero-shot", 0): 2, ("tools", "gold", 1): 18, ("tools", "V-Synthesis", 0): 12, ("tools", "V-Synthesis", 1): 18,
         ("sums", "zero-shot", 0): 2, ("sums", "gold", 1): 2, ("sums", "V-Synthesis", 0): 2, ("sums", "V-Synthesis", 1): 2}
REFERENCES = {"V-Synthesis": ("zero-shot", "higher"), "V-Synthesis (labels)": ("gold", "higher"), "gold": ("zero-shot", "")}


def test_differences_are_those_of_the_rates():
    table = comparison_table(outcomes(MICRO), REFERENCES, PROFILE).set_index(["task", "method"])
    for (task, method), row in table[table.against != ""].iterrows():
        assert np.isclose(row["diff"], row.em - table.em[task, row.against])
        assert row.diff_low <= row["diff"] <= row.diff_high
    assert table.verdict["tools", "V-Synthesis"] == "supported" and table.verdict["tools", "V-Synthesis (labels)"] == "inconclusive"
    assert table.verdict["sums", "V-Synthesis"] == "floor" and (table.verdict["mean"] == "").all()
    assert table.failed["tools", "gold"] == 3 and np.isclose(table.em["mean", "V-Synthesis"], 7 / 20)


def test_directions():
    found = SimpleNamespace(effect=0.2, low=0.1, high=0.3, n_items=9, n_seeds=3)
    assert [row_verdict(found, w) for w in ("higher", "lower", "")] == ["supported", "contradicted", ""]
    assert row_verdict(SimpleNamespace(**{**vars(found), "n_seeds": 2}), "higher") == "not run"
    assert row_verdict(found, "higher", room=False) == "floor"
    with pytest.raises(ResynthError, match="direction 'up'"): row_verdict(found, "up")


def test_one_seed_gives_no_verdict():
    assert set(comparison_table(outcomes(MICRO, seeds=1), REFERENCES, PROFILE).verdict) == {"", "not run"}


def test_a_wrong_row_is_named():
    with pytest.raises(ResynthError, match="row 'Gold' is not among"):
        comparison_table(outcomes(MICRO), {"V-Synthesis": ("Gold", "higher")}, PROFILE)


def test_rows_with_a_ratio():
    frame = pd.DataFrame(dict(method=["zero-shot", "V-Synthesis"], human=[0, 0], ratio=[np.nan, 0.05]))
    assert name_rows(frame).row.tolist() == ["zero-shot", "r = 0.05"]


@pytest.mark.parametrize("item, methods", [("Table 1", ["zero-shot", "Self-ICL", "V-Synthesis", "gold", "Self-ICL (labels)", "V-Synthesis (labels)"]),
                                           ("Table 2", ["V-Synthesis", "- Iteration", "- Sampling", "- Diversity"]),
                                           ("Table 3", ["NGram", "Embedding", "LLM-as-Judge", "V-Score"])])
def test_every_cell_has_its_place_in_published(item, methods):
    known = read_published(paper="V-Synthesis", item=item)
    places = set(zip(known.row, known.column))
    for teacher in ("Llama-3.1-8B-Instruct", "Llama-3.1-70B-Instruct"):
        assert {paper_cell(item, m, t, teacher) for m in methods for t in PAPER_TASKS} <= places


def test_a_filled_cell_appears(tmp_path):
    line = dict.fromkeys(PUBLISHED_COLUMNS, "x") | dict(paper="V-Synthesis", item="Table 1", row="Llama3.1-8b: w. Human", column="MATH", value="31.5", unit="points", spread="")
    (tmp_path / "p.csv").write_text(",".join(PUBLISHED_COLUMNS) + "\n" + ",".join(line.values()) + "\n")
    table = pd.DataFrame(dict(task=["math", "gsm8k"], method="gold", em=0.1))
    filled = add_paper_values(table, "Table 1", "Llama-3.1-8B", tmp_path / "p.csv")
    assert filled.paper[0] == 0.315 and np.isnan(filled.paper[1])
    assert "paper" not in add_paper_values(table, "Table 2", "Llama-3.1-8B", tmp_path / "p.csv")


@pytest.mark.parametrize("fault", ["missing", "other", "double"])
def test_different_items_are_found(fault):
    frame = outcomes(MICRO)
    assert answered_items(frame).same.all()
    row = frame.index[-1]
    if fault == "missing": frame = frame.drop(row)
    if fault == "other": frame.loc[row, "item"] = "another"
    if fault == "double": frame.loc[frame.task == "sums", "item"] = frame.item.replace("i1", "i0")
    assert answered_items(frame).set_index("task").same.to_dict() == {"tools": True, "sums": False}


def test_cost_sizes():
    for n in range(4, 300):
        small, middle, large = cost_sizes(n)
        assert 1 <= small and (middle, large) == (2 * small, 4 * small) and large <= min(n, 32) and 2 * large > min(n, 32)
    with pytest.raises(ResynthError, match="3 demonstrations"): cost_sizes(3)


def costs():
    return pd.DataFrame([dict(seed=s, method=m, n=n, teacher_calls=2 * n * (m == "V-Score"), teacher_tokens=0, encoder_texts=0,
                              encoder_tokens=0, cost=3.0 * n * n * (m == "V-Score")) for s in (0, 1) for m in ("NGram", "V-Score") for n in (2, 4, 8)])


def test_costs_and_their_growth():
    table = cost_table(costs()).set_index(["method", "n"])
    assert np.isclose(table.growth["V-Score", 8], 2) and np.isnan(table.growth["NGram", 8]) and table.teacher_calls["V-Score", 4] == 8


def test_sizes_follow_the_law_up_to_2000():
    table = size_sweep([0.0, 0.05, 0.1, 0.37, 0.9, 1.0])
    assert ((table.expected - table.measured).abs() < 1).all() and np.isclose(table.expected, table.n * (1 + table.ratio) / 2).all()


def test_diversity_of_subsets_does_not_see_the_size_of_the_pool():
    task = Task(name="t", title="T", definition="d", instruction="i", fields=(("question", "Question:"), ("answer", "Tool:")),
                answer_kind="label", labels=("x",))
    rng = np.random.default_rng(0)
    words = np.array("red blue old new tall small river tower road city hill lake".split())
    rows = pd.DataFrame(dict(question=[" ".join(rng.choice(words, 6)) for _ in range(120)], answer="x", options="", v_score=1.0))
    small, large = (equal_size_quality(task, rows.iloc[:n], 10, seed=1)["diversity"] for n in (30, 120))
    whole = equal_size_quality(task, rows, 120, seed=1)["diversity"]
    assert abs(small - large) < 0.05 < large - whole
    empty = equal_size_quality(task, rows.iloc[:0], 0, seed=1)
    assert np.isnan(empty["diversity"]) and np.isnan(empty["consistency"]) and empty["n_kept"] == 0


def test_sentences():
    row = SimpleNamespace(verdict="supported", locator="§4", claim="It helps.", effect=0.05, low=0.01, high=0.09, tasks="a b", floor="c", note="")
    assert claim_sentence(row) == "**Supported** (§4): It helps. The effect is +0.05, 95% interval +0.01 to +0.09 on a, b; on the floor: c."
    assert claim_sentence(SimpleNamespace(**{**vars(row), "verdict": "floor", "note": "no task with room"})).endswith("It helps. (no task with room)")
    assert claim_sentence(SimpleNamespace(**{**vars(row), "low": np.nan, "high": np.nan})).endswith("The largest deviation is 0.05.")


def test_seconds_stay_out_of_the_tables(tmp_path, capsys):
    (tmp_path / "run.json").write_text('{"host": "here"}')
    note_seconds(SimpleNamespace(folder=tmp_path), {"V-Score": 0.123456})
    assert json.loads((tmp_path / "run.json").read_text()) == {"host": "here", "seconds_a_demonstration": {"V-Score": 0.123}}
    captured = capsys.readouterr()
    assert not captured.out and "0.123" in captured.err


def test_figures_draw_every_row():
    import matplotlib
    matplotlib.use("Agg")
    frame = outcomes({("t", "zero-shot", 0): 2, ("t", "gold", 1): 18, ("t", "NGram", 0): 9, ("t", "V-Score", 0): 12})
    table = comparison_table(frame, {"NGram": ("V-Score", "lower")}, PROFILE)
    left, right = draw_metrics(table, cost_table(costs())).axes
    assert len(left.patches) == 4 and len(right.lines) == 2
    frame = outcomes({("t", "zero-shot", 0): 2, ("t", "gold", 1): 18, ("t", "V-Synthesis", 0): 9}).assign(ratio=np.nan)
    frame.loc[frame.method == "V-Synthesis", "ratio"] = 0.5
    curves = pd.DataFrame(dict(seed=[0, 1], ratio=0.5, consistency=[1.0, 2.0], diversity=np.nan))
    panels = draw_ratios(comparison_table(frame, {"r = 0.5": ("zero-shot", "")}, PROFILE), curves).axes
    assert len(panels) == 3 and any("fewer than" in t.get_text() for t in panels[2].texts)
    matplotlib.pyplot.close("all")
