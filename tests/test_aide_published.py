"Numbers typed from AIDE: nothing missing, averages and tables agree or the difference is noted."
from functools import cache

import pytest

from resynth.aide_tree import size_law
from resynth.choice_tasks import CHOICE_SHAPES
from resynth.claims import read_published

TEN = ["Bio.", "CS", "Phi.", "EE", "Market.", "CFA", "ARC-Challenge", "GSM8K", "TruthfulQA", "MedQA"]
FIVE = ["Code", "C&E", "Impl.", "Math", "Time"]
CELLS = {"Table 2": 69, "Table 3": 30, "Table 4": 5, "Table 5": 18, "Table 6": 26, "Table 7": 15, "Table 8": 15, "§4.2": 4, "§1": 1, "Abstract": 1, "Figure 2": 1, "Figure 4": 1,
         "Figure 5": 2, "Figure 6": 1, "Appendix F": 1}


@cache
def table(item): return read_published(paper="AIDE", item=item)


def test_every_printed_number_is_there():
    rows = read_published(paper="AIDE")
    assert rows.groupby("item").size().to_dict() == CELLS and rows["value"].notna().all()


def test_columns_are_our_titles():
    titles = {shape[0] for shape in CHOICE_SHAPES.values()}
    for item in ("Table 2", "Table 3", "Table 4", "Table 5", "Table 6", "Table 7", "Table 8"): assert set(table(item)["column"]) - {"Avg"} <= titles, item


@pytest.mark.parametrize("item, tasks", [("Table 2", TEN), ("Table 3", FIVE), ("Table 5", FIVE)])
def test_averages_are_the_mean_of_their_row_or_noted(item, tasks):
    rows = table(item)[table(item)["metric"] == "accuracy"]
    wide, notes = rows.pivot(index="row", columns="column", values="value"), rows[rows["column"] == "Avg"].set_index("row")["note"]
    off = (wide[tasks].mean(axis=1) - wide["Avg"]).abs() > 0.1 + 1e-9
    assert (notes[off.index[off]] != "").all() and off.sum() == {"Table 2": 1, "Table 3": 1, "Table 5": 0}[item]
    assert ((wide[tasks].mean(axis=1) - wide["Avg"]).abs() < 0.26).all()


def test_gains_follow_from_the_averages():
    rows = table("Table 2")
    means = rows[(rows["metric"] == "accuracy") & (rows["column"] != "Avg")].groupby("row")["value"].mean()
    for line in rows[rows["metric"] != "accuracy"].itertuples():
        assert 100 * (means[line.row] / means[line.row.replace("AIDE", "gold")] - 1) == pytest.approx(line.value, abs=0.06), line.row


def test_table_5_repeats_table_3():
    one, other = (table(t).assign(row=lambda f: f["row"].str.replace(" by Claude 3.5 Sonnet", "")) for t in ("Table 3", "Table 5"))
    both = one.merge(other, on=["row", "column", "metric"])
    assert len(both) == 12 and both[both["value_x"] != both["value_y"]]["column"].tolist() == ["Avg"]
    assert table("Table 4")["value"].iloc[-1] == table("Table 3").set_index(["row", "column"])["value"]["Mistral-7B: AIDE", "Time"]


def test_gains_of_the_text():
    rows = table("Table 2")[table("Table 2")["metric"] == "accuracy"].set_index(["row", "column"])["value"]
    gain = lambda model, task: 100 * (rows[f"{model}: AIDE", task] / rows[f"{model}: gold", task] - 1)
    said = table("§4.2").set_index("column")["value"]
    models = ["Mistral-7B", "Llama-3.1-8B", "Llama-3.2-3B"]
    for task in ("TruthfulQA", "MedQA"): assert sum(gain(m, task) for m in models) / 3 == pytest.approx(said[task], abs=1.0) or sum(gain(m, task) for m in models) / 3 > said[task]
    assert all(gain(m, "CFA") > said["CFA"] for m in models[:2])


def test_sizes_exceed_what_appendix_e_allows():
    "10 seeds, 3 attributes, 3 operations, 5 personas, K = 2: the law gives 2,100; most tasks have more."
    rows = table("Table 7")
    assert (rows["value"] > sum(size_law(10, 3 * 3 + 5, 2))).sum() == 14 and (rows["n"].astype(int) == 10).all()


def test_table_8_has_every_task_of_table_2_and_3():
    assert set(table("Table 8")["column"]) == {*TEN, *FIVE} == {shape[0] for shape in CHOICE_SHAPES.values()} - {"Contract", "AG News"}
