"""The local teacher against plain transformers, against itself in other batches, and with bad input."""
import itertools

import numpy as np
import pytest
import torch
from helpers import fails

import resynth.teacher as T
from resynth.store import Store
from resynth.teacher import (Field, LocalTeacher, Sampling, StoredTeacher, draw_from_nucleus, first_token_mask, make_batches,
                             render_prompt, request_uniforms, shared_prefix)

HEAD = "A list of countries with their capitals, one below the other, as a school book prints them for children.\n\n"
PROMPTS = [HEAD + f"Country: {c}\nCapital:" for c in ("Italy", "Japan", "the United States of America", "Peru", "Chad")]
PAIRS = [(p, y) for p in PROMPTS for y in (" Rome", " Tokyo\n\nCountry: Spain", " Washington, District of Columbia")]


@pytest.fixture(scope="module")
def teacher(profile): return LocalTeacher(profile.models["teacher"], batch_rows=4, batch_tokens=96)


@pytest.fixture(scope="module")
def plain(teacher): return teacher.lm


def naive_bits(teacher, lm, prefix, continuation):
    "Bits of a continuation from one full forward pass, without batch, cache or mask."
    start = teacher.spec.start_token
    n = len(teacher.tokenizer.encode(start + prefix, add_special_tokens=False).ids)
    ids = teacher.tokenizer.encode(start + prefix + continuation, add_special_tokens=False).ids
    with torch.inference_mode(): logp = lm(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return -sum(logp[t - 1, ids[t]].item() for t in range(n, len(ids))) / np.log(2)


def test_score_equals_a_naive_pass_whatever_the_batch(teacher, plain):
    expected = np.array([naive_bits(teacher, plain, x, y) for x, y in PAIRS])
    for rows, tokens in ((1, 16), (4, 96), (64, 4096)):
        other = LocalTeacher(teacher.spec, rows, tokens); other.__dict__["lm"] = plain
        assert np.abs(np.array([s.bits for s in other.score(PAIRS)]) - expected).max() < 1e-3
    assert expected.max() > 10  # prices that a wrong position or mask would move by whole bits


FAMILIES = [f"{head} {x}" for x in ("river", "mountain", "the smallest town of all", "sea") for head in
            ("Write the name of a place in the far north, and nothing else. It is a", "List three animals that live in the following kind of place, one a line:", "Which colour do people think of when they hear of a")]


@pytest.mark.parametrize("tokens", [64, 1024])
def test_families_are_read_once_and_change_no_price(teacher, plain, tokens, monkeypatch):
    pairs, read, stock = [(x, y) for x in FAMILIES for y in (" one", " two or three")], [], T._read
    monkeypatch.setattr(T, "_read", lambda lm, rows, *args, **kwargs: read.append(sum(map(len, rows))) or stock(lm, rows, *args, **kwargs))
    other = LocalTeacher(teacher.spec, 64, tokens); other.__dict__["lm"] = plain
    assert np.abs(np.array([s.bits for s in other.score(pairs)]) - [naive_bits(teacher, plain, x, y) for x, y in pairs]).max() < 1e-3
    shared, read[:] = sum(read), []
    monkeypatch.setattr(T, "find_heads", lambda rows, own: ([], None, rows))
    other.score(pairs)
    assert shared < (0.5 if tokens == 1024 else 0.8) * sum(read)


def test_families_change_no_greedy_text(teacher, monkeypatch):
    greedy = Sampling(max_new_tokens=8, stop=())
    assert T.find_heads([teacher.tokenizer.encode(p, add_special_tokens=False).ids for p in FAMILIES], [1] * len(FAMILIES))[0]
    shared = teacher.generate(FAMILIES, greedy)
    monkeypatch.setattr(T, "find_heads", lambda rows, own: ([], None, rows))
    assert [[c.text for c in row] for row in shared] == [[c.text for c in row] for row in teacher.generate(FAMILIES, greedy)] and len({c.text for c, in shared}) > 6


def test_families_save_the_most_tokens():
    rng = np.random.default_rng(0)
    head = lambda part: min([next((k for k in range(min(len(a), len(b))) if a[k] != b[k]), min(len(a), len(b))) for a, b in zip(part, part[1:])], default=0)
    for n in (1, 2, 5, 8):
        for _ in range(20):
            rows = sorted(rng.integers(0, 2, rng.integers(1, 6)).tolist() for _ in range(n))
            cuts = [[0, *c, n] for k in range(n) for c in itertools.combinations(range(1, n), k)]
            most = max(sum((b - a - 1) * head(rows[a:b]) for a, b in zip(cut, cut[1:])) for cut in cuts)
            found = T.cut_families(rows)
            assert [a for a, _, _ in found] == [0, *(b for _, b, _ in found[:-1])] and found[-1][1] == n
            assert sum((b - a - 1) * h for a, b, h in found) == most and all(h == head(rows[a:b]) for a, b, h in found if b - a > 1)


def test_score_without_a_shared_prefix(teacher, plain):
    pairs = [("", "Rome is a city."), ("Paris is large.\n", "So is Rome.")]
    expected = [naive_bits(teacher, plain, *p) for p in pairs]
    assert np.allclose([s.bits for s in teacher.score(pairs)], expected, atol=1e-3)


def test_greedy_text_equals_stock_generate(teacher, plain):
    ours = [row[0].text for row in teacher.generate(PROMPTS, Sampling(max_new_tokens=12, stop=(), nonempty=False))]
    for prompt, text in zip(PROMPTS, ours):
        ids = torch.tensor([teacher.tokenizer.encode(teacher.spec.start_token + prompt, add_special_tokens=False).ids])
        with torch.inference_mode():
            out = plain.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=2, eos_token_id=[0, 2])
        assert teacher.tokenizer.decode(out[0, ids.shape[1]:].tolist(), skip_special_tokens=True) == text


