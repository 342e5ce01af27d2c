"""V-Score and V-Synthesis with the real model: invariances, accounting, ablations, hygiene."""
from dataclasses import replace

import numpy as np
import pytest
from helpers import fails, make_examples

from resynth import bench as B
from resynth.profiles import load_profile
from resynth.tasks import Example, Task, format_example
from resynth.teacher import LocalTeacher
from resynth.vscore import score_candidates, score_prefix, split_given, v_score
from resynth.vsynthesis import Settings, draw_given, make_candidates, synthesize_v

TASK = Task(name="tools", title="Tools", definition="Decide which tool answers the question. Tools: WeatherTool, FlightTool.",
            instruction="Choose the tool.", fields=(("question", "Question:"), ("answer", "Tool:")), answer_kind="label",
            labels=("WeatherTool", "FlightTool"))
POOL = make_examples([("Will it rain in Oslo today?", "WeatherTool"), ("When does the plane to Rome leave?", "FlightTool"),
                      ("Is it snowing in Bergen?", "WeatherTool"), ("Who flies from Lima to Quito?", "FlightTool")])


@pytest.fixture(scope="module")
def teacher(profile): return LocalTeacher(profile.models["teacher"], batch_tokens=128)


def test_v_score_equals_one_pair_at_a_time(teacher):
    neighbours = [[POOL[(i + 1) % 4]] for i in range(4)]
    scores = v_score(teacher, TASK, POOL, neighbours)
    for z, (d,), s in zip(POOL, neighbours, scores):
        shown = [format_example(TASK, d)]
        without = teacher.score([(score_prefix("", shown), format_example(TASK, z))])[0].bits
        with_task = teacher.score([(score_prefix(TASK.definition, shown), format_example(TASK, z))])[0].bits
        assert abs(s - (without - with_task)) < 1e-3


def test_empty_definition_gives_exactly_zero(teacher):
    assert (v_score(teacher, replace(TASK, definition=""), POOL, [[p] for p in POOL[::-1]]) == 0).all()


def test_an_unselected_demonstration_changes_nothing(teacher):
    from resynth.demonstrations import select_demonstrations
    from resynth.embedded import embedded_examples
    pool = [replace(e, answer="FlightTool") for e in embedded_examples("metatool", "train", 40)]
    more = pool + [Example(id="x", question="qqq zzz", answer="FlightTool")]
    assert select_demonstrations(TASK, pool, POOL, 1) == select_demonstrations(TASK, more, POOL, 1)  # it is not selected
    assert (score_candidates(teacher, TASK, POOL, pool, 1) == score_candidates(teacher, TASK, POOL, more, 1)).all()


def test_a_candidate_is_never_its_own_neighbour(teacher):
    own = v_score(teacher, TASK, POOL, [[z] for z in POOL])
    chosen = score_candidates(teacher, TASK, POOL, POOL, 1)
    assert np.abs(own - chosen).min() > 0.05  # with itself in front the price collapses


def test_per_token_divides_by_the_tokens_of_z(teacher):
    total, each = (v_score(teacher, TASK, POOL, [[] for _ in POOL], per_token=p) for p in (False, True))
    tokens = [s.tokens for s in teacher.score([(score_prefix(TASK.definition, []), format_example(TASK, z)) for z in POOL])]
    assert np.allclose(total / np.array(tokens), each)


def test_a_given_report_is_not_priced():
    task = replace(TASK, fields=(("context", "Report:"), ("question", "Question:"), ("answer", "Answer:")), answer_kind="number", labels=())
    given, written = split_given(task, Example(id="1", question="How much?", answer="3", context="Sales were 3.\nCosts were 2."))
    assert given.startswith("Report:") and "Costs" in given and written == "Question: How much?\nAnswer: 3"


@pytest.fixture(scope="module")
def bench(): return B.open_bench(load_profile("smoke"), ["metatool"])


