"""The teacher on a server: a faulty server of our own, a server of the embedded model, and real ones where they are installed."""
import csv
import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest

from resynth import models, server_requests
from resynth.profiles import ResynthError, load_profile, repo_root
from resynth.remote_teacher import (RemoteTeacher, believable, cut_text, draw_choice, first_token, match_choices, price, price_end,
                                    request_fields, token_ends)
from resynth.server_requests import MOST_BYTES, TryAgain, each_done, own_words, read_body, retry_after
from resynth.store import Store, result_settings
from resynth.teacher import Field, LocalTeacher, Sampling, Score, StoredTeacher, open_teacher

KEY = "sk-Sup3r/Secret+key=="
AT = {"model.teacher.kind": "server", "model.teacher.served_name": "small", "model.teacher.api": "completions", "model.teacher.url": "http://127.0.0.1:9/v1"}
HEAD = "A list of countries with their capitals, one below the other, as a school book prints them for children.\n\n"
PROMPTS = [HEAD + f"Country: {c}\nCapital:" for c in ("Italy", "Japan", "the United States of America", "Peru", "Chad")]
PAIRS = [(p, y) for p in PROMPTS[:3] for y in (" Rome", " Tokyo\n\nCountry: Spain", " Österreich 🙂 und mehr")] + [("", "Rome is a city.")]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    "A key in the environment, and no long waits between tries."
    monkeypatch.setenv("RESYNTH_TEST_KEY", KEY)
    monkeypatch.setattr(server_requests, "_wait", lambda state: state.outcome.exception().after + 0.01)


def served(url="http://127.0.0.1:9/v1", **changes):
    spec = load_profile("smoke", AT).models["teacher"]
    return replace(spec, **{"url": url, "key_env": "RESYNTH_TEST_KEY", "retries": 3, "timeout": 5.0, "concurrency": 4, **changes})


def one_line(call, *words):
    with pytest.raises(ResynthError) as caught: call()
    said = str(caught.value)
    assert "\n" not in said and KEY not in said and "Sup3r" not in said
    for word in words: assert word in said, said
    return said


# a faulty server

def good(prompt): return f" {len(prompt)} characters"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        s, asked = self.server, json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.now = asked
        with s.lock:
            s.asked.append(asked | {"authorization": self.headers["authorization"], "at": time.monotonic()}); s.live += 1; s.most = max(s.most, s.live)
            fault = s.faults.pop(0) if s.faults else s.always
        try: (fault or type(self).fine)(self)
        except (BrokenPipeError, ConnectionResetError): pass
        finally:
            with s.lock: s.live -= 1

    def fine(self):
        prompt = self.now.get("prompt") or self.now["messages"][0]["content"]
        time.sleep(self.server.delay)
        self.reply(200, json.dumps(dict(choices=[dict(text=good(prompt), finish_reason="stop")], usage=dict(completion_tokens=3))).encode())

    def reply(self, status, body, **headers):
        self.send_response(status)
        for name, value in {"content-length": len(body), **headers}.items(): self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args): pass


@pytest.fixture
def server():
    s = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    s.daemon_threads, s.lock, s.asked, s.live, s.most, s.delay, s.faults, s.always = True, threading.Lock(), [], 0, 0, 0.0, [], None
    s.url = f"http://127.0.0.1:{s.server_port}/v1"
    threading.Thread(target=s.serve_forever, daemon=True).start()
    yield s
    s.shutdown(); s.server_close()


def status(code, body=b'{"error": {"message": "said\\n so"}}', **headers): return lambda h: h.reply(code, body, **headers)
def body(data): return lambda h: h.reply(200, data)
def hang(h): time.sleep(1.5); h.close_connection = True


def drip(h):
    h.send_response(200); h.send_header("content-length", "100000"); h.end_headers()
    for _ in range(200): h.wfile.write(b" "); h.wfile.flush(); time.sleep(0.05)


def cut(h):
    h.send_response(200); h.send_header("content-length", "1000"); h.end_headers()
    h.wfile.write(b'{"choices": [{"te'); h.wfile.flush(); h.close_connection = True
    h.connection.shutdown(socket.SHUT_RDWR)


def huge(h):
    h.send_response(200); h.send_header("content-length", str(50 * 2**20)); h.end_headers()
    for _ in range(50): h.wfile.write(b" " * 2**20); h.server.sent = getattr(h.server, "sent", 0) + 2**20


