"Numbers typed from SynthesizRR: nothing missing, and every table agrees with its averages and with the other tables."
from functools import cache

import pandas as pd
import pytest

from resynth.claims import read_published

PAPER = "SynthesizRR"
SIX = ["AG News", "Hyperpartisan", "ToI Headlines", "Category", "Humor", "Polarity"]
MULTI = ["AG News", "ToI Headlines", "Category"]
KEY = ["row", "column", "metric"]
CELLS = {"Table 2": 10, "Table 4": 41, "Table 5": 5 * 6, "Table 6": 11 * 7, "Table 7": 37, "Table 8": 125, "Table 9": 7 * 6, "Table 10": 6 * 7,
         "Table 11": 9 * 6, "Table 12": 6 * 4, "Table 13": 9 * 7, "§5": 2, "§6": 4}


@cache
def table(item): return read_published(paper=PAPER, item=item)


def values(item, **where):
    "Values by row, column and metric."
    rows = table(item)
    for column, value in where.items(): rows = rows[rows[column] == value]
    return rows.set_index(KEY)["value"]


def test_every_printed_number_is_there():
    assert read_published(paper=PAPER).groupby("item").size().to_dict() == CELLS
    assert read_published(paper=PAPER)["value"].notna().all()


def test_names_are_spelt_one_way():
    rows = read_published(paper=PAPER)
    heads = rows["row"].str.extract(r"^(?:(?P<teacher>[^:]+): )?(?P<rest>.*)$")
    assert set(heads["teacher"].dropna()) == {"LLaMA2", "Claude"}
    methods = {"FewGen 0-shot", "FewGen few-shot", "SynthesizRR 0-shot", "SynthesizRR RetrICL", "SynthesizRR Non-RetrICL", "gold"}
    of_methods = heads["rest"][rows["item"].isin([f"Table {n}" for n in (4, 5, 6, 9, 10, 13)])]
    assert set(of_methods.str.removesuffix(" (BM25)")) == methods
    tasks = rows[rows["item"].isin([f"Table {n}" for n in (5, 6, 9, 10, 11, 13)])]
    assert set(tasks["column"]) == {*SIX, "Avg"} and set(table("Table 8")["column"]) == {"AG News", "IMDb", "SST-2"}


def test_values_are_possible():
    rows = read_published(paper=PAPER)
    change = rows["metric"].str.startswith("change")
    points = rows[(rows["unit"] == "points") & ~change]["value"]
    assert points.between(15, 100).all() and rows[rows["unit"] == "share"]["value"].between(0, 1).all()
    assert rows[rows["unit"] == "bits"]["value"].between(3, 9).all() and rows[change & (rows["unit"] == "points")]["value"].between(-40, 20).all()
    assert set(rows[rows["spread"].notna()]["item"]) == {"Table 12"} and rows["spread"].notna().sum() == 6


def averages_off(rows, tasks, tolerance):
    "Rows whose printed average is not the mean of their tasks."
    wide = rows.pivot(index="row", columns="column", values="value")
    return wide.index[(wide[tasks].mean(axis=1) - wide["Avg"]).abs() > tolerance].tolist()


# A mean of values rounded to 0.1, itself rounded to 0.01 (Table 10: to 0.1), is off by 0.05 + 0.005 at most.
@pytest.mark.parametrize("item, metric, tasks, tolerance", [
    ("Table 6", "accuracy", SIX, 0.055), ("Table 13", "accuracy", SIX, 0.055), ("Table 10", "change of accuracy", MULTI, 0.1)])
def test_averages_are_the_mean_of_their_row(item, metric, tasks, tolerance):
    rows = table(item)[table(item)["metric"] == metric]
    assert averages_off(rows, tasks, tolerance + 1e-9) == []
    for task in tasks:  # one wrong digit would show
        wrong = rows.assign(value=rows["value"].where((rows["column"] != task) | (rows["row"] != rows["row"].iloc[-1]), rows["value"] + 1))
        assert averages_off(wrong, tasks, tolerance + 1e-9) == [rows["row"].iloc[-1]]


