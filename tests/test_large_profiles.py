"""`gpu` and `paper` end to end: chat prompts, reasoning, a tiny random model of the same architecture put in place."""
from dataclasses import replace

import pytest

from resynth import bench as B
from resynth.models import stand_in, write_random_lm
from resynth.profiles import choose_prompt, load_profile
from resynth.vsynthesis import synthesis_prompt

SMALL = dict(n_test=2, n_labelled=3, n_inputs=2, source="embedded", max_new_tokens=8, max_field_tokens=16, mean_tokens=12)


@pytest.fixture(scope="module", params=[("gpu", "qwen2"), ("paper", "llama")], ids=["gpu", "paper"])
def bench(request, tmp_path_factory):
    name, architecture = request.param
    folder = tmp_path_factory.mktemp(name)
    changes = {f"task.{t}.{k}": v for t in load_profile(name).tasks for k, v in SMALL.items()}
    profile = load_profile(name, {**changes, "run.seeds": [0], "vsynthesis.n_samples": 2, "vsynthesis.iterations": 2, "model.teacher.precision": "float32"})
    embedded = load_profile("smoke").models["teacher"]
    small = stand_in(profile.models["teacher"], write_random_lm(folder / "lm", embedded, architecture))
    models = {**profile.models, "teacher": small, small.name: small}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESYNTH_CACHE", str(folder / "cache"))
        yield B.open_bench(replace(profile, models=models), ["metatool", "finqa"])


def test_the_style_is_chat_and_the_prompt_shows_the_format(bench):
    assert bench.teacher.spec.prompt_style == "chat"
    task = next(iter(bench.tasks.values()))
    given = B.labelled_examples(bench, task.name, 0)[0]
    text = synthesis_prompt(bench.prompts, task, given, [given], "chat")
    assert "Use exactly this format" in text and task.definition in text
    assert choose_prompt(bench.prompts, "inference", "chat").form == "chat"


def test_every_method_runs_end_to_end(bench):
    outcomes = B.grid_outcomes(bench, [("zero-shot", 0), ("gold", 1), ("Self-ICL", 1), ("V-Synthesis", 0), ("V-Synthesis", 1)])
    assert len(outcomes) == 5 * 2 * len(bench.tasks) and set(outcomes.task) == set(bench.tasks)
    assert outcomes.correct.isin([0, 1]).all() and bench.teacher.paid > 0
    for made in bench.made.values():  # random weights keep no format, and every lost sample is counted
        for loss in made.losses:
            rejected = sum(v for k, v in loss.items() if k not in ("iteration", "written", "not verified"))
            assert loss["written"] == 4 == rejected + (made.rows.iteration == loss["iteration"]).sum()


def test_nothing_is_substituted_silently(bench):
    assert bench.teacher.spec.name.startswith("stand-in for") and "stand-in for" in bench.teacher.revision
