"Baselines of AIDE: what each writes and loses adds up, with tiny random weights; ranking, cutting, faults."
from dataclasses import replace

import pandas as pd
import pytest
from helpers import encode_letters as encode
from helpers import fails

from resynth import aide_baselines as B
from resynth.aide import AideSettings
from resynth.choice_tasks import open_choices
from resynth.profiles import load_prompts
from resynth.teacher import LocalTeacher

PROMPTS = load_prompts("prompts/aide.toml")
SMALL = AideSettings(n_attributes=1, operations=("constraint",), n_personas=0, n_demonstrations=1, tries=1, max_question_tokens=8, max_label_tokens=4)


@pytest.fixture(scope="module")
def world(tiny_lm):
    return lambda: B.open_world(LocalTeacher(tiny_lm), PROMPTS, open_choices("smoke", "implicatures"), SMALL)


@pytest.mark.parametrize("n, rounds", [(1, 1), (5, 2), (6, 3), (7, 9)])
def test_evolved_and_lost_add_up(world, n, rounds):
    rows, lost = B.synthesize_evol(world(), n, rounds)
    assert len(rows) + sum(lost.values()) == n and set(lost) <= {"not in form", "copy", "copied from the examples", "no label"}


def test_transformed_and_lost_add_up(world):
    candidates = {name: list(open_choices("smoke", name).gold) for name in ("arc_challenge", "legalbench_contracts")}
    rows, lost = B.synthesize_datatune(world(), 7, candidates, encode)
    assert len(rows) + sum(lost.values()) == 7
    fails(lambda: B.synthesize_datatune(world(), 7, {}, encode), "no candidate dataset")


@pytest.mark.parametrize("n, batches", [(1, 1), (3, 4), (9, 2)])
def test_generated_and_lost_add_up(world, n, batches):
    rows, lost = B.synthesize_prompt2model(world(), n, batches)
    assert len(rows) + sum(lost.values()) == n


def test_the_nearest_dataset_is_first():
    seeds = list(open_choices("smoke", "implicatures").seeds)
    other = list(open_choices("smoke", "arc_challenge").gold)
    assert B.rank_datasets(seeds, {"b": other, "a": seeds}, encode) == ["a", "b"] and B.rank_datasets(seeds, {"b": other, "a": other}, encode) == ["a", "b"]


def test_gold_rows_are_no_seeds():
    data = open_choices("smoke", "implicatures")
    rows = B.gold_rows(data)
    assert len(rows) == len(data.gold) and not set(rows.question) & {s.question for s in data.seeds} and set(rows.method) == {"gold"}
    fails(lambda: B.gold_rows(data, 999), "999 gold rows asked for")


def test_cut_rows_is_a_fair_draw():
    rows = pd.DataFrame(dict(question=range(30)))
    drawn = [tuple(B.cut_rows(rows, 10, s).question) for s in range(40)]
    assert len(set(drawn)) == 40 and all(list(d) == sorted(set(d)) and len(d) == 10 for d in drawn) and drawn[3] == tuple(B.cut_rows(rows, 10, 3).question)
    assert len(B.cut_rows(rows, 99)) == 30
    fails(lambda: B.cut_rows(rows[:0], 3), "no row is left")


@pytest.mark.parametrize("call", [lambda w: B.synthesize_evol(w, 0), lambda w: B.synthesize_evol(w, 3, 0), lambda w: B.synthesize_prompt2model(w, 0), lambda w: B.synthesize_prompt2model(w, 3, 0)])
def test_nothing_asked_for(world, call): fails(lambda: call(world()), "1 or more")


def test_seeds_in_the_test_data():
    data = open_choices("smoke", "implicatures")
    fails(lambda: B.open_world(None, PROMPTS, replace(data, test=data.seeds), SMALL), "seeds in test data are refused")
