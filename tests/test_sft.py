"""LoRA fine-tuning on a small model of the teacher's architecture: masks, identities, determinism, faults."""
import math
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import fails, make_examples

from resynth import sft
from resynth.models import load_lm
from resynth.sft import (TuneSettings, add_adapter, answer_bits, answer_end, check_tune_settings, draw_batches, learning_rates,
                         train_adapter, training_pairs, training_rows, tune, tune_settings)
from resynth.store import Store
from resynth.tasks import Task
from resynth.teacher import LocalTeacher, Sampling, StoredTeacher, shared_prefix

TASK = Task(name="tools", title="Tools", definition="Choose a tool.", instruction="Choose the tool that answers the question of the user. "
            "The tools are: Zorb for the weather, Plim for journeys, Quax for everything in the kitchen.",
            fields=(("question", "Question:"), ("answer", "Tool:")), answer_kind="label", labels=("Zorb", "Plim", "Quax"))
SIX = make_examples([("Will it rain today?", "Zorb"), ("Is it cold in Oslo?", "Zorb"), ("When does my plane leave?", "Plim"),
                     ("Is there a flight to Rome, or do I have to take the train?", "Plim"), ("How do I bake a pie?", "Quax"), ("What goes into soup?", "Quax")])
FAST = TuneSettings(steps=25, batch=4, lr=0.01)


@pytest.fixture(scope="module")
def spec(tiny_lm, tmp_path_factory):
    "A random model; its embeddings, which are frozen, are made long enough for confident answers."
    from safetensors.torch import load_file, save_file
    folder = shutil.copytree(tiny_lm.file, tmp_path_factory.mktemp("tiny") / "lm")
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"] = 25 * weights["model.embed_tokens.weight"]
    save_file(weights, folder / "model.safetensors", metadata=dict(format="pt"))
    return replace(tiny_lm, file=str(folder))


@pytest.fixture(autouse=True)
def adapters(tmp_path, monkeypatch):
    monkeypatch.setenv("RESYNTH_ADAPTERS", str(tmp_path / "adapters"))
    return tmp_path / "adapters"


@pytest.fixture(scope="module")
def teacher(spec): return LocalTeacher(spec)


@pytest.fixture(scope="module")
def pairs(teacher, prompts): return training_pairs(teacher, TASK, prompts, SIX)


@pytest.fixture(scope="module")
def rows(teacher, pairs): return training_rows(teacher, pairs)


def hf_loss(lm, rows):
    "The library's own loss: right padding, labels of -100 wherever nothing is paid."
    longest = max(len(ids) for ids, _ in rows)
    pad = lambda x, fill: x + [fill] * (longest - len(x))
    ids = torch.tensor([pad(ids, 0) for ids, _ in rows])
    mask = torch.tensor([pad([1] * len(ids), 0) for ids, _ in rows])
    labels = torch.tensor([pad([-100] * (len(ids) - n) + ids[-n:], -100) for ids, n in rows])
    return lm(input_ids=ids, attention_mask=mask, labels=labels).loss / math.log(2)


def test_only_the_answer_and_its_end_are_paid_for(teacher, pairs, rows):
    for e, (prompt, answer), (ids, n) in zip(SIX, pairs, rows):
        assert answer == f" {e.answer}\n" and prompt.endswith("Tool:") and e.question in prompt
        assert teacher.tokenizer.decode(ids[-n:]) == answer
        assert teacher.tokenizer.decode(ids[:-n], skip_special_tokens=True) == prompt
        assert ids[:-n] == teacher.tokenizer.encode(teacher.spec.start_token + prompt, add_special_tokens=False).ids  # as asked in use


def test_loss_and_gradient_equal_the_librarys(spec, rows):
    assert shared_prefix([ids for ids, _ in rows]) > 16 and len({len(ids) for ids, _ in rows}) > 1  # the shared reading is used
    lm = load_lm(spec, "float32")[0]
    adapted = add_adapter(lm, TuneSettings(), 0)
    for name, w in lm.named_parameters():  # away from B = 0, where A has no gradient
        if "lora_B" in name: torch.nn.init.normal_(w, std=0.05, generator=torch.Generator().manual_seed(1))
    found = []
    for loss in (answer_bits(lm, rows), hf_loss(lm, rows)):
        adapted.zero_grad(); loss.backward()
        found.append((loss.item(), torch.cat([w.grad.flatten() for w in lm.parameters() if w.requires_grad])))
    assert abs(found[0][0] - found[1][0]) < 1e-5
    assert (found[0][1] - found[1][1]).abs().max() < 1e-4 * found[1][1].abs().max()


