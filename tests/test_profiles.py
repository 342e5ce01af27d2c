"""Profiles and prompt files: all five load, and every slip gets one line with the nearest valid name."""
import re
import tomllib

import pytest
from helpers import fails, frameworks_of

from resynth.profiles import (LISTS, SCHEMA, Prompt, check_profile, choose_prompt, fill, load_profile, load_prompts,
                              nearest, parse_setting, repo_root)

NAMES = ("smoke", "laptop", "laptop_real", "gpu", "paper")
FOLDER = repo_root() / "reproducibility" / "profiles"


def raw(name="laptop"):
    return tomllib.loads((FOLDER / f"{name}.toml").read_text())


def test_no_profile_is_left_out(): assert {p.stem for p in FOLDER.glob("*.toml")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_profile_loads_and_resolves_its_names(name):
    profile = load_profile(name)
    assert profile.name == name and profile.seeds and profile.models["teacher"].role == "teacher"
    prompts = load_prompts(profile.prompts_path("vsynthesis"))
    style = profile.models["teacher"].prompt_style
    for task in profile.tasks:
        assert prompts[f"definition_{task}"].text and prompts[f"instruction_{task}"].text
    for prompt in ("synthesis", "synthesis_from_scratch", "inference", "verify", "self_icl_question", "self_icl_label", "judge_consistency"):
        assert choose_prompt(prompts, prompt, style).form == style
    assert len(profile.seeds) >= (1 if name == "smoke" else 3)


def test_profiles_differ_in_their_hash():
    assert len({load_profile(n).settings_hash("vsynthesis") for n in NAMES}) == len(NAMES)


def test_paper_profile_names_the_papers_models_and_full_test_sets():
    profile = load_profile("paper")
    assert [m.hub for m in profile.models.values() if m.role == "teacher"] == ["meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"]
    assert list(profile.tasks) == ["math", "metatool", "finqa", "medqa"]
    assert all(t.n_test == 0 and t.n_tools == 0 for t in profile.tasks.values())
    assert profile.vsynthesis["shots"] == 2 and profile.vsynthesis["eval_shots"] == 3


@pytest.mark.parametrize("section", [s for s in SCHEMA if s not in LISTS])
def test_every_key_is_required_and_known(section):
    for key in SCHEMA[section]:
        short = raw()
        del short[section][key]
        fails(lambda: check_profile("x.toml", short), "x.toml", f"missing key '{key}'")
        wrong = raw()
        wrong[section][key + "x"] = wrong[section].pop(key)
        fails(lambda: check_profile("x.toml", wrong), f"unknown key '{key}x'", f"did you mean '{key}'?")
        typed = raw()
        typed[section][key] = {"a": 1}
        fails(lambda: check_profile("x.toml", typed), f"[{section}] {key}")


@pytest.mark.parametrize("section", LISTS)
def test_every_key_of_a_list_entry_is_required(section):
    for key in SCHEMA[section]:
        short = raw()
        del short[section][0][key]
        fails(lambda: check_profile("x.toml", short), f"[[{section}]] 1", f"missing key '{key}'")


@pytest.mark.parametrize("overrides, parts", [
    ({"vsynthesis.ration": 0.2}, ["'ratio'"]),
    ({"vsynthesi.ratio": 0.2}, ["'vsynthesis'"]),
    ({"ratio": 0.2}, ["section.key"]),
    ({"vsynthesis.ratio": 1.01}, ["out of range", "0..1"]),
    ({"vsynthesis.ratio": "0.2"}, ["not of type float"]),
    ({"vsynthesis.ratio": float("nan")}, ["out of range"]),
    ({"vsynthesis.shots": 2.0}, ["not of type int"]),
    ({"vsynthesis.shots": True}, ["not of type int"]),
    ({"run.seeds": []}, ["at least one"]),
    ({"run.seeds": [0, 0]}, ["twice"]),
    ({"run.seeds": 0}, ["list"]),
    ({"run.seeds": [-1]}, ["out of range"]),
    ({"task.metatol.n_test": 5}, ["'metatool'"]),
    ({"task.metatool.n_tests": 5}, ["'n_test'"]),
    ({"task.metatool.source": "locale"}, ["'local'"]),
    ({"task.metatool.source": "hub"}, ["hub = ''"]),
    ({"model.techer.precision": "float32"}, ["no model 'techer'"]),
    ({"model.teacher.precision": "float16"}, ["bfloat16"]),
    ({"vsynthesis.analysis_task": "gsm8k"}, ["no [[task]] of this profile"]),
    ({"vsynthesis.sft_tasks": ["gsm8k"]}, ["no [[task]] of this profile"]),
])
def test_bad_overrides(overrides, parts):
    fails(lambda: load_profile("laptop", overrides), *parts)


def test_good_overrides_change_value_and_hash_but_not_the_file():
    before = (FOLDER / "laptop.toml").read_text()
    profile = load_profile("laptop", {"run.seeds": (4, 5), "task.metatool.n_test": 7, "model.teacher.precision": "float32", "vsynthesis.ratio": 1})
    assert profile.seeds == (4, 5) and profile.tasks["metatool"].n_test == 7
    assert profile.models["teacher"].precision == "float32" and isinstance(profile.vsynthesis["ratio"], float)
    assert profile.settings_hash("vsynthesis") != load_profile("laptop").settings_hash("vsynthesis")
    assert (FOLDER / "laptop.toml").read_text() == before


def test_the_named_machine_does_not_change_the_hash():
    assert load_profile("laptop", {"hardware.cores": 64}).settings_hash("vsynthesis") == load_profile("laptop").settings_hash("vsynthesis")


def test_unknown_profile_section_model_task():
    fails(lambda: load_profile("laptpo"), "did you mean 'laptop'?", "smoke")
    fails(lambda: load_profile("no/such.toml"), "known:")
    profile = load_profile("laptop")
    fails(lambda: profile.models["SmolLM2-135M-Instuct"], "did you mean 'SmolLM2-135M-Instruct'?")
    fails(lambda: profile.tasks["medq"], "did you mean 'medqa'?")
    fails(lambda: check_profile("x.toml", raw() | {"hardwear": {}}), "did you mean 'hardware'?")
    gone = raw()
    del gone["run"]
    fails(lambda: check_profile("x.toml", gone), "missing section 'run'")


def test_entries_that_contradict_each_other():
    twice = raw()
    twice["task"].append(dict(twice["task"][0]))
    fails(lambda: check_profile("x.toml", twice), "'math' stands twice")
    alone = raw()
    alone["model"] = [m for m in alone["model"] if m["role"] != "encoder"]
    fails(lambda: check_profile("x.toml", alone), "role 'encoder'")
    bare = raw()
    bare["model"][0]["wheel"] = ""
    fails(lambda: check_profile("x.toml", bare), "wants wheel and file")
    single = raw()
    single["task"] = single["task"][0]
    fails(lambda: check_profile("x.toml", single), "[[task]] 1")


def test_a_users_own_copy_and_a_broken_file(tmp_path):
    own = tmp_path / "mine.toml"
    own.write_text((FOLDER / "laptop.toml").read_text().replace('name = "laptop"', 'name = "mine"'))
    assert load_profile(own).name == "mine"
    own.write_text('a = 1\nname = x\n')
    fails(lambda: load_profile(own), "mine.toml: not a TOML file", "line 2")
    own.write_bytes(b"\xff\xfe")
    fails(lambda: load_profile(own), "not a TOML file")


def test_settings_from_text():
    assert parse_setting("run.seeds=[0, 1]") == ("run.seeds", [0, 1])
    assert parse_setting("task.math.source=local") == ("task.math.source", "local")
    assert parse_setting("vsynthesis.ratio = 0.2") == ("vsynthesis.ratio", 0.2)
    fails(lambda: parse_setting("vsynthesis.ratio"), "section.key=value")


def entry(**changes):
    values = dict(id='"a"', paper='"p"', locator='"l"', form='"text"', fields='["x"]', stop="[]", text='"{x}"') | changes
    return "[[prompt]]\n" + "".join(f"{k} = {v}\n" for k, v in values.items() if v)


@pytest.mark.parametrize("text, parts", [
    ("", ["no [[prompt]]"]),
    (entry(fields='["x", "y"]'), ["'y' is listed but not in the text"]),
    (entry(text='"{x} {z}"'), ["'z' is in the text but not listed"]),
    (entry(fields="[]", text='"  "'), ["empty text"]),
    (entry(form='"chta"'), ["'chat'"]),
    (entry(stop='"x"'), ["stop: a list"]),
    (entry(locator=""), ["missing key 'locator'"]),
    (entry() + entry(), ["[[prompt]] 2", "'a' stands twice"]),
])
def test_bad_prompt_files(tmp_path, text, parts):
    file = tmp_path / "prompts.toml"
    file.write_text(text)
    fails(lambda: load_prompts(file), *parts)


def test_fill_errors_and_empty_fields():
    prompts = load_prompts("prompts/vsynthesis.toml")
    fails(lambda: prompts["synthesi"], "did you mean 'synthesis'?")
    fails(lambda: fill(prompts["inference"], instruction="T", input="X"), "'demonstrations' is missing")
    fails(lambda: fill(prompts["inference"], instruction="T", demonstrations=None, input="X"), "not a text")
    fails(lambda: fill(prompts["inference"], instruction="T", demonstrations="", input="X", demo=""), "unknown field 'demo'")
    assert fill(prompts["inference"], instruction="", demonstrations="D", input="X") == "D\n\nX"
    assert fill(prompts["inference"], instruction="T", demonstrations="", input="X") == "T\n\nX"
    assert fill(prompts["inference"], instruction="I", demonstrations="", input="Question: q\nAnswer:") == "I\n\nQuestion: q\nAnswer:"


def test_a_value_is_never_filled_again():
    prompt = Prompt("p", "", "", "text", ("a", "b"), (), "{a}-{b}")
    assert fill(prompt, a=r"\frac{1}{b} {b}", b="x") == r"\frac{1}{b} {b}-x"


def test_completion_prompts_end_where_the_model_goes_on():
    for prompt in load_prompts("prompts/vsynthesis.toml").values():
        if prompt.form == "completion" and prompt.id != "vscore":
            assert re.search(r"(\{opening\}|\{input\}|:)$", prompt.text), prompt.id


def test_nearest():
    assert nearest("Laptop", ["laptop"]) == " (did you mean 'laptop'?)"
    assert nearest("q", ["laptop"]) == "" and nearest("x", []) == ""


def test_import_is_light():
    assert frameworks_of("resynth.datasets") == "[]"


def test_a_section_of_one_paper_does_not_touch_the_hash_of_another():
    base, changed = load_profile("laptop"), load_profile("laptop", {"synthesizrr.k": 7, "text_task.ag_news.n_test": 9, "corpus.products.n": 5})
    assert base.settings_hash("vsynthesis") == changed.settings_hash("vsynthesis")
    assert base.settings_hash("synthesizrr") != changed.settings_hash("synthesizrr")
    assert load_profile("laptop", {"run.n_boot": 200}).settings_hash("synthesizrr") != base.settings_hash("synthesizrr")


@pytest.mark.parametrize("overrides, parts", [
    ({"synthesizrr.student": "all-MiniLM"}, ["student = 'all-MiniLM'", "no [[model]]", "did you mean 'all-MiniLM-L6-v2'?"]),
    ({"synthesizrr.swap_corpora": ["movies"]}, ["swap_corpora = 'movies'", "no [[corpus]]"]),
    ({"synthesizrr.map_tasks": ["imdb"]}, ["map_tasks = 'imdb'", "no [[text_task]]"]),
    ({"text_task.ag_news.corpus": "movies"}, ["[[text_task]] ag_news", "no [[corpus]]"]),
    ({"text_task.ag_new.n_test": 3}, ["did you mean 'ag_news'?"]),
])
def test_names_across_sections_of_synthesizrr(overrides, parts):
    fails(lambda: load_profile("laptop", overrides), *parts)


def test_sections_of_aide_touch_aide_alone():
    base = load_profile("laptop")
    changed = load_profile("laptop", {"aide.depth": 3, "choice_task.ag_news.n_test": 9})
    assert all((base.settings_hash(p) == changed.settings_hash(p)) == (p != "aide") for p in ("vsynthesis", "synthesizrr", "aide"))
    other = load_profile("laptop", {"task.metatool.n_test": 9, "synthesizrr.k": 7})
    assert base.settings_hash("aide") == other.settings_hash("aide") and load_profile("laptop", {"run.n_boot": 200}).settings_hash("aide") != base.settings_hash("aide")


def test_aide_names_its_models_one_by_one():
    paper = load_profile("paper")
    assert [m["name"] for m in paper.settings("aide")["model"]] == ["Llama-3.1-8B-Instruct", "Llama-3.1-70B-Instruct", "Mistral-7B", "Llama-3.1-8B", "Llama-3.2-3B", "jina-embeddings-v2-base-en"]
    assert not {"Mistral-7B", "jina-embeddings-v2-base-en"} & {m["name"] for p in ("vsynthesis", "synthesizrr") for m in paper.settings(p)["model"]}
    assert len(paper.choice_tasks) == 17 and load_profile("laptop").cite("aide").startswith("profile laptop: SmolLM2-135M-Instruct (teacher), all-MiniLM")


@pytest.mark.parametrize("overrides, parts", [
    ({"aide.teacher": "SmolLM2"}, ["teacher = 'SmolLM2'", "no [[model]]", "did you mean 'SmolLM2-135M-Instruct'?"]),
    ({"aide.second_teacher": "nobody"}, ["second_teacher = 'nobody'", "no [[model]]"]),
    ({"aide.students": ["nobody"]}, ["students = 'nobody'", "no [[model]]"]),
    ({"aide.component_task": "marketing"}, ["component_task = 'marketing'", "no [[choice_task]]"]),
    ({"aide.method_tasks": ["gsm8k"]}, ["method_tasks = 'gsm8k'", "no [[choice_task]]"]),
    ({"aide.residual": 3}, ["residual = 3", "depth = 2", "L is 1 to K"]),
    ({"aide.residual_grid": [1, 4]}, ["residual_grid = 4", "residual_depth = 2"]),
    ({"aide.depth": 0}, ["out of range"]),
    ({"aide.operations": ["constrain"]}, ["did you mean 'constraint'?"]),
    ({"aide.persona_source": "hub"}, ["persona_hub = ''"]),
    ({"choice_task.arc_chalenge.n_test": 3}, ["did you mean 'arc_challenge'?"]),
    ({"choice_task.arc_challenge.source": "hub"}, ["hub = ''"]),
])
def test_names_across_sections_of_aide(overrides, parts):
    fails(lambda: load_profile("laptop", overrides), *parts)
