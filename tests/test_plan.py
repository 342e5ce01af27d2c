"The plan: every profile plans without a model, counts follow the sizes, and the smallest profile is planned as it runs."
import pytest
from helpers import frameworks_of

from resynth.plan import (NOTEBOOKS, Load, evaluation_load, later_iterations, load_11, load_12, load_14, load_15, load_16, notebook_loads,
                          plan_rows, plan_table, self_icl_load, stored_calls, synthesis_load, task_sizes, writing_load)
from resynth.profiles import load_profile, repo_root
from resynth.store import Store

PROFILES = sorted(p.stem for p in (repo_root() / "reproducibility" / "profiles").glob("*.toml"))


def calls(profile, changes=None):
    return {name: load.calls for name, load in notebook_loads(load_profile(profile, changes or {})).items()}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESYNTH_CACHE", str(tmp_path))
    monkeypatch.delenv("RESYNTH_DATA", raising=False)


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_plans_and_fetches_nothing(name, tmp_path):
    rows = plan_rows(load_profile(name))
    work = rows[rows.part == "notebook"]
    assert len(PROFILES) == 5 and list(work.name) == list(NOTEBOOKS)
    least = 0 if name == "smoke" else 1  # at smoke every ratio was run by the ablation
    assert (work[["calls", "tokens_in", "tokens_out"]] >= least).all().all()
    total = rows[rows.part == "total"].iloc[0]
    assert total.calls == pytest.approx(work.calls.sum()) and total.hours == pytest.approx(work.hours.sum())
    assert not any(p.is_file() for p in tmp_path.rglob("*")), "a plan wrote into the cache"


def test_bigger_profiles_cost_more():
    total = {name: sum(calls(name).values()) for name in PROFILES}
    assert total["smoke"] < total["laptop"] and total["smoke"] < total["laptop_real"] < total["gpu"] < total["paper"]


def test_the_notebooks_are_those_on_disk():
    pages = {p.stem for p in (repo_root() / "reproducibility").glob("1[0-9]_*.ipynb")}
    assert pages == set(NOTEBOOKS)


def test_doubling_the_test_items_doubles_evaluation_and_leaves_synthesis():
    doubled = {f"task.{t}.n_test": 2 * s.n_test for t, s in load_profile("laptop").tasks.items()}
    old, new = load_profile("laptop"), load_profile("laptop", doubled)
    for task in old.tasks:
        assert evaluation_load(task_sizes(new, task), 3) == 2 * evaluation_load(task_sizes(old, task), 3)
        assert self_icl_load(new, task).calls == pytest.approx(2 * self_icl_load(old, task).calls)
        assert synthesis_load(new, task, (1, 2)) == synthesis_load(old, task, (1, 2))
    before, after = calls("laptop"), calls("laptop", doubled)
    later = later_iterations(old)
    fixed = len(old.seeds) * sum(synthesis_load(old, t, (1, *later)).calls + synthesis_load(old, t, later, labelled=True).calls for t in old.tasks)
    assert after["11_main_results"] == pytest.approx(2 * before["11_main_results"] - fixed)
    assert all(before[name] < after[name] <= 2 * before[name] for name in before)


def test_more_seeds_samples_and_groups_cost_more():
    base = load_profile("laptop")
    more = load_profile("laptop", {"run.seeds": [0, 1, 2, 3, 4, 5]})
    assert load_12(more).calls == pytest.approx(2 * load_12(base).calls)
    assert load_11(base).calls < load_11(more).calls < 2 * load_11(base).calls  # zero-shot is paid once
    groups = load_profile("laptop", {"vsynthesis.n_groups": 2 * base.vsynthesis["n_groups"]})
    assert load_15(groups).calls - load_15(base).calls == pytest.approx(
        base.vsynthesis["n_groups"] * len(base.seeds) * task_sizes(base, "metatool").items)


def test_shared_work_is_counted_once():
    same = load_profile("laptop", {"vsynthesis.ratios": [0.0, 0.1, 1.0]})
    assert load_14(same) == Load()  # the ablation has 0 and 1, Table 1 has the profile's own
    sizes = load_profile("laptop")
    shared = load_profile("laptop", {"vsynthesis.iteration_grid": [0, 1, 2], "vsynthesis.scale_grid": [1.0],
                                     "vsynthesis.label_grid": [0, sizes.tasks["metatool"].n_labelled]})
    assert load_16(shared) == Load()


def test_all_fields_of_all_samples_are_one_call_an_input():
    base, sizes = load_profile("laptop"), task_sizes(load_profile("laptop"), "medqa")
    assert writing_load(base, sizes, 5, empty=False).calls == 5
    assert writing_load(base, sizes, 5, empty=True).calls == min(5, sizes.types)  # from scratch: one call a question type


def test_no_verification_asks_for_none_and_scores_all():
    bare = load_profile("laptop", {"vsynthesis.n_verify": 0})
    assert synthesis_load(bare, "metatool", (1,)).tokens_out < synthesis_load(load_profile("laptop"), "metatool", (1,)).tokens_out
    assert synthesis_load(bare, "metatool", (1,), scores=5).calls > synthesis_load(bare, "metatool", (1,), scores=2).calls


def test_the_smallest_profile_is_planned_as_it_ran():
    counted = 348  # rows of an empty store after all seven notebooks at smoke
    assert sum(calls("smoke").values()) == pytest.approx(counted, rel=0.25)


def test_stored_calls_are_counted_and_not_touched(tmp_path):
    profile = load_profile("smoke")
    assert stored_calls(profile) == {}
    with Store(tmp_path / "store" / "smoke.sqlite") as store: store.put_batch({"a": 1, "b": 2})
    with Store(tmp_path / "store" / "smoke-0123abcd.sqlite") as store: store.put_batch({"a": 1})
    with Store(tmp_path / "store" / "laptop.sqlite") as store: store.put_batch({"a": 1})
    (tmp_path / "store" / "smoke.sqlite.damaged-1").write_bytes(b"no store")
    assert stored_calls(profile) == {"smoke-0123abcd.sqlite": 1, "smoke.sqlite": 2}
    (tmp_path / "store" / "smoke.sqlite").write_bytes(b"no store" * 2000)
    assert stored_calls(profile)["smoke.sqlite"] == 0
    assert (tmp_path / "store" / "smoke.sqlite").read_bytes().startswith(b"no store")


def test_the_table_is_text_for_a_terminal():
    table = plan_table(load_profile("paper"), nb="11,15")
    assert table[table.part.str.strip() == "notebook"].name.str.strip().tolist() == ["11_main_results", "15_consistency_groups"]
    assert all(isinstance(x, str) for x in table.to_numpy().ravel()) and "nan" not in table.to_string()
    assert (table.part.str.strip() == "again for").sum() == 1  # the second teacher


def test_planning_imports_no_framework():
    assert frameworks_of("resynth.plan", then="resynth.plan.plan_table(resynth.profiles.load_profile('paper'))") == "[]"
