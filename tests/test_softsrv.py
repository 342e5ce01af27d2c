"Soft prompts on a small random backbone: shapes, counts, identities, frozen weights, resuming, and what bad input is told."
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from helpers import fails, frameworks_of

from resynth import soft_training as T
from resynth import softsrv as S
from resynth.models import load_lm, load_tokenizer, quiet_transformers, stand_in, write_random_lm
from resynth.profiles import load_profile
from resynth.softsrv import KINDS, SoftSettings, check_soft, count_soft, init_soft, soft_prompt, soft_shapes
from resynth.soft_training import ABOUT, STATE, SoftPrompt, SoftTraining, question_bits, question_rows, train_soft
from resynth.teacher import LocalTeacher

QUESTIONS = ["Implement a function that returns the largest of some numbers.", "Implement a function that counts even numbers.", "Mara buys 3 pens for 2 dollars each. How much does she pay?",
             "A ticket costs 7 dollars. How much do 4 tickets cost?", "Which animal barks?", "How many legs have 12 dogs and 3 hens?"]
SMALL = {kind: SoftSettings(kind, length=3, k=2, hidden=5, layers=3) for kind in KINDS}
TRAINING = SoftTraining(steps=9, batch=2, lr=0.05, every=3)


@pytest.fixture(scope="module")
def teacher(tiny_lm): return LocalTeacher(replace(tiny_lm, precision="float32"))


@pytest.fixture(scope="module")
def rows(teacher): return question_rows(teacher, QUESTIONS, 3)


@pytest.fixture
def contexts(): return np.random.default_rng(0).normal(size=(len(QUESTIONS), 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def soft_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RESYNTH_SOFT", str(tmp_path / "soft"))
    return tmp_path / "soft"


def params_of(settings, width=7, context_width=4, seed=0): return init_soft(settings, width, context_width, 0.3, seed)


# parameterisations

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length, k, hidden, layers, width, context_width", [(1, 1, 1, 1, 1, 1), (3, 2, 5, 3, 7, 4), (4, 5, 2, 2, 3, 6), (2, 3, 4, 5, 6, 1)])
def test_shapes_and_counts(kind, length, k, hidden, layers, width, context_width):
    s = SoftSettings(kind, length, k, hidden, layers)
    params = params_of(s, width, context_width)
    assert {n: tuple(w.shape) for n, w in params.items()} == soft_shapes(s, width, context_width)
    assert sum(w.numel() for w in params.values()) == count_soft(s, width, context_width)
    expected = {"SS_NP": length * width, "SS_MP": k * length * width + k * (context_width + 1),
                "SS_MC": length * ((context_width + 1) * width if layers == 1 else (context_width + 1) * hidden + (layers - 2) * (hidden + 1) * hidden + (hidden + 1) * width)}
    assert count_soft(s, width, context_width) == expected[kind]
    out = soft_prompt(params, s, torch.zeros(5, context_width))
    assert out.shape == (5, length, width) and out.requires_grad


def test_counts_of_the_paper():
    "t = 128, d = d_e = 2304, k = 2, 3 layers of 128."
    at = lambda kind: count_soft(SoftSettings(kind), 2304, 2304)
    assert at("SS_NP") == 294_912 and at("SS_MP") == 2 * 294_912 + 2 * 2305 and at("SS_MC") == 128 * (2305 * 128 + 129 * 128 + 129 * 2304)


def test_a_mixture_of_one_is_the_plain_matrix():
    s = SoftSettings("SS_MP", 3, k=1)
    params, z = params_of(s), torch.randn(6, 4) * 50
    assert torch.equal(soft_prompt(params, s, z), soft_prompt({"P": params["P"][0]}, SMALL["SS_NP"], z))
    two = SMALL["SS_MP"]
    assert not torch.equal(*soft_prompt(params_of(two), two, torch.eye(2, 4))), "two bases and two contexts, but one prompt"


@pytest.mark.parametrize("kind", KINDS)
def test_permuting_contexts_permutes_prompts(kind):
    s, z, order = SMALL[kind], torch.randn(9, 4), torch.randperm(9)
    params = params_of(s)
    assert torch.allclose(soft_prompt(params, s, z)[order], soft_prompt(params, s, z[order]), atol=1e-6)
    assert torch.allclose(soft_prompt(params, s, z)[3:4], soft_prompt(params, s, z[3:4]), atol=1e-6)  # alone as in company


def test_networks_are_those_of_torch():
    s, z = SMALL["SS_MC"], torch.randn(6, 4)
    params = params_of(s)
    nets = []
    for i in range(s.length):
        layers = [torch.nn.Linear(*params[f"W{j}"].shape[1:]) for j in range(3)]
        for j, layer in enumerate(layers): layer.weight.data, layer.bias.data = params[f"W{j}"][i].T.detach(), params[f"b{j}"][i].detach()
        nets.append(torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2]))
    assert torch.allclose(soft_prompt(params, s, z), torch.stack([net(z) for net in nets], 1), atol=1e-6)


