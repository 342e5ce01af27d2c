"Hygiene of the repository: pins, notebooks, claims, results, and nothing in it that should not be."
import json
import re
import subprocess
from functools import cache

import pandas as pd
import pytest
from helpers import DATA

from resynth.claims import MARKS, PUBLISHED_COLUMNS, VERDICTS, claims_matrix, read_claims, read_published, render_matrix
from resynth.profiles import load_profile, paper_of, repo_root

ROOT = repo_root()


@cache
def files(*suffixes):
    "Tracked files, and new ones that git would take."
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / n for n in sorted(set(names)) if (ROOT / n).is_file() and (not suffixes or n.endswith(suffixes))]


def text(path): return path.read_text(encoding="utf-8")


@cache
def cells(path): return json.loads(text(path))["cells"]


def outputs(path): return [o for c in cells(path) for o in c.get("outputs", [])]


def notebooks(*tops): return [p for p in files(".ipynb") if p.relative_to(ROOT).parts[0] in (tops or ("nbs", "reproducibility", "results"))]


def numbered(): return [p for p in notebooks("reproducibility") if p.parent.name == "reproducibility"]


def pins(lines): return {n.lower().replace("_", "-"): v for n, v in (l.strip().lstrip("- ").split("==") for l in lines if "==" in l and not l.startswith("#"))}


def said(found): return "\n".join(map(str, found[:8]))


# pins

def test_pins_agree():
    lock, wanted = (pins(text(ROOT / n).splitlines()) for n in ("requirements.lock", "requirements.in"))
    conda = pins(text(ROOT / "environment.yml").splitlines())
    assert len(lock) > 100 and len(wanted) > 20
    assert {n: lock.get(n) for n in wanted} == wanted
    assert {n: conda.get(n) for n in wanted} == wanted
    assert {n: lock.get(n) for n in conda} == conda


def test_the_lock_holds_pins_only():
    lines = [l for l in text(ROOT / "requirements.lock").splitlines() if not l.startswith("#")]
    assert not [l for l in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", l)]
    assert lines == sorted(set(lines), key=lambda l: re.sub(r"[-_.]+", "-", l.split("==")[0].lower()))


def test_installed_is_what_the_lock_says():
    from importlib.metadata import version
    wrong = {n: (v, version(n)) for n, v in pins(text(ROOT / "requirements.lock").splitlines()).items()
             if n in pins(text(ROOT / "requirements.in").splitlines()) and version(n).split("+")[0] != v}
    assert not wrong


def test_make_help_lists_every_target():
    told = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [l.split()[1] for l in told.splitlines()] == "help env lab export test smoke reproduce plan matrix report check".split()
    assert all(len(l.split(None, 2)) == 3 for l in told.splitlines())


def test_the_library_is_not_ignored():
    assert any(p.parent.name == "resynth" and p.name == "claims.py" for p in files(".py"))


# text

def test_no_path_of_one_machine():
    pattern = re.compile("|".join("/" + top + "/" for top in ("work", "tmp", "root", "home/[a-z]+")))
    found = [f"{p.relative_to(ROOT)}: {m.group()}" for p in files(".py", ".ipynb", ".md", ".toml", ".csv", ".json", ".yml", ".in", ".lock", ".svg", "Makefile")
             for m in [pattern.search(text(p))] if m]
    assert not found, said(found)


def test_nothing_is_left_open():
    pattern = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|NotImplemented" r"Error|lorem ip" r"sum)\b")
    written = lambda p: re.sub(r'"image/png": "[^"]*"', "", text(p))  # letters of a picture mean nothing
    found = [f"{p.relative_to(ROOT)}: {m.group()}" for p in files(".py", ".ipynb", ".md", ".toml", "Makefile") for m in [pattern.search(written(p))] if m]
    assert not found, said(found)


# notebooks

def test_library_notebooks_have_outputs_a_title_and_no_error():
    bare = [p.name for p in notebooks("nbs") if len([c for c in cells(p) if c["cell_type"] == "code"]) > 6 and not outputs(p)]
    untitled = [p.name for p in notebooks("nbs", "reproducibility") if not "".join(cells(p)[0]["source"]).startswith("# ")]
    errors = [p.name for p in notebooks() if any(o["output_type"] == "error" for o in outputs(p))]
    assert not bare + untitled + errors


def test_prose_stands_between_code():
    found = []
    for path in notebooks("nbs"):
        run = 0
        for cell in cells(path):
            run = run + 1 if cell["cell_type"] == "code" else 0
            if run > 5: found.append(path.name)
    assert not found, said(sorted(set(found)))


def test_code_cells_and_functions_are_short():
    found = [(p.name, len(c["source"])) for p in notebooks("nbs", "reproducibility") for c in cells(p)
             if c["cell_type"] == "code" and len("".join(c["source"]).splitlines()) > 45]
    assert not found, said(found)


def test_stored_outputs_hold_no_address():
    found = [p.name for p in notebooks() if re.search(r"\bat 0x[0-9a-f]{6,}", json.dumps(outputs(p)))]
    assert not found, said(found)