def test_loss_is_the_price_that_score_asks(teacher, pairs, rows):
    scores = teacher.score(pairs)
    with torch.no_grad(): ours = answer_bits(teacher.lm, rows).item()
    assert abs(ours - sum(s.bits for s in scores) / sum(s.tokens for s in scores)) < 1e-4


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_zero_steps_change_no_bit(spec, prompts, pairs, precision):
    spec = replace(spec, precision=precision)
    idle, base = tune(spec, TASK, prompts, SIX, TuneSettings(steps=0), 0), LocalTeacher(spec)
    assert idle.score(pairs) == base.score(pairs) and idle.losses == []
    for (name, w), (other, v) in zip(idle.lm.state_dict().items(), base.lm.state_dict().items()):
        assert name == other and w.dtype == v.dtype and torch.equal(w, v)
    for (name, w), (other, v) in zip(idle.lm.named_buffers(), base.lm.named_buffers()): assert w.dtype == v.dtype and torch.equal(w, v)


def test_training_learns_and_leaves_the_base_alone(spec, rows):
    lm = load_lm(spec, "float32")[0]
    base = {name.replace(".base_layer", ""): w.clone() for name, w in lm.named_parameters()}
    adapted = add_adapter(lm, FAST, 0)
    losses = train_adapter(adapted, rows, FAST, 0)
    assert len(losses) == 25 and np.mean(losses[-5:]) < 0.5 * losses[0]
    after = {name.replace(".base_layer", ""): w for name, w in lm.named_parameters() if "lora_" not in name}
    assert set(after) == set(base) and all(torch.equal(after[name], base[name]) for name in base)
    trained = [(name, w) for name, w in lm.named_parameters() if "lora_" in name]
    assert all(w.dtype == torch.float32 for _, w in trained)
    assert all(w.abs().max() > 0 for name, w in trained if "lora_B" in name)
    layers = {name.split(".lora_")[0] for name, _ in trained}
    assert len(layers) == 2 * 7  # every linear layer of two blocks, and not the output embedding


def test_factors_are_float32_beside_bfloat16_weights(spec, rows):
    lm = load_lm(spec, "bfloat16")[0]
    adapted = add_adapter(lm, FAST, 0)
    assert {w.dtype for w in lm.parameters() if w.requires_grad} == {torch.float32}
    losses = train_adapter(adapted, rows, FAST, 0)
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_merged_equals_unmerged(spec, prompts, rows):
    tuned = tune(spec, TASK, prompts, SIX, FAST, 0)
    lm = load_lm(spec, "float32")[0]
    train_adapter(add_adapter(lm, FAST, 0), rows, FAST, 0)
    with torch.no_grad(): unmerged, merged, base = (answer_bits(m, rows).item() for m in (lm, tuned.lm, LocalTeacher(spec).lm))
    assert abs(unmerged - merged) < 1e-3 < abs(base - merged)


def test_adapter_opens_in_peft_itself(spec, prompts, rows):
    from peft import PeftModel
    tuned = tune(spec, TASK, prompts, SIX, FAST, 0)
    theirs = PeftModel.from_pretrained(load_lm(spec, "float32")[0], str(tuned.folder))
    with torch.no_grad(): assert abs(answer_bits(theirs.get_base_model(), rows).item() - answer_bits(tuned.lm, rows).item()) < 1e-3


def test_same_recipe_same_bytes_other_recipe_other_key(spec, prompts, tmp_path, monkeypatch):
    read = lambda t: {p.name: p.read_bytes() for p in t.folder.iterdir() if p.name != "resynth.json"}
    one = read(tune(spec, TASK, prompts, SIX, FAST, 0))
    monkeypatch.setenv("RESYNTH_ADAPTERS", str(tmp_path / "elsewhere"))
    torch.manual_seed(123)  # whatever others have drawn before
    assert read(tune(spec, TASK, prompts, SIX, FAST, 0)) == one and len(one) == 3
    keys = [tune(*args).key for args in ((spec, TASK, prompts, SIX, FAST, 0), (spec, TASK, prompts, SIX, FAST, 1), (spec, TASK, prompts, SIX[:5], FAST, 0),
                                         (spec, TASK, prompts, SIX, replace(FAST, lr=0.02), 0), (replace(spec, precision="bfloat16"), TASK, prompts, SIX, FAST, 0))]
    assert len(set(keys)) == 5
    assert read(tune(spec, TASK, prompts, SIX, FAST, 1))["adapter_model.safetensors"] != one["adapter_model.safetensors"]


def test_trained_once(spec, prompts, monkeypatch):
    first = tune(spec, TASK, prompts, SIX, FAST, 0).losses
    monkeypatch.setattr(sft, "train_adapter", lambda *a: pytest.fail("trained twice"))
    assert tune(spec, TASK, prompts, SIX, FAST, 0).losses == first


