"Kills, flipped bytes, wrecks, full disks, two writers: a store must lose nothing finished and invent nothing."
import json
import os
import signal
import sqlite3
import subprocess
import sys

import pytest
from helpers import fails, frameworks_of

from resynth.profiles import load_profile
from resynth.store import Store, diff_settings, explain, open_store, request_key, result_settings

WRITER = """
import sys
from resynth.store import Store, request_key
store = Store(sys.argv[1])
for batch in range(int(sys.argv[2]), int(sys.argv[3])):
    store.put_batch({request_key(n=n): {"text": str(n), "tokens": 1} for n in range(100 * batch, 100 * batch + 100)})
    print(batch, flush=True)
"""


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "calls.sqlite") as s: yield s


def keys(n): return [request_key(n=i) for i in range(n)]


def write_process(path, first, last): return subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(first), str(last)], stdout=subprocess.PIPE, text=True)


def test_values_come_back_exactly(store):
    values = {k: v for k, v in zip(keys(6), [None, True, 0.1 + 0.2, "naïve ☃ \n", [1, [2.5e-300]], {"bits": 1e22, "tokens": 3}])}
    store.put_batch(values)
    assert store.get_many(keys(7)) == values
    assert json.dumps(list(store.get_many(keys(6)).values())) == json.dumps(list(values.values()))   # types too: True is not 1


def test_more_keys_than_a_query_takes(store):
    store.put_batch({k: i for i, k in enumerate(keys(40_000))})
    assert list(store.get_many(keys(40_001)).values()) == list(range(40_000))      # and in the order that was asked for
    assert store.stats()["calls"] == 40_000


def test_first_answer_stays(store):
    store.put_batch({"k": 1})
    store.put_batch({"k": 2, "l": 3})
    assert store.get_many(["k", "l"]) == {"k": 1, "l": 3}


def test_keys_tell_apart_and_agree_between_processes():
    made = [request_key(a=1), request_key(a="1"), request_key(a=True), request_key(a=None), request_key(a=[1]), request_key(b=1), request_key(a=1.5)]
    assert len(set(made)) == len(made) and request_key(x=1, y=2) == request_key(y=2, x=1)
    code = "from resynth.store import request_key; print(request_key(a=[1, 'é'], b=0.1))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ, PYTHONHASHSEED="7"), check=True).stdout.strip()
    assert other == request_key(b=0.1, a=(1, "é"))


def test_kill_leaves_whole_batches(tmp_path):
    path = tmp_path / "calls.sqlite"
    writer = write_process(path, 0, 100_000)
    for line in writer.stdout:
        if int(line) >= 3: break
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    with Store(path) as store:
        n = store.stats()["calls"]
        assert n >= 400 and n % 100 == 0
        store.put_batch({k: "after" for k in keys(n + 1)})
        assert store.stats()["calls"] == n + 1 and store.get_many(keys(1)) == {keys(1)[0]: {"text": "0", "tokens": 1}}


def test_two_processes_share_a_store(tmp_path):
    path = tmp_path / "calls.sqlite"
    writers = [write_process(path, first, first + 20) for first in (0, 10)]   # 10 batches are written by both
    assert [w.communicate()[1] or w.returncode for w in writers] == [0, 0]
    with Store(path) as store: assert store.stats() | dict(bytes=0) == dict(calls=3000, tokens=3000, bytes=0)


@pytest.mark.parametrize("found, put", [(b'"text":"7"', b'"text":"1"'), (request_key(n=7).encode(), b"0" * 64)])
def test_flipped_bytes_are_a_missing_row(tmp_path, capsys, found, put):
    path = tmp_path / "calls.sqlite"
    values = {k: {"text": str(i)} for i, k in enumerate(keys(20))}
    with Store(path) as store: store.put_batch(values)
    data = path.read_bytes()
    assert data.count(found) == 1
    path.write_bytes(data.replace(found, put))
    with Store(path) as store:
        held = store.get_many(keys(20))
        assert keys(20)[7] not in held and all(held[k] == values[k] for k in held)
        assert store.get_many(["0" * 64]) == {}
        store.put_batch(values)                             # what a run does next: the missing ones are computed again
        assert store.get_many(keys(20)) == values
    assert "dropped" in capsys.readouterr().err