PASSING = {
    "429": (status(429, retry_after="0.05"), "lower concurrency"),
    "500": (status(500, b"<html>oops</html>"), "server's log"),
    "503": (status(503, b""), "server's log"),
    "hang": (hang, "raise timeout"),
    "drip": (drip, "raise timeout"),
    "cut mid-body": (cut, "cut in the middle"),
    "malformed JSON": (body(b'{"choices": [{"text": "a"'), "not JSON"),
    "not JSON at all": (body(b"<html>hello</html>"), "not JSON"),
    "deep JSON": (body(b"[" * 200000), "not JSON"),
    "empty body": (body(b""), "not JSON"),
    "wrong shape, a list": (body(b"[1, 2]"), "wrong shape"),
    "wrong shape, no choices": (body(b'{"error": "overloaded"}'), "wrong shape"),
    "wrong shape, empty choices": (body(b'{"choices": []}'), "wrong shape"),
    "wrong shape, text is null": (body(b'{"choices": [{"text": null}]}'), "wrong shape"),
    "broken unicode": (body(b'{"choices": [{"text": "a\xff\xfe"}]}'), "broken unicode"),
    "half a surrogate pair": (body(b'{"choices": [{"text": "a\\ud83d"}]}'), "broken unicode"),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_tried_again(server, name):
    fault, _ = PASSING[name]
    server.faults = [fault, fault]
    teacher = RemoteTeacher(served(server.url, timeout=0.6 if name in ("hang", "drip") else 5.0))
    assert teacher.generate(["abc"], Sampling())[0][0].text == good(teacher.spec.start_token + "abc")
    assert len(server.asked) == 4  # two faults, the question for log-probabilities, the request


@pytest.mark.parametrize("name", PASSING)
def test_what_does_not_pass_is_one_line(server, name):
    fault, word = PASSING[name]
    server.always = fault
    teacher = RemoteTeacher(served(server.url, retries=1, timeout=0.4 if name in ("hang", "drip") else 5.0))
    one_line(lambda: teacher.generate(["abc"], Sampling()), server.url, "2 tries", word, "finished calls are kept")


@pytest.mark.parametrize("fault, words", [
    (status(401, f'{{"error": "wrong key {KEY}"}}'.encode()), ("refuses the key (401)", "RESYNTH_TEST_KEY")),
    (status(403), ("refuses the key (403)",)),
    (status(400, f'{{"error": {{"message": "context too long,\\n {KEY}"}}}}'.encode()), ("does not accept", "context too long, ***")),
    (status(404, b"no model 'small'"), ("no model 'small'", "served_name is 'small'", "/completions")),
    (status(302, b"", location="http://elsewhere.invalid/"), ("has moved (302)", "correct url")),
    (status(429, b'{"error": {"code": "insufficient_quota", "message": "no money"}}'), ("closed for now", "no money", "run again later")),
    (status(429, retry_after="86400"), ("closed for now",)),
    (huge, ("larger than 16 MB",)),
    (body(json.dumps(dict(choices=[dict(text=f"you sent {KEY}")])).encode()), ("repeats the key",)),
    (body(json.dumps(dict(choices=[dict(text=f"you sent {KEY}")])).replace("/", "\\/").encode()), ("repeats the key",)),
    (body(b'{"choices": [{"text": "", "finish_reason": "content_filter"}]}'), ("content filter",)),
])
def test_what_cannot_pass_is_not_tried_again(server, fault, words):
    server.always = fault
    teacher = RemoteTeacher(served(server.url))
    one_line(lambda: teacher.generate(["abc"], Sampling(temperature=0.0, n=1)), *words)
    assert len(server.asked) <= 2  # the question for log-probabilities may be refused, the request is not repeated
    assert getattr(server, "sent", 0) < 50 * 2**20 or fault is not huge  # the rest of 50 MB is never read


def test_connection_refused_and_a_server_that_starts_late(server):
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    one_line(lambda: RemoteTeacher(served(f"http://127.0.0.1:{port}/v1")).generate(["a"], Sampling()), "cannot be reached (4 tries): start it, or correct url")


def test_an_empty_text_is_asked_again_or_refused(server):
    empty = body(b'{"choices": [{"text": "\\nnext", "finish_reason": "stop"}]}')
    server.faults = [status(400)] * 3 + [empty, empty]  # neither log-probabilities nor literal sampling, in either form
    teacher = RemoteTeacher(served(server.url))
    (c,), = teacher.generate(["abc"], Sampling(temperature=1.0))
    assert c.text == good(teacher.spec.start_token + "abc")
    assert len({a["seed"] for a in server.asked[3:]}) == 3  # another seed each time
    server.always = empty
    one_line(lambda: RemoteTeacher(served(server.url)).generate(["abc"], Sampling(temperature=1.0)), "an empty text, and no log-probabilities")
    one_line(lambda: RemoteTeacher(served(server.url)).generate(["abc"], Sampling()), "an empty text, and no log-probabilities")
    assert RemoteTeacher(served(server.url)).generate(["abc"], Sampling(nonempty=False))[0][0].text == ""


def test_choices_without_log_probabilities_are_an_error(server):
    one_line(lambda: RemoteTeacher(served(server.url)).generate(["abc"], Sampling(choices=(" A", " B"))), "' A'", "cannot be priced")


def test_scoring_without_prices_names_what_to_use(server):
    one_line(lambda: RemoteTeacher(served(server.url)).score([("a", "b")]), "cannot score", "vLLM", "local teacher")
    one_line(lambda: RemoteTeacher(served(server.url)).score([("a", "b"), ("a", "")]), "pair 1 has an empty continuation")


def test_at_most_so_many_requests_at_once(server):
    server.delay = 0.1
    teacher = RemoteTeacher(served(server.url, concurrency=3))
    made = teacher.generate([f"prompt {i}" for i in range(6)], Sampling(temperature=1.0, n=2))
    assert server.most == 3 and [len(row) for row in made] == [2] * 6
    assert [row[0].text for row in made] == [good(f"{teacher.spec.start_token}prompt {i}") for i in range(6)]


def test_a_pause_that_the_server_asks_for_is_kept_by_all(server):
    server.faults, server.delay = [None, status(429, retry_after="0.6")], 0.2
    teacher = RemoteTeacher(served(server.url, concurrency=2))
    teacher.generate(["a", "b", "c", "d"], Sampling())
    first = server.asked[1]["at"]
    assert min(a["at"] for a in server.asked[3:]) >= first + 0.6  # one other may have been under way


def test_the_store_holds_what_came_before_a_failure(server, tmp_path):
    store, prompts = Store(tmp_path / "calls.sqlite"), [f"prompt {i}" for i in range(8)]
    server.faults, server.always = [None] * 6, status(400, b"broken")
    first = StoredTeacher(RemoteTeacher(served(server.url, concurrency=1)), store)
    one_line(lambda: first.generate(prompts, Sampling()), "broken")
    assert store.stats()["calls"] == 5  # the first request asked for log-probabilities
    server.always = None
    again = StoredTeacher(RemoteTeacher(served(server.url)), store)
    made = again.generate(prompts, Sampling())
    assert (again.calls, again.paid) == (8, 3) and len(made) == 8


def test_requests_in_flight_are_kept_when_another_fails(server, tmp_path):
    server.faults, server.delay = [None, status(400, b"broken")], 0.2
    store = Store(tmp_path / "calls.sqlite")
    one_line(lambda: StoredTeacher(RemoteTeacher(served(server.url)), store).generate([f"p{i}" for i in range(12)], Sampling()), "broken")
    assert store.stats()["calls"] == 3  # of four at once, one failed; eight were not begun
    assert len(server.asked) == 5


def test_a_killed_process_keeps_what_was_answered(server, tmp_path):
    server.delay = 0.15
    code = ("import sys; from dataclasses import replace; from resynth.profiles import load_profile; from resynth.store import Store\n"
            "from resynth.remote_teacher import RemoteTeacher; from resynth.teacher import Sampling, StoredTeacher\n"
            f"spec = replace(load_profile('smoke', {AT!r}).models['teacher'], url=sys.argv[1], concurrency=2)\n"
            "StoredTeacher(RemoteTeacher(spec), Store(sys.argv[2])).generate([f'p{i}' for i in range(40)], Sampling())")
    child = subprocess.Popen([sys.executable, "-c", code, server.url, str(tmp_path / "calls.sqlite")])
    while len(server.asked) < 12: time.sleep(0.05); assert child.poll() is None
    child.send_signal(signal.SIGKILL); child.wait()
    asked, server.delay = len(server.asked), 0.0
    with Store(tmp_path / "calls.sqlite") as store: kept = store.stats()["calls"]
    assert asked - 1 - 2 - 1 <= kept <= asked - 1  # all but those in flight, and one on its way into the store
    again = StoredTeacher(RemoteTeacher(served(server.url)), Store(tmp_path / "calls.sqlite"))
    again.generate([f"p{i}" for i in range(40)], Sampling())
    assert again.paid == 40 - kept


def test_more_samples_later_pay_only_for_the_new_ones(server, tmp_path):
    store, warm = Store(tmp_path / "calls.sqlite"), Sampling(temperature=1.0, n=2, seed=3)
    first = StoredTeacher(RemoteTeacher(served(server.url)), store)
    made = first.generate(["a", "b", "a"], warm)
    assert made[0] == made[2] and len([a for a in server.asked if a["max_tokens"] > 1]) == 4  # equal requests are asked once
    second = StoredTeacher(RemoteTeacher(served(server.url)), store)
    assert [row[:2] for row in second.generate(["a", "b"], replace(warm, n=3))] == made[:2] and second.paid == 2
    other = StoredTeacher(RemoteTeacher(served(server.url)), store)
    other.generate(["a"], replace(warm, seed=4))
    assert other.paid == 2  # another seed never meets an old answer


def test_the_key_is_sent_and_nowhere_else(server, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    teacher = RemoteTeacher(served(server.url))
    stored = StoredTeacher(teacher, Store(tmp_path / "calls.sqlite"))
    stored.generate(["abc"], Sampling())
    assert all(a["authorization"] == f"Bearer {KEY}" for a in server.asked)
    stored.store.close()
    kept = b"".join(p.read_bytes() for p in tmp_path.iterdir())
    profile = load_profile("smoke", AT | {"model.teacher.key_env": "RESYNTH_TEST_KEY"})
    said = caplog.text + "".join(capfd.readouterr()) + repr(teacher) + str(vars(teacher)) + repr(teacher.line.client.headers) + json.dumps(profile.raw)
    assert "Sup3r" not in said and b"Sup3r" not in kept and "RESYNTH_TEST_KEY" not in json.dumps(profile.settings("vsynthesis"))


def test_the_key_is_in_no_manifest_and_no_message_of_the_command(tmp_path, monkeypatch, capsys):
    from resynth.command_line import main
    from resynth.runs import start_run
    run = start_run("11_main_results", "smoke", overrides=AT | {"model.teacher.key_env": "RESYNTH_TEST_KEY"}, results=tmp_path)
    run.table(pd.DataFrame({"a": [1]}), "table1", "A table")
    assert "small" in json.dumps(run.finish()["settings"])
    assert b"Sup3r" not in b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    monkeypatch.setenv("RESYNTH_CACHE", str(tmp_path / "cache"))
    said = [w for k, v in (AT | {"model.teacher.key_env": "RESYNTH_TEST_KEY"}).items() for w in ("--set", f"{k}={v}")]
    assert main(["plan", "--profile", "smoke", "--nb", "11", *said]) == 0
    told = capsys.readouterr()
    assert "served as small" in told.out and "Sup3r" not in told.out + told.err


def test_a_short_dummy_key_may_stand_in_a_text(server, monkeypatch):
    monkeypatch.setenv("RESYNTH_TEST_KEY", "chars")
    server.always = body(b'{"choices": [{"text": "five chars"}]}')
    assert RemoteTeacher(served(server.url)).generate(["abc"], Sampling())[0][0].text == "five chars"


def test_a_key_that_is_not_there_or_is_none(monkeypatch):
    monkeypatch.delenv("RESYNTH_TEST_KEY")
    one_line(lambda: RemoteTeacher(served()).generate(["a"], Sampling()), "RESYNTH_TEST_KEY", "is not set")
    monkeypatch.setenv("RESYNTH_TEST_KEY", "two\nSup3r lines")
    one_line(lambda: RemoteTeacher(served()).generate(["a"], Sampling()), "holds characters that no key has")


# profiles and small parts

@pytest.mark.parametrize("change, words", [
    ({"model.teacher.url": "http://me:Sup3r@host/v1"}, ("key_env",)),
    ({"model.teacher.url": "http://host/v1?key=Sup3r"}, ("key_env",)),
    ({"model.teacher.url": "host:8000"}, ("http://127.0.0.1:8000/v1",)),
    ({"model.teacher.url": ""}, ("wants url",)),
    ({"model.teacher.api": "completion"}, ("did you mean 'completions'",)),
    ({"model.teacher.key_env": "sk-Sup3rSecret"}, ("no name of an environment variable",)),
    ({"model.teacher.prompt_style": "chat"}, ("api = 'chat'",)),
    ({"model.teacher.concurrency": 0}, ("out of range",)),
    ({"model.teacher.kind": "gguf"}, ("'url' belongs to kind = 'server'",)),
    ({"model.encoder.kind": "server"}, ("wants url",)),
    ({"model.teacher.urll": "x"}, ("did you mean 'url'",)),
])
def test_profiles_of_servers_are_checked(change, words): one_line(lambda: load_profile("smoke", AT | change), *words)


def test_a_server_that_is_left_out_changes_no_profile():
    from resynth.profiles import SERVER
    for name in ("smoke", "laptop", "laptop_real", "gpu", "paper"):
        assert not any(set(SERVER) & set(m) for m in load_profile(name).settings("vsynthesis")["model"])


def test_the_keys_of_a_local_teacher_are_what_they_were(local, tmp_path):
    from dataclasses import asdict
    from resynth.store import request_key
    from resynth.teacher import encode_prompts
    store, warm = Store(tmp_path / "calls.sqlite"), Sampling(temperature=1.0, max_new_tokens=3, n=2, seed=1)
    stored = StoredTeacher(local, store)
    stored.generate(PROMPTS[:2], warm); stored.score(PAIRS[:2])
    keys = [request_key(kind="generate", revision=local.revision, prompt=encode_prompts(local, [(p, "")])[0], **asdict(warm)) for p in PROMPTS[:2]]
    keys += [request_key(kind="score", revision=local.revision, pair=encode_prompts(local, [pair])[0]) for pair in PAIRS[:2]]
    assert len(store.get_many(keys)) == 4 == store.stats()["calls"]


def test_a_served_profile_opens_beside_the_local_one(tmp_path, monkeypatch):
    monkeypatch.setenv("RESYNTH_CACHE", str(tmp_path))
    teacher = open_teacher(load_profile("smoke", AT))
    assert isinstance(teacher.teacher, RemoteTeacher) and teacher.revision.startswith("small@server-") and teacher.revision.endswith("/completions")
    assert result_settings(load_profile("smoke", AT))["server"] == AT["model.teacher.url"]
    one_line(lambda: models.fetch_model(teacher.spec), "is on a server")


def test_a_served_model_is_not_fetched_and_is_named_as_served(monkeypatch):
    from resynth.command_line import fetch
    from resynth.runs import card
    profile, fetched = load_profile("smoke", AT), []
    monkeypatch.setattr(models, "fetch_model", lambda spec: fetched.append(spec.role))
    fetch(profile)
    assert fetched and "teacher" not in fetched
    assert "(teacher, on a server)" in profile.cite("vsynthesis") and "server" not in load_profile("smoke").cite("vsynthesis")
    assert "serves as `small`" in card(profile, "11_main_results").data and "serves" not in card(load_profile("smoke"), "11_main_results").data


def test_tokens_of_a_served_prompt_are_counted_as_those_of_the_local_teacher(local):
    from resynth.teacher import encode_prompts
    spec = served(key_env="")
    assert encode_prompts(RemoteTeacher(spec), PAIRS) == encode_prompts(local, PAIRS)
    one_line(lambda: encode_prompts(RemoteTeacher(replace(spec, api="chat")), PAIRS), "cannot be counted", "completions")


def test_retry_after_and_own_words():
    assert [retry_after(x, 0.0) for x in ("3", "0.5", "-1", "inf", "", "soon")] == [3.0, 0.5, 0.0, 0.0, 0.0, 0.0]
    assert retry_after("Thu, 01 Jan 1970 00:00:09 GMT", 4.0) == 5.0
    assert own_words("a\n b\x07 c key", "key") == "a b? c ***" and len(own_words("x" * 999)) == 200


def test_waits_grow_and_differ():
    from types import SimpleNamespace
    import importlib
    fresh = importlib.util.module_from_spec(spec := find_spec("resynth.server_requests")); spec.loader.exec_module(fresh)
    state = lambda n: SimpleNamespace(attempt_number=n, outcome=SimpleNamespace(exception=lambda: TryAgain("", "", 2.0)))
    early, late = ([fresh._wait(state(n)) for _ in range(300)] for n in (1, 20))
    assert 2.0 <= min(early) and max(early) <= 2.5 and 20 < max(late) <= 32.0 and len(set(late)) > 250 and min(late) < 10


def test_tokens_are_laid_along_a_text():
    assert token_ends(["a", "b c", "d"], "ab cd") == [1, 4, 5] and token_ends(["a", "b"], "ac") is None
    assert token_ends([None, " b"], "start b") == [5, 7]
    assert price(["<s>", "a", " b"], [None, -1.0, -math.log(2)], "<s>a", " b", "<s>") == Score(1.0, 1)
    assert price(["a", " b"], [None, -math.log(2)], "<s>a", " b", "<s>") == Score(1.0, 1)  # not printed
    assert price(["", "a", " b", " more"], [None, -1.0, -math.log(2), -5.0], "a", " b", written=1) == Score(1.0, 1)
    assert price(["x", " �", "�", "�", "y"], [None, *[-math.log(2)] * 4], "x", " 🙂y") == Score(4.0, 4)
    one_line(lambda: price(["a", "x"], [None, -1.0], "a", " b"), "do not add up")
    one_line(lambda: price(["b"], [None], "", "b"), "without a prefix")
    assert price_end(["<user>", "q", "<model>", " b", "c"], [None, -1, -1, -math.log(2), -math.log(2)], " bc") == Score(2.0, 2)


def test_stops_and_first_tokens():
    assert cut_text("a\nb", ("\n",)) == "a" and cut_text("ab", ()) == "ab"
    assert first_token({"\n\n": -1, "</s>": -2, "": -3, " x": -4, "y": -5}, ("\n",)) == " x" and first_token({"\n": 0.0}, ("\n",)) == ""
    drawn = [first_token({"\n": 0.0, " x": -3.0, "y": -3.0}, ("\n",), "", Sampling(temperature=1.0), seed) for seed in range(60)]
    assert 15 < drawn.count(" x") < 45 and drawn.count("y") == 60 - drawn.count(" x")
    assert request_fields(served(start_token="<s>"), "p", Sampling(), 4, ("\n",), 1) == dict(
        model="small", max_tokens=4, temperature=0.0, stop=["\n", "<s>"], prompt="<s>p")


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.5, 1.0), (1.0, 0.6)])
def test_choices_are_drawn_as_the_local_teacher_draws_them(temperature, top_p):
    p = np.array([0.5, 0.2, 0.1])  # the rest belongs to other tokens
    nats = match_choices((" A", " B", " C"), {" A": math.log(0.5), " B": math.log(0.2), " C": math.log(0.1), " the": math.log(0.2)})
    drawn = [draw_choice(nats, Sampling(temperature, top_p), seed) for seed in range(3000)]
    wanted = p ** (1 / temperature); wanted /= wanted.sum()
    if top_p < 1: wanted = np.where(np.cumsum(wanted) - wanted < top_p, wanted, 0); wanted /= wanted.sum()
    assert np.allclose([drawn.count(c) / 3000 for c in (" A", " B", " C")], wanted, atol=0.03)
    assert match_choices((" A",), {"A": -1.0}) == {} and match_choices((" A",), {"A": -1.0}, loose=True) == {" A": -1.0}


