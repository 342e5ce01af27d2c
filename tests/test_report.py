"The report: complete, by itself, readable with a screen reader and on a phone."
import glob
import re
import shutil
from collections import Counter
from html.parser import HTMLParser

import pytest
from helpers import fails

from resynth.claims import VERDICTS, read_claims
from resynth.claims_overview import collect_claims, count_verdicts, shown_profiles
from resynth.profiles import repo_root
from resynth.report import MAX_ROWS, figure_part, inline_svg, page_captions, render_report, table_cell, table_part, write_report

ROOT = repo_root()
VOID = {"meta", "link", "br", "img", "hr", "input"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync").split()
AXE = next(iter(glob.glob(str(ROOT / ".cache" / "axe" / "**" / "axe.min.js"), recursive=True)), "")  # npm install --prefix .cache/axe axe-core


class Page(HTMLParser):
    "The elements of a page in order, with their attributes, parents and text; nesting is checked."

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.errors = [], [], []
        self.feed(text)
        self.close()
        self.errors += [f"<{e['tag']}> is not closed" for e in self.open]

    def handle_starttag(self, tag, attrs):
        element = dict(tag=tag, text="", parents=[e["tag"] for e in self.open], children=[], **{f"@{k}": v or "" for k, v in attrs})
        if len({k for k, _ in attrs}) < len(attrs): self.errors.append(f"<{tag}> has an attribute twice")
        if self.open: self.open[-1]["children"].append(element)
        self.elements.append(element)
        if tag not in VOID: self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID: self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open[-1]["tag"] != tag: return self.errors.append(f"</{tag}> inside {[e['tag'] for e in self.open[-3:]]}")
        self.open.pop()

    def handle_data(self, data):
        for element in self.open: element["text"] += data

    def all(self, *tags): return [e for e in self.elements if e["tag"] in tags]


@pytest.fixture(scope="module")
def text(): return render_report()


@pytest.fixture(scope="module")
def page(text): return Page(text)


def test_the_page_is_well_formed(text, page):
    assert not page.errors, page.errors[:5]
    ids = Counter(e["@id"] for e in page.elements if "@id" in e)
    assert not [i for i, n in ids.items() if n > 1]
    used = {e[k][1:] for e in page.elements for k in ("@href", "@xlink:href") if e.get(k, "").startswith("#")}
    used |= {i for e in page.elements for i in e.get("@aria-labelledby", "").split()} | set(re.findall(r"url\(#([^)]+)\)", text))
    assert used <= set(ids), sorted(used - set(ids))[:5]
    assert len(text.encode()) < 15e6


def test_everything_is_in_the_page(page):
    assert not [e for e in page.all("script", "iframe", "link", "object") if e["tag"] != "link" or not e["@href"].startswith("data:")]
    assert not [e for e in page.elements if re.match(r"https?:|//", e.get("@src", ""))]
    style = "".join(e["text"] for e in page.all("style"))
    assert len(page.all("style")) == 1 and not re.search(r"@import|url\((?!#)|@font-face", style)


def test_links_lead_somewhere(page):
    places = {e["@href"] for e in page.all("a") if not e["@href"].startswith("#")}
    assert places and not [p for p in places if not (ROOT / "report" / p).resolve().exists() and not (ROOT / p.removeprefix("../")).exists()]


def test_headings_go_down_step_by_step(page):
    levels = [int(e["tag"][1]) for e in page.all("h1", "h2", "h3", "h4", "h5")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:]))


def test_every_picture_has_a_name(page):
    for e in page.all("img"): assert len(e.get("@alt", "")) > 20
    drawings = [e for e in page.all("svg") if "svg" not in e["parents"]]
    assert drawings
    for e in drawings:
        assert e["@role"] == "img" and [c["tag"] for c in e["children"][:2]] == ["title", "desc"]
        assert e["@aria-labelledby"].split() == [c["@id"] for c in e["children"][:2]] and all(c["text"].strip() for c in e["children"][:2])
    assert all(e["children"][-1]["tag"] == "figcaption" and e["children"][-1]["text"].strip() for e in page.all("figure"))
    assert len(page.all("figure")) == len(page.all("img")) + len(drawings)