def test_a_wreck_is_set_aside_and_read_as_far_as_it_goes(tmp_path, capsys):
    path = tmp_path / "calls.sqlite"
    values = {k: "x" * 300 for k in keys(2000)}
    with Store(path) as store: store.put_batch(values)
    data = bytearray(path.read_bytes())
    data[4096 * 20:4096 * 24] = b"\xff" * (4096 * 4)        # four pages in the middle
    path.write_bytes(data)
    with Store(path) as store:
        held = store.get_many(keys(2000))
        assert all(held[k] == values[k] for k in held)
        store.put_batch(values)
        assert store.get_many(keys(2000)) == values
    assert (tmp_path / "calls.sqlite.damaged-1").read_bytes()[:16] == data[:16]
    assert "kept as calls.sqlite.damaged-1" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"no database at all, however long it may be " * 50, b"\0" * 5000])
def test_a_file_that_is_no_store(tmp_path, capsys, content):
    path = tmp_path / "calls.sqlite"
    path.write_bytes(content)
    with Store(path) as store:
        store.put_batch({"k": 1})
        assert store.get_many(["k"]) == {"k": 1}
    assert (tmp_path / "calls.sqlite.damaged-1").read_bytes() == content
    path.write_bytes(content)
    Store(path).close()
    assert (tmp_path / "calls.sqlite.damaged-2").exists()


def test_a_truncated_file(tmp_path, capsys):
    path = tmp_path / "calls.sqlite"
    values = {k: "x" * 300 for k in keys(1000)}
    with Store(path) as store: store.put_batch(values)
    path.write_bytes(path.read_bytes()[:100_000])
    with Store(path) as store:
        store.put_batch(values)
        assert store.get_many(keys(1000)) == values


def test_full_disk_is_one_line_and_keeps_what_is_finished(store):
    store.put_batch({"k": 1})
    pages = store.db.execute("PRAGMA page_count").fetchone()[0]
    store.db.execute(f"PRAGMA max_page_count = {pages + 2}")
    fails(lambda: store.put_batch({k: "x" * 1000 for k in keys(100)}), "disk is full")
    assert store.get_many(["k", *keys(100)]) == {"k": 1}
    store.db.execute("PRAGMA max_page_count = 100000")
    store.put_batch({k: "x" for k in keys(100)})
    assert store.stats()["calls"] == 101


def test_other_troubles_are_one_line(tmp_path, store):
    (tmp_path / "file").write_text("in the way")
    fails(lambda: Store(tmp_path / "file" / "calls.sqlite"), "calls.sqlite")
    assert "locked" in str(explain(sqlite3.OperationalError("database is locked"), store.path))
    fails(lambda: store.put_batch({"good": 1, "bad": object()}), "JSON")
    assert store.get_many(["good"]) == {}
    store.close()
    fails(lambda: store.get_many(["k"]), "closed")
    assert not list(tmp_path.glob("*.damaged-*"))           # a closed store is no damaged one


def test_interrupt_inside_a_batch_leaves_nothing_half(store):
    def rows():
        yield ("a", b"1", 0)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): store.write(rows())
    assert store.stats()["calls"] == 0
    store.put_batch({"b": 2})
    assert store.get_many(["b"]) == {"b": 2}


def test_remember_computes_once(store):
    n = []
    compute = lambda: n.append(1) or {"pair": (1, 2)}
    assert [store.remember("kind", {"x": 1}, compute) for _ in range(3)] == [{"pair": [1, 2]}] * 3 and len(n) == 1
    store.remember("kind", {"x": 2}, compute), store.remember("other", {"x": 1}, compute)
    assert len(n) == 3


def test_other_settings_start_a_file_beside(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RESYNTH_CACHE", str(tmp_path))
    first, second = load_profile("laptop"), load_profile("laptop", {"run.batch_rows": 7})
    with open_store(first) as store: store.put_batch({"k": "first"})
    assert capsys.readouterr().err == ""
    with open_store(second) as store:
        assert store.get_many(["k"]) == {}
        store.put_batch({"k": "second"})
    assert f"batch_rows was {first.run['batch_rows']}, is 7" in capsys.readouterr().err
    for profile, value in ((first, "first"), (second, "second")):
        with open_store(profile) as store: assert store.get_many(["k"]) == {"k": value}
    assert len(list((tmp_path / "store").glob("laptop*.sqlite"))) == 2


def test_seeds_and_sizes_are_no_settings():
    changed = load_profile("laptop", {"run.seeds": [5], "vsynthesis.ratio": 0.25})
    assert diff_settings(result_settings(load_profile("laptop")), result_settings(changed)) == ""


def test_import_is_light():
    assert frameworks_of("resynth.store", "resynth.models", "resynth.demonstrations", "resynth.measures") == "[]"
