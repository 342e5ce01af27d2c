"The plan: every profile plans without a model, counts follow the sizes, and the smallest profile is planned as it runs."
import pytest
from helpers import frameworks_of

from resynth.command_line import main
from resynth.plan import (NOTEBOOKS, Load, chosen_loads, evaluation_load, later_iterations, load_11, load_12, load_14, load_15, load_16, notebook_loads,
                          plan_rows, plan_table, self_icl_load, stored_calls, synthesis_load, task_sizes, tuning_load, writing_load)
from resynth.plan_aide import AIDE_PAGES, aide_loads, tree_load
from resynth.plan_soft import SOFT_PAGES, exam_load, prompt_load, set_load as soft_set_load, soft_loads
from resynth.plan_texts import CORPUS_SIZES, TEXT_PAGES, corpus_load, corpus_size, method_set, set_load, text_loads
from resynth.profiles import ResynthError, load_profile, paper_of, repo_root
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
    first = work.name.map(paper_of).eq("vsynthesis")
    assert (work[first][["calls", "tokens_in", "tokens_out"]] >= least).all().all()
    assert (work[~first].hours > 0).all() and work[["tokens_embedded", "tokens_trained"]].gt(0).any().all()
    total = rows[rows.part == "total"].iloc[0]
    for what in ("calls", "tokens_trained", "tokens_embedded", "students", "hours"): assert total[what] == pytest.approx(work[what].sum())
    assert not any(p.is_file() for p in tmp_path.rglob("*")), "a plan wrote into the cache"


def test_bigger_profiles_cost_more():
    total = {name: sum(calls(name).values()) for name in PROFILES}
    assert total["smoke"] < total["laptop"] and total["smoke"] < total["laptop_real"] < total["gpu"] < total["paper"]


def test_the_notebooks_are_those_on_disk():
    pages = {p.stem for p in (repo_root() / "reproducibility").glob("[1234][0-9]_*.ipynb")}
    assert pages == set(NOTEBOOKS)
    assert list(NOTEBOOKS) == sorted(NOTEBOOKS)
    for paper, own in (("synthesizrr", TEXT_PAGES), ("aide", AIDE_PAGES), ("softsrv", SOFT_PAGES)): assert set(own) == {n for n in NOTEBOOKS if paper_of(n) == paper}


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
    assert all(before[name] < after[name] <= 2 * before[name] for name in before if paper_of(name) == "vsynthesis")


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
    assert writing_load(base, sizes, 5, 9).calls == 5
    assert writing_load(base, sizes, 5, 0).calls == min(5, sizes.types)  # from scratch: one call a question type


def test_no_verification_asks_for_none_and_scores_all():
    bare = load_profile("laptop", {"vsynthesis.n_verify": 0})
    assert synthesis_load(bare, "metatool", (1,)).tokens_out < synthesis_load(load_profile("laptop"), "metatool", (1,)).tokens_out
    assert synthesis_load(bare, "metatool", (1,), scores=5).calls > synthesis_load(bare, "metatool", (1,), scores=2).calls


def test_the_smallest_profile_is_planned_as_it_ran():
    profile, counted = load_profile("smoke"), (342, 48342, 2303)  # requests, tokens read and written of all seven notebooks at smoke, each request once
    plan = sum((load for name, load in notebook_loads(profile).items() if paper_of(name) == "vsynthesis"), Load())
    plan += -3 * tuning_load(profile, task_sizes(profile, "metatool"))  # tuning is no request
    assert (plan.calls, plan.tokens_in, plan.tokens_out) == pytest.approx(counted, rel=0.1)


def test_a_small_pool_asks_and_shows_less():
    base, sizes = load_profile("laptop"), task_sizes(load_profile("laptop"), "metatool")
    assert [writing_load(base, sizes, 5, pool).calls for pool in (1, 3, 50)] == [1, 3, 5]
    one, two, many = (writing_load(base, sizes, 1, pool).tokens_in for pool in (1, 2, 50))
    assert two - one == sizes.made and many - one == (base.vsynthesis["shots"] - 1) * sizes.made


def test_a_cut_field_shortens_what_is_written_and_shown():
    cut, whole = (task_sizes(load_profile("laptop", {"task.math.max_field_tokens": n}), "math") for n in (10, 28))
    assert cut.question == 10 < whole.question and whole.made - cut.made == whole.question - cut.question and whole.made == whole.example == cut.example