def test_a_slow_or_large_body_ends():
    with pytest.raises(TryAgain, match="time-out"): read_body([b"x"] * 3, time.monotonic() - 1)
    with pytest.raises(ResynthError, match="larger"): read_body((b"x" * 2**20 for _ in range(10**6)), time.monotonic() + 60)
    assert MOST_BYTES < 50 * 2**20


def test_work_is_handed_on_before_the_failure():
    def work(item):
        if item == 3: raise ResynthError("three")
        return -item
    got = []
    with pytest.raises(ResynthError, match="three"):
        for item, result in each_done(work, list(range(10)), 1, threading.Event()): got.append((item, result))
    assert got == [(0, 0), (1, -1), (2, -2)]
    assert sorted(r for _, r in each_done(lambda x: x * x, list(range(20)), 4, threading.Event())) == [x * x for x in range(20)]


# servers of the embedded model

class ModelHandler(BaseHTTPRequestHandler):
    "The embedded model behind the completions interface, with one of three ways to price."

    def do_POST(self):
        import torch
        asked, s = json.loads(self.rfile.read(int(self.headers["content-length"]))), self.server
        tokenizer, odd = s.local.tokenizer, {"echo", "prompt_logprobs", "logit_bias"} - {s.way}
        if odd & set(asked): return self.reply(400, dict(error=f"unknown field {odd & set(asked)}"))
        ids = asked["prompt"] if isinstance(asked["prompt"], list) else tokenizer.encode(asked["prompt"], add_special_tokens=False).ids
        piece = lambda i: tokenizer.decode([i], skip_special_tokens=False)
        choice, new = {}, []
        with s.lock, torch.inference_mode():
            rows = s.local.lm(torch.tensor([ids])).logits[0].float().log_softmax(-1)
            while len(new) < asked["max_tokens"]:
                nats = s.local.lm(torch.tensor([ids + [t for t, _, _ in new]])).logits[0, -1].float().log_softmax(-1)
                bias = {int(k): v for k, v in asked.get("logit_bias", {}).items()}
                token = max(bias, key=bias.get) if bias else int(nats.argmax())
                new.append((token, nats[token].item(), {piece(i): nats[i].item() for i in nats.topk(asked.get("logprobs") or 1).indices.tolist()}))
                if token in s.local.ends or any(x in tokenizer.decode([t for t, _, _ in new]) for x in asked.get("stop", [])): break
        text = cut_text(tokenizer.decode([t for t, _, _ in new if t not in s.local.ends]), tuple(asked.get("stop", [])))
        own = [None, *(rows[t - 1, i].item() for t, i in enumerate(ids) if t)]
        if asked.get("logprobs"): choice["logprobs"] = dict(tokens=[piece(t) for t, _, _ in new], token_logprobs=[n for _, n, _ in new], top_logprobs=[x for _, _, x in new])
        if asked.get("echo"):
            text = asked["prompt"] + text
            choice["logprobs"] = {"tokens": [piece(i) for i in ids] + choice["logprobs"]["tokens"], "token_logprobs": own[s.shift:] + [-1.0] * s.shift + choice["logprobs"]["token_logprobs"]}
        if "prompt_logprobs" in asked: choice["prompt_logprobs"] = [None if n is None else {str(i): dict(logprob=n, rank=1, decoded_token=piece(i))} for i, n in zip(ids, own)]
        self.reply(200, dict(choices=[dict(text=text, finish_reason="length" if len(new) == asked["max_tokens"] else "stop", **choice)], usage=dict(completion_tokens=len(new))))

    def reply(self, code, told):
        data = json.dumps(told).encode()
        self.send_response(code); self.send_header("content-length", str(len(data))); self.end_headers(); self.wfile.write(data)

    def log_message(self, *args): pass


