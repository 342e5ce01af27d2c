"Personas: the nearest ones, the order of ties, reading, faults."
import json

import numpy as np
import pytest
from helpers import fails

from resynth import personas as P
from resynth.profiles import load_profile


def test_sixty_of_our_own():
    assert len({p.casefold() for p in P.PERSONAS}) == 60 and all(3 <= len(p.split()) <= 14 and p.split()[0] in ("a", "an") for p in P.PERSONAS)
    assert all(p.startswith("an ") == (p.split()[1][0] in "aeiou" and not p.split()[1].startswith("uni")) for p in P.PERSONAS)


def test_nearest_against_a_plain_loop():
    rng = np.random.default_rng(0)
    emb = rng.normal(size=(40, 6)); emb /= np.linalg.norm(emb, axis=1, keepdims=True)
    found = P.top_personas(emb[:7], emb, 5)
    for row, t in zip(found, emb[:7]): assert list(row) == sorted(range(40), key=lambda i: -round(float(t @ emb[i]), 9))[:5]
    assert np.array_equal(P.top_personas(emb[:7][::-1], emb, 5)[::-1], found)


def test_ties_go_to_the_first(): assert P.top_personas(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]] * 2 + [[1.0, 0.0]] * 3), 4).tolist() == [[2, 3, 4, 0]]


def test_as_code_takes_the_last_above_the_bound():
    emb = np.array([[1.0, 0.0], [0.99, 0.1], [0.0, 1.0], [0.8, 0.6]])
    assert P.personas_as_code(emb[0], emb, 2).tolist() == [1, 3] and P.personas_as_code(emb[0], emb, 9).tolist() == [0, 1, 3]
    fails(lambda: P.personas_as_code(np.array([-1.0, 0.0]), emb, 2), "no persona has a cosine above 0.75")


def test_local_file(tmp_path, monkeypatch):
    folder = tmp_path / "corpus_personahub"
    folder.mkdir()
    write = lambda *lines: (folder / "corpus.jsonl").write_text("\n".join(json.dumps(l) for l in lines))
    monkeypatch.setenv("RESYNTH_DATA", str(tmp_path))
    write({"input persona": "a cook"}, {"persona": "a  baker"}, {"persona": "A cook"})
    assert P.load_personas("local") == ["a cook", "a baker"]
    fails(lambda: P.load_personas("local", 3), "3 asked for, 2 there")
    write({"input persona": " "})
    fails(lambda: P.load_personas("local"), "corpus_personahub/corpus.jsonl line 1", "'input persona' is empty")
    write({"who": "a cook"})
    fails(lambda: P.load_personas("local"), "line 1", "field 'persona' is missing")


def test_faults():
    fails(lambda: P.check_personas([]), "no persona in it")
    fails(lambda: P.check_personas(["a cook", ""]), "persona 1 is empty")
    fails(lambda: P.load_personas("embeded"), "did you mean 'embedded'?")
    fails(lambda: P.top_personas(np.eye(2), np.eye(2), 3), "there are 2 personas")


@pytest.mark.parametrize("name", ["smoke", "laptop"])
def test_profiles_find_theirs(name): assert P.personas_of(load_profile(name)) == P.PERSONAS