def test_mixture_weights_sum_to_one_over_bases():
    s = SoftSettings("SS_MP", 2, k=3)
    params = params_of(s) | {"P": torch.ones(3, 2, 7)}
    assert torch.allclose(soft_prompt(params, s, torch.randn(5, 4)), torch.ones(5, 2, 7))


@pytest.mark.parametrize("kind", KINDS)
def test_start_is_seeded_and_sized(kind):
    s, z = SoftSettings(kind, length=16, hidden=64), torch.randn(128, 32)
    one, same, other = (init_soft(s, 48, 32, 0.2, seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[n], same[n]) for n in one) and any(not torch.equal(one[n], other[n]) for n in one)
    assert 0.6 * 0.2 < float(soft_prompt(one, s, z).std()) < 1.4 * 0.2


@pytest.mark.parametrize("change, parts", [
    (dict(kind="SS_XY"), ["unknown kind 'SS_XY'", "SS_NP, SS_MP, SS_MC"]), (dict(k=0), ["k is 0", "1 or more"]), (dict(length=0), ["length is 0"]), (dict(hidden=-1), ["hidden is -1"]),
    (dict(layers=0), ["layers is 0"]), (dict(length=8192), ["8192", "allowed: 1 to 8191"]), (dict(length=9000), ["allowed: 1 to 8191"])])
def test_bad_shapes(change, parts): fails(lambda: check_soft(replace(SMALL["SS_MP"], **change), 8192), *parts)


@pytest.mark.parametrize("override, parts", [
    ({"softsrv.k": 0}, ["[softsrv] k = 0", "out of range"]), ({"softsrv.length": 8190}, ["length = 8190 soft tokens leave no room", "allowed: 1 to"]), ({"softsrv.backbone": "SmolLM2"}, ["no [[model]]", "did you mean"]),
    ({"softsrv.tasks": ["transcoder"]}, ["allowed: mbpp | gsm8k | boolq"]), ({"soft_task.gsm8k.n_rows": 10**6}, ["n_rows = 1000000 of n_raw"]), ({"softsrv.lr": 0}, ["out of range"])])
def test_bad_profiles(override, parts): fails(lambda: load_profile("laptop", override), *parts)


def test_a_backbone_on_a_server_is_refused():
    profile = load_profile("smoke")
    served = replace(profile.models["teacher"], kind="server")
    fails(lambda: S.soft_settings(replace(profile, models={**profile.models, served.name: served})), "is on a server", "on this machine")


# contexts

def test_contexts_do_not_depend_on_neighbours(tiny_lm):
    encode = S.load_context_encoder(tiny_lm, -1, "float32")
    together, alone, small = encode(QUESTIONS), np.concatenate([encode([q]) for q in QUESTIONS]), encode(QUESTIONS, batch=2)
    assert together.shape == (6, 64) and together.dtype == np.float32
    assert np.abs(together - alone).max() < 1e-4 and np.abs(together - small).max() < 1e-4
    fails(lambda: encode(["a", ""]), "question 1", "empty")


@pytest.mark.parametrize("layers", [-1, 0, 1, 2])
def test_contexts_are_mean_states(tiny_lm, layers):
    lm, tokenizer = load_lm(tiny_lm, "float32")[0], load_tokenizer(tiny_lm)
    ids = torch.tensor([tokenizer.encode(QUESTIONS[0], add_special_tokens=False).ids])
    with torch.no_grad(): states = lm.base_model(ids, output_hidden_states=True).hidden_states
    state = states[-1] if layers in (-1, 2) else lm.base_model.norm(states[layers])  # the last of them is normed already
    assert np.allclose(S.load_context_encoder(tiny_lm, layers, "float32")([QUESTIONS[0]]), state.mean(1).detach().numpy(), atol=1e-5)


def test_too_many_layers(tiny_lm): fails(lambda: S.load_context_encoder(tiny_lm, 3), "context_layers = 3", "has 2 layers")