def test_every_table_has_headers_and_a_caption(page):
    for table in page.all("table"):
        assert table["children"][0]["tag"] == "caption" and table["children"][0]["text"].strip()
        head, body = table["children"][1]["children"], table["children"][2]["children"]
        columns = head[0]["children"]
        assert all(c["tag"] == "th" and c["@scope"] == "col" for c in columns)
        for row in body:
            assert len(row["children"]) == len(columns) and row["children"][0]["tag"] == "th" and row["children"][0]["@scope"] == "row"
    regions = [e for e in page.elements if e.get("@role") == "region"]
    assert len({e["@aria-label"] for e in regions}) == len(regions) and all(e["@tabindex"] == "0" for e in regions)


def test_language_and_way_past_the_contents(page):
    assert page.all("html")[0]["@lang"] == "en" and page.all("title")[0]["text"]
    first = page.all("a")[0]
    assert first["@href"] == "#main" and page.all("main")[0]["@id"] == "main" and page.all("nav")[0]["@aria-label"]


def test_every_claim_has_its_verdicts(page):
    found = collect_claims()
    told = {(row["@id"], v["@data-profile"]): v for row in page.all("tr") if "@id" in row
            for cell in row["children"] for v in cell["children"] if "@data-verdict" in v}
    assert set(told) == {(c.id, p) for c in read_claims() for p in shown_profiles()}
    for r in found.itertuples():
        assert told[r.claim_id, r.profile]["@data-verdict"] == r.verdict and told[r.claim_id, r.profile]["text"].endswith(r.verdict)
    for row in count_verdicts(found).to_dict("records"):
        if row["paper"] != "all papers": continue
        assert {v: row[v] for v in VERDICTS} == {v: sum(e["@data-verdict"] == v for (_, p), e in told.items() if p == row["profile"]) for v in VERDICTS}


def test_every_table_and_figure_of_the_results_is_there(text):
    for path in (ROOT / "results").glob("*/*/table*.csv"):
        if path.parts[-3] not in shown_profiles() or path.parent.name.startswith("90") or path.name == "table_claims.csv": continue
        there = f"../results/{'/'.join(path.parts[-3:])}" in text
        assert there == (len(path.read_text(encoding="utf-8").splitlines()) > 1), path
    n = len([p for p in (ROOT / "results").glob("*/*/figure*.svg") if p.parts[-3] in shown_profiles() and not p.parent.name.startswith("90")])
    assert text.count("<figure>") == n + len([p for p in shown_profiles() if (collect_claims().query("profile == @p").verdict != "not run").any()])


def test_captions_are_read_from_the_executed_page(tmp_path):
    path = ROOT / "results" / "laptop" / "41_diversity" / "run.ipynb"
    captions, about = page_captions(path)
    assert captions["table4_counts"].startswith("SynthesizRR, Table 4: different names (coverage)") and "figure3" in captions
    assert about.startswith("profile laptop: ") and "seeds 0, 1, 2" in about and not any("profile laptop" in c for c in captions.values())
    (tmp_path / "run.ipynb").write_text("not a notebook")
    fails(lambda: page_captions(tmp_path / "run.ipynb"), "run.ipynb is no notebook")