def test_samples_do_not_depend_on_order_or_company(teacher):
    warm = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=6, n=3, seed=3, stop=())
    there, back = teacher.generate(PROMPTS, warm), teacher.generate(PROMPTS[::-1], warm)[::-1]
    assert there == back
    assert [[c.text for c in row] for row in teacher.generate(PROMPTS[2:3], warm)] == [[c.text for c in there[2]]]
    assert len({c.text for row in there for c in row}) > 5


def test_completion_bits_are_the_score_of_its_text(teacher):
    sampling = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=5, stop=(), nonempty=False, seed=1)
    made = [completion for (completion,) in teacher.generate(PROMPTS, sampling)]
    scores = teacher.score([(prompt, completion.text) for prompt, completion in zip(PROMPTS, made)])
    differences = [abs(s.bits - c.bits) for s, c in zip(scores, made) if s.tokens == c.tokens]  # a text can be read back as other tokens
    assert len(differences) >= 3 and max(differences) < 1e-3


@pytest.mark.parametrize("top_p,n_kept", [(0.9, 256), (0.9, 3), (1.0, 256), (1.0, 3), (0.3, 1)])
def test_nucleus_draws_have_the_nucleus_distribution(top_p, n_kept):
    from scipy.stats import chisquare
    rng, n = np.random.default_rng(0), 20000
    logits = torch.tensor(rng.normal(size=12) * 1.5, dtype=torch.float32)
    p = np.sort(torch.softmax(logits / 0.8, -1).numpy().astype(float))[::-1]
    kept = int(np.searchsorted(p.cumsum(), top_p - 1e-9) + 1)
    drawn = draw_from_nucleus(logits.repeat(n, 1), rng.random(n), 0.8, top_p, n_kept).numpy()
    counts = np.bincount(drawn, minlength=12)[np.argsort(-logits.numpy(), kind="stable")]
    assert counts[kept:].sum() == 0
    if kept > 1: assert chisquare(counts[:kept], n * p[:kept] / p[:kept].sum()).pvalue > 1e-4


def test_stop_strings_end_a_text_before_them(teacher):
    for (c,) in teacher.generate(PROMPTS, Sampling(max_new_tokens=12)):
        assert "\n" not in c.text and c.why in ("stop", "end", "length") and c.text.strip()


def test_choices_and_first_token_mask(teacher):
    letters = (" A", " B", " C", " D")
    for (c,) in teacher.generate(PROMPTS, Sampling(choices=letters)): assert c.text in letters and c.tokens == 1
    mask = first_token_mask(teacher.tokenizer, {2}, Sampling(), 49152)
    newline = teacher.tokenizer.encode("\n", add_special_tokens=False).ids[0]
    assert np.isinf(mask[[2, newline]]).all() and np.isfinite(mask).sum() == 49150
    fails(lambda: first_token_mask(teacher.tokenizer, {2}, Sampling(choices=(" yes", " yes")), 49152), "same token")


def test_batches_are_a_function_of_the_job_and_cover_it():
    lengths = list(np.random.default_rng(0).integers(1, 50, 37))
    batches = make_batches(lengths, 3, 8)
    assert sorted(i for b in batches for i in b) == list(range(37)) and max(map(len, batches)) <= 2
    assert make_batches(lengths, 3, 8) == batches
    assert make_batches([5], rows_each=100, batch_rows=8) == [[0]]


def test_shared_prefix_leaves_every_request_a_token():
    assert shared_prefix([[1, 2, 3], [1, 2, 3]], least=1) == 2
    assert shared_prefix([[1, 2, 3, 4], [1, 2]], least=1) == 1
    assert shared_prefix([[1], [2]], least=1) == 0


