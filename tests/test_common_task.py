"All four methods on one task: every token counted, no budget passed by more than a step, every row accounted for, ends and pairs as they should be."
from dataclasses import replace
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from helpers import fails

from resynth import common_task as C
from resynth.datasets import rows_to_frame
from resynth.models import cache_dir
from resynth.profiles import PAPERS, Named, load_profile, paper_of
from resynth.store import Store
from resynth.teacher import Completion, Field, LocalTeacher, Sampling, StoredTeacher

matplotlib.use("Agg")
SMALL = {"common.budget": 1500, "text_task.ag_news.max_new_tokens": 8, "softsrv.context_layers": 1, "softsrv.hidden": 4, "vsynthesis.n_samples": 4}


@pytest.fixture
def common(tiny_lm, tmp_path, monkeypatch):
    "The common task with a tiny random teacher, the real encoder and student, and a store of its own."
    there = cache_dir() / "models"
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "models").symlink_to(there)
    monkeypatch.setenv("RESYNTH_CACHE", str(tmp_path / "cache"))
    profile = load_profile("smoke", SMALL)
    spec = profile.models["teacher"]
    return C.open_common(replace(profile, models=Named({**profile.models, spec.name: replace(tiny_lm, name=spec.name)}, "model")))


@pytest.fixture
def stored(tiny_lm, tmp_path): return StoredTeacher(LocalTeacher(tiny_lm), Store(tmp_path / "calls.sqlite"))


def words(teacher, text): return len(teacher.teacher.tokenizer.encode(text, add_special_tokens=False).ids)


def frame(labels, start="r"): return rows_to_frame([dict(row_id=f"{start}{i}", task="ag_news", question=f"Text {start} number {i} about {l}", answer=l) for i, l in enumerate(labels)])


# counting

def test_a_prompt_is_read_once_for_all_its_samples(stored):
    spent, start = C.Spent(), words(stored, stored.spec.start_token)
    made = C.Meter(stored, spent).generate(["The game", "A longer prompt than that"], Sampling(temperature=1.0, max_new_tokens=5, n=3, seed=2))
    assert spent.read == words(stored, "The game") + words(stored, "A longer prompt than that") + 2 * start and spent.trained == 0
    assert spent.written == sum(c.tokens for row in made for c in row) >= 6
    assert spent.total == spent.read + spent.written


def test_a_meter_changes_nothing_and_counts_stored_answers_again(stored):
    sampling, spent = Sampling(temperature=1.0, max_new_tokens=4, n=2, seed=5, then=(Field("\nTopic:", 3),)), C.Spent()
    meter, plain = C.Meter(stored, spent), stored.generate(["Text: a"], sampling)
    assert meter.generate(["Text: a"], sampling) == plain
    once, paid = (spent.read, spent.written), stored.paid
    assert once[0] == words(stored, stored.spec.start_token) + words(stored, "Text: a") + 2 * words(stored, "\nTopic:")
    meter.generate(["Text: a"], sampling)
    assert (spent.read, spent.written) == (2 * once[0], 2 * once[1]) and stored.paid == paid


def test_both_parts_of_a_priced_text_are_read(stored):
    spent = C.Spent()
    assert C.Meter(stored, spent).score([("Topic:", " Sports"), ("", " World")]) == stored.score([("Topic:", " Sports"), ("", " World")])
    assert spent.read == 2 * words(stored, stored.spec.start_token) + words(stored, "Topic: Sports") + words(stored, " World") and spent.written == 0
    meter = C.Meter(stored, spent)
    assert meter.generate([], Sampling()) == [] and meter.score([]) == []


def test_a_soft_prompt_is_as_long_as_it_is(): assert C.prompt_sizes(SimpleNamespace(soft=SimpleNamespace(settings=SimpleNamespace(length=7))), ["a", "a much longer text"]) == [7, 7]


