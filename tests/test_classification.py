"""Classification tasks: verbalizers and prompts, embedded and local texts, seed sets and bad input."""
import json
import re
from collections import Counter

import numpy as np
import pytest
from helpers import fails

from resynth.classification import (TASK_CORPUS, TEXT_FIELDS, TEXT_LABELS, LabelledText, category_label, check_texts, check_texts_disjoint, draw_seed_set, load_text_task,
                                    load_texts, restrict_labels, seeds_per_class, toi_label)
from resynth.embedded_texts import GOODS, NEWS_TOPICS, embedded_entities, embedded_text
from resynth.profiles import CORPUS_NAMES, TEXT_TASK_NAMES as TASKS, fill, load_prompts, repo_root

PROMPTS = load_prompts("prompts/synthesizrr.toml")


# ---------------------------------------------------------------- prompts and verbalizers

def test_label_spaces():
    assert {n: len(l) for n, l in TEXT_LABELS.items()} == dict(ag_news=4, toi_headlines=10, hyperpartisan=2, polarity=2, category=23, humor=2, imdb=2, sst2=2)
    assert set(TEXT_LABELS["category"]) == set(GOODS) and set(TEXT_LABELS["toi_headlines"]) == set(NEWS_TOPICS) - {"science"}
    assert tuple(TEXT_LABELS) == TASKS and set(TEXT_FIELDS) == set(TASK_CORPUS) == set(TASKS) and set(TASK_CORPUS.values()) <= set(CORPUS_NAMES)


@pytest.mark.parametrize("name, document, written", [
    ("ag_news", "News Article", "Summary"), ("toi_headlines", "News Article", "Headline"), ("hyperpartisan", "News Article", "Rewritten Article"), ("polarity", "Product details", "Review"),
    ("category", "Product details", "Review"), ("humor", "Product details", "Product Question"), ("imdb", "Movie details", "Review"), ("sst2", "Movie details", "Review")])
def test_tasks(name, document, written):
    task = load_text_task(name, PROMPTS)
    assert (task.document, task.written, task.labels) == (document, written, TEXT_LABELS[name]) and list(task.verbalizers) == list(task.labels)
    assert task.kind == ("binary" if len(task.labels) == 2 else "multiclass") and seeds_per_class(task) == (100 if task.kind == "binary" else 50)
    for mode in ("fewgen", "retricl", "non_retricl"):
        prompt, example = PROMPTS[f"{mode}_{name}"], PROMPTS[f"{mode}_example_{name}"]
        values = dict(demonstrations="", document="D one", verbalization="V words", text="T gold")
        asked, shown = (fill(p, **{f: values[f] for f in p.fields}) for p in (prompt, example))
        prefix = "News Article" if (mode, name) == ("fewgen", "hyperpartisan") else written
        assert asked.endswith(f"\n{prefix}:") and shown.endswith(f"{prefix}: T gold") and not asked.startswith("\n") and prompt.stop and "V words" in asked
        assert ("D one" in asked) == (mode != "fewgen") and ("document" in example.fields) == (mode == "retricl")
        assert shown == (f"{written}: T gold" if mode == "non_retricl" else f"{asked} T gold")
        assert asked.index("D one") < asked.index("V words") if mode != "fewgen" else True
        assert not any(stop in "\n\n" + shown[len(asked):] or stop in asked for stop in prompt.stop) or prompt.stop == ("\n\n",)


def test_prompts_of_the_appendix_are_all_there():
    own = [p for p in PROMPTS.values() if not p.locator.startswith("Appendix B")]  # those of prior work are in test_prior_work
    assert len(own) == 8 * 6 + sum(map(len, TEXT_LABELS.values()))
    printed = {int(n) for p in PROMPTS.values() for n in re.findall(r"Prompt H\.(\d+)", p.locator)}
    assert printed == set(range(1, 19)) and all(p.paper == "SynthesizRR" for p in PROMPTS.values())


def test_every_label_has_words_of_its_own():
    for name in TASKS:
        words = load_text_task(name).verbalizers
        assert len(set(words.values())) == len(words)
    assert load_text_task("humor").verbalizers == {"humorous": "humorous", "non_humorous": "solemn"}


def changed(tmp_path, *pairs):
    text = (repo_root() / "reproducibility/prompts/synthesizrr.toml").read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "own.toml").write_text(text)
    return tmp_path / "own.toml"