def test_a_damaged_adapter_is_set_aside_and_trained_again(spec, prompts, adapters, capsys):
    path = tune(spec, TASK, prompts, SIX, FAST, 0).folder / "adapter_model.safetensors"
    whole, stat = path.read_bytes(), path.stat()
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # one bit, and not even the time stamp shows it
    assert (tune(spec, TASK, prompts, SIX, FAST, 0).folder / "adapter_model.safetensors").read_bytes() == whole
    assert len(list(adapters.glob("*.damaged-*"))) == 1 and "is damaged" in capsys.readouterr().err


def test_a_failed_write_leaves_nothing_behind(spec, prompts, adapters, monkeypatch):
    def full(*a): raise OSError(28, "No space left on device")
    monkeypatch.setattr(sft.models, "write_marker", full)
    fails(lambda: tune(spec, TASK, prompts, SIX, TuneSettings(steps=1), 0).folder, "No space left")
    assert [p.name for p in adapters.iterdir() if p.is_dir()] == []


def test_training_waits_for_the_first_question_and_works_inside_it(spec, prompts, adapters, tmp_path):
    asked, sampling = [p for p, _ in training_pairs(LocalTeacher(spec), TASK, prompts, SIX)], Sampling(max_new_tokens=4)
    tuned = tune(spec, TASK, prompts, SIX, replace(FAST, steps=60), 0)
    assert not adapters.exists() or not list(adapters.iterdir())
    stored = StoredTeacher(tuned, Store(tmp_path / "calls.sqlite"))
    answers = stored.generate(asked, sampling)
    right = lambda rows: sum(row[0].text.strip() == e.answer for row, e in zip(rows, SIX))
    assert right(answers) >= 3 > right(LocalTeacher(spec).generate(asked, sampling)) == 0  # always the same tool would be 2
    fresh = tune(spec, TASK, prompts, SIX, replace(FAST, steps=60), 0)
    assert StoredTeacher(fresh, Store(tmp_path / "calls.sqlite")).generate(asked, sampling) == answers
    assert "lm" not in vars(fresh) and tuned.revision == fresh.revision != LocalTeacher(spec).revision


def test_chat_models_end_with_their_own_token(spec, prompts):
    chat = LocalTeacher(replace(spec, prompt_style="chat"))
    assert answer_end(chat.spec, TASK, chat.tokenizer) == "<|im_end|>"
    (ids, n), = training_rows(chat, training_pairs(chat, TASK, prompts, SIX[:1]))
    assert chat.tokenizer.decode(ids[-n:], skip_special_tokens=False) == " Zorb<|im_end|>"
    assert answer_end(spec, replace(TASK, reasoning=True)) == "\n\n"


def test_reasoned_answers_are_learned_with_their_steps(teacher, prompts):
    task = replace(TASK, reasoning=True)
    (prompt, answer), = training_pairs(teacher, task, prompts, [replace(SIX[0], solution="Rain is weather.")])
    assert answer == " Rain is weather. The answer is Zorb\n\n" and "Rain is weather" not in prompt


def test_items_are_drawn_evenly_and_by_seed():
    for n, batch, steps in ((6, 4, 7), (3, 8, 5), (10, 10, 3), (7, 1, 20)):
        drawn = draw_batches(n, TuneSettings(steps=steps, batch=batch), 0)
        counts = np.bincount(drawn.ravel(), minlength=n)
        assert drawn.shape == (steps, min(batch, n)) and np.ptp(counts) <= 1
    a, b, c = (draw_batches(9, FAST, s) for s in (0, 0, 1))
    assert (a == b).all() and (a != c).any() and draw_batches(9, TuneSettings(steps=0), 0).shape == (0, 8)


def test_learning_rates_warm_up_and_fall():
    rates = learning_rates(TuneSettings(steps=60, lr=0.5))
    assert np.allclose(rates[:5], 0.5 * np.arange(1, 6) / 6, rtol=0.02) and (np.diff(rates[5:]) < 0).all()
    assert 0 < rates[-1] < 0.01 * rates.max() <= 0.005 and len(learning_rates(TuneSettings(steps=0))) == 0


def test_settings_come_from_the_profile(profile):
    v = profile.vsynthesis
    assert tune_settings(profile) == TuneSettings(v["sft_steps"], v["sft_batch"], v["sft_lr"], v["sft_rank"], v["sft_alpha"])


@pytest.mark.parametrize("call, words", [
    (lambda s, p: tune(s, TASK, p, [], FAST, 0), "no examples"),
    (lambda s, p: tune(s, TASK, p, SIX, replace(FAST, batch=0), 0), "batch is 0"),
    (lambda s, p: tune(s, TASK, p, SIX, replace(FAST, lr=1e30), 0).losses, "the loss is nan at step 1"),
    (lambda s, p: tune(replace(s, context=20), TASK, p, SIX, FAST, 0), "context"),
    (lambda s, p: check_tune_settings(TuneSettings(alpha=0)), "alpha is 0"),
])
def test_bad_input_is_one_line(spec, prompts, call, words):
    fails(lambda: call(spec, prompts), words)