@pytest.fixture(scope="module")
def local(): return LocalTeacher(load_profile("smoke", {"model.teacher.precision": "float32"}).models["teacher"], batch_rows=4, batch_tokens=96)


@pytest.fixture
def model_server(local):
    s = ThreadingHTTPServer(("127.0.0.1", 0), ModelHandler)
    s.local, s.way, s.shift, s.lock, s.daemon_threads = local, "echo", 0, threading.Lock(), True
    s.url = f"http://127.0.0.1:{s.server_port}/v1"
    threading.Thread(target=s.serve_forever, daemon=True).start()
    yield s
    s.shutdown(); s.server_close()


@pytest.mark.parametrize("way, form", [("echo", "echo"), ("prompt_logprobs", "prompt"), ("logit_bias", "forced")])
def test_three_ways_to_price_agree_with_the_local_teacher(model_server, local, way, form):
    model_server.way = way
    teacher = RemoteTeacher(served(model_server.url, key_env="", timeout=60.0))
    assert teacher.prices == form
    ours, theirs = local.score(PAIRS), teacher.score(PAIRS)
    assert [s.tokens for s in ours] == [s.tokens for s in theirs]
    assert np.abs(np.array([a.bits - b.bits for a, b in zip(ours, theirs)])).max() < 2e-3