def test_own_wording(tmp_path):
    task = load_text_task("sst2", changed(tmp_path, ("Movie details: {document}", "Film: {document}"), ("\nReview:", "\nOpinion:")))
    assert (task.document, task.written) == ("Film", "Opinion")
    fails(lambda: load_text_task("sst2", changed(tmp_path, ("Movie details: {document}", "Here {document}"))), "'retricl_sst2'", "{document}")
    fails(lambda: load_text_task("sst2", changed(tmp_path, ("\nReview:", "\nReview"))), "'retricl_sst2'", "answer prefix")
    fails(lambda: load_text_task("humor", changed(tmp_path, ('text = "solemn"', 'text = "humorous"'))), "label 'humorous'", "another label")
    fails(lambda: load_text_task("humor", changed(tmp_path, ('"verbalizer_humor_humorous"', '"verbalizer_humor_funny"'))), "verbalizer_humor_humorous")
    fails(lambda: load_text_task("humour", PROMPTS), "did you mean 'humor'?")


# ---------------------------------------------------------------- embedded texts

@pytest.mark.parametrize("name", TASKS)
def test_embedded_texts(name):
    labels = TEXT_LABELS[name]
    train, test = load_texts("embedded", name, "train", 300), load_texts("embedded", name, "test", 200, seed=1)
    assert check_texts_disjoint(train, test) == 500 and check_texts(train, labels) and check_texts(test, labels)
    assert train[:20] == load_texts("embedded", name, "train", 20) != load_texts("embedded", name, "train", 20, seed=1)
    counts = Counter(t.label for t in train)
    assert max(counts.values()) - min(counts.values()) <= 1 and set(counts) == set(labels)
    for item in train[:40]:
        written = embedded_text(item.id)
        assert written.text == item.text and all(item.text[e.start:e.end] == e.text for e in embedded_entities(item.id)) and not re.search(r"[{}\[\]]", item.text)


def bag_of_words(train, test):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10, max_iter=500)).fit([t.text for t in train], [t.label for t in train])
    return model.score([t.text for t in test], [t.label for t in test])


@pytest.mark.parametrize("name, n, low, high", [("ag_news", 200, 0.8, 0.97), ("toi_headlines", 500, 0.7, 0.97), ("hyperpartisan", 200, 0.75, 0.97), ("polarity", 200, 0.8, 0.98),
                                                ("category", 690, 0.7, 0.97), ("humor", 200, 0.75, 0.97), ("imdb", 200, 0.8, 0.99), ("sst2", 200, 0.8, 0.98)])
def test_embedded_tasks_are_learnable_not_trivial(name, n, low, high):
    train, test = load_texts("embedded", name, "train", n), load_texts("embedded", name, "test", 300)
    assert low <= bag_of_words(train, test) <= high


@pytest.mark.parametrize("name", TASKS)
def test_the_label_is_not_written_in_the_text(name):
    test = load_texts("embedded", name, "test", 460)
    words = {label: [w for w in re.split(r"\W|_", label.lower()) if len(w) > 3 and w not in ("style", "true", "false", "service", "care", "products")] for label in TEXT_LABELS[name]}
    hits = [any(re.search(rf"\b{w.rstrip('s')}", t.text.lower()) for w in words[t.label]) for t in test]
    assert np.mean(hits) < 0.06


def test_entities_of_texts_are_those_of_their_corpus():
    from resynth.embedded_texts import NAMED_TYPES, gazetteer
    pools = {"ag_news": "dominant", "toi_headlines": "india", "category": "shop", "sst2": "screen"}
    for name, pool in pools.items():
        found = {e.text for t in load_texts("embedded", name, "train", 100) for e in embedded_entities(t.id) if e.type in NAMED_TYPES}
        assert found and found <= set(gazetteer(pool))


# ---------------------------------------------------------------- local files

