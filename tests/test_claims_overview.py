"All claims side by side: nothing lost, nothing out of date, nothing told by colour alone."
import pandas as pd
import pytest
from helpers import fails

from resynth.claims import ALWAYS_SHOWN, VERDICTS, claims_matrix, read_claims
from resynth.claims_overview import (FACES, SHAPES, VERDICT_SIGNS, claims_text, collect_claims, count_verdicts, draw_glance, page_lines, shown_profiles,
                                     side_by_side, tell_finding)
from resynth.plots import save_figure, set_style
from resynth.profiles import repo_root
from resynth.runs import csv_text

ROOT = repo_root()


@pytest.fixture(scope="module")
def found(): return collect_claims()


def test_every_claim_stands_once_in_every_profile(found):
    wanted = {(c.id, p) for c in read_claims() for p in shown_profiles()}
    assert set(zip(found.claim_id, found.profile)) == wanted and len(found) == len(wanted)
    assert set(found.verdict) <= set(VERDICTS)


def test_verdicts_are_those_of_the_matrix(found):
    matrix = claims_matrix().set_index("id")
    for row in found.itertuples(): assert matrix[row.profile][row.claim_id].split(" (")[0] == row.verdict, row.claim_id


def test_counts_are_the_matrix_counted_again(found):
    counts, matrix = count_verdicts(found), claims_matrix()
    for row in counts.to_dict("records"):
        part = matrix if row["paper"] == "all papers" else matrix[matrix.paper == row["paper"]]
        told = [cell.split(" (")[0] for cell in part[row["profile"]]]
        assert {v: row[v] for v in VERDICTS} == {v: told.count(v) for v in VERDICTS} and row["claims"] == len(part)


def test_the_order_of_claims_and_of_files_does_not_matter(tmp_path):
    claims = read_claims()
    once = collect_claims(claims=claims)
    order = {c.id: k for k, c in enumerate(claims)}
    turned = sorted(reversed(claims), key=lambda c: (c.notebook[::-1], order[c.id]))  # pages shuffled, claims of a page in order
    assert csv_text(collect_claims(claims=turned)).splitlines()[0] == csv_text(once).splitlines()[0]
    assert sorted(csv_text(collect_claims(claims=turned)).splitlines()) == sorted(csv_text(once).splitlines())
    assert list(collect_claims(claims=turned).notebook) == list(once.notebook)


def test_a_stray_row_or_a_missing_one_is_seen(tmp_path):
    claims = read_claims(notebook="12_ablation")
    folder = tmp_path / "laptop" / "12_ablation"
    folder.mkdir(parents=True)
    frame = pd.read_csv(ROOT / "results" / "laptop" / "12_ablation" / "table_claims.csv")
    frame.iloc[1:].replace({"claim_id": {frame.claim_id[1]: "vs-unknown"}}).to_csv(folder / "table_claims.csv", index=False)
    (tmp_path / "laptop+0123ab" / "12_ablation").mkdir(parents=True)
    frame.to_csv(tmp_path / "laptop+0123ab" / "12_ablation" / "table_claims.csv", index=False)
    got = collect_claims(tmp_path, claims)
    assert list(got.profile.unique()) == list(ALWAYS_SHOWN)
    assert got[got.profile == "laptop"].verdict.tolist()[:2] == ["not run", "not run"] and "vs-unknown" not in set(got.claim_id)


def test_the_pages_of_90_are_those_of_the_results_they_tell_of(found):
    folders = [f for f in sorted((ROOT / "results").glob("laptop*/90_claims")) if "+" not in f.parent.name]
    assert {f.parent.name for f in folders} == set(ALWAYS_SHOWN), "run make reproduce NB=90"
    for folder in folders:
        for name, frame in (("table_all_claims", found), ("table_counts", count_verdicts(found))):
            assert (folder / f"{name}.csv").read_text(encoding="utf-8") == csv_text(frame), f"{folder.parent.name}: results have changed, run make reproduce NB=90"
        assert {p.suffix for p in folder.glob("figure_glance.*")} == {".svg", ".png"}


def test_a_finding_in_words():
    row = dict(verdict="supported", effect=0.1, low=0.05, high=0.15)
    assert tell_finding(row) == "supported, +0.100 [+0.050, +0.150]"
    assert tell_finding(row | dict(low=float("nan"))) == "supported, +0.100"
    assert tell_finding(row | dict(verdict="floor", effect=float("nan"))) == "floor"


def test_side_by_side_keeps_claims_and_links(found):
    wide, text = side_by_side(found), claims_text(found, "../{notebook}.ipynb")
    assert list(wide.claim_id) == list(dict.fromkeys(found.claim_id)) and not wide.isna().any().any()
    assert all(f"`{c.id}`" in text and f"](../{c.notebook}.ipynb)" in text for c in read_claims())


def test_tiles_differ_without_colour():
    assert set(SHAPES) == set(VERDICT_SIGNS) == set(FACES) == set(VERDICTS)
    assert len({str(corners) for corners, _ in SHAPES.values()}) == len(set(VERDICT_SIGNS.values())) == len(VERDICTS)


def test_the_picture_has_a_tile_a_claim(found, tmp_path):
    set_style()
    part = found[found.profile == "laptop"]
    figure = draw_glance(found, "laptop")
    assert len(figure.axes[0].patches) == len(part) + len(VERDICTS)
    assert [v for _, verdicts in page_lines(part) for v in verdicts] != [] and sum(len(v) for _, v in page_lines(part)) == len(part)
    words = " ".join(t.get_text() for t in figure.axes[0].texts)
    assert all(f"{v} ({(part.verdict == v).sum()})" in words for v in VERDICTS)
    inside = figure.axes[0].get_xlim()[1]
    assert all(p.get_extents().x1 <= figure.axes[0].transData.transform((inside, 0))[0] for p in figure.axes[0].patches)
    assert save_figure(figure, tmp_path / "a")[0].read_bytes() == save_figure(draw_glance(found, "laptop"), tmp_path / "b")[0].read_bytes()
    fails(lambda: draw_glance(found, "laptob"), "laptob", "did you mean 'laptop'")