def test_a_server_that_shifts_its_prices_is_not_believed(model_server):
    model_server.shift = 1
    teacher = RemoteTeacher(served(model_server.url, key_env="", timeout=60.0))
    assert not believable(teacher, "echo") and teacher.prices == ""
    one_line(lambda: teacher.score(PAIRS), "cannot score")


def test_fields_choices_and_first_tokens_equal_the_local_teacher(model_server, local):
    later = (Field("\nLanguage:", 6), Field("\nContinent: the continent of", 5, ("\n", ","), nonempty=False), Field("\nIsland (A) yes (B) no:", 1, choices=(" A", " B")))
    sampling = Sampling(max_new_tokens=7, stop=("\n", "."), then=later)
    prompts = PROMPTS[:3] + ["Question: What is the answer?\n\nAnswer the question.\n"]  # the last makes the model begin with an empty line
    teacher = RemoteTeacher(served(model_server.url, key_env="", timeout=60.0))
    ours, theirs = ([row[0] for row in t.generate(prompts, sampling)] for t in (local, teacher))
    assert [c.text for c in ours] == [c.text for c in theirs]
    assert all(c.bits is not None for c in theirs)


# real servers, where they are installed

def free_port():
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); return s.getsockname()[1]


def have(*names): return all(find_spec(n) for n in names)


