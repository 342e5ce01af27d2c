"Questions written after soft prompts: the same as the library's own, whoever stands beside; then copies, clusters, shared n-grams, answers."
from dataclasses import replace

import numpy as np
import pytest
from helpers import fails
from hypothesis import given, settings
from hypothesis import strategies as st

from resynth import soft_generation as G

from resynth.profiles import load_profile, load_prompts
from resynth.soft_generation import Written, cluster_texts, draw_in_turn, drop_copies, find_shared, label_questions, rounds_of, soft_batches, thin_out, write_soft
from resynth.softsrv import KINDS
from resynth.softsrv_embedded import SoftItem, embedded_items
from resynth.softsrv_tasks import soft_task
from resynth.store import Store
from resynth.teacher import LocalTeacher, Sampling, StoredTeacher

ITEMS = embedded_items("mbpp", "train", 7)
SAMPLING = Sampling(temperature=0.05, max_new_tokens=8, stop=(), seed=0)  # a random model is nearly flat, and rounding would choose between its neighbours


@pytest.fixture(scope="module")
def soft_profile(tiny_lm, tmp_path_factory):
    "The smallest profile with a random model in all roles of SoftSRV."
    p = load_profile("smoke", {"softsrv.length": 3, "softsrv.hidden": 4, "softsrv.steps": 3, "softsrv.context_layers": -1})
    tiny = replace(tiny_lm, precision="float32")
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("soft")
        patch.setenv("RESYNTH_SOFT", str(folder / "soft")), patch.setenv("RESYNTH_CACHE", str(folder / "cache"))
        yield replace(p, models={**p.models, p.softsrv["backbone"]: tiny, "teacher": tiny})


