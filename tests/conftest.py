"Fixtures of several test files."
from dataclasses import replace

import pytest
from helpers import DATA

from resynth.models import stand_in, write_random_lm
from resynth.profiles import load_profile, load_prompts
from resynth.students import write_random_encoder


SLOW = {"test_interrupt", "test_kill", "test_launch", "test_prompt_templates", "test_remote_teacher", "test_soft_bench", "test_students", "test_vsynthesis"}


def pytest_collection_modifyitems(items):
    "Slow files first: of two processes none waits long for the other at the end."
    items.sort(key=lambda item: item.path.stem not in SLOW)


@pytest.fixture(scope="session")
def profile():
    "The smallest profile, its teacher in float32, so that values by two ways can be compared."
    return load_profile("smoke", {"model.teacher.precision": "float32"})


@pytest.fixture(scope="session")
def prompts(profile): return load_prompts(profile.prompts_path("vsynthesis"))


@pytest.fixture(scope="session")
def tiny_lm(profile, tmp_path_factory):
    "A random model of the teacher's architecture, for tests of which only the arithmetic and the counts matter."
    real = profile.models["teacher"]
    return stand_in(real, write_random_lm(tmp_path_factory.mktemp("tiny") / "lm", real))


@pytest.fixture(scope="session")
def student_model(profile):
    "The encoder of the smallest profile in the role of a student."
    return replace(profile.models["encoder"], role="student", precision="float32")


@pytest.fixture(scope="session")
def tiny_student(student_model, tmp_path_factory):
    "A random encoder of the student's architecture."
    return stand_in(student_model, write_random_encoder(tmp_path_factory.mktemp("tiny") / "bert", student_model))


@pytest.fixture
def real_data(monkeypatch):
    "real_data('ag_news') lets a test read the real datasets, and skips it where that one is not there."
    def read(name):
        if not (DATA / name).is_dir(): pytest.skip(f"no real {name} here; set RESYNTH_DATA")
        monkeypatch.setenv("RESYNTH_DATA", str(DATA))
    return read