def test_training_tokens_are_those_that_went_through_the_model(common, monkeypatch):
    from resynth import soft_training
    seen, price = [], soft_training.question_bits
    def spy(lm, prompts, rows):
        seen.append(prompts.shape[0] * prompts.shape[1] + sum(map(len, rows)))
        return price(lm, prompts, rows)
    monkeypatch.setattr(soft_training, "question_bits", spy)
    spent = C.Spent()
    C.start_soft(common, C.Meter(common.bench.teacher, spent), 3)
    assert len(seen) == common.bench.profile.softsrv["steps"] and spent.trained == sum(seen) and (spent.read, spent.written) == (0, 0)


# spending

def scripted(costs, spent):
    "A method whose steps cost what is scripted, again and again."
    at, drawn = [0], []
    def make(n, number):
        assert number == len(drawn)
        drawn.append(n)
        for _ in range(n): spent.written += costs[at[0] % len(costs)]; at[0] += 1
        return pd.DataFrame(dict(row=range(n))), n
    return make, drawn


@pytest.mark.parametrize("costs", [[1], [7], [100], [99, 101], [40, 44, 48, 52], [10, 12], [61], [2450]])
@pytest.mark.parametrize("budget", [200, 997])
def test_no_budget_is_passed_by_more_than_a_step(costs, budget):
    spent = C.Spent()
    make, drawn = scripted(costs, spent)
    rows = C.spend(make, spent, budget)
    assert len(rows) == sum(drawn) and spent.begun < budget and spent.total <= budget + max(costs)
    assert budget - spent.total < 2 * 1.2 * max(costs), "another step would have fitted"
    assert all(n <= 2 * sum(drawn[:i]) for i, n in enumerate(drawn) if i)


def test_prices_that_rise_within_the_margin_never_pass_the_budget():
    for budget in range(30000, 120000, 3700):
        spent, drawn = C.Spent(), []
        def make(n, number):
            drawn.append(n); spent.read += int(1000 * 1.19 ** number) * n
            return pd.DataFrame(dict(row=range(n))), n
        C.spend(make, spent, budget)
        assert spent.total <= budget, drawn


def test_what_was_spent_before_counts_and_a_dry_method_ends():
    spent = C.Spent(trained=90)
    make, drawn = scripted([10], spent)
    C.spend(make, spent, 100)
    assert drawn == [1]
    fails(lambda: C.spend(make, C.Spent(trained=100), 100), "100 tokens", "before the first row", "common.budget")
    for made in (0, 1): assert len(C.spend(lambda n, number: (pd.DataFrame(dict(row=range(3))), made), C.Spent(), 100)) == 3  # nothing made; nothing paid


def test_fewer_steps_than_asked_for_are_priced_as_what_they_are():
    spent = C.Spent()
    def make(n, number):
        done = min(n, 2)  # documents run out
        spent.read += 10 * done
        return pd.DataFrame(dict(row=range(done))), done
    C.spend(make, spent, 205)
    assert 205 - 24 < spent.total <= 205


# rows

def test_every_method_keeps_its_account_and_its_budget(common):
    for method in C.STARTS: C.make_common(common, method, 0)
    account = pd.DataFrame(common.account).set_index("method")
    assert list(account.index) == list(C.STARTS) and (account.tokens == account[["read", "written", "trained"]].sum(axis=1)).all()
    assert (account.made == account.loc[:, "repeated":].sum(axis=1)).all()
    assert (account.begun < 1500).all()
    assert (account.trained > 0).to_dict() == {m: m == "SoftSRV" for m in C.STARTS}
    finest = account.drop("AIDE").tokens  # a random model is never in form, so a tree is all that AIDE tries
    assert (finest <= 1.25 * 1500).all() and (account.tokens > 0).all() and account.rows["SynthesizRR"] > 0
    before = len(common.account)
    for method in C.STARTS: assert C.make_common(common, method, 0) is common.kept[method, 0]
    assert len(common.account) == before


