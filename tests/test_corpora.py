"""Embedded texts and corpora: true entities, disjoint domains, published forms, samples and bad input."""
import gzip
import json
import re
from collections import Counter

import numpy as np
import pytest
from helpers import fails, frameworks_of

import resynth.corpora as C
from resynth.corpora import Document, check_documents, clean_text, corpus_hash, domain_list, load_corpus, news_part, sample_stream
from resynth.embedded_texts import (FILMS, GOODS, NAMED_TYPES, NEWS_TOPICS, POOLS, SLOT_TYPES, embedded_document, embedded_entities, embedded_texts, fill_slots,
                                    gazetteer, text_key)
from resynth.profiles import CORPUS_NAMES



def names_in(text, names):
    return re.findall(r"\b(?:" + "|".join(sorted(map(re.escape, names), key=len, reverse=True)) + r")\b", text)


# ---------------------------------------------------------------- names and slots

def test_names_of_different_pools_never_meet():
    pools = {name: set(gazetteer(name)) for name in POOLS}
    assert not pools["dominant"] & (pools["regional"] | pools["india"])
    assert sum(map(len, pools.values())) == len(gazetteer())
    every = sorted(gazetteer(), key=len)
    text = " | ".join(every)
    assert re.findall("|".join(rf"\b{re.escape(n)}\b" for n in every), text) == every
    inside = [(a, b) for a in every if " " not in a or len(a.split()) < 3 for b in every if a != b and len(a) < len(b) and re.search(rf"\b{re.escape(a)}\b", b)]
    assert not inside


def test_people_are_all_first_and_last_names():
    people = [n for n, t in gazetteer("dominant").items() if t == "PERSON"]
    assert len(people) == len(POOLS["dominant"]["first"]) * len(POOLS["dominant"]["last"])


def test_no_name_stands_in_a_phrase():
    phrases = [p for group in (NEWS_TOPICS, GOODS, FILMS) for parts in group.values() for words in parts.values() for p in words]
    assert not [p for p in phrases if names_in(p, gazetteer())] and not [p for p in phrases if re.search(r"\d", p)]
    assert {s for p in phrases for s in re.findall(r"\{(\w+)\}", p)} <= set(SLOT_TYPES)


@pytest.mark.parametrize("name", CORPUS_NAMES)
def test_entities_are_where_they_are_said_to_be(name):
    for i in range(50):
        document = embedded_document(f"{name}:3:{i}")
        found = embedded_entities(document.id)
        assert found == document.entities and len(found) > 0
        assert all(document.text[e.start:e.end] == e.text and e.type in SLOT_TYPES.values() for e in found)
        assert [e.text for e in found if e.type in NAMED_TYPES] == names_in(document.text, gazetteer())
        assert 20 <= len(document.text.split()) <= 200 and not re.search(r"[{}\[\]]", document.text)


def test_a_firm_never_buys_itself():
    rng = np.random.default_rng(0)
    for _ in range(200):
        text, found = fill_slots(rng, ["{company} bought {company}"], "dominant")
        assert found[0].text != found[1].text


def test_swapping_the_corpus_swaps_every_name():
    truth = {name: {e.text for d in load_corpus("embedded", name, 120) for e in embedded_entities(d.id) if e.type in NAMED_TYPES} for name in CORPUS_NAMES[:3]}
    assert not truth["news_dominant"] & truth["news_regional"] and not truth["news_dominant"] & truth["news_india"]
    assert truth["news_india"] & truth["news_regional"]
    topics = [Counter(embedded_document(d.id).topic for d in load_corpus("embedded", name, 110)) for name in CORPUS_NAMES[:3]]
    assert topics[0] == topics[1] == topics[2] == {t: 10 for t in NEWS_TOPICS}


def test_embedded_ids():
    fails(lambda: embedded_document("news:0:1"), "unknown embedded corpus 'news'")
    fails(lambda: embedded_document("movies:0"), "movies:0:17")
    fails(lambda: embedded_entities("movies:x:1"), "no embedded document")
    fails(lambda: embedded_entities("ag_news:train:0:World:x"), "no embedded text")
    fails(lambda: embedded_texts("agnews", ("a",), "train", 3), "did you mean 'ag_news'?")