def test_every_written_sample_is_accounted_for(bench):
    made = B.synthesize(bench, "metatool", 0, n_inputs=4, n_samples=4)
    for loss in made.losses:
        rows = made.rows[made.rows.iteration == loss["iteration"]]
        rejected = sum(v for k, v in loss.items() if k not in ("iteration", "written", "not verified"))
        assert loss["written"] == 16 == len(rows) + rejected
        assert loss["not verified"] == (~rows.verified.astype(bool)).sum()


def test_only_verified_candidates_are_kept_and_ratio_one_keeps_them_all(bench):
    everything = B.synthesize(bench, "metatool", 0, n_inputs=4, n_samples=4, ratio=1.0).rows
    assert (everything.kept.astype(bool) == everything.verified.astype(bool)).all()
    some = B.synthesize(bench, "metatool", 0, n_inputs=4, n_samples=4).rows
    assert not (some.kept.astype(bool) & ~some.verified.astype(bool)).any()
    first = some[some.iteration == 1]; n = int(first.verified.astype(bool).sum())
    assert abs(first.kept.astype(bool).sum() - n * 1.1 / 2) < 1


def test_labels_are_the_first_iteration_and_stay_in_the_pool(bench):
    made = B.synthesize(bench, "metatool", 0, n_labelled=4, n_inputs=4, n_samples=2)
    assert set(made.rows.iteration) <= {2} and len(made.losses) == 1
    assert [e.id for e in made.pool()[:4]] == [e.id for e in B.labelled_examples(bench, "metatool", 0, 4)]


def test_a_label_that_is_a_test_item_is_refused(bench, monkeypatch):
    monkeypatch.setattr(B, "read_examples", lambda *a, **k: bench.tests["metatool"][:2])
    fails(lambda: B.labelled_examples(bench, "metatool", 0, 2), bench.tests["metatool"][0].question[:20])


def test_duplicates_and_labels_outside_the_space_are_rejected():
    made = [(0, "Question: Is it raining in Rome?\nTool: WeatherTool"), (0, "Question: is it raining in rome?\nTool: FlightTool"),
            (0, "Question: Is it dry in Rome?\nTool: BikeTool"), (0, "Question: Rain\nTool: WeatherTool"), (0, "Tool: WeatherTool")]
    kept, source, lost = make_candidates(TASK, POOL[:1], made, [], "t")
    assert [k.answer for k in kept] == ["WeatherTool"] and source == [0]
    assert lost == {"question exists already": 1, "unreadable": 2, "question too short": 1}


def test_from_scratch_gives_every_question_type_in_turn():
    task = replace(TASK, question_types=("city", "sea"))
    given = draw_given(task, [], [], Settings(n_inputs=4), np.random.default_rng(0))
    assert [g.type for g in given] == ["city", "sea", "city", "sea"] and not any(g.question for g in given)


def test_an_empty_definition_is_refused(bench):
    fails(lambda: synthesize_v(replace(TASK, definition="\n"), bench.teacher, bench.prompts, Settings(), 0), "empty definition")


def test_unknown_method_and_task_name_the_nearest(bench):
    fails(lambda: B.method_outcomes(bench, "metatool", "- Samplng", 0), "did you mean '- Sampling'?")
    fails(lambda: B.open_bench(bench.profile, ["metatols"]), "did you mean 'metatool'?")


def test_gold_demonstrations_beat_zero_shot_on_real_metatool(real_data):
    "Sanity that depends on no method: at least 0.25 exact match on 300 items with ten tools."
    real_data("metatool")
    real = B.open_bench(load_profile("laptop_real", {"task.metatool.n_test": 300, "run.seeds": [0]}), ["metatool"])
    zero = B.pool_outcomes(real, "metatool", [], 0)
    gold = B.pool_outcomes(real, "metatool", B.labelled_examples(real, "metatool", 0, 1000), 0)
    assert len(zero) == 300 and gold.correct.mean() - zero.correct.mean() >= 0.25