def test_scaling_has_no_division_by_nothing():
    z = np.array([[1.0, 5.0, -2.0], [3.0, 5.0, 2.0]], np.float32)
    scaled = S.scale_contexts(z, S.fit_scaling(z))
    assert scaled.tolist() == [[-1, 0, -1], [1, 0, 1]]
    assert S.scale_contexts(z[:1], S.fit_scaling(z[:1])).tolist() == [[0, 0, 0]]
    fails(lambda: S.scale_contexts(z[:, :2], S.fit_scaling(z)), "width 2", "made for 3")


# loss

def hf_bits(lm, prompts, row):
    "The library's own loss of one question."
    words = lm.get_input_embeddings()(torch.tensor([row]))
    labels = torch.tensor([[-100] * prompts.shape[0] + row])
    return lm(inputs_embeds=torch.cat([prompts[None], words], 1), labels=labels).loss * len(row) / math.log(2)


def test_loss_and_gradient_are_the_librarys(teacher, rows):
    prompts = (torch.randn(len(rows), 3, 64) * 0.1).requires_grad_()
    ours = question_bits(teacher.lm, prompts, rows)
    theirs = torch.stack([hf_bits(teacher.lm, p, row) for p, row in zip(prompts, rows)])
    assert len({len(row) for row in rows}) > 2 and torch.allclose(ours.float(), theirs, rtol=1e-4)
    gradients = [torch.autograd.grad(x.sum(), prompts, retain_graph=True)[0] for x in (ours, theirs)]
    assert torch.allclose(*gradients, atol=1e-4 * float(gradients[1].abs().max()))
    shifted = torch.cat([prompts, prompts[:, :1]], 1)
    assert not torch.allclose(question_bits(teacher.lm, shifted, rows).float(), theirs, rtol=1e-4)


def test_a_question_ends_with_an_end(teacher, rows):
    for q, row in zip(QUESTIONS, rows):
        assert teacher.tokenizer.decode(row[:-1]) == q and row[-1] in teacher.ends and row[-1] != teacher.tokenizer.token_to_id(teacher.spec.start_token)


@pytest.mark.parametrize("questions, length, parts", [
    ([], 3, ["no questions"]), (["a", "  ", ""], 3, ["question 2", "empty"]), (["a " * 9000], 3, ["question 0 takes", "the context of", "leave it out"]), (["a b c"], 8190, ["after 8190 soft ones"])])
def test_bad_questions(teacher, questions, length, parts): fails(lambda: question_rows(teacher, questions, length), *parts)


# training

@pytest.mark.parametrize("kind", KINDS)
def test_training_learns_and_the_backbone_stays(teacher, rows, contexts, kind):
    before = {n: w.clone() for n, w in teacher.lm.state_dict().items()}
    params, losses = train_soft(teacher.lm, SMALL[kind], replace(TRAINING, steps=40, batch=6), rows, torch.from_numpy(contexts), 0)
    after = teacher.lm.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before) and all(w.grad is None for w in teacher.lm.parameters())
    assert len(losses) == 40 and np.mean(losses[-3:]) < losses[0] - 0.14
    start = T.start_soft(teacher.lm, SMALL[kind], 4, 0)
    assert all((params[n] - start[n]).abs().max() > 0 for n in params)


def test_contexts_help_where_questions_differ(teacher, rows, contexts):
    "A prompt that is told which of two questions is meant gets lower than one that is not."
    two, z = [rows[0], rows[4]] * 3, torch.tensor([[1.0, 0], [0, 1]] * 3)
    last = {kind: np.mean(train_soft(teacher.lm, SMALL[kind], SoftTraining(80, 6, 0.05, 99), two, z, 0)[1][-3:]) for kind in KINDS}
    assert max(last["SS_MP"], last["SS_MC"]) < last["SS_NP"] - 0.05, last


def find(teacher, rows, contexts, settings=SMALL["SS_MP"], training=TRAINING, seed=0):
    about = T.soft_about(teacher.revision, "test", settings, training, rows, seed)
    return T.find_or_train_soft(teacher.spec, "float32", settings, training, rows, contexts, about)


def read_all(folder): return {name: (folder / name).read_bytes() for name in (STATE, ABOUT)}


@pytest.fixture
def ends_in(monkeypatch):
    "ends_in(step, end) makes the loss of one step end in its own way."
    def patch(step, end):
        count, real = iter(range(10**6)), question_bits
        monkeypatch.setattr(T, "question_bits", lambda *args: end(real(*args)) if next(count) == step else real(*args))
    yield patch
    monkeypatch.undo()


