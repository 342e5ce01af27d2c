"Runs, plots and the command line: whole or not at all, the same bytes twice, one line for a mistake."
import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from resynth.claims import read_claims
from resynth.command_line import check_fix_points, clean_page, find_notebooks, main, run_page, reproduce
from resynth.profiles import ResynthError, load_profile, repo_root
from resynth.runs import Shown, card, csv_text, parse_overrides, results_folder, rule_in_words, start_run, write_whole

FRAME = pd.DataFrame({"method": ["zero-shot", "V-Synthesis"], "em": [0.2, 1 / 3]})


def draw():
    from resynth.plots import bar_with_intervals, set_style
    set_style()
    return bar_with_intervals(FRAME.assign(task="tools", low=0.1, high=0.5))


def finished(results, **settings):
    run = start_run("11_main_results", "smoke", results=results, **settings)
    run.table(FRAME, "table1")
    run.figure(draw(), "figure1")
    run.finish(precision="float32")
    return {p.name: p.read_bytes() for p in run.folder.iterdir()}


# runs

def test_two_runs_are_the_same_bytes(tmp_path):
    one, two = finished(tmp_path), finished(tmp_path)
    assert set(one) == {"table1.csv", "figure1.svg", "figure1.png", "manifest.json", "run.json"}
    assert {n: b for n, b in one.items() if n != "run.json"} == {n: b for n, b in two.items() if n != "run.json"}


def test_the_manifest_knows_no_time_and_no_place(tmp_path):
    text = finished(tmp_path)["manifest.json"].decode()
    facts = json.loads(text)
    assert set(facts["files"]) == {"table1.csv", "figure1.svg", "figure1.png"}
    assert facts["models"]["SmolLM2-135M-Instruct"]["sha256"] and facts["prompts"]["sha256"] and facts["precision"] == "float32"
    import platform
    for word in (str(tmp_path), str(repo_root()), time.strftime("%Y-%m-%d"), f'"{platform.node()}"'): assert word not in text


def test_a_figure_without_fixed_metadata_would_differ(tmp_path):
    svg = finished(tmp_path)["figure1.svg"].decode()
    assert "<dc:date>" not in svg and "Matplotlib v" not in svg


def test_changed_settings_get_their_own_folder(tmp_path):
    plain = finished(tmp_path)
    finished(tmp_path, overrides="vsynthesis.ratio=0.7")
    finished(tmp_path, seeds="5")
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len(names) == 3 and names[0] == "smoke" and all(n.startswith("smoke+") for n in names[1:])
    assert (tmp_path / "smoke" / "11_main_results" / "manifest.json").read_bytes() == plain["manifest.json"]


def test_settings_equal_to_the_profile_are_no_change(tmp_path):
    seeds = ",".join(map(str, load_profile("smoke").seeds))
    assert results_folder(load_profile("smoke", parse_overrides(seeds)), "11_a", tmp_path).parent.name == "smoke"


def test_an_unfinished_run_publishes_nothing(tmp_path):
    before = finished(tmp_path)
    run = start_run("11_main_results", "smoke", results=tmp_path)
    run.table(FRAME.head(1), "table1")
    after = {p.name: p.read_bytes() for p in run.folder.iterdir()}
    assert after == before


def test_a_table_no_longer_made_goes_and_the_page_stays(tmp_path):
    finished(tmp_path)
    folder = tmp_path / "smoke" / "11_main_results"
    (folder / "table9.csv").write_text("old")
    (folder / "run.ipynb").write_text("page")
    finished(tmp_path)
    assert not (folder / "table9.csv").exists() and (folder / "run.ipynb").read_text() == "page"