def start_transformers(folder, port, tmp_path):
    code = "from transformers.cli.transformers import main; main()"
    return [sys.executable, "-c", code, "serve", folder.name, "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--device", "cpu"], folder.parent, folder.name


def start_llama(folder, port, tmp_path):
    from embedded_server import packed_gguf
    try: packed_gguf()
    except ResynthError as error: pytest.skip(f"llama.cpp needs the embedded model's own file: {error}")
    return [sys.executable, str(Path(__file__).with_name("embedded_server.py")), str(port)], tmp_path, "small"


REAL = {"transformers serve": (("uvicorn", "fastapi", "openai"), "transformers", start_transformers),
        "llama.cpp": (("xllamacpp",), "xllamacpp", start_llama)}


@pytest.fixture(scope="module")
def real(request, local, tmp_path_factory):
    wanted, package, start = REAL[request.param]
    if not have(*wanted): pytest.skip(f"{request.param} needs {', '.join(wanted)}: pip install them to run this test")
    port, folder = free_port(), tmp_path_factory.mktemp("real")
    command, cwd, name = start(models.fetch_model(local.spec), port, folder)
    with open(folder / "log", "wb") as log: child = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log)
    spec, end = served(f"http://127.0.0.1:{port}/v1", key_env="", served_name=name, timeout=300.0, retries=2), time.monotonic() + 1200
    while True:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5, trust_env=False).status_code == 200: break
        except httpx.HTTPError: pass
        assert child.poll() is None and time.monotonic() < end, (folder / "log").read_text()[-2000:]
        time.sleep(1)
    yield request.param, version(package), spec
    child.terminate(); child.wait(30)