def test_store_answers_and_resumes(teacher, tmp_path):
    store = Store(tmp_path / "calls.sqlite")
    warm = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=6, n=2, seed=5)
    first = StoredTeacher(teacher, store)
    whole = StoredTeacher(teacher, Store(tmp_path / "other.sqlite")).generate(PROMPTS, warm)
    first.generate(PROMPTS[:2], warm)
    second = StoredTeacher(teacher, store)
    assert [[c.text for c in r] for r in second.generate(PROMPTS, warm)] == [[c.text for c in r] for r in whole]
    assert second.paid == 3 and second.calls == 5
    assert second.score(PAIRS[:3]) == StoredTeacher(teacher, store).score(PAIRS[:3])
    changed = StoredTeacher(teacher, store)
    changed.generate(PROMPTS[:1], Sampling(temperature=1.0, top_p=0.9, max_new_tokens=6, n=2, seed=6))
    assert changed.paid == 1  # another seed never meets an old answer


def test_a_killed_call_keeps_its_finished_batches(teacher, tmp_path):
    store = Store(tmp_path / "calls.sqlite")
    stored, calls = StoredTeacher(teacher, store), 0
    put = store.put_batch
    def dies(batch):
        nonlocal calls
        calls += 1
        if calls == 2: raise KeyboardInterrupt
        put(batch)
    store.put_batch = dies
    with pytest.raises(KeyboardInterrupt): stored.generate(PROMPTS, Sampling(max_new_tokens=3))
    store.put_batch = put
    again = StoredTeacher(teacher, store)
    again.generate(PROMPTS, Sampling(max_new_tokens=3))
    assert again.paid == 1  # the first batch of four is not paid for twice


@pytest.mark.parametrize("change,word", [(dict(temperature=-1), "temperature"), (dict(top_p=0), "top_p"), (dict(n=0), "sampling.n"),
                                         (dict(max_new_tokens=0), "max_new_tokens")])
def test_bad_sampling_is_one_line(teacher, change, word):
    fails(lambda: teacher.generate(PROMPTS[:1], Sampling(**change)), word)


def test_too_long_or_empty_is_refused(teacher):
    fails(lambda: teacher.generate(["word " * 9000], Sampling()), "context")
    fails(lambda: teacher.score([("a", "b"), ("a", "")]), "empty continuation")
    assert teacher.generate([], Sampling()) == [] and teacher.score([]) == []


def test_request_streams_differ_by_prompt_seed_and_sample():
    draws = {request_uniforms(ids, Sampling(seed=s, max_new_tokens=2), k).tobytes() for ids in ([1], [2]) for s in (0, 1) for k in (0, 1)}
    assert len(draws) == 8


def test_chat_prompts_prefill_the_field_label(teacher):
    from dataclasses import replace
    spec = replace(teacher.spec, prompt_style="chat")
    text = render_prompt(spec, "Choose a tool.\n\nQuestion: Rain?\nTool:", lambda m: f"<user>{m[0]['content']}</user><assistant>")
    assert text == "<user>Choose a tool.\n\nQuestion: Rain?</user><assistant>Tool:"
    from resynth.teacher import chat_template
    assert "Rain?" in chat_template(spec)([dict(role="user", content="Rain?")])


def test_fields_of_one_completion_equal_one_request_a_field(teacher):
    later = (Field("\nLanguage:", 6), Field("\nContinent: the continent of", 5, ("\n", ","), nonempty=False), Field("\nIsland (A) yes (B) no:", 1, choices=(" A", " B")))
    whole = teacher.generate(PROMPTS, Sampling(max_new_tokens=7, stop=("\n", "."), then=later))
    for prompt, (completion,) in zip(PROMPTS, whole):
        text = teacher.generate([prompt], Sampling(max_new_tokens=7, stop=("\n", ".")))[0][0].text
        for f in later:
            text = text.rstrip() + f.head
            text += teacher.generate([prompt + text], Sampling(0, 1, f.max_new_tokens, f.stop, nonempty=f.nonempty, choices=f.choices))[0][0].text
        assert completion.text == text
    assert len({c.text for (c,) in whole}) == len(PROMPTS)  # rows of different lengths, finished at different steps


def test_samples_of_several_fields_do_not_depend_on_company(teacher):
    warm = Sampling(1.0, 0.9, 6, n=3, seed=3, then=(Field("\nRiver:", 6), Field("\nFood:", 6)))
    there = teacher.generate(PROMPTS, warm)
    assert [[c.text for c in row] for row in teacher.generate(PROMPTS[3:4], warm)] == [[c.text for c in there[3]]]
    assert len({c.text for row in there for c in row}) > 10