def test_a_data_set_is_paid_by_the_first_page_that_needs_it():
    profile = load_profile("laptop")
    shared, alone = text_loads(profile), {page: text_loads(profile, (page,))[page] for page in TEXT_PAGES}
    assert shared["42_mauve"].calls == shared["43_distillation"].calls == 0 and alone["43_distillation"].calls == shared["41_diversity"].calls
    assert shared["41_diversity"] == alone["41_diversity"] and all(shared[p].calls <= alone[p].calls for p in TEXT_PAGES)
    for page in TEXT_PAGES:
        row = plan_rows(profile, page.split("_")[0]).query("part == 'notebook'").iloc[0]
        assert row.calls == alone[page].calls and ("fewer" in row.note) == (alone[page].calls > shared[page].calls)
    assert chosen_loads(profile, "11")["11_main_results"] == (load_11(profile),) * 2


def test_texts_follow_the_sizes():
    base, load = load_profile("laptop"), lambda **changes: set_load(changed := load_profile("laptop", changes), method_set(changed, "ag_news", "SynthesizRR RetrICL"))
    ours, n, sr = load(), base.text_tasks["ag_news"]["n_rows"], base.synthesizrr
    assert load(**{"text_task.ag_news.n_rows": 2 * n}) == 2 * ours and ours.calls == 4 * n
    assert load(**{"synthesizrr.retricl_shots": 3 * sr["retricl_shots"]}).tokens_in > 1.5 * ours.tokens_in
    assert load(**{"synthesizrr.max_document_tokens": sr["max_document_tokens"] // 2}).tokens_in < ours.tokens_in
    for each in (1, 4):
        fewgen = set_load(changed := load_profile("laptop", {"synthesizrr.samples_a_prompt": each}), method_set(changed, "ag_news", "FewGen few-shot"))
        assert 0.95 * 4 * -(-n // each) <= fewgen.calls <= 4 * -(-n // each) and fewgen.tokens_out == ours.tokens_out
    students = [text_loads(load_profile("laptop", {"synthesizrr.n_runs": r}))["43_distillation"] for r in (3, 6)]
    assert students[1].tokens_trained == pytest.approx(2 * students[0].tokens_trained) and students[0].students == 3 * len(base.text_tasks) * 7


def test_a_whole_corpus_is_counted_or_published(tmp_path, monkeypatch):
    profile = load_profile("laptop_real")
    assert corpus_size(profile, "movies") == (CORPUS_SIZES["movies"], "not counted") and corpus_load(profile, "movies") == Load()
    folder = tmp_path / "data" / "cmu_movies"
    folder.mkdir(parents=True)
    (folder / "plot_summaries.txt").write_text("".join(f"{i}\tA plot about number {i} and its long way home to the sea.\n" for i in range(5)))
    monkeypatch.setenv("RESYNTH_DATA", str(tmp_path / "data"))
    assert corpus_size(profile, "movies") == (5, "counted") and corpus_load(profile, "movies").tokens_embedded == 5 * 256
    assert corpus_size(profile, "products") == (CORPUS_SIZES["products"], "published size")
    assert corpus_size(small := load_profile("smoke"), "products") == (small.corpora["products"]["n"], "")


@pytest.mark.parametrize("name", PROFILES)
def test_pages_of_aide_share_trees_and_students(name):
    profile = load_profile(name)
    shared, alone = aide_loads(profile), {page: aide_loads(profile, (page,))[page] for page in AIDE_PAGES}
    assert all(shared[p].calls <= alone[p].calls and shared[p].students <= alone[p].students for p in AIDE_PAGES) and shared["26_relevance_diversity"].students == 0
    assert shared["25_which_teacher"].students < alone["25_which_teacher"].students
    row = plan_rows(profile, "25").query("part == 'notebook'").iloc[0]
    assert row.calls == pytest.approx(alone["25_which_teacher"].calls) and "fewer" in row.note


def test_a_tree_follows_its_settings():
    base, task = load_profile("laptop"), "implicatures"
    work, rows = tree_load(base, task)
    assert tree_load(base, task, 2 * base.choice_tasks[task]["n_seeds"])[1] == pytest.approx(2 * rows)
    assert tree_load(base, task, depth=1)[0].calls < work.calls < tree_load(base, task, depth=3)[0].calls
    assert tree_load(base, task, n_personas=0)[1] < rows and tree_load(base, task, reflect=False)[0].calls < work.calls
    more = [aide_loads(load_profile("laptop", {"aide.epochs": e}))["22_synthesis_methods"].tokens_trained for e in (1, 3)]
    assert more[1] == pytest.approx(3 * more[0])


@pytest.mark.parametrize("name", PROFILES)
def test_pages_of_softsrv_share_prompts_and_students(name):
    profile = load_profile(name)
    ss, S, shared, alone = profile.softsrv, len(profile.seeds), soft_loads(profile), {page: soft_loads(profile, (page,))[page] for page in SOFT_PAGES}
    assert all(shared[p].calls <= alone[p].calls and shared[p].students <= alone[p].students for p in SOFT_PAGES) and shared["36_softsrv_mauve"].students == 0
    kinds = [len({"SS_NP", "SS_MP2", "SS_MC"} | ({f"SS_MP{k}" if k > 1 else "SS_NP" for k in ss["k_grid"]} if t in ss["k_tasks"] else set())) for t in ss["tasks"]]
    assert shared["31_parameterisations"].students == S * (sum(kinds) + len(ss["tasks"]))
    assert shared["33_out_of_domain"].students == 0 and shared["34_post_training_mix"].students == 2 * S * len(ss["tasks"]) and shared["37_curated"].students == S
    row = plan_rows(profile, "36").query("part == 'notebook'").iloc[0]
    assert row.calls == pytest.approx(alone["36_softsrv_mauve"].calls)


def test_a_soft_prompt_and_a_set_follow_their_settings():
    base, twice = load_profile("laptop"), lambda key, path: load_profile("laptop", {path: 2 * key})
    one = prompt_load(base, "gsm8k", "SS_MC")
    for key in ("steps", "batch"): assert prompt_load(twice(base.softsrv[key], f"softsrv.{key}"), "gsm8k", "SS_MC").tokens_trained == pytest.approx(2 * one.tokens_trained)
    assert prompt_load(base, "gsm8k", "SS_NP").tokens_embedded == 0 < one.tokens_embedded
    more = twice(base.soft_tasks["gsm8k"]["n_raw"], "soft_task.gsm8k.n_raw")
    assert soft_set_load(more, "gsm8k", "SS_MC").calls - soft_set_load(base, "gsm8k", "SS_MC").calls == base.soft_tasks["gsm8k"]["n_raw"]
    assert soft_set_load(base, "gsm8k", "train") == Load() and exam_load(base, "boolq").calls == 2 * base.soft_tasks["boolq"]["n_test"]


def test_an_unknown_page_is_named():
    with pytest.raises(ResynthError, match="did you mean '43_distillation'"): plan_rows(load_profile("smoke"), "43_destillation")


def test_a_page_without_planned_calls_says_so(capsys):
    assert main(["plan", "--profile", "smoke", "--nb", "91"]) == 0
    out, err = capsys.readouterr()
    assert out == "91_performance: this page makes no teacher calls that are planned\n" and not err
    assert main(["plan", "--profile", "smoke", "--nb", "11,91"]) == 0
    out, _ = capsys.readouterr()
    assert "11_main_results" in out and out.endswith("91_performance: this page makes no teacher calls that are planned\n")
    assert main(["plan", "--profile", "smoke", "--nb", "97"]) == 2 and "no notebook '97'" in capsys.readouterr().err


def test_only_the_chosen_paper_is_shown():
    rows = plan_rows(load_profile("paper"), "43")
    assert set(rows[rows.part == "corpus"].name) == set(CORPUS_SIZES) and "metatool" not in set(rows.name)
    assert set(rows[rows.part == "training"].name) == {"deberta-v3-large", "distilbert-base-uncased"}
    assert "ag_news" not in set(plan_rows(load_profile("paper"), "11").name)


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
    assert "tokens trained" not in table and "tokens trained" in plan_table(load_profile("paper"), nb="43")


def test_planning_imports_no_framework():
    assert frameworks_of("resynth.plan", then="resynth.plan.plan_table(resynth.profiles.load_profile('paper'))") == "[]"