@pytest.fixture(scope="module")
def writers(soft_profile): return {kind: G.open_writer(soft_profile, [e.question for e in ITEMS], 0, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def prompts(): return load_prompts("prompts/softsrv.toml")


def texts(writer, questions, sampling=SAMPLING): return [c.text for cs in writer.generate(questions, sampling) for c in cs]


@pytest.mark.parametrize("kind", ["SS_MP", "SS_MC"])
def test_greedy_words_are_the_librarys(writers, kind):
    "The same tokens as `generate` of transformers after the same matrix."
    writer, questions = writers[kind].teacher, [e.question for e in ITEMS[:4]]
    greedy = Sampling(max_new_tokens=10, stop=(), nonempty=False)
    ours = [found[0] for batch in [dict(kv for b in soft_batches(writer, questions, greedy) for kv in b.items())] for _, found in sorted(batch.items())]
    prompts = writer.soft(writer.contexts(questions))
    for prompt, c in zip(prompts, ours):
        out = writer.lm.generate(inputs_embeds=prompt[None].to(writer.lm.dtype), max_new_tokens=10, do_sample=False, pad_token_id=0, eos_token_id=sorted(writer.ends))[0].tolist()
        cut = next((i for i, token in enumerate(out) if token in writer.ends), len(out))
        assert c.text == writer.tokenizer.decode(out[:cut]) and c.tokens == min(len(out), 10)


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_order_and_batches_change_nothing(soft_profile, writers, kind):
    writer, questions = writers[kind], [e.question for e in ITEMS]
    together = texts(writer, questions)
    bare = G.SoftWriter(LocalTeacher(writer.spec, batch_rows=2), writer.teacher.soft, writer.teacher.encode)
    one_by_one = [c.text for q in questions for b in soft_batches(bare, [q], SAMPLING) for cs in b.values() for c in cs]
    small = [c[0].text for _, c in sorted((i, c) for b in soft_batches(bare, questions[::-1], SAMPLING) for i, c in b.items())][::-1]
    assert together == one_by_one == small and len(set(together)) == len(questions)
    assert together != texts(writer, questions, replace(SAMPLING, seed=1))


def test_a_prompt_without_context_reads_none(writers):
    writer = writers["SS_NP"].teacher
    assert writer.encode is not None and writer.contexts(["a", "b"]).tolist() == [[0.0], [0.0]]
    assert len({c[0].text for b in soft_batches(writer, list("0123456"), SAMPLING) for c in b.values()}) == 7  # chance alone


def test_nothing_is_paid_twice_and_a_stop_loses_nothing(soft_profile, writers, tmp_path):
    bare = G.SoftWriter(LocalTeacher(writers["SS_MP"].spec, batch_rows=2), writers["SS_MP"].teacher.soft, writers["SS_MP"].teacher.encode)
    questions = [e.question for e in ITEMS]
    whole = texts(StoredTeacher(bare, Store(tmp_path / "a.sqlite")), questions)
    batches, real = iter(range(100)), bare.generate_batches
    def stopped(*args):
        for batch in real(*args):
            if next(batches) == 2: raise KeyboardInterrupt
            yield batch
    bare.generate_batches = stopped
    with pytest.raises(KeyboardInterrupt): texts(StoredTeacher(bare, Store(tmp_path / "b.sqlite")), questions)
    bare.generate_batches = real
    again = StoredTeacher(bare, Store(tmp_path / "b.sqlite"))
    assert texts(again, questions) == whole and again.paid == len(questions) - 4


def test_revisions_differ_by_soft_prompt(writers): assert len({w.revision for w in writers.values()}) == 3 and all("+soft-" in w.revision for w in writers.values())


def test_too_long_a_question_is_refused(writers):
    fails(lambda: list(soft_batches(writers["SS_MC"].teacher, ["x"], replace(SAMPLING, max_new_tokens=8190))), "8190 tokens does not fit behind 3 soft ones", "allowed: 1 to 8189")


@given(st.integers(1, 60), st.integers(1, 20))
def test_rounds(n, contexts):
    sizes = rounds_of(n, contexts)
    assert sum(sizes) == n and all(s == contexts for s in sizes[:-1]) and 1 <= sizes[-1] <= contexts


def test_contexts_come_in_turn_and_the_account_adds_up(writers, monkeypatch):
    monkeypatch.setattr(writers["SS_MP"].teacher, "ends", set(range(0, 49152, 12)))  # a random model ends no text by itself
    written, lost = write_soft(writers["SS_MP"], ITEMS, 17, max_new_tokens=40, seed=3)
    assert len(written) + lost["cut off"] + lost["empty"] == lost["asked for"] == 17
    order = [(w.round, [e.id for e in ITEMS].index(w.source)) for w in written]
    assert order == sorted(order) and len(set(order)) == len(order) > 5
    assert write_soft(writers["SS_MP"], ITEMS, 17, max_new_tokens=40, seed=3)[0] == written != write_soft(writers["SS_MP"], ITEMS, 17, max_new_tokens=40, seed=4)[0]
    fails(lambda: write_soft(writers["SS_MP"], [], 3), "from 0 contexts"), fails(lambda: write_soft(writers["SS_MP"], ITEMS, 0), "0 questions")


def words(*texts): return [Written(t, "", 0) for t in texts]


def test_copies_are_dropped_the_first_stays():
    kept, n = drop_copies([Written("a", "1", 0), Written("b", "1", 0), Written("a", "2", 1)])
    assert n == 1 and [(w.text, w.source) for w in kept] == [("a", "1"), ("b", "1")]


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.data())
def test_drawing_in_turn(clusters, data):
    n, seed = data.draw(st.integers(0, len(clusters))), data.draw(st.integers(0, 99))
    drawn = draw_in_turn(np.array(clusters), n, seed)
    assert len(set(drawn)) == len(drawn) == n
    sizes, counts = np.bincount(clusters, minlength=6), np.bincount(np.array(clusters)[drawn] if n else [], minlength=6)
    for a in range(6):  # nobody gets a second turn while another waits for a first
        for b in range(6):
            if counts[a] < sizes[a]: assert counts[b] <= counts[a] + 1
    assert drawn[:n // 2] == draw_in_turn(np.array(clusters), n // 2, seed)


def test_clusters_are_those_of_the_library():
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    texts = [e.question for e in embedded_items("mbpp", "train", 60)]
    low = TruncatedSVD(8, random_state=1).fit_transform(TfidfVectorizer().fit_transform(texts))
    assert (cluster_texts(texts, 6, 8, 1) == MiniBatchKMeans(6, random_state=1, n_init=3).fit_predict(low)).all()
    mixed = [e.question for name in ("mbpp", "mawps", "boolq") for e in embedded_items(name, "test", 12)]
    found = cluster_texts(mixed, 3, 6, 0).reshape(3, 12)
    assert all(np.bincount(row).max() >= 10 for row in found)  # three kinds of question, three clusters


@pytest.mark.parametrize("call, parts", [
    (lambda: cluster_texts(["a b", "c d"], 3, 1, 0), ["3 clusters of 2 questions", "softsrv.n_clusters"]), (lambda: cluster_texts(["aa bb", "cc dd"], 2, 9, 0), ["9 dimensions of 4", "softsrv.n_features"]),
    (lambda: cluster_texts(["? !", "..."], 2, 1, 0), ["none of the 2 questions has a word"]), (lambda: draw_in_turn(np.zeros(3), 4, 0), ["4 questions to keep, 3 there"])])
def test_what_cannot_be_thinned(call, parts): fails(call, *parts)


def test_thinning_keeps_all_when_there_are_few():
    assert thin_out(words("a", "b", "a"), 5, 700, 100) == (words("a", "b"), {"copies": 1, "not drawn": 0})
    made = words(*(e.question for e in embedded_items("mbpp", "train", 40)))
    kept, lost = thin_out(made, 11, 5, 6, seed=2)
    assert len(kept) == 11 and lost == {"copies": 0, "not drawn": 29} and set(kept) <= set(made) and thin_out(made, 11, 5, 6, seed=2)[0] == kept != thin_out(made, 11, 5, 6, seed=3)[0]


LONG = "Mara has a box with many red pens and she gives some of them to her friend Theo."


@pytest.mark.parametrize("text, shared", [
    (LONG, True), (LONG.upper().replace(".", "!?"), True), (LONG.replace("many", "many 17"), True), ("So: " + " ".join(LONG.split()[2:15]) + " and more", True),
    (LONG.replace("red", "blue"), False), (" ".join(LONG.split()[:12]), False), ("", False), ("7 8 9 " * 20, False)])
def test_thirteen_words(text, shared): assert find_shared([text], [LONG, "7 8 9 " * 20]) == [shared]


@given(st.lists(st.sampled_from("a b c d".split()), max_size=30), st.lists(st.sampled_from("a b c d".split()), max_size=30), st.integers(1, 6))
def test_shared_runs_by_brute_force(one, other, n):
    runs = {tuple(other[i:i + n]) for i in range(len(other) - n + 1)}
    assert find_shared([" ".join(one)], [" ".join(other)], n) == [any(tuple(one[i:i + n]) in runs for i in range(len(one) - n + 1))]


def test_rows_tell_their_ancestry(soft_profile, prompts):
    teacher, task = LocalTeacher(soft_profile.models["teacher"]), soft_task("mbpp")
    kept = [Written(LONG, "mbpp-train-3", 2), Written("Write a function.", "", 0)]
    rows, lost = label_questions(teacher, prompts, task, kept, [SoftItem("t", LONG, "x")], "SS_MC", "rev", max_new_tokens=6)
    assert lost["in the test set"] == 1 and len(rows) + sum(lost.values()) == 2
    rows, lost = label_questions(teacher, prompts, task, kept, [], "SS_MC", "rev", max_new_tokens=6)
    assert len(rows) + sum(lost.values()) == 2 and set(rows.teacher_revision) <= {"rev"} and rows.row_id.is_unique
    assert [e.question for e in G.items_of(rows)] == list(rows.question)


def test_true_or_false(soft_profile, prompts):
    teacher = LocalTeacher(soft_profile.models["teacher"])
    answers, _ = G.answer_questions(teacher, prompts, soft_task("boolq"), [e.question for e in embedded_items("boolq", "test", 5)])
    assert set(answers) <= {"True", "False"} and G.answer_questions(teacher, prompts, soft_task("boolq"), []) == ([], [])


@pytest.mark.parametrize("kind", KINDS)
def test_from_end_to_end(soft_profile, prompts, kind):
    teacher = LocalTeacher(soft_profile.models["teacher"])
    rows, account = G.synthesize_soft(soft_profile, prompts, soft_task("mbpp"), ITEMS, embedded_items("mbpp", "test", 3), teacher, 0, kind, n_raw=12, n_rows=5)
    assert account["asked for"] == sum(v for name, v in account.items() if name != "asked for") == 12 and account["kept"] == len(rows) <= 5
    assert set(rows.method) <= {"SS_NP", "SS_MP2", "SS_MC"} and (rows.seed_id == "").all() == (kind == "SS_NP" or not len(rows))