@pytest.mark.parametrize("name, task, labels, words", [
    ("news_dominant", "ag_news", ("Business", "World", "Sci/Tech", "Sports"), lambda topic: {"business": "Business", "world": "World", "elections": "World", "science": "Sci/Tech", "tech": "Sci/Tech", "sports": "Sports"}.get(topic)),
    ("news_india", "toi_headlines", ("sports", "education", "city", "environment", "world", "business"), lambda topic: topic),
    ("products", "category", tuple(GOODS), lambda topic: topic),
    ("movies", "imdb", ("positive", "negative"), None),
])
def test_queries_find_documents_of_their_topic(name, task, labels, words):
    from sklearn.feature_extraction.text import TfidfVectorizer
    documents, queries = load_corpus("embedded", name, 440), embedded_texts(task, labels, "train", 92)
    space = TfidfVectorizer(stop_words="english").fit([d.text for d in documents])
    best = (space.transform([w.text for w, _ in queries]) @ space.transform([d.text for d in documents]).T).toarray().argmax(1)
    found = [embedded_document(documents[i].id).topic for i in best]
    if words: assert np.mean([words(t) == label for t, (_, label) in zip(found, queries)]) > 0.6
    else: assert np.mean([t == w.topic for t, (w, _) in zip(found, queries)]) > 0.5


# ---------------------------------------------------------------- corpora

@pytest.mark.parametrize("name", CORPUS_NAMES)
def test_embedded_corpora(name):
    corpus = load_corpus("embedded", name, 300)
    assert corpus[:40] == load_corpus("embedded", name, 40) and len({text_key(d.text) for d in corpus}) == 300
    assert load_corpus("embedded", name, 40, seed=1) != corpus[:40]
    assert corpus_hash(corpus) == corpus_hash(load_corpus("embedded", name, 300)) != corpus_hash(corpus[::-1])


def test_the_hash_sees_ids_texts_order_and_borders_only():
    a, b = Document("1", "x y", "s"), Document("2", "z", "s")
    base = corpus_hash([a, b])
    assert base != corpus_hash([b, a]) and base != corpus_hash([Document("3", "x y", "s"), b]) and base != corpus_hash([Document("1", "x", "s"), Document("2", "y z", "s")])
    assert base == corpus_hash([Document("1", "x y", "other"), b])


def test_check_documents():
    good = [Document("a", "x", ""), Document("b", "y", "")]
    assert check_documents(good) is good
    fails(lambda: check_documents([], "corpus 'movies'"), "corpus 'movies': no document")
    fails(lambda: check_documents([*good, Document("c", " ", "")]), "document 'c' (number 2) has an empty text")
    fails(lambda: check_documents([*good, Document("a", "z", "")]), "number 0 and 2", "same id 'a'")
    fails(lambda: check_documents([*good, Document("c", " Y ", "")]), "number 1 and 2", "same text 'y'")


def test_sampling_a_stream():
    rng = np.random.default_rng(0)
    assert sample_stream(iter("abc"), 0, rng) == list("abc") == sample_stream(iter("abc"), 5, rng)
    draws = [sample_stream(iter(range(12)), 4, rng) for _ in range(3000)]
    assert all(d == sorted(set(d)) for d in draws)
    assert np.abs(np.bincount(np.ravel(draws), minlength=12) / 3000 - 1 / 3).max() < 0.025  # place drawn below i: the last one at 0.364


def test_domains():
    regional, india = domain_list("realnews_regional"), domain_list("realnews_india")
    assert len(regional) > 20 and len(india) > 15 and not regional & india
    assert news_part("WWW.NDTV.com", regional, india) == ("news_regional", "news_india")
    assert news_part("edition.dawn.com", regional, india) == ("news_regional",)
    assert news_part("nytimes.com", regional, india) == news_part("xndtv.com", regional, india) == ("news_dominant",)
    fails(lambda: domain_list("realnews_mars"), "realnews_mars.txt: cannot be read")


def test_a_wrong_domain_list(tmp_path, monkeypatch):
    (tmp_path / "reproducibility" / "corpora").mkdir(parents=True)
    file = tmp_path / "reproducibility" / "corpora" / "mine.txt"
    monkeypatch.setattr(C, "repo_root", lambda: tmp_path)
    file.write_text("# a list\nnews.example\nhttps://x.example/\n")
    fails(lambda: domain_list("mine"), "mine.txt line 3", "is no domain")
    file.write_text("# nothing\n\n")
    fails(lambda: domain_list("mine"), "no domain in it")