def test_a_killed_run_is_cleared_by_the_next(tmp_path):
    run = start_run("11_main_results", "smoke", results=tmp_path)
    run.table(FRAME, "table_stale")
    assert "table_stale.csv" not in finished(tmp_path)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = write_whole(tmp_path / "table1.csv", "old")
    def full(*_): raise OSError(28, "No space left on device")
    monkeypatch.setattr("resynth.runs.os.replace", full)
    with pytest.raises(ResynthError, match="table1.csv.*No space left"): write_whole(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["table1.csv"]


def test_csv_does_not_show_the_last_bits():
    near = FRAME.assign(em=FRAME["em"] + 1e-12)
    assert csv_text(FRAME) == csv_text(near) != csv_text(FRAME.assign(em=FRAME["em"] + 1e-4))


def test_shown_tables_hold_no_addresses():
    shown = Shown(pd.DataFrame({"a|b": [1, 2], "c": [None, np.nan], "d": ["x|y", "z"]}), "caption")
    assert "0x" not in repr(shown) and "nan" not in repr(shown) and "None" not in repr(shown)
    assert "x\\|y" in shown._repr_markdown_() and shown._repr_markdown_().endswith("*caption*")


@pytest.mark.parametrize("seeds, overrides, message", [("1;2", "", "whole numbers"), ("", "vsynthesis.ratio", "section.key=value")])
def test_wrong_overrides(seeds, overrides, message):
    with pytest.raises(ResynthError, match=message): parse_overrides(seeds, overrides)


def test_cards_say_every_rule():
    for claim in read_claims(): assert len(rule_in_words(claim.rule)) >= 10
    assert "vs-f5-rise" in card(load_profile("smoke"), "16_factors").data


def test_cards_say_what_is_compared_and_which_way():
    pair = dict(a={"method": "A"}, b={"method": "B"})
    four = dict(kind="difference_of_differences", **pair, c={"method": "C"}, d={"method": "D"})
    assert rule_in_words(dict(kind="difference", **pair)) == "A > B" and rule_in_words(dict(kind="difference", value="cost", sign=-1, **pair)) == "cost: A < B"
    assert rule_in_words(four) == "(A − B) > (C − D)" and rule_in_words(dict(four, sign=-1)) == "(A − B) < (C − D)"
    assert rule_in_words(dict(kind="task_contrast", value="bleu", sign=-1, tasks=["t"], **pair)) == "bleu: A − B lower on t"


# pages

def page(path, *lines, parameters='profile = "laptop"\nseeds = ""\noverrides = ""'):
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), *map(new_code_cell, lines)]
    book = new_notebook(cells=cells, metadata={"kernelspec": dict(display_name="python3", language="python", name="python3")})
    nbformat.write(book, path)
    return path


def run_it(tmp_path, source, **parameters):
    return run_page(source, tmp_path / "run.ipynb", dict(profile="smoke", seeds="", overrides="") | parameters, tmp_path / "scratch")


def test_a_page_is_clean_and_has_its_outputs(tmp_path):
    source = page(tmp_path / "11_a.ipynb", "import sys; print('progress', file=sys.stderr); profile")
    run_it(tmp_path, source)
    book = nbformat.read(tmp_path / "run.ipynb", as_version=4)
    assert [o["data"]["text/plain"] for o in book.cells[-1].outputs] == ["'smoke'"]
    text = nbformat.writes(book)
    assert not [word for word in ("papermill", "iopub", "progress\\n", str(tmp_path)) if word in text]


def test_a_failing_page_is_one_line_and_keeps_the_last_good_one(tmp_path):
    (tmp_path / "run.ipynb").write_text("good")
    source = page(tmp_path / "11_a.ipynb", "from resynth.profiles import load_profile", "load_profile('laptob')")
    with pytest.raises(ResynthError, match=r"^unknown profile 'laptob'.*kept: .*11_a.ipynb\)$") as caught: run_it(tmp_path, source)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run.ipynb").read_text() == "good" and (tmp_path / "scratch" / "11_a.ipynb").is_file()
    with pytest.raises(ResynthError, match="^ZeroDivisionError: division by zero"): run_it(tmp_path, page(tmp_path / "12_b.ipynb", "1 / 0"))


def test_a_misspelt_parameter_is_an_error_not_a_default(tmp_path):
    source = page(tmp_path / "11_a.ipynb")
    with pytest.raises(ResynthError, match="did you mean 'profile'"): run_it(tmp_path, source, profil="smoke")
    with pytest.raises(ResynthError, match="no parameter 'seeds'"): run_it(tmp_path, page(tmp_path / "12_b.ipynb", parameters='profile = ""'))


def test_notebooks_are_found_by_number_and_name(tmp_path):
    for name in ("11_main", "12_other"): page(tmp_path / f"{name}.ipynb")
    assert [p.stem for p in find_notebooks("", tmp_path)] == ["11_main", "12_other"]
    assert [p.stem for p in find_notebooks("12", tmp_path)] == [p.stem for p in find_notebooks("12_other.ipynb", tmp_path)] == ["12_other"]
    with pytest.raises(ResynthError, match="no notebook '13'"): find_notebooks("12,13", tmp_path)
    with pytest.raises(ResynthError, match="no numbered notebook"): find_notebooks("", tmp_path / "nowhere")