def test_seeds_and_test_texts_are_taken_out(common, monkeypatch):
    seed, test = common.seeds[0], common.bench.tests["ag_news"][0]
    texts = [seed.text.upper(), test.text, "An honest new text of the method", "an honest new text, of the method!", "Another one of its texts"]
    made = rows_to_frame([dict(row_id=f"r{i}", task="ag_news", question=t, answer="World") for i, t in enumerate(texts)])
    def start(common, meter, seed):
        def make(n, number):
            meter.spent.read += 2000
            return made, n
        return make
    monkeypatch.setitem(C.STARTS, "AIDE", start)
    rows = C.make_common(common, "AIDE", 0)
    assert list(rows.row_id) == ["r2", "r4"]
    assert {k: v for k, v in common.account[-1].items() if k in ("repeated", "a seed", "a test text", "made", "rows", "tokens")} == {"repeated": 1, "a seed": 1, "a test text": 1, "made": 5, "rows": 2, "tokens": 2000}


def test_labels_are_read_off_their_first_token(common):
    asked = []
    def generate(prompts, sampling):
        asked.extend(prompts)
        firsts = [common.bench.teacher.teacher.tokenizer.encode(w, add_special_tokens=False).tokens[0].replace("Ġ", " ") for w in sampling.choices]
        return [[Completion(firsts[i % 4], 1, 1.0, "length")] for i in range(len(prompts))]
    scripted_teacher = SimpleNamespace(generate=generate, teacher=common.bench.teacher.teacher, spec=common.bench.teacher.spec)
    shown = C.draw_seeds(C.examples_of(common.seeds), 4, 0)
    assert C.choose_labels(scripted_teacher, common, list("abcd"), shown) == list(common.task.labels)
    assert {e.answer for e in shown} == set(common.task.labels) and all(e.question in asked[0] for e in shown) and all(l in asked[0] for l in common.task.labels)
    real = C.choose_labels(common.bench.teacher, common, ["One text", "Another"], shown)
    assert set(real) <= set(common.task.labels)


def test_the_definition_names_the_labels_and_v_synthesis_sees_no_seed(common, monkeypatch):
    asked = []
    monkeypatch.setattr(C.Meter, "generate", lambda self, prompts, sampling, real=C.Meter.generate: asked.extend(prompts) or real(self, prompts, sampling))
    C.make_common(common, "V-Synthesis", 0)
    assert asked and all(l in asked[0] for l in common.task.labels) and not [s for s in common.seeds if any(s.text in p for p in asked)]


# students and tables

def plant(common, sizes):
    "Data sets as the methods could have made them, in the run 0."
    for (method, n), labels in zip(sizes.items(), [common.task.labels] * 4):
        common.kept[method, 0] = frame([labels[i % 4] for i in range(n)], method[0]) if n else rows_to_frame([])
        common.account.append(dict(method=method, seed=0, read=100, written=50, trained=0, tokens=150, made=n, rows=n))


def test_ends_are_the_seeds_and_a_draw_of_the_median_size(common):
    plant(common, {"V-Synthesis": 4, "AIDE": 0, "SoftSRV": 12, "SynthesizRR": 40})
    seeds, gold = C.end_rows(common, "seeds alone", 0), C.end_rows(common, "gold", 0)
    assert list(seeds.question) == [s.text for s in common.seeds]
    assert gold.answer.value_counts().to_dict() == dict.fromkeys(common.task.labels, 2)  # median 8
    assert set(gold.question) <= {t.text for t in common.bench.train["ag_news"]}


