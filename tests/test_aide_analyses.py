"Relevance, drift, diversity, complexity, sizes and coverage of AIDE's rows, on rows prepared by hand."
import numpy as np
import pandas as pd
import pytest
from helpers import encode_letters

from resynth import aide_analyses as A
from resynth import aide_bench as B
from resynth.aide import Node, NotInForm
from resynth.aide_tree import Tree
from resynth.claims import decide, read_claims
from test_aide_bench import TASK, bench, plant, written  # noqa: F401 (a fixture)


@pytest.mark.parametrize("text, found", [("rivers, maps", ("rivers", "maps")), (" Rivers ,rivers", ("rivers",)), ("one, far too many words here, two words", ("one", "two words"))])
def test_knowledge(text, found): assert A.read_knowledge(f"<Knowledge>{text}</Knowledge>") == found


@pytest.mark.parametrize("text", ["<Knowledge>rivers", "<Knowledge> , </Knowledge>", "rivers, maps", "<Knowledge>more than three words here</Knowledge>"])
def test_no_knowledge(text):
    with pytest.raises(NotInForm): A.read_knowledge(text)


def pair_rows(own, other, score=8.0, seeds=(0, 1, 2)):
    return pd.DataFrame([dict(task=TASK, seed=s, row_id=f"r{i}", pair=p, similarity=v, score=score if p == "own" else 2.0) for s in seeds for i in range(4) for p, v in (("own", own), ("other", other))])


def test_relevance_by_hand():
    table = A.relevance_table(pair_rows(0.8, 0.3))
    means = table.groupby("pair").similarity.mean()
    assert means["own"] == pytest.approx(0.8) and means["other"] == pytest.approx(0.3) and means["bound"] == A.paper_bounds()["similarity"] == 0.5
    assert len(table) == 9 and (table[table.pair == "own"]["rows"] == 4).all() and A.paper_bounds()["score"] == 5


def test_a_run_without_any_score_is_left_out():
    pairs = pair_rows(0.8, 0.3)
    pairs.loc[(pairs.seed == 1) & (pairs.pair == "own"), "score"] = np.nan
    assert set(A.relevance_table(pairs).seed) == {0, 2} and not len(A.relevance_table(pairs.assign(score=np.nan)))
    pairs.loc[pairs.index[0], "score"] = np.nan
    table = A.relevance_table(pairs)
    assert table[(table.seed == 0) & (table.pair == "own")].unread.item() == 1


@pytest.mark.parametrize("own, verdict", [(0.9, "supported"), (0.1, "contradicted")])
def test_claims_on_relevance_follow_the_rows(own, verdict):
    rng = np.random.default_rng(0)
    pairs = pair_rows(own, 0.5)
    table = A.relevance_table(pairs.assign(similarity=pairs.similarity + 0.01 * rng.normal(size=len(pairs))))
    claims = {c.id: c for c in read_claims(notebook="26_relevance_diversity")}
    assert {decide(claims[i], table, {}, n_boot=200)["verdict"] for i in ("ai-f6-similarity", "ai-f6-own-seed")} == {verdict}


def test_pairs_are_with_the_own_and_another_seed(bench):
    seeds = B.data_of(bench, TASK, 0).seeds
    plant(bench, written([seeds[0].question + " indeed", seeds[1].question + " indeed"]).assign(seed_id=[seeds[0].id, seeds[1].id]))
    pairs = A.relevance_pairs(bench, TASK, 0).pivot(index="row_id", columns="pair", values="similarity")
    assert (pairs.own > pairs.other).all() and (pairs.own > 0.99).all()
    emb = encode_letters([" ".join((seeds[0].question + " indeed").split()), " ".join(seeds[1].question.split())])
    assert pairs.other.iloc[0] == pytest.approx(float(emb[0] @ emb[1]))
    plant(bench, written([]), seed=1)
    assert not len(A.relevance_pairs(bench, TASK, 1))


def grown(bench, residual, texts, depth=2):
    "A tree with one row a hop, put where the bench looks for it."
    seed = B.data_of(bench, TASK, 0).seeds[0]
    nodes = [Node(f"n{h}", "", seed.id, h, text, operation="constraint", attribute="x", status="" if text else "copy") for h, text in enumerate(texts, 1)]
    settings = B.settings_of(bench, TASK, depth=depth, residual=residual)
    bench.kept["tree", TASK, 0, None, bench.teacher.revision, settings] = Tree(nodes, pd.DataFrame(), [seed], settings, "by hand")
    return seed