def record(name, release, **found):
    "Write a line of tests/servers.csv, where RESYNTH_RECORD asks for it."
    if not os.environ.get("RESYNTH_RECORD"): return
    path, key = repo_root() / "tests" / "servers.csv", (name, found["interface"])
    with open(path, newline="") as file: rows = [r for r in csv.DictReader(file) if (r["server"], r["interface"]) != key]
    rows = sorted([*rows, dict(server=name, version=release, **{k.replace("_", " "): v for k, v in found.items()})], key=lambda r: (r["server"], r["interface"]))
    with open(path, "w", newline="") as file:
        out = csv.DictWriter(file, ["server", "version", "interface", "asked", "same text", "prices", "bits apart", "note"], lineterminator="\n")
        out.writeheader(); out.writerows(rows)


@pytest.mark.parametrize("real", REAL, indirect=True)
def test_greedy_text_of_a_real_server_equals_the_local_teacher(real, local):
    name, release, spec = real
    teacher, plain = RemoteTeacher(spec), Sampling(max_new_tokens=12, stop=(), nonempty=False)
    lines = Sampling(max_new_tokens=12, then=(Field("\nLanguage:", 6),))
    ours, theirs = ([row[0].text for s in (plain, lines) for row in t.generate(PROMPTS, s)] for t in (local, teacher))
    same = sum(a == b for a, b in zip(ours, theirs))
    prices, apart, note = teacher.prices, "", ""
    if prices:
        pairs = PAIRS[:-1] if prices == "echo" else PAIRS
        a, b = local.score(pairs), teacher.score(pairs)
        assert [s.tokens for s in a] == [s.tokens for s in b]
        apart = float(max(abs(x.bits - y.bits) for x, y in zip(a, b)))
        assert apart < 0.05
    else: note = one_line(lambda: teacher.score(PAIRS), "cannot score").split(", so it ")[1].split(":")[0]
    record(name, release, interface="completions", asked=len(ours), same_text=same, prices=prices or "no", bits_apart=f"{apart:.1g}" if prices else "", note=note)
    assert same == len(ours), [(x, y) for x, y in zip(ours, theirs) if x != y]