def test_small_sets_are_read_more_often(common):
    bench, wanted = common.bench, 30
    bench = replace(bench, profile=replace(bench.profile, common={**bench.profile.common, "student_steps": wanted}))
    for n in (0, 1, 7, 8, 9, 100, 999):
        epochs, batch = C.even_bench(bench, n).profile.synthesizrr["epochs"], bench.profile.synthesizrr["batch"]
        steps = epochs * max(1, -(-n // batch))
        assert steps >= wanted and (epochs == bench.profile.synthesizrr["epochs"] or steps - max(1, -(-n // batch)) < wanted)


def test_outcomes_and_table_of_planted_sets(common):
    plant(common, {"V-Synthesis": 4, "AIDE": 0, "SoftSRV": 12, "SynthesizRR": 20})
    outcomes = C.common_outcomes(common)
    table = C.common_table(common, outcomes).set_index("method")
    assert list(table.index) == [*C.STARTS, *C.ENDS] and table.loc["AIDE", "accuracy"] == 0 and np.isnan(table.loc["AIDE", "agreement"])
    assert table.rows.to_dict() == {"V-Synthesis": 4, "AIDE": 0, "SoftSRV": 12, "SynthesizRR": 20, "seeds alone": len(common.seeds), "gold": 8}
    assert table.loc["SynthesizRR", "rows_per_1000"] == pytest.approx(1000 * 20 / 150) and table[["tokens"]].isna().sum().item() == 2
    mean = outcomes.groupby("method").correct.mean()
    assert table.accuracy.to_dict() == pytest.approx(mean.to_dict()) and (table.low <= table.accuracy).all() and (table.accuracy <= table.high).all()
    figure = C.draw_common(table.reset_index(), 150)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == list(C.STARTS)


def test_diversity_is_measured_on_equally_many_texts(common):
    plant(common, {"V-Synthesis": 4, "AIDE": 5, "SoftSRV": 12, "SynthesizRR": 40})
    quality = C.quality_rows(common)
    assert set(quality.texts_compared) == {4} and quality.self_bleu.between(0, 1).all() and quality.agreement.between(0, 1).all()
    assert quality.set_index("method").classes.to_dict()["SynthesizRR"] == 4


def outcomes_of(rates, runs=3, items=60):
    return pd.DataFrame([dict(task="ag_news", method=m, seed=s, item=f"i{i}", correct=int(i < r * items)) for m, r in rates.items() for s in range(runs) for i in range(items)])


def test_a_sentence_tells_only_what_the_interval_tells():
    pairs = C.common_pairs(outcomes_of({"V-Synthesis": 0.3, "AIDE": 0.8, "SoftSRV": 0.32, "SynthesizRR": 0.8, "gold": 0.9}), load_profile("smoke"))
    assert len(pairs) == 10 and (pairs["diff"] >= 0).all()
    told = {(r.above, r.below): r.told for r in pairs.itertuples()}
    assert told["AIDE", "V-Synthesis"] and told["SynthesizRR", "SoftSRV"] and not told["SoftSRV", "V-Synthesis"] and not told.get(("AIDE", "SynthesizRR"), told.get(("SynthesizRR", "AIDE")))
    said = C.tell_pairs(pairs)
    above, level = said.split("no difference")
    assert "AIDE is above V-Synthesis by 0.500" in above and "gold" not in said and "SoftSRV and V-Synthesis" in level and level.endswith(".")
    assert C.tell_pairs(pairs[pairs.told]).count("no difference") == 0


# settings

def test_the_section_belongs_to_the_page_alone():
    base, changed = load_profile("laptop"), load_profile("laptop", {"common.budget": 7})
    assert {p for p in PAPERS if base.settings_hash(p) != changed.settings_hash(p)} == {"common"} == {paper_of("92_common_task")}
    for setting in ({"vsynthesis.ratio": 0.2}, {"aide.tries": 1}, {"softsrv.steps": 5}, {"synthesizrr.k": 7}, {"text_task.ag_news.n_test": 9}):
        assert load_profile("laptop", setting).settings_hash("common") != base.settings_hash("common")
    fails(lambda: load_profile("laptop", {"common.task": "imdb"}), "[common] task = 'imdb'", "no [[text_task]]")
    fails(lambda: load_profile("laptop", {"common.margin": 0.5}), "margin", "out of range")


@pytest.mark.parametrize("name", ["smoke", "laptop", "laptop_real", "gpu", "paper"])
def test_every_profile_has_what_the_page_needs(name):
    profile, prompts = load_profile(name), C.load_prompts("prompts/common.toml")
    task = profile.common["task"]
    assert prompts[f"definition_{task}"].fields == prompts[f"instruction_{task}"].fields == ("labels",) and task in profile.choice_tasks
    least = profile.softsrv["steps"] * profile.softsrv["batch"] * profile.softsrv["length"]
    assert least < profile.common["budget"] / 2, "the training of the soft prompt would take most of the budget"
