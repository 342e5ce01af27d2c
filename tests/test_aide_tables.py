"Tables and curves of AIDE: the paper's cells, verdicts, components, equal sizes."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers import fails

from resynth import aide_bench as B
from resynth import aide_tables as T
from resynth.claims import read_published
from resynth.profiles import load_profile
from test_aide_bench import TASK, bench, plant, written  # noqa: F401 (a fixture)

TIME = "temporal_sequences"


def outcomes(rates, tasks=(TIME,), runs=3, items=40, student="x"):
    "Answers of which each method gets a share right: the first items of each run."
    return pd.DataFrame([dict(task=t, method=m, seed=s, item=f"i{i}", correct=int(i < r * items), parsed=1, n_rows=10, student=student)
                         for t in tasks for m, r in rates.items() for s in range(runs) for i in range(items)])


# the paper's number

def test_every_accuracy_of_table_2_is_found():
    table = read_published(paper="AIDE", item="Table 2").query("metric == 'accuracy'")
    titles = {shape[0]: name for name, shape in T.CHOICE_SHAPES.items()} | {"Avg": "mean"}
    for r in table.itertuples():
        student, _, method = r.row.partition(": ")
        assert T.paper_accuracy("Table 2", method, titles[r.column], student) == pytest.approx(r.value / 100)


def test_other_students_stand_beside_the_first():
    assert T.paper_accuracy("Table 3", "AIDE", TIME, "SmolLM2") == T.paper_accuracy("Table 3", "AIDE", TIME, "Mistral-7B") == T.paper_accuracy("Table 3", "AIDE", TIME)
    assert np.isnan(T.paper_accuracy("Table 3", "AIDE", "medqa")) and np.isnan(T.paper_accuracy("Table 3", "gold", TIME))


def test_names_of_components_are_those_of_table_4():
    printed = set(read_published(paper="AIDE", item="Table 4").row)
    assert {f"{T.FIRST_STUDENT}: {T.component_name(*c)}" for c in T.COMPONENTS} == printed


# tables

def test_verdicts_of_a_table():
    data = outcomes({"zero-shot": 0.2, "gold": 0.5, "AIDE": 0.8}, (TIME, "implicatures"))
    table = T.aide_table(data, {"AIDE": ("gold", "higher"), "gold": ("zero-shot", "lower")}, load_profile("smoke"), {TIME: True, "implicatures": False}, "Table 3").set_index(["task", "method"])
    assert table.loc[(TIME, "AIDE"), "verdict"] == "supported" and table.loc[(TIME, "gold"), "verdict"] == "contradicted"
    assert table.loc[("implicatures", "AIDE"), "verdict"] == "floor" and table.loc[(TIME, "AIDE"), "paper"] > 0.9
    assert table.loc[("mean", "AIDE"), "accuracy"] == pytest.approx(0.8) and table.loc[(TIME, "AIDE"), "n_rows"] == 10 and "student" not in table


def test_students_get_their_own_rows():
    data = pd.concat([outcomes({"zero-shot": 0.2, "gold": 0.5}, student=s) for s in ("Mistral-7B", "Llama-3.1-8B")])
    table = T.aide_table(data, {"gold": ("zero-shot", "")}, load_profile("smoke"), {TIME: True}, "Table 2")
    assert list(table.student) == ["Mistral-7B"] * 2 + ["Llama-3.1-8B"] * 2 and "paper" not in table  # Table 2 has no Time


def test_a_curve_by_hand():
    data = pd.concat([outcomes({"AIDE": r}).assign(depth=k, n_rows=k * 7) for k, r in ((1, 0.25), (2, 0.5))])
    table = T.curve_table(data, "depth", load_profile("smoke"))
    assert table.accuracy.tolist() == [0.25, 0.5] and table.n_rows.tolist() == [7, 14] and (table.low <= table.accuracy).all() and (table.accuracy <= table.high).all()


# what changes