def test_drift_is_the_cosine_with_the_seed(bench):
    seed = B.data_of(bench, TASK, 0).seeds[0]
    grown(bench, 2, [seed.question, seed.question + " e"])
    grown(bench, 1, [seed.question, "uuuuuuuuuuuuu"])
    table = A.drift_table(bench, TASK).set_index(["residual", "hop"]).similarity
    assert len(table) == 4 and table[1, 1] == pytest.approx(1, abs=1e-6) and table[1, 2] > 0.95 > table[0, 2]


def test_a_run_that_lost_a_hop_has_no_drift(bench):
    seed = B.data_of(bench, TASK, 0).seeds[0]
    grown(bench, 2, [seed.question, ""])
    grown(bench, 1, [seed.question, seed.question])
    assert not len(A.drift_table(bench, TASK)) and "similarity" in A.drift_table(bench, TASK)


def test_diversity_compares_equal_numbers(bench):
    plant(bench, written(["what is a tree made of?", "what is a tree made of?", "what is a tree made of?"]))
    table = A.diversity_table(bench, [TASK]).set_index("method")
    assert table.n.tolist() == [3, 3] and table.self_bleu["AIDE"] == pytest.approx(1) and table.self_bleu["gold"] < 1 and table.named.tolist() == [0, 0]
    assert A.paper_self_bleu(table.reset_index()).paper.notna().all()
    plant(bench, written(["one?"]))
    assert not len(A.diversity_table(bench, [TASK]))


def test_a_run_without_a_score_of_every_method_is_left_out():
    scores = pd.DataFrame([dict(task=TASK, method=m, seed=s, score=float(k + s)) for k, m in enumerate(A.COMPLEXITY_METHODS) for s in (0, 1) for _ in range(3)])
    assert len(A.complexity_table(scores)) == 6
    scores.loc[(scores.seed == 1) & (scores.method == "plain"), "score"] = np.nan
    table = A.complexity_table(scores)
    assert set(table.seed) == {0} and len(table) == 3


def test_random_weights_score_nothing(bench):
    plant(bench, written(["one?", "two?"]))
    scores = A.complexity_scores(bench, [TASK])
    assert len(scores) == 2 and scores.score.isna().all() and not len(A.complexity_table(scores))


def test_sizes_account_for_every_row(bench):
    table = A.size_table(bench, [TASK])  # random weights: all is lost, and told
    assert (table.promised == table.accounted).all() and table.kept.item() == 0 and table.promised.item() == 2 * (2 + 4) and table.paper.notna().all()


def test_coverage_by_hand(bench):
    data = B.data_of(bench, TASK, 0)
    plant(bench, written([e.question for e in data.test]))  # as if the test questions had been written
    row = A.coverage_row(bench, TASK, 0)
    assert row["to_rows"] == pytest.approx(1, abs=1e-5) and row["to_seeds"] < row["to_rows"] and row["rows"] == len(data.test)
    points = A.coverage_map(bench, TASK, 0)
    assert points.kind.value_counts().to_dict() == {"test": len(data.test), "AIDE": len(data.test), "seed": len(data.seeds)} and points.equals(A.coverage_map(bench, TASK, 0))


def test_pictures():
    scores = pd.DataFrame([dict(task=TASK, method=m, seed=0, score=float(5 + k)) for k, m in enumerate(A.COMPLEXITY_METHODS)])
    assert len(A.draw_complexity(scores).axes[0].patches) == 30
    drift = pd.DataFrame([dict(task=TASK, residual=r, hop=h, seed=s, similarity=0.5, rows=1) for r in (0, 1) for h in (1, 2) for s in (0, 1)])
    assert len(A.draw_drift(drift).axes[0].lines) == 2 and len(A.draw_relevance(pair_rows(0.8, 0.3)).axes) == 2
    counts = pd.DataFrame(dict(task=TASK, knowledge=["rivers", "maps"], rows=[2, 1]))
    assert len(A.draw_knowledge(counts).axes[0].patches) == 2
