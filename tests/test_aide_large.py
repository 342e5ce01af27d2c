"AIDE at `gpu` and `paper` end to end: chat prompts, full settings, a tiny random model of the same architecture put in place."
from dataclasses import replace

import pytest
from helpers import encode_letters as encode

from resynth import aide_tree as A
from resynth.choice_tasks import WAYS, evaluate_choices, open_choices
from resynth.models import stand_in, write_random_lm
from resynth.personas import PERSONAS
from resynth.profiles import choose_prompt, load_profile, load_prompts
from resynth.teacher import LocalTeacher
from resynth.tuning import EpochTuned, epoch_settings
from resynth import sft


@pytest.fixture(scope="module", params=[("gpu", "qwen2"), ("paper", "llama")], ids=["gpu", "paper"])
def bench(request, tmp_path_factory):
    name, architecture = request.param
    folder, embedded = tmp_path_factory.mktemp(name), load_profile("smoke").models["teacher"]
    changes = {f"choice_task.{t}.{k}": v for t in ("arc_challenge", "implicatures") for k, v in dict(source="embedded", n_seeds=2, n_gold=6, n_test=3, max_question_tokens=6, max_label_tokens=4).items()}
    profile = load_profile(name, {**changes, "aide.tries": 1, "aide.rounds": 1, "aide.n_personas": 2, "aide.epochs": 1})
    small = lambda model: LocalTeacher(replace(stand_in(profile.models[model], write_random_lm(folder / model, embedded, architecture)), precision="float32", start_token=""))  # the tokenizer is the embedded one
    made = profile, small(profile.aide["teacher"]), small(profile.aide["students"][0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESYNTH_CACHE", str(folder / "cache")), patch.setenv("RESYNTH_ADAPTERS", str(folder / "adapters"))
        yield made


def test_a_tree_of_the_paper(bench):
    profile, teacher, _ = bench
    prompts, data = load_prompts(profile.prompts_path("aide")), open_choices(profile, "arc_challenge")
    settings = A.aide_settings(profile, "arc_challenge")
    tree = A.grow_tree(teacher, prompts, data, settings, PERSONAS, encode)
    table = A.audit_sizes(tree)
    assert teacher.spec.prompt_style == "chat" and settings.branches == 3 * 3 + 2 and list(table.promised) == [22, 242] and table.kept.sum() == 0


def test_a_student_of_the_paper(bench):
    profile, _, student = bench
    prompts, data = load_prompts(profile.prompts_path("aide")), open_choices(profile, "implicatures")
    rows = sft.training_rows(student, sft.training_pairs(student, data.task, prompts, list(data.gold)))
    tuned = EpochTuned(student, rows, epoch_settings(profile), 0)
    inference = choose_prompt(prompts, "inference", student.spec.prompt_style)
    for by in WAYS: assert len(evaluate_choices(tuned, data.task, inference, list(data.test), by)) == 3
    assert tuned.losses["best"] in (0, 1) and "stand-in for" in tuned.revision