ROWS = {
    "ag_news": [{"label": i % 4 + 1, "description": f"text {i}"} for i in range(8)],
    "toi_headlines": [{"headline_category": c, "headline_text": f"text {i}"} for i, c in enumerate(("city.pune", "cricket", "edit-page", "home.education", "business.x", "india", "elections", "bombay-times"))],
    "hyperpartisan": [{"hyperpartisan": "true" if i % 2 else "false", "text": f"text {i}", "title": "t"} for i in range(8)],
    "amazon_reviews": [{"label": ("positive", "negative")[i % 2], "product_type": ("books", "dvd", "electronics", "kitchen & housewares")[i % 4], "review_text": f"text {i}"} for i in range(8)],
    "humor": [{"label": str(i % 2), "question": f"text {i}", "product_description": "p"} for i in range(8)],
    "imdb": [{"label": ("pos", "neg")[i % 2], "text": f"text<br /><br />{i}"} for i in range(8)],
    "sst2": [{"label": i % 2, "sentence": f"text {i}"} for i in range(8)],
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("RESYNTH_DATA", str(tmp_path))
    for folder, rows in ROWS.items():
        (tmp_path / folder).mkdir()
        for split in ("train", "test"):
            (tmp_path / folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


@pytest.mark.parametrize("name", TASKS)
def test_official_field_names_load(root, name):
    texts = load_texts("local", name, "train")
    wanted = {"ag_news": ["World", "Sports", "Business", "Sci/Tech"] * 2, "toi_headlines": ["city", "sports", "education", "business", "elections", "life-style"],
              "hyperpartisan": ["false", "true"] * 4, "polarity": ["positive", "negative"] * 4, "category": ["books", "video", "electronics", "kitchen"] * 2,
              "humor": ["non_humorous", "humorous"] * 4, "imdb": ["positive", "negative"] * 4, "sst2": ["negative", "positive"] * 4}[name]
    by_line = sorted(texts, key=lambda t: int(t.id.rsplit("-", 1)[-1]))
    assert [t.label for t in by_line] == wanted and by_line[0].text == "text 0" and by_line[0].id == f"{name}-train-1"
    assert load_texts("local", name, "train", 3) == texts[:3] and load_texts("local", name, "train", 0, seed=3) != texts
    fails(lambda: load_texts("local", name, "train", 9), "9 texts asked for")


def test_as_code_keeps_long_headlines(root, capsys):
    (root / "toi_headlines" / "train.jsonl").write_text("".join(json.dumps({"headline_category": "city.x", "headline_text": "x" * k}) + "\n" for k in (39, 40, 41)))
    assert len(load_texts("local", "toi_headlines", "train")) == 3
    assert sorted(len(t.text) for t in load_texts("local", "toi_headlines", "train", as_code=True)) == [40, 41] and "1 texts left out" in capsys.readouterr().err


BAD = [
    ("ag_news", "ag_news", {"label": 5, "description": "x"}, "'label' = '5' is outside the label space; allowed: 1, 2, 3, 4"),
    ("ag_news", "ag_news", {"label": 0, "description": "x"}, "'label' = '0'"), ("ag_news", "ag_news", {"label": 1.0, "description": "x"}, "'label'"),
    ("ag_news", "ag_news", {"description": "x"}, "'label' is missing"), ("ag_news", "ag_news", {"label": 1, "descripton": "x"}, "did you mean 'descripton'?"),
    ("sst2", "sst2", {"label": 1, "sentence": "  "}, "'sentence' is empty"), ("sst2", "sst2", {"label": None, "sentence": "x"}, "'label'"),
    ("category", "amazon_reviews", {"product_type": "boks", "review_text": "x"}, "did you mean 'books'?"), ("imdb", "imdb", {"label": "good", "text": "x"}, "'label' = 'good'"),
    ("humor", "humor", {"label": "", "question": "x"}, "'label'"), ("hyperpartisan", "hyperpartisan", {"hyperpartisan": "maybe", "text": "x"}, "allowed: true, false"),
    ("toi_headlines", "toi_headlines", {"headline_category": " ", "headline_text": "x"}, "'headline_category'"), ("polarity", "amazon_reviews", {"label": "positive", "review_text": 3}, "'review_text'"),
]


@pytest.mark.parametrize("name, folder, record, part", BAD)
def test_a_wrong_record_names_file_line_and_field(root, name, folder, record, part):
    file = root / folder / "train.jsonl"
    file.write_text(file.read_text() + "\n" + json.dumps(record) + "\n")
    fails(lambda: load_texts("local", name, "train"), f"{folder}/train.jsonl line 10: field", part)


def test_repeated_texts(root, capsys):
    file = root / "sst2" / "train.jsonl"
    file.write_text(file.read_text() + '{"label": 0, "sentence": "TEXT  0"}\n')
    assert len(load_texts("local", "sst2", "train")) == 8 and "1 texts left out (repeated)" in capsys.readouterr().err
    file.write_text(file.read_text() + '{"label": 1, "sentence": "text 0"}\n')
    fails(lambda: load_texts("local", "sst2", "train"), "sst2/train.jsonl line 10", "sst2/train.jsonl line 1,", "label 'positive' instead of 'negative'")


def test_hub_rows(monkeypatch, capsys):
    import datasets
    rows = [{"label": True, "text": "a"}, {"label": False, "text": "b"}, {"label": True, "text": "c"}, {"label": False, "text": "C"}]
    monkeypatch.setattr(datasets, "load_dataset", lambda hub, **kw: rows)
    assert sorted(t.label for t in load_texts("hub", "hyperpartisan", "test", hub="some/news")) == ["false", "true"]
    assert "2 texts left out (repeated)" in capsys.readouterr().err
    fails(lambda: load_texts("hub", "sst2", "test"), "source 'hub'")


def test_names_numbers_and_folders(root):
    fails(lambda: load_texts("embedded", "agnews", "train"), "did you mean 'ag_news'?")
    fails(lambda: load_texts("embedded", "ag_news", "trian"), "did you mean 'train'?")
    fails(lambda: load_texts("web", "ag_news", "train"), "unknown source 'web'")
    fails(lambda: load_texts("embedded", "ag_news", "train", -1), "n = -1")
    (root / "sst2" / "train.jsonl").write_text("")
    fails(lambda: load_texts("local", "sst2", "train"), "no text in it")
    (root / "sst2" / "train.jsonl").unlink()
    fails(lambda: load_texts("local", "sst2", "train"), "none of sst2/train.jsonl")


def test_class_names():
    assert toi_label("home.environment.pollution") == "environment" and toi_label("Tech") == "tech" and toi_label("india") == ""
    amazon = "apparel automotive baby beauty books camera_&_photo cell_phones_&_service computer_&_video_games dvd electronics gourmet_food grocery health_&_personal_care " \
             "jewelry_&_watches kitchen_&_housewares magazines music musical_instruments office_products outdoor_living software sports_&_outdoors tools_&_hardware toys_&_games video"
    assert {category_label(c) for c in amazon.split()} == set(TEXT_LABELS["category"])


# ---------------------------------------------------------------- checks and seed sets

GROUP = [LabelledText(f"{label}{i}", f"{label} text {i}", label) for label in ("a", "b") for i in range(10)]


def test_check_texts():
    assert check_texts(GROUP, ("a", "b")) is GROUP
    fails(lambda: check_texts([], ("a",), "seed set"), "seed set: no text")
    fails(lambda: check_texts([*GROUP, LabelledText("x", "\t", "a")], ("a", "b")), "'x' (number 20) has an empty text")
    fails(lambda: check_texts(GROUP, ("a", "bb")), "label 'b' of 'b0'", "did you mean 'bb'?")
    fails(lambda: check_texts([*GROUP, LabelledText("x", "A  text 3", "b")], ("a", "b")), "number 3 and number 20", "same text")
    fails(lambda: check_texts([*GROUP, LabelledText("a3", "new", "a")], ("a", "b")), "same id 'a3'")
    fails(lambda: check_texts_disjoint(GROUP, [LabelledText("t", "B text  2", "b")]), "train b2, test t")


def test_seed_sets():
    drawn = draw_seed_set(GROUP, ("b", "a"), 4, seed=2)
    assert Counter(t.label for t in drawn) == {"a": 4, "b": 4} and len(set(drawn)) == 8 and [t.label for t in drawn] == ["b"] * 4 + ["a"] * 4
    assert drawn == draw_seed_set(GROUP[::-1], ("b", "a"), 4, seed=2) != draw_seed_set(GROUP, ("b", "a"), 4, seed=3)
    assert len(set(draw_seed_set(GROUP, ("a", "b"), 10))) == 20
    fails(lambda: draw_seed_set(GROUP, ("a", "b"), 11), "class 'a' has 10 texts, 11 seeds")
    fails(lambda: draw_seed_set(GROUP, ("a", "c"), 2), "class 'c' has 0 texts")
    fails(lambda: draw_seed_set(GROUP, ("a", "c"), 2, replace=True), "class 'c' has 0 texts")
    fails(lambda: draw_seed_set(GROUP, ("a", "b"), 0), "at least 1")


def test_seeds_with_replacement():
    drawn = draw_seed_set(GROUP, ("a", "b"), 30, replace=True)
    assert len(drawn) == 60 and len({t.id for t in drawn}) == 60 and len({t.text for t in drawn}) <= 20
    mean = np.mean([len({t.text for t in draw_seed_set(GROUP, ("a",), 10, s, replace=True)}) for s in range(300)])
    assert abs(mean - 10 * (1 - 0.9 ** 10)) < 0.3


def test_restricted_labels():
    task = load_text_task("category", PROMPTS)
    some = restrict_labels(task, [LabelledText("1", "x", "video"), LabelledText("2", "y", "kitchen"), LabelledText("3", "z", "books")])
    assert some.labels == ("kitchen", "video", "books") == tuple(some.verbalizers) and some.kind == "multiclass"
    fails(lambda: restrict_labels(task, [LabelledText("1", "x", "video")]), "1 label in 1 texts")


@pytest.mark.parametrize("name, labels", [("ag_news", 4), ("toi_headlines", 6), ("hyperpartisan", 2), ("polarity", 2), ("category", 4), ("humor", 2), ("imdb", 2), ("sst2", 2)])
def test_real_texts(name, labels, real_data):
    real_data(TEXT_FIELDS[name][0])
    train, test = load_texts("local", name, "train"), load_texts("local", name, "test")
    assert check_texts_disjoint(train, test) == len(train) + len(test)
    assert len(restrict_labels(load_text_task(name, PROMPTS), train).labels) == labels == len({t.label for t in test})
    assert not any("<br" in t.text for t in train[:300])