def test_components_change_what_they_name(bench):
    full = B.settings_of(bench, TASK)
    for a, p, r in T.COMPONENTS:
        s = B.settings_of(bench, TASK, **T.component_changes(a, p, r))
        assert (s.n_attributes, s.n_personas, s.residual) == (full.n_attributes * a, full.n_personas * p, full.residual if r else 1)
    assert T.component_changes(1, 1, 1) == {} and len({str(T.component_changes(*c)) for c in T.COMPONENTS}) == 5


def test_combinations_learn_from_one_number_of_rows(bench):
    for k, c in enumerate(T.COMPONENTS):
        bench.kept["rows", TASK, "AIDE", 0, None, None, tuple(sorted(T.component_changes(*c).items()))] = written([f"question {k} {i}?" for i in range(3 + k)])
    found = T.component_outcomes(bench, TASK)
    assert set(found[found.method != "none"].n_rows) == {3} and set(found[found.method == "none"].n_rows) == {0}
    assert found.groupby("method").size().nunique() == 1 and set(zip(found.attributes, found.personas, found.residual)) == {(0, 0, 0), *T.COMPONENTS}


def test_figures_2_and_4_are_cut_and_figure_3_is_not(bench):
    a = bench.profile.aide
    for n in a["seed_grid"]:
        for d in ((), (("n_demonstrations", 0),)): bench.kept["rows", TASK, "AIDE", 0, n, None, d] = written([f"seeds {n} {d} {i}?" for i in range(2 + n)])
    found = T.seed_outcomes(bench, TASK)
    assert set(found.n_rows) == {3} and set(zip(found.given, found.demonstrations)) == {(n, d) for n in a["seed_grid"] for d in (0, 1)}
    for k in a["depth_grid"]: bench.kept["rows", TASK, "AIDE", 0, None, None, (("depth", k),)] = written([f"depth {k} {i}?" for i in range(9 * k)])
    assert T.depth_outcomes(bench, [TASK]).groupby("depth").n_rows.first().to_dict() == {k: 9 * k for k in a["depth_grid"]}
    for l in a["residual_grid"]: bench.kept["rows", TASK, "AIDE", 0, None, None, (("depth", a["residual_depth"]), ("residual", l))] = written([f"residual {l} {i}?" for i in range(3 + l)])
    assert set(T.residual_outcomes(bench, TASK).n_rows) == {4}


def test_two_teachers(bench):
    second = B.open_named(bench.profile, bench.profile.aide["second_teacher"])
    plant(bench, written([f"first {i}?" for i in range(4)]))
    bench.kept["rows", TASK, "AIDE", 0, None, second.revision, (("temperature", 1.0),)] = written([f"second {i}?" for i in range(5)])
    found = T.teacher_outcomes(bench, [TASK])
    assert found.groupby("teacher").n_rows.first().to_dict() == {"none": 0, "first": 4, "second": 5}
    same = replace(bench, profile=replace(bench.profile, aide={**bench.profile.aide, "second_temperature": bench.profile.aide["temperature"]}))
    fails(lambda: T.teacher_outcomes(same, [TASK]), "both teachers are", "second_temperature")


# pictures

def test_pictures_have_all_points():
    data = pd.concat([outcomes({"AIDE": r, "AIDE (without demonstrations)": r / 2}, (TIME, "implicatures")).assign(given=n) for n, r in ((2, 0.2), (4, 0.4))])
    figure = T.draw_curves(T.curve_table(data, "given", load_profile("smoke")), "given", "seeds", {TIME: {"gold": 0.9}})
    assert len(figure.axes) == 2 and [len(line.get_xdata()) for line in figure.axes[0].lines[:2]] == [2, 2] and len(figure.axes[0].lines) == len(figure.axes[1].lines) + 1
    named = outcomes({"zero-shot": 0.1, **{T.component_name(*c): 0.5 for c in T.COMPONENTS}})
    bars = T.draw_components(T.aide_table(named, {"attributes": ("zero-shot", "higher")}, load_profile("smoke"), {TIME: True}, "Table 4"))
    assert len(bars.axes[0].patches) == 6 and bars.axes[0].get_xlim() == (0, 1)