def test_reproduce_goes_on_after_a_failure_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("resynth.command_line.fetch", lambda used: None)
    page(tmp_path / "11_bad.ipynb", "1 / 0")
    page(tmp_path / "12_good.ipynb", "1")
    assert reproduce("smoke", folder=tmp_path, results=tmp_path / "results") == 1
    out = capsys.readouterr().out
    assert "11_bad FAILED: ZeroDivisionError" in out and "12_good done" in out and out.endswith("1 passed, 1 failed\n")
    assert (tmp_path / "results" / "smoke" / "12_good" / "run.ipynb").is_file()
    assert reproduce("smoke", "12", folder=tmp_path, results=tmp_path / "results") == 0
    assert "left" in capsys.readouterr().out.splitlines()[0]


def test_cleaning_is_a_fix_point():
    book = new_notebook(cells=[new_code_cell("1", metadata={"tags": ["parameters"], "papermill": {}})])
    once = nbformat.writes(clean_page(book))
    assert nbformat.writes(clean_page(nbformat.reads(once, as_version=4))) == once and "parameters" in once


# the command line

@pytest.mark.parametrize("words, message", [
    (["reproduce", "--profile", "laptob"], "did you mean 'laptop'"), (["reproduce", "--nb", "77"], "no notebook '77'"),
    (["reproduce", "--set", "vsynthesis.ration=1"], "did you mean 'ratio"), (["reproduce", "--seeds", "a"], "whole numbers"),
    (["plan", "--profile", "nowhere.toml"], "nowhere"), (["fetch", "--profile", "gpuu"], "did you mean 'gpu'")])
def test_wrong_input_is_one_line_and_status_2(words, message, capsys):
    import re
    assert main(words) == 2
    told = capsys.readouterr()
    assert re.search(message, told.err) and told.err.count("\n") == 1 and told.err.startswith("resynth: ") and not told.out


def test_relative_data_folders_are_made_absolute(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESYNTH_DATA", "data")
    main(["fetch", "--profile", "nothing"])
    assert os.environ["RESYNTH_DATA"] == str(tmp_path / "data")
    monkeypatch.setenv("RESYNTH_DATA", "")
    main(["fetch", "--profile", "nothing"])
    assert "RESYNTH_DATA" not in os.environ


def test_ctrl_c_ends_with_status_130(monkeypatch, capsys):
    def stop(given): raise KeyboardInterrupt
    monkeypatch.setattr("resynth.command_line._run_command", stop)
    assert main(["check"]) == 130 and "run the same command again" in capsys.readouterr().err


def test_a_killed_page_leaves_the_last_good_one(tmp_path):
    (tmp_path / "run.ipynb").write_text("good")
    source = page(tmp_path / "11_a.ipynb", "import pathlib, time; pathlib.Path('started').touch(); time.sleep(60)")
    code = ("from resynth.command_line import run_page; "
            f"run_page({str(source)!r}, {str(tmp_path / 'run.ipynb')!r}, dict(profile='smoke'), {str(tmp_path / 'scratch')!r})")
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.DEVNULL)
    for _ in range(1800):
        if (tmp_path / "started").exists() or child.poll() is not None: break
        time.sleep(0.1)
    assert (tmp_path / "started").exists()
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert (tmp_path / "run.ipynb").read_text() == "good"


def test_fix_points_notice_a_hand_edit(tmp_path):
    (tmp_path / "nbs").mkdir()
    (tmp_path / "lib" / "resynth").mkdir(parents=True)
    for name in ("settings.ini", "pyproject.toml"): (tmp_path / name).write_text((repo_root() / name).read_text())
    book = new_notebook(cells=[new_code_cell("#| default_exp demo"), new_code_cell("#| export\nanswer = 42")])
    nbformat.write(book, tmp_path / "nbs" / "00_demo.ipynb")
    bin_folder = os.path.dirname(sys.executable)
    for tool in ("nbdev_clean", "nbdev_export"): subprocess.run([os.path.join(bin_folder, tool)], cwd=tmp_path, check=True, capture_output=True)
    assert check_fix_points(tmp_path) == []
    with open(tmp_path / "lib" / "resynth" / "demo.py", "a") as file: file.write("answer = 43\n")
    assert check_fix_points(tmp_path) == ["lib/resynth/demo.py"]
