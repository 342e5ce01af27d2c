"The box for generated code: hostile programs harm nothing and score nothing, right ones pass, and a box with a hole is not trusted."
import os
import socket
import subprocess
import sys
import threading

import pytest
from helpers import fails

from resynth import code_sandbox as C
from resynth.code_sandbox import FORBIDDEN, Program, Verdict, extract_code, pass_at_k, run_program, run_programs

if sys.platform != "linux": pytest.skip("the box needs Linux", allow_module_level=True)
HOSTILE = {
    "fork bomb": "import os\nwhile True: os.fork()",
    "fork bomb by processes": "import multiprocessing as m\nwhile True: m.Process(target=print).start()",
    "threads": "import threading\nwhile True: threading.Thread(target=lambda: None).start()",
    "endless loop": "while True: pass",
    "endless loop that catches": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "ignores signals": "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass",
    "memory": "x = bytearray(10**10)", "slow memory": "x = []\nwhile True: x.append(bytearray(10**7))", "a large number": "x = 10 ** 10 ** 10", "a large text": "x = 'x' * 10**12",
    "deep recursion": "def f(x): return f(x + 1)\nf(0)", "deeper recursion": "import sys; sys.setrecursionlimit(10**9)\ndef f(x): return f(x + 1)\nf(0)",
    "exit": "import sys; sys.exit(0)", "exit by raise": "raise SystemExit", "hard exit": "import os; os._exit(0)", "abort": "import os; os.abort()", "crash": "import ctypes; ctypes.string_at(0)",
    "interrupt": "raise KeyboardInterrupt", "own signal": "import os; os.kill(os.getpid(), 9)", "signal to the parent": "import os; os.kill(os.getppid(), 9)", "signal to all": "import os; os.kill(-1, 9)",
    "shell": "import os; assert os.system('true') == 0", "program": "import subprocess; subprocess.run(['true'])", "replace itself": "import os; os.execv('/bin/true', ['true'])",
    "reads a file": "open('/etc/passwd').read()", "lists a folder": "import os; os.listdir('/')", "writes a file": "open('inside.txt', 'w').write('x')", "makes a folder": "import os; os.mkdir('inside')",
    "makes a link": "import os; os.symlink('/etc/passwd', 'link')", "changes a mode": "import os; os.chmod('.', 0o777)", "removes its folder": "import shutil; shutil.rmtree('..')",
    "higher limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "shared memory": "from multiprocessing import shared_memory as s; s.SharedMemory(create=True, size=9)",
    "socket": "import socket; socket.socket()", "name lookup": "import socket; socket.getaddrinfo('localhost', 80)", "unix socket": "import socket; socket.socketpair()",
    "much output": "while True: print('x' * 10**6)", "waits for input": "input()", "nested brackets": "x = " + "(" * 10**5, "not UTF-8": "x = '\\udcff'\nraise ValueError(x)", "null byte": "x = 1\0",
    "claims success": "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'passed')\n    except OSError: pass\nos._exit(0)",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_score_nothing(name):
    verdict = run_program(Program(HOSTILE[name], ()), seconds=1)
    assert verdict.passed is False and verdict.why and "\n" not in verdict.why


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(C.tempfile, "tempdir", str(tmp_path))
    before = subprocess.run(["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True).stdout.split()
    run_programs([Program(code, ()) for code in list(HOSTILE.values())[:4]], seconds=1)
    after = subprocess.run(["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True).stdout.split()
    assert list(tmp_path.iterdir()) == [] and len(after) <= len(before)


def test_a_file_outside_stays_as_it_is(tmp_path):
    file = tmp_path / "precious.txt"
    file.write_text("precious")
    os.chmod(file, 0o640)
    attacks = [f"open({str(file)!r}, {mode!r}).{what}" for mode, what in (("w", "write('x')"), ("a", "write('x')"), ("r+", "truncate(0)"), ("r", "read()"))]
    attacks += [f"import os; os.{call}" for call in (f"remove({str(file)!r})", f"truncate({str(file)!r}, 0)", f"chmod({str(file)!r}, 0)", f"chown({str(file)!r}, 1, 1)", f"utime({str(file)!r}, (0, 0))",
                                                     f"rename({str(file)!r}, 'x')", f"link({str(file)!r}, 'x')", f"setxattr({str(file)!r}, 'user.x', b'x')")]
    was = file.stat()
    assert not any(v.passed for v in run_programs([Program(a, ()) for a in attacks]))
    now = file.stat()
    assert file.read_text() == "precious" and (now.st_mode, now.st_uid, now.st_mtime_ns, now.st_nlink) == (was.st_mode, was.st_uid, was.st_mtime_ns, was.st_nlink)


def test_nobody_calls_a_listening_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))"
        assert run_program(Program(code, ())) == Verdict(False, "PermissionError")
        with pytest.raises(TimeoutError): server.accept()


def test_a_sleeper_is_ended(monkeypatch):
    monkeypatch.setattr(C, "PATIENCE", 0)
    monkeypatch.setattr(C, "TICK", 0.01)
    assert run_program(Program("import time; time.sleep(10**6)", ()), seconds=1) == Verdict(False, "time")


@pytest.mark.parametrize("lock, source", [("lock_files", "def lock_files(readable): pass"), ("lock_system_calls", "def lock_system_calls(machine, numbers): pass"), ("limit_resources", "def limit_resources(seconds, megabytes): pass")])
def test_a_box_without_a_lock_is_not_trusted(lock, source, monkeypatch):
    real = C.child_source()
    import inspect
    broken = real.replace(inspect.getsource(getattr(C, lock)), source + "\n")
    assert broken != real
    monkeypatch.setattr(C, "child_source", lambda: broken)
    C.check_box.cache_clear()
    try:
        fails(lambda: run_program(Program("x = 1", ())), "the box did not hold", "leave out tasks with code")
    finally: C.check_box.cache_clear()


def test_another_system_is_refused(monkeypatch):
    C.check_box.cache_clear()
    monkeypatch.setattr(C.sys, "platform", "darwin")
    try: fails(lambda: run_program(Program("x = 1", ())), "Linux 5.13 or newer")
    finally: C.check_box.cache_clear()


def test_numbers_of_system_calls_differ(): assert all(len({pair[c] for pair in FORBIDDEN.values() if pair[c] >= 0}) == sum(pair[c] >= 0 for pair in FORBIDDEN.values()) for c in (0, 1))


@pytest.mark.parametrize("code, tests, why", [
    ("def f(x): return x + 1", ("assert f(1) == 2", "assert f(-1) == 0"), "passed"), ("def f(x): return x", ("assert f(1) == 2",), "AssertionError"), ("def f(x): return x / 0", ("assert f(1) == 2",), "ZeroDivisionError"),
    ("def f(x) return", ("assert f(1) == 2",), "SyntaxError"), ("", ("assert f(1) == 2",), "NameError"), ("def f(x): return x + 1\nf = None", ("assert f(1) == 2",), "TypeError"),
    ("import re, math, heapq, collections, itertools, sys, cmath, array, bisect, operator, datetime, copy", ("assert math.sqrt(4) == 2",), "passed"),
    ("class Odd(Exception): pass\ndef f(x): raise Odd", ("assert f(1)",), "Odd")])
def test_verdicts(code, tests, why): assert run_program(Program(code, tests)) == Verdict(why == "passed", why)


def test_setup_runs_between_code_and_tests():
    program = Program("class Node:\n    def __init__(self, x): self.x = x\ndef f(n): return n.x", ("assert f(root) == 3",), "root = Node(3)")
    assert run_program(program).passed and not run_program(Program(program.code, program.tests)).passed


def test_many_programs_keep_their_order():
    programs = [Program(f"x = {i}", (f"assert x == {i if i % 3 else -1}",)) for i in range(12)]
    assert [v.passed for v in run_programs(programs, workers=3)] == [bool(i % 3) for i in range(12)]
    assert run_programs([]) == []


def test_programs_run_in_a_thread_too():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(run_program(Program("x = 1", ("assert x == 1",)))))
    thread.start(); thread.join()
    assert seen[0].passed


def test_hashing_is_fixed():
    told = subprocess.run([sys.executable, "-c", "print(hash('alpha'))"], capture_output=True, text=True, env={"PYTHONHASHSEED": "0"}).stdout.strip()
    assert run_program(Program("x = hash('alpha')", (f"assert x == {told}",))).passed


def test_bad_limits():
    fails(lambda: run_program(Program("", ()), seconds=0), "at least 1 s")
    fails(lambda: run_program(Program("", ()), megabytes=10), "128 MB")


@pytest.mark.parametrize("answer, code", [
    ("x = 1", "x = 1"), ("Here:\n```python\nx = 1\n```\nDone.", "x = 1"), ("```\nx = 1\n```\n```\ny = 2\n```", "x = 1"), ("```py\nx = 1", "x = 1"), ("\n\n    return 1\n", "    return 1"), ("", "")])
def test_code_of_an_answer(answer, code): assert extract_code(answer) == code


def test_pass_at_k_is_the_mean_over_draws():
    from itertools import combinations
    for n in range(1, 7):
        for c in range(n + 1):
            for k in range(1, n + 1):
                draws = [any(d) for d in combinations([1] * c + [0] * (n - c), k)]
                assert abs(pass_at_k(n, c, k) - sum(draws) / len(draws)) < 1e-12
    fails(lambda: pass_at_k(2, 1, 3), "pass@3")