def renamed_table11():
    "The rows of Table 11 that Table 6 has too, under its names."
    names = {"gold": "gold", "LLaMA2: full seed, 0-shot": "LLaMA2: SynthesizRR 0-shot", "LLaMA2: full seed, 3-shot": "LLaMA2: SynthesizRR RetrICL"}
    rows = table("Table 11")
    return rows[rows["row"].isin(names)].assign(row=rows["row"].map(names))


@pytest.mark.parametrize("one, other, shared", [("Table 6", "Table 13", 5 * 7), ("Table 7", "Table 8", 37), ("Table 6", "Table 11", 3 * 6)])
def test_what_two_tables_print_agrees_or_is_noted(one, other, shared):
    second = renamed_table11() if other == "Table 11" else table(other)
    both = table(one).merge(second, on=KEY)
    assert len(both) == shared
    differ = both[both["value_x"] != both["value_y"]]
    assert (differ["note_x"] != "").all() and (differ["note_y"] != "").all()
    assert set(zip(differ["row"], differ["column"])) == ({("LLaMA2: SynthesizRR 0-shot", "ToI Headlines")} if one == "Table 6" else set())


def test_table_10_is_table_6_plus_its_change():
    after, before = values("Table 10", metric="accuracy"), values("Table 6")
    change = values("Table 10", metric="change of accuracy").rename({"change of accuracy": "accuracy"}, level="metric")
    assert len(after) == 18
    for key in after.index: assert after[key] == pytest.approx(before[key] + change[key], abs=1e-6), key


def test_gains_named_in_the_text_follow_from_the_tables():
    average, recall = values("Table 6", column="Avg"), values("Table 4", metric="entity recall")
    for line in table("§6").itertuples():
        teacher, pair = line.row.split(": ")
        a, b = (average[f"{teacher}: {m}", "Avg", "accuracy"] for m in pair.split(" over "))
        assert a - b == pytest.approx(line.value, abs=0.06), line.row
    for line in table("§5").itertuples():
        a, b = (recall["LLaMA2: " + m, "Category", "entity recall"] for m in line.row.removeprefix("LLaMA2: ").split(" over "))
        assert 100 * (a / b - 1) == pytest.approx(line.value), line.row


def test_hyperpartisan_counts_right_answers():
    "5 runs on 65 test items (Table 1): every accuracy is a multiple of 1/325, which two values in three are not."
    rows = read_published(paper=PAPER, column="Hyperpartisan", metric="accuracy")
    right = (rows["value"] * 3.25).round()
    assert len(rows) == 11 + 9 + 3 + 9
    assert ((right / 3.25 - rows["value"]).abs() <= 0.055 + 1e-9).all()  # 0.05, and 0.005 for rounding twice
    assert ((rows["value"] + 0.1) * 3.25).pipe(lambda k: (k.round() - k).abs() / 3.25 > 0.055).mean() > 0.5


def test_unique_entities_are_no_more_than_all():
    counts = table("Table 4").pivot_table(index=["row", "column"], columns="metric", values="value")
    counts = counts.dropna(subset=["unique entities", "total entities"])
    assert len(counts) == 16 and (counts["unique entities"] < counts["total entities"]).all()
    recall = values("Table 4", metric="weighted entity recall").droplevel("metric") - values("Table 4", metric="entity recall").droplevel("metric")
    assert len(recall) == 3 and (recall > 0).all()  # frequent names are found more often


def test_other_papers_are_as_they_were():
    rest = read_published().query("paper != @PAPER")
    assert set(rest["paper"]) == {"V-Synthesis", "AIDE", "SoftSRV"}
    assert pd.isna(rest["value"]).sum() == (rest["paper"] == "V-Synthesis").sum() - 1
