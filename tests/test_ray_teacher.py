"""Teacher and encoder on a Ray cluster of two nodes; skipped where ray, an optional extra, is not installed."""
import os
import signal
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from helpers import fails
from ray_cluster import two_nodes

from resynth import models, ray_teacher
from resynth.profiles import load_profile
from resynth.ray_teacher import RayTeacher, Workers, join_cluster, list_batches
from resynth.store import Store
from resynth.teacher import Field, LocalTeacher, Sampling, StoredTeacher, open_teacher

PROMPTS = [f"Here is a list of {'very ' * (i % 4)}{what}, one below the other:" for i, what in enumerate(("birds", "rivers", "gifts", "songs", "tools", "towns", "books", "games", "meals", "trees"))]
WARM = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=6, n=2, seed=3, then=(Field("\nKind:", 3),))
PAIRS = [(p, f" {word} and more") for p in PROMPTS for word in ("one", "a much longer answer")]
SIZES = dict(batch_rows=4, batch_tokens=128)


@pytest.fixture(scope="module")
def local(): return LocalTeacher(load_profile("smoke").models["teacher"], **SIZES)  # in the precision of a run


@pytest.fixture(scope="module")
def address():
    if not find_spec("ray"): pytest.skip("ray is not installed: pip install ray==2.60.0 to run this test")
    import ray
    with two_nodes() as address:
        yield address
        ray.shutdown()


def test_a_cluster_that_does_not_start_is_one_line(monkeypatch):
    if not find_spec("ray"): pytest.skip("ray is not installed: pip install ray==2.60.0 to run this test")
    import ray.cluster_utils
    import ray_cluster
    tried = []
    class Slow:
        def add_node(self, **place): tried.append(place); raise Exception("The current node timed out during startup.\nThis could")
        def shutdown(self): tried.append("stopped")
    monkeypatch.setattr(ray.cluster_utils, "Cluster", Slow)
    with pytest.raises(ray_cluster.NoCluster) as ended: ray_cluster.main(["--", "true"])
    assert "\n" not in str(ended.value) and "less to do" in str(ended.value) and tried.count("stopped") == 2


@pytest.fixture(scope="module")
def far(local, address): return RayTeacher(replace(local.spec, ray=address), **SIZES)


def ids(workers):
    "Process number and node of each worker."
    import ray
    look = lambda model, batch: (os.getpid(), ray.get_runtime_context().get_node_id())
    return ray.get([actor.do.remote(look, (), None) for actor in workers.actors])


def test_batches_are_found_without_weights(local):
    fresh = LocalTeacher(local.spec, **SIZES)
    found = list_batches(lambda wanted: fresh.generate_batches(PROMPTS, WARM, wanted))
    assert sorted(i for b in found for i in b) == list(range(10)) and {len(b) for b in found} == {2} and "lm" not in vars(fresh)
    assert list_batches(lambda wanted: fresh.generate_batches(PROMPTS, WARM, wanted), {found[1][0], found[3][1]}) == [found[1], found[3]]
    fails(lambda: list_batches(lambda wanted: fresh.generate_batches(["word " * 9000], WARM, wanted)), "context")
    fails(lambda: list_batches(lambda wanted: iter([{0: "made all the same"}])), "nobody wanted")


def test_texts_and_prices_are_those_of_one_process(local, far):
    assert far.revision == local.revision and far.requests(PROMPTS, WARM) == local.requests(PROMPTS, WARM)
    assert far.generate(PROMPTS, WARM) == local.generate(PROMPTS, WARM)
    assert far.score(PAIRS) == local.score(PAIRS)
    assert far.generate([], WARM) == [] and far.score([]) == []
    assert "lm" not in vars(far) and len({node for _, node in ids(far.workers)}) == 2  # no weights here, both nodes at work


def test_embeddings_are_those_of_one_process(address):
    spec = load_profile("smoke").models["encoder"]
    texts = [f"{p} {y}" for p, y in PAIRS] * 2
    here, there = (models.load_encoder(s) for s in (spec, replace(spec, ray=address, actors=1)))
    for some, batch in ((texts, 8), (texts[:3], 64), ([], 64)):
        a, b = here(some, batch), there(some, batch)
        assert a.dtype == b.dtype and np.array_equal(a, b)