def stop(bits): raise KeyboardInterrupt


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [0, 3, 5, 8])
def test_stopped_anywhere_the_same_bytes(teacher, rows, contexts, kind, step, monkeypatch, tmp_path, ends_in):
    whole = read_all(find(teacher, rows, contexts, SMALL[kind]))
    monkeypatch.setenv("RESYNTH_SOFT", str(tmp_path / "again"))
    ends_in(step, stop)
    with pytest.raises(KeyboardInterrupt): find(teacher, rows, contexts, SMALL[kind])
    left = sorted(p.name.rpartition("-")[2] for p in (tmp_path / "again").glob("*.step-*"))
    last = max(0, step - 1) // 3 * 3  # a checkpoint is kept once the loss after it is known
    assert left == ([f"{last:08d}"] if last else [])
    ends_in(10**6, stop)
    resumed = find(teacher, rows, contexts, SMALL[kind])
    assert read_all(resumed) == whole and not list(resumed.parent.glob("*.step-*")) and not list(resumed.parent.glob("*.partial-*"))


def test_how_often_checkpoints_are_taken_changes_nothing(teacher, rows, contexts, monkeypatch, tmp_path):
    first = find(teacher, rows, contexts)
    monkeypatch.setenv("RESYNTH_SOFT", str(tmp_path / "again"))
    second = find(teacher, rows, contexts, training=replace(TRAINING, every=1))
    assert first.name == second.name and read_all(first) == read_all(second)


def test_a_loss_that_is_no_number(teacher, rows, contexts, ends_in):
    ends_in(7, lambda bits: bits * float("nan"))
    fails(lambda: find(teacher, rows, contexts), "the loss is nan at step 7 of 9 (last checkpoint: step 6)", "lower lr, which is 0.05")
    key = T.soft_key(T.soft_about(teacher.revision, "test", SMALL["SS_MP"], TRAINING, rows, 0))
    tensors, about = T.latest_checkpoint(T.soft_dir() / key)
    assert len(about["losses"]) == 6 and all(w.isfinite().all() for w in tensors.values()) and not (T.soft_dir() / key).exists()


def test_no_number_before_the_first_checkpoint(teacher, rows, contexts, ends_in):
    ends_in(1, lambda bits: bits * float("inf"))
    fails(lambda: find(teacher, rows, contexts), "the loss is inf at step 1 of 9 (last checkpoint: none)", "lower lr, which is 0.05")
    assert not list(T.soft_dir().glob("*.step-*"))


def test_a_damaged_checkpoint_is_set_aside(teacher, rows, contexts, ends_in, tmp_path, monkeypatch, capsys):
    whole = read_all(find(teacher, rows, contexts))
    monkeypatch.setenv("RESYNTH_SOFT", str(tmp_path / "again"))
    ends_in(5, stop)
    with pytest.raises(KeyboardInterrupt): find(teacher, rows, contexts)
    (checkpoint,) = (tmp_path / "again").glob("*.step-*")
    (checkpoint / STATE).write_bytes((checkpoint / STATE).read_bytes()[:-5])
    ends_in(10**6, stop)
    assert read_all(find(teacher, rows, contexts)) == whole and "is damaged" in capsys.readouterr().err


def test_a_damaged_prompt_is_trained_again_or_refused(teacher, rows, contexts, capsys):
    folder = find(teacher, rows, contexts)
    whole = read_all(folder)
    (folder / STATE).write_bytes(whole[STATE][:-1] + bytes([whole[STATE][-1] ^ 1]))
    fails(lambda: SoftPrompt(folder, teacher.revision), "is damaged", "train again")
    assert read_all(find(teacher, rows, contexts)) == whole and "kept as" in capsys.readouterr().err


def test_keys_tell_what_decides_and_nothing_else(teacher, rows):
    about = lambda settings=SMALL["SS_MP"], training=TRAINING, rows=rows, seed=0, backbone=teacher.revision: T.soft_key(T.soft_about(backbone, "test", settings, training, rows, seed))
    same = [about(), about(training=replace(TRAINING, every=1)), about(SoftSettings("SS_MP", 3, 2, hidden=99, layers=1))]
    other = [about(seed=1), about(rows=rows[:-1]), about(training=replace(TRAINING, lr=0.01)), about(training=replace(TRAINING, steps=8)), about(training=replace(TRAINING, batch=1)),
             about(replace(SMALL["SS_MP"], k=3)), about(SMALL["SS_NP"]), about(SMALL["SS_MC"]), about(backbone="x")]
    assert len(set(same)) == 1 and len({*same, *other}) == 1 + len(other)