def test_hostile_text_stays_text(tmp_path):
    for path in (ROOT / "results" / "laptop" / "12_ablation").iterdir():
        (tmp_path / "laptop" / "12_ablation").mkdir(parents=True, exist_ok=True)
        if path.is_file(): shutil.copy(path, tmp_path / "laptop" / "12_ablation")
    (tmp_path / "laptop" / "12_ablation" / "table2.csv").write_text('a,b\n<script>alert(1)</script>,"<img src=x onerror=1> & ""q"""\n')
    page = Page(render_report(tmp_path))
    assert not page.errors and not page.all("script") and not [e for e in page.all("img") if e.get("@src") == "x"]
    assert "alert(1)" in "".join(e["text"] for e in page.all("main"))
    drawn = inline_svg('<svg viewBox="0 0 1 1"></svg>', "p-", 'A "title" <b>', "x < y & z")
    assert "<b>" not in drawn and "x &lt; y &amp; z" in drawn


def test_a_drawing_larger_than_its_picture_is_a_picture(tmp_path):
    (tmp_path / "figure1.svg").write_text('<svg viewBox="0 0 1 1">' + "<g/>" * 200 + "</svg>")
    (tmp_path / "figure1.png").write_bytes(b"1" * 50)
    assert figure_part(tmp_path / "figure1.svg", "p-", "caption", "label")["body"].startswith('<img alt="label. caption" src="data:image/png;base64,')
    (tmp_path / "figure1.png").write_bytes(b"1" * 5000)
    assert figure_part(tmp_path / "figure1.svg", "p-", "caption", "label")["body"].startswith("<svg")


def test_cells_and_long_tables():
    import pandas as pd
    assert [table_cell(v)[0] for v in ("0.254497", "1234567", "nan", "a", "", "-3")] == ["0.2545", "1234567", "", "a", "", "-3"]
    part = table_part(pd.DataFrame({"a": ["1"] * (MAX_ROWS + 7)}), "c", "l", "x/y.csv")
    assert len(part["rows"]) == MAX_ROWS and part["left_out"] == 7 and part["file"] == "y.csv" and part["columns"] == [("a", True)]


def test_the_page_is_the_same_twice(text, tmp_path): assert write_report(tmp_path / "r" / "index.html").read_text(encoding="utf-8") == text


# in a browser

@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    if not CHROMIUM: pytest.skip("no chromium on this machine (apt-get install chromium)")
    with sync.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


CONTRAST = """() => {
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)|transparent/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
  const seen = [...document.querySelectorAll('p, a, th, td, span, small, caption, figcaption, summary, h1, h2, h3, h4, li')].filter(e => e.textContent.trim());
  return Math.min(...seen.map(e => { const [a, b] = [light(getComputedStyle(e).color), light(ground(e))]; return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); }));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width, height", [(360, 740), (1280, 800)])
def test_in_a_browser_offline(browser, text, tmp_path, width, height, scheme):
    path = tmp_path / "index.html"
    path.write_text(text, encoding="utf-8")
    context = browser.new_context(viewport=dict(width=width, height=height), color_scheme=scheme, offline=True)
    try:
        view, told, asked = context.new_page(), [], []
        view.on("console", lambda m: told.append(m.text))
        view.on("pageerror", lambda e: told.append(str(e)))
        view.on("request", lambda r: asked.append(r.url))
        view.goto(path.as_uri())
        assert not told and not [a for a in asked if a != path.as_uri() and not a.startswith("data:")]
        assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
        view.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert view.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert view.evaluate("[...document.querySelectorAll('.plate svg')].every(s => s.getBoundingClientRect().width >= 300 && s.getBBox().height > 0)")
        assert view.evaluate(CONTRAST) >= 4.5
        view.keyboard.press("Tab")
        assert view.evaluate("document.activeElement.className") == "skip"
        view.keyboard.press("Enter")
        assert view.evaluate("document.activeElement.id") == "main"
        assert view.get_by_role("img").count() == text.count("<figure>") and view.get_by_role("main").count() == 1
        if AXE and scheme == "light":
            view.add_script_tag(path=AXE)
            found = view.evaluate("axe.run(document, {exclude: [['svg g']]}).then(r => r.violations.map(v => v.id + ': ' + v.nodes.length + ' ' + v.nodes[0].html.slice(0, 200)))")
            assert not found, found
    finally: context.close()