def test_clean_text():
    assert clean_text("{{Plot}} A <b>ship</b>\n sinks<br/>fast &amp; <!-- x --> deep. 3 < 4 > 2") == "A ship sinks fast & deep. 3 < 4 > 2"


# ---------------------------------------------------------------- published forms

FILES = {
    "corpus_reuters21578/corpus.jsonl": [{"NEWID": str(i), "PLACES": p, "BODY": f"Article {i}\n about <X> trade."} for i, p in enumerate((["usa"], ["uk"], ["india", "uk"], [], ["usa", "india"]))],
    "corpus_products_promap/corpus.jsonl": [{"id": str(i), "source": "s", "name": f"Lamp {i}", "short_description": "", "long_description": "A <b>bright</b> lamp."} for i in range(4)],
    "corpus_cmu_movie_plots/corpus.jsonl": [{"wikipedia_movie_id": str(i), "plot": f"{{{{Plot}}}} Story {i}."} for i in range(4)],
}


def put(root, file, records):
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("RESYNTH_DATA", str(tmp_path))
    for file, records in FILES.items(): put(tmp_path, file, records)
    return tmp_path


def test_stand_ins(root):
    ids = {name: [d.id for d in load_corpus("local", name)] for name in CORPUS_NAMES}
    assert ids == {"news_dominant": ["0", "4"], "news_regional": ["1", "2", "3"], "news_india": ["2", "4"], "products": ["s-0", "s-1", "s-2", "s-3"], "movies": list("0123")}
    assert load_corpus("local", "movies")[2].text == "Story 2." and load_corpus("local", "products")[0].text == "Lamp 0 A bright lamp."
    assert load_corpus("local", "news_dominant")[0] == Document("0", "Article 0 about <X> trade.", "usa")


def test_published_forms_come_first(root):
    put(root, "realnews/realnews.jsonl", [{"url": f"u{i}", "domain": d, "text": f"News {i}"} for i, d in enumerate(("ndtv.com", "dawn.com", "cnn.com", "www.cnn.com"))])
    put(root, "cmu_movies/plot_summaries.txt", ["7\tA ship sinks.", "9\tA ship\tsails."])
    (root / "amazon_products").mkdir()
    with gzip.open(root / "amazon_products" / "metadata.jsonl.gz", "wt") as file:
        for r in ({"asin": "A", "title": "Lamp", "description": ["Bright.", "Small &amp; red."]}, {"asin": "A", "title": "Lamp again", "description": []}, {"asin": "B", "title": "Cup"}):
            file.write(json.dumps(r) + "\n")
    assert [[d.id for d in load_corpus("local", n)] for n in CORPUS_NAMES] == [["u2", "u3"], ["u0", "u1"], ["u0"], ["A", "B"], ["7", "9"]]
    assert [d.text for d in load_corpus("local", "products")] == ["Lamp Bright. Small & red.", "Cup"]
    assert load_corpus("local", "movies")[1].text == "A ship sails."


def test_samples_of_local_corpora(root):
    put(root, "corpus_cmu_movie_plots/corpus.jsonl", [{"wikipedia_movie_id": str(i), "plot": f"Story {i}."} for i in range(50)])
    one = load_corpus("local", "movies", 10)
    assert one == load_corpus("local", "movies", 10) and one != load_corpus("local", "movies", 10, seed=1) and [int(d.id) for d in one] == sorted(int(d.id) for d in one)
    fails(lambda: load_corpus("local", "movies", 51), "51 documents asked for, 50 there")


def test_repeated_documents_are_told(root, capsys):
    put(root, "corpus_cmu_movie_plots/corpus.jsonl", [{"wikipedia_movie_id": str(i), "plot": p} for i, p in enumerate(("A b.", "a  B.", "{{x}}", "c"))])
    assert [d.id for d in load_corpus("local", "movies")] == ["0", "3"] and "2 repeated or empty documents left out" in capsys.readouterr().err