@pytest.mark.parametrize("real", REAL, indirect=True)
def test_greedy_chat_of_a_real_server_equals_the_local_teacher(real, local):
    name, release, spec = real
    chat = LocalTeacher(replace(local.spec, prompt_style="chat")); chat.__dict__["lm"] = local.lm
    asked = [f"What is the capital of {c}?" for c in ("Italy", "Japan", "Peru")]
    sampling = Sampling(max_new_tokens=12, stop=())
    ours, theirs = ([row[0].text for row in t.generate(asked, sampling)] for t in (chat, RemoteTeacher(replace(spec, api="chat", prompt_style="chat"))))
    same = sum(a.strip() == b.strip() for a, b in zip(ours, theirs))
    record(name, release, interface="chat", asked=len(ours), same_text=same, prices="no", bits_apart="", note="")
    assert same == len(ours), list(zip(ours, theirs))


@pytest.mark.parametrize("real", REAL, indirect=True)
def test_a_real_server_draws_different_samples_and_repeats_a_seed(real):
    name, _, spec = real
    teacher, warm = RemoteTeacher(spec), Sampling(temperature=1.0, top_p=0.95, max_new_tokens=8, n=4, seed=1, stop=())
    first, again = (sorted({c.text for c in t.generate(PROMPTS[:1], warm)[0]}) for t in (teacher, RemoteTeacher(replace(spec, concurrency=1))))
    assert len(first) > 1 and len(again) > 1  # `transformers serve` is greedy, unless its own field asks it to draw
