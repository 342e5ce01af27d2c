"Fine-tuning by epochs on a tiny model: the split, the best epoch, keys, faults; AIDE, Appendix E."
from dataclasses import replace

import pytest
import torch
from helpers import fails

from resynth import sft, tuning as T
from resynth.choice_tasks import open_choices
from resynth.models import load_lm
from resynth.profiles import load_profile, load_prompts
from resynth.teacher import LocalTeacher

PROMPTS = load_prompts("prompts/aide.toml")
FAST = T.EpochSettings(epochs=4, lr=0.02, batch=4, validation=0.25)


@pytest.fixture(scope="module")
def base(tiny_lm): return LocalTeacher(tiny_lm)


@pytest.fixture(scope="module")
def rows(base):
    data = open_choices("smoke", "implicatures")
    return sft.training_rows(base, sft.training_pairs(base, data.task, PROMPTS, list(data.gold)))


def train(base, rows, settings=FAST, seed=0):
    with torch.enable_grad():
        adapted = sft.add_adapter(load_lm(base.spec, "float32")[0], settings, seed)
        return adapted, T.train_epochs(adapted, rows, settings, seed)


@pytest.mark.parametrize("n", [2, 3, 9, 10, 15, 100, 1001])
def test_the_split(n):
    kept, held = T.split_rows(n, 0.1, 0)
    assert sorted([*kept, *held]) == list(range(n)) and len(held) == max(1, round(n / 10)) and len(kept) >= 1


def test_the_best_epoch_is_what_is_kept(base, rows):
    adapted, told = train(base, rows)
    _, held = T.split_rows(len(rows), FAST.validation, 0)
    now = T.validation_bits(adapted.get_base_model(), [rows[i] for i in held], FAST.batch)
    assert now == pytest.approx(min(told["validation"]), abs=1e-5) and told["validation"][told["best"]] == min(told["validation"])
    assert len(told["validation"]) == 5 and len(told["train"]) == 4 * 3 and told["train"][-1] < told["train"][0]


def test_rows_held_out_are_not_trained_on(base, rows):
    _, held = T.split_rows(len(rows), FAST.validation, 0)
    poisoned = [(ids[:-1] + [ids[-1] % 50 + 100], n) if i in set(held) else (ids, n) for i, (ids, n) in enumerate(rows)]
    first, second = train(base, rows, replace(FAST, epochs=1)), train(base, poisoned, replace(FAST, epochs=1))
    assert first[1]["train"] == second[1]["train"] and first[1]["validation"] != second[1]["validation"]


def test_a_rate_that_hurts_leaves_the_model_as_it_was(base, rows):
    adapted, told = train(base, rows, replace(FAST, lr=1.0, epochs=2))
    if told["best"] == 0: assert all(not p.any() for n, p in adapted.named_parameters() if p.requires_grad and "lora_B" in n)
    assert told["validation"][0] >= min(told["validation"])


def test_same_seed_same_numbers(base, rows):
    assert train(base, rows, replace(FAST, epochs=1))[1] == train(base, rows, replace(FAST, epochs=1))[1] != train(base, rows, replace(FAST, epochs=1), 1)[1]


def test_the_mean_is_over_tokens(base, rows):
    lm = load_lm(base.spec, "float32")[0]
    whole, parts = T.validation_bits(lm, rows, 99), T.validation_bits(lm, rows, 5)
    assert whole == pytest.approx(parts, abs=1e-4)


def test_settings_of_the_paper():
    s = T.epoch_settings(load_profile("paper"))
    assert (s.rank, s.alpha, s.lr, s.epochs, s.batch, s.validation) == (8, 16, 5e-5, 10, 10, 0.1)


def test_keys_of_other_tunings_stay(base, rows):
    plain, mine = sft.adapter_key("r", rows, sft.TuneSettings(), 0), sft.adapter_key("r", rows, T.EpochSettings(), 0)
    assert plain != mine and mine != sft.adapter_key("r", rows, T.EpochSettings(epochs=9), 0)
    assert set(vars(sft.TuneSettings())) == {"steps", "batch", "lr", "rank", "alpha"}  # a new field would rename every stored adapter


def test_a_tuned_model_is_found_again(base, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("RESYNTH_ADAPTERS", str(tmp_path))
    tuned = T.EpochTuned(base, rows, replace(FAST, epochs=1), 0)
    folder = tuned.folder
    monkeypatch.setattr(T, "train_epochs", lambda *a: pytest.fail("trained twice"))
    assert T.EpochTuned(base, rows, replace(FAST, epochs=1), 0).folder == folder and tuned.losses["best"] in (0, 1)
    assert tuned.revision.startswith(base.revision) and tuned.score([("Question: a\nAnswer:", " yes")])[0].tokens >= 1


def test_faults(base, rows):
    fails(lambda: T.split_rows(1, 0.1, 0), "1 rows", "at least 2")
    for changes, part in ((dict(epochs=0), "epochs is 0"), (dict(validation=0.6), "validation is 0.6"), (dict(lr=0.0), "lr is 0.0"), (dict(rank=0), "rank is 0"), (dict(batch=0), "batch is 0")):
        fails(lambda: T.check_epoch_settings(replace(FAST, **changes)), part)
    data = open_choices("smoke", "implicatures")
    fails(lambda: T.tune_by_epochs(load_profile("smoke"), data.task, PROMPTS, [], 0), "there are no examples")
    fails(lambda: T.tune_by_epochs(load_profile("smoke"), data.task, PROMPTS, list(data.gold[:1]), 0), "at least 2")