def test_a_killed_worker_is_replaced_and_every_batch_kept(tiny_lm, address, tmp_path, monkeypatch):
    flag, right = tmp_path / "killed", ray_teacher.write_batch
    def killed_once(model, prompts, sampling, batch):
        made = right(model, prompts, sampling, batch)
        if 5 in batch and not flag.exists(): flag.touch(); os.kill(os.getpid(), signal.SIGKILL)  # computed, and lost on its way
        return made
    monkeypatch.setattr(ray_teacher, "write_batch", killed_once)
    far, local = RayTeacher(replace(tiny_lm, ray=address), **SIZES), LocalTeacher(tiny_lm, **SIZES)
    stored, plain = (StoredTeacher(t, Store(tmp_path / f"{n}.sqlite")) for n, t in (("far", far), ("plain", local)))
    started, start = [], far.workers.start
    far.workers.start = lambda ray: started.append(start(ray)) or started[-1]
    assert stored.generate(PROMPTS, WARM) == plain.generate(PROMPTS, WARM)
    assert flag.exists() and len(started) == 3 and len(far.workers.actors) == 2  # one more was asked for
    rows = lambda s: sorted(s.store.db.execute("SELECT key, value, crc FROM calls"))
    assert rows(stored) == rows(plain) and len(rows(plain)) == 10  # the same bytes under the same keys
    later = StoredTeacher(RayTeacher(replace(tiny_lm, ray="127.0.0.1:9"), **SIZES), stored.store)
    assert later.generate(PROMPTS, WARM) == plain.generate(PROMPTS, WARM) and later.paid == 0  # no cluster is needed


def test_a_batch_that_kills_ends_in_one_line_and_the_others_are_kept(local, address):
    poison = lambda model, batch: os._exit(1) if batch == 2 else batch * 10
    workers, got = Workers(replace(local.spec, ray=address, actors=2), dict), []
    fails(lambda: got.extend(workers.run(poison, (), [0, 1, 2, 3])), "3 processes died with the same batch", "finished calls are kept")
    assert (3, 30) in got and all(b != 2 for b, _ in got)


def test_what_goes_wrong_in_a_worker_is_one_line(local, address, monkeypatch):
    workers = Workers(replace(local.spec, ray=address, actors=1), dict)
    fails(lambda: list(workers.run(lambda model, batch: {}[batch], (), ["x"])), "KeyError: 'x'", local.spec.name)
    monkeypatch.setattr(ray_teacher, "arithmetic_here", lambda: dict(torch="0.1"))
    fails(lambda: list(workers.run(lambda model, batch: batch, (), [1])), "here 0.1", "make them equal")


def test_a_cluster_without_room_is_one_line(local, address, monkeypatch):
    monkeypatch.setattr(models, "device_name", lambda: "cuda")  # so each worker wants a GPU, and the cluster has none
    monkeypatch.setattr(ray_teacher, "LONGEST_START", 3.0)
    fails(lambda: list(Workers(replace(local.spec, ray=address), dict).run(lambda model, batch: batch, (), [1])), "no process started in 3 s", "lower actors")


def test_no_ray_and_no_cluster_are_one_line(monkeypatch):
    if find_spec("ray"):
        import ray
        if not ray.is_initialized(): fails(lambda: join_cluster("127.0.0.1:9"), "no Ray cluster at '127.0.0.1:9'", "ray start --head")
    monkeypatch.setitem(sys.modules, "ray", None)
    fails(lambda: join_cluster("auto"), "ray is not installed", "pip install ray==2.60.0")


@pytest.mark.parametrize("change, words", [
    ({"model.teacher.ray": "http://x"}, ("'auto' or an address",)),
    ({"model.teacher.actors": 2}, ("name it in ray",)),
    ({"model.teacher.ray": "auto", "model.teacher.actors": 0}, ("out of range",)),
    ({"model.teacher.ray": "auto", "model.teacher.kind": "server", "model.teacher.url": "http://a/v1", "model.teacher.served_name": "x", "model.teacher.api": "chat"}, ("leave one of the two out",)),
])
def test_profiles_with_ray_are_checked(change, words): fails(lambda: load_profile("smoke", change), *words)


def test_a_profile_opens_a_ray_teacher_with_the_keys_and_the_store_of_a_local_one(tmp_path, monkeypatch):
    monkeypatch.setenv("RESYNTH_CACHE", str(tmp_path))
    plain, spread = load_profile("smoke"), load_profile("smoke", {"model.teacher.ray": "auto", "model.teacher.actors": 3})
    assert plain.settings("vsynthesis") == spread.settings("vsynthesis")
    with_ray, without = open_teacher(spread), open_teacher(plain)
    assert isinstance(with_ray.teacher, RayTeacher) and not isinstance(without.teacher, RayTeacher)
    assert with_ray.revision == without.revision and with_ray.store.path == without.store.path