BAD = [
    ("movies", "corpus_cmu_movie_plots/corpus.jsonl", {"wikipedia_movie_id": "9", "plt": "x"}, "'plot' is missing (did you mean 'plt'?)"),
    ("movies", "corpus_cmu_movie_plots/corpus.jsonl", {"wikipedia_movie_id": 9, "plot": "x"}, "'wikipedia_movie_id'"),
    ("movies", "corpus_cmu_movie_plots/corpus.jsonl", "[1]", "object is wanted"),
    ("movies", "corpus_cmu_movie_plots/corpus.jsonl", '{"a', "not JSON"),
    ("products", "corpus_products_promap/corpus.jsonl", {"id": "9", "source": "s", "name": " "}, "'name' is empty"),
    ("news_india", "corpus_reuters21578/corpus.jsonl", {"NEWID": "9", "PLACES": "india", "BODY": "x"}, "'PLACES'"),
    ("news_india", "corpus_reuters21578/corpus.jsonl", {"NEWID": "9", "PLACES": ["india"], "BODY": ""}, "'BODY' is empty"),
]


@pytest.mark.parametrize("name, file, record, part", BAD)
def test_a_wrong_document_names_file_line_and_field(root, name, file, record, part):
    put(root, file, [*FILES[file], "", record])
    fails(lambda: load_corpus("local", name), f"{file} line {len(FILES[file]) + 2}", part)


def test_wrong_published_records(root):
    put(root, "realnews/realnews.jsonl", [{"text": "x", "url": "u"}])
    fails(lambda: load_corpus("local", "news_india"), "realnews/realnews.jsonl line 1: field 'domain' is missing")
    put(root, "amazon_products/metadata.jsonl", [{"asin": "A", "title": "t", "description": [3]}])
    fails(lambda: load_corpus("local", "products"), "metadata.jsonl line 1: field 'description'")
    put(root, "cmu_movies/plot_summaries.txt", ["no tab"])
    fails(lambda: load_corpus("local", "movies"), "plot_summaries.txt line 1", "is missing")
    (root / "amazon_products" / "metadata.jsonl").write_bytes(b"\xff\xfe")
    fails(lambda: load_corpus("local", "products"), "not UTF-8")
    (root / "amazon_products" / "metadata.jsonl").unlink()
    with gzip.open(root / "amazon_products" / "metadata.jsonl.gz", "wt") as file: file.write('{"asin": "A", "title": "t"}\n' * 500)
    whole = root / "amazon_products" / "metadata.jsonl.gz"
    whole.write_bytes(whole.read_bytes()[:-20])
    fails(lambda: load_corpus("local", "products"), "metadata.jsonl.gz: cannot be read")


def test_wrong_names_numbers_and_folders(root, monkeypatch):
    fails(lambda: load_corpus("local", "movie"), "did you mean 'movies'?")
    fails(lambda: load_corpus("lokal", "movies"), "did you mean 'local'?")
    fails(lambda: load_corpus("embedded", "movies", -1), "n = -1")
    fails(lambda: load_corpus("hub", "movies"), "source 'hub'", "no dataset id")
    put(root, "corpus_reuters21578/corpus.jsonl", FILES["corpus_reuters21578/corpus.jsonl"][:1])
    fails(lambda: load_corpus("local", "news_india"), "corpus 'news_india', source 'local': no document")
    (root / "corpus_cmu_movie_plots" / "corpus.jsonl").unlink()
    fails(lambda: load_corpus("local", "movies"), "none of cmu_movies/plot_summaries.txt, corpus_cmu_movie_plots/corpus.jsonl")
    monkeypatch.delenv("RESYNTH_DATA")
    fails(lambda: load_corpus("local", "movies"), "RESYNTH_DATA is not set")


def test_hub_corpora(monkeypatch):
    import datasets
    monkeypatch.setattr(datasets, "load_dataset", lambda hub, **kw: [{"asin": "A", "title": "Cup", "description": "Red."}, {"asin": "B", "title": "Lamp"}])
    assert [d.text for d in load_corpus("hub", "products", hub="some/products")] == ["Cup Red.", "Lamp"]


@pytest.mark.parametrize("name, folder, least", [("news_dominant", "corpus_reuters21578", 4000), ("news_regional", "corpus_reuters21578", 2000), ("news_india", "corpus_reuters21578", 20),
                                                 ("products", "corpus_products_promap", 2900), ("movies", "corpus_cmu_movie_plots", 70)])
def test_real_corpora(name, folder, least, real_data):
    real_data(folder)
    corpus = load_corpus("local", name)
    assert len(corpus) >= least and all(d.text == " ".join(d.text.split()) for d in corpus)
    assert "{{" not in " ".join(d.text for d in corpus[:50])


def test_the_modules_are_light():
    assert frameworks_of("resynth.corpora", "resynth.classification") == "[]"