def test_numbered_notebooks():
    for path in numbered():
        tagged = [c for c in cells(path) if "parameters" in c["metadata"].get("tags", [])]
        assert len(tagged) == 1, f"{path.name}: {len(tagged)} cells tagged parameters"
        names = re.findall(r"^(\w+) *=", "".join(tagged[0]["source"]), re.M)
        assert {"profile", "seeds", "overrides"} <= set(names) and len(names) <= 8, f"{path.name}: {names}"
        assert len(cells(path)) <= 25, f"{path.name}: {len(cells(path))} cells"


# claims and published numbers

def test_every_claim_names_a_notebook_that_is_there():
    there = {p.stem for p in numbered()}
    assert not [f"{c.id}: {c.notebook}" for c in read_claims() if c.notebook not in there]


def test_every_numbered_notebook_has_a_claim():
    assert {p.stem for p in numbered() if p.stem[0] in "1234"} <= {c.notebook for c in read_claims()}


def test_claims_read_well():
    for claim in read_claims():
        assert claim.text.endswith(".") and 20 < len(claim.text) < 140, claim.id
        assert claim.locator and claim.paper in set(read_published()["paper"]), claim.id


def test_published_numbers():
    frame = read_published()
    assert tuple(frame.columns) == PUBLISHED_COLUMNS
    assert not frame.duplicated(["paper", "item", "row", "column", "metric"]).any()
    assert (frame[["paper", "item", "row", "column", "metric", "unit", "locator"]] != "").all().all()
    assert (frame.loc[frame["value"].isna(), "note"] != "").all()


# results

def result_folders(): return sorted({p.parent for p in files("manifest.json") if p.relative_to(ROOT).parts[0] == "results"})


def test_only_published_profiles_are_committed():
    assert {p.relative_to(ROOT).parts[1] for p in files() if p.relative_to(ROOT).parts[0] == "results"} <= {"laptop", "laptop_real", ".gitkeep"}
    assert not [p for p in files("run.json") if p.relative_to(ROOT).parts[0] == "results"]


def test_results_are_whole():
    import hashlib
    for folder in result_folders():
        told = json.loads(text(folder / "manifest.json"))
        assert (told["profile"], told["notebook"]) == (folder.parent.name, folder.name)
        assert told["settings_hash"] == load_profile(told["profile"]).settings_hash(paper_of(told["notebook"])), f"{folder.parent.name}/{folder.name}: the profile has changed since this run"
        assert (folder / "run.ipynb").is_file() and (folder / "table_claims.csv").is_file() == bool(read_claims(notebook=folder.name))
        for name, digest in told["files"].items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, f"{folder.name}/{name} is not the file of its manifest"


def test_results_have_verdicts_for_all_their_claims():
    for folder in result_folders():
        if not read_claims(notebook=folder.name): continue  # a page across papers
        found = pd.read_csv(folder / "table_claims.csv")
        assert list(found["claim_id"]) == [c.id for c in read_claims(notebook=folder.name)]
        assert set(found["verdict"]) <= set(VERDICTS)


def test_pages_of_results_are_clean():
    for path in notebooks("results"):
        assert not any("papermill" in c["metadata"] or "execution" in c["metadata"] or c.get("execution_count") for c in cells(path)), path
        assert not any(o["output_type"] == "error" or o.get("name") == "stderr" for o in outputs(path)), path


def test_the_readme_matrix_is_generated():
    page = text(ROOT / "README.md")
    assert page.split(MARKS[0])[1].split(MARKS[1])[0].strip() == render_matrix(claims_matrix()).strip(), "run make matrix"


# data

def strings(value):
    if isinstance(value, str): yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value: yield from strings(part)


@pytest.mark.skipif(not DATA.is_dir(), reason="no real data here; set RESYNTH_DATA")
def test_no_text_of_a_dataset_is_stored():
    "No 45 characters from the start, and none from the middle, of a question stand in a committed file (40 are shared by 'Which of the following best explains the')."
    words = lambda s: re.sub(r"[^a-z0-9]+", " ", s.lower()).strip()
    stored = " ".join(words(text(p).encode().decode("unicode_escape", "ignore") if p.suffix == ".ipynb" else text(p))
                      for p in files(".ipynb", ".csv", ".md", ".json", ".toml", ".py") if p.relative_to(ROOT).parts[0] != "requirements.lock")
    grams = {stored[i:i + 45] for i in range(len(stored) - 45)}
    found, n_texts = set(), 0
    for name in ("mbpp", "boolq", "metatool", "medqa", "convfinqa", "gsm8k", "ag_news", "hyperpartisan", "humor", "amazon_reviews", "sst2", "imdb", "toi_headlines",
                 "corpus_reuters21578", "corpus_products_promap", "corpus_cmu_movie_plots", "bigbench_code_line_description", "bigbench_cause_and_effect",
                 "bigbench_implicatures", "bigbench_temporal_sequences", "mathqa", "mmlu", "arc_challenge", "truthfulqa", "legalbench_contracts", "corpus_personahub"):
        for split in ("corpus",) if name.startswith("corpus") else ("train", "test"):
            with (DATA / name / f"{split}.jsonl").open(encoding="utf-8") as lines:
                for line in lines:
                    for long in (words(s) for key, s in ((k, s) for k, v in json.loads(line).items() for s in strings(v))):
                        if len(long) < 45: continue
                        n_texts += 1
                        if long[:45] in grams or long[len(long) // 2 - 22:len(long) // 2 + 23] in grams: found.add(f"{name}: {long[:60]}")
    assert n_texts > 1000
    assert not found, said(sorted(found))