def test_trained_once(teacher, rows, contexts, monkeypatch):
    folder = find(teacher, rows, contexts)
    monkeypatch.setattr(T, "train_soft", stop)
    assert find(teacher, rows, contexts) == folder


def test_another_backbone_is_refused(teacher, rows, contexts):
    folder = find(teacher, rows, contexts)
    soft = SoftPrompt(folder, teacher.revision)
    assert soft(contexts).shape == (6, 3, 64) and soft.losses == json.loads((folder / ABOUT).read_text())["losses"]
    fails(lambda: SoftPrompt(folder, teacher.revision.replace("float32", "bfloat16")), "was trained on", "bfloat16", "set softsrv.backbone")
    fails(lambda: soft(contexts[:, :2]), "width 2", "made for 4")
    shutil.rmtree(folder)
    fails(lambda: SoftPrompt(folder, teacher.revision), "is damaged", "no readable marker")


@pytest.mark.parametrize("change, part", [(dict(steps=-1), "steps is -1"), (dict(batch=0), "batch is 0"), (dict(lr=0.0), "lr is 0.0"), (dict(every=0), "every is 0")])
def test_bad_training(change, part): fails(lambda: T.check_training(replace(TRAINING, **change)), part, "allowed:")


def test_no_steps_is_the_start(teacher, rows, contexts):
    folder = find(teacher, rows, contexts, training=replace(TRAINING, steps=0))
    start = T.start_soft(teacher.lm, SMALL["SS_MP"], 4, 0)
    soft = SoftPrompt(folder, teacher.revision)
    assert soft.losses == [] and all(torch.equal(soft.params[n], start[n]) for n in start)


@pytest.mark.parametrize("name, backbone, small", [("gpu", "qwen2", "qwen2"), ("paper", "llama", "gemma2")])
def test_large_profiles_train_on_a_stand_in(name, backbone, small, tmp_path):
    "Full settings but steps and sizes, on random models of the architectures that the profile names."
    embedded = load_profile("smoke").models["teacher"]
    profile = load_profile(name, {"softsrv.steps": 2, "softsrv.batch": 2, "softsrv.length": 5, "softsrv.hidden": 6})
    models = dict(profile.models)
    for key, architecture in (("context_model", small), ("backbone", backbone)):
        models[profile.softsrv[key]] = replace(stand_in(models[profile.softsrv[key]], write_random_lm(tmp_path / key, embedded, architecture)), precision="float32", start_token="")
    for kind in KINDS:
        soft = T.open_soft(replace(profile, models=models), QUESTIONS, 0, kind)
        assert len(soft.losses) == 2 and np.isfinite(soft.losses).all() and "stand-in for" in soft.about["backbone"]


def test_gemma_2_is_read_as_it_computes(tmp_path, tiny_lm):
    "It caps its logits and its attention: the teacher's prices are those of the model's own logits, and soft tokens start as large as its words."
    spec = replace(stand_in(tiny_lm, write_random_lm(tmp_path / "gemma", load_profile("smoke").models["teacher"], "gemma2")), precision="float32")
    lm, teacher = load_lm(spec, "float32")[0], LocalTeacher(spec)
    ids = torch.tensor([teacher.tokenizer.encode("One two three four", add_special_tokens=False).ids])
    with quiet_transformers(): own = AutoModelForCausalLM.from_pretrained(tmp_path / "gemma", dtype=torch.float32, attn_implementation="eager")
    assert own.config.final_logit_softcapping and torch.allclose(own(ids).logits, lm(ids).logits, atol=1e-5)
    price = -own(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None]).sum().item() / math.log(2)
    first = teacher.tokenizer.decode(ids[0, :1].tolist())
    assert abs(LocalTeacher(replace(spec, start_token="")).score([(first, "One two three four"[len(first):])])[0].bits - price) < 1e-3
    start = T.start_soft(lm, SMALL["SS_NP"], 4, 0)["P"]
    assert 0.7 < float(start.detach().std() / lm.get_input_embeddings()(torch.arange(4096)).std()) < 1.3


def test_imports_stay_light(): assert frameworks_of("resynth.softsrv", "resynth.soft_training", "resynth.soft_generation", "resynth.prompt_templates") == "[]"
