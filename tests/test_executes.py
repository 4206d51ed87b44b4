"""Answers that are programs: hostile ones do no harm, leave no trace and are counted."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cdjax import config, parts
from cdjax.lessons.filters import Evidence, Kept
from tests.command import run_tiny
from tests.test_keep import FORMAT, TWELVE, keep, rollout

ALONE = shutil.which("unshare") and not subprocess.run(["unshare", "-rnp", "true"], capture_output=True).returncode
SECRET = "not for programs"
FAILED, STOPPED = "program_failed", "program_stopped"


def refuse(*texts, given="x", **fields):
    answers = [Kept(rollout("x", given=given), np.zeros(1, np.int32), text) for text in texts]
    executes = config.Executes(**{"cpu_seconds": 1, "seconds": 2, "memory": 256} | fields)
    return executes.refuse(answers, Evidence(TWELVE))


def folder(process):
    try:
        return os.readlink(process / "cwd")
    except OSError:  # it has ended, or is somebody else's
        return ""


@pytest.fixture(autouse=True)
def no_trace(tmp_path, monkeypatch):
    """After each test no program is left, and nothing of what it wrote."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("SECRET", SECRET)
    yield
    left = list(tmp_path.iterdir())
    subprocess.run(["rm", "-rf", *left])  # pytest cannot delete every folder that a program can make
    assert left == []
    assert [process for process in Path("/proc").glob("[0-9]*") if str(tmp_path) in folder(process)] == []


RIGHT = [
    "print(sum(range(9)))",
    "Here it is:\n```python\nassert 1 + 1 == 2\n```\nIt adds.\n```\nassert False\n```",
    "```py\nassert 1 + 1 == 2",
    "import sys\nsys.exit()",
    "import sys\nsys.exit(0)",
    "import pickle\nclass A: pass\nif __name__ == '__main__':\n    pickle.dumps(A())",
    "open('small', 'w').write('x' * 1000)",
    "for _ in range(100):\n    print('x' * 10**6)",  # goes nowhere
    "import os\nassert os.listdir() == []\nassert not os.read(0, 1)",
    "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')",
    "import numpy\nassert numpy.ones((9, 9)) @ numpy.ones(9) is not None",
]


@pytest.mark.parametrize("text", RIGHT)
def test_a_program_that_runs_to_its_end_is_kept(text):
    assert refuse(text, memory=1024, cpu_seconds=5, seconds=20) == [None]


HOSTILE = {
    "endless loop": ("while True: pass", STOPPED),
    "sleep": ("import time\ntime.sleep(60)", STOPPED),
    "endless output": ("while True: print('x' * 1000)", STOPPED),
    "memory bomb": ("every = []\nwhile True: every.append(bytearray(2**20))", FAILED),
    "fork bomb": ("import os\nwhile True: os.fork()", FAILED),
    "fork without Python": ("import ctypes\nassert ctypes.CDLL(None).fork() > 0", FAILED),
    "thread": ("import _thread\n_thread.start_new_thread(print, ())", FAILED),
    "another program": ("import subprocess\nsubprocess.run(['true'])", FAILED),
    "another program instead": ("import os, sys\nos.execv(sys.executable, ['python', '-c', '1'])", FAILED),
    "huge file": ("open('huge', 'wb').write(bytes(2**21))", FAILED),
    "locked folder": ("import os\nos.makedirs('a/b')\nos.chmod('a', 0)\n1 / 0", FAILED),
    "socket": ("import socket\nsocket.socket()", FAILED),
    "kill": ("import os\nos.kill(os.getppid(), 9)", FAILED),
    "environment": (f"import os\nassert {SECRET!r} in str(dict(os.environ))", FAILED),
    "exit code": ("import sys\nsys.exit(3)", FAILED),
    "exit with words": ("import sys\nsys.exit('done')", FAILED),
    "exit past Python": ("import os\nos._exit(0)", FAILED),
    "exit with words of its own": ("import os\nos.write(2, b'trouble')\nos._exit(1)", FAILED),
    "exception": ("1 / 0", FAILED),
    "recursion": ("def f(): f()\nf()", FAILED),
    "syntax error": ("def f(:", FAILED),
    "no text": ("a\0b", FAILED),
    "crash": ("import ctypes\nctypes.string_at(0)", FAILED),
    "standard input": ("input()", FAILED),
}


@pytest.mark.parametrize(("text", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_a_program_that_does_harm_or_does_not_end_is_dropped(text, reason):
    start = time.monotonic()
    assert refuse(text) == [reason]
    assert time.monotonic() - start < 20


REFUSED = {
    "socket.__new__": "import socket\nsocket.socket()",
    "os.fork": "os.fork()",
    "os.exec": "os.execv('/bin/true', ['true'])",
    "os.posix_spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "os.system": "os.system('true')",
    "os.kill": "os.kill(1, 0)",
    "subprocess.Popen": "import subprocess\nsubprocess.Popen(['true'])",
}


@pytest.mark.parametrize("event", REFUSED)
def test_the_interpreter_refuses_sockets_and_other_processes_on_any_kernel(event):
    tried = REFUSED[event].replace("\n", "\n    ")
    asserted = f"assert str(error) == {event!r}"
    assert refuse(f"import os\ntry:\n    {tried}\nexcept PermissionError as error:\n    {asserted}") == [None]
    assert refuse(f"import os\n{REFUSED[event]}") == [FAILED]


def test_each_limit_is_its_own():
    loop, sleep = "while True: pass", "import time\ntime.sleep(1.5)"
    start = time.monotonic()
    assert refuse(loop, cpu_seconds=1, seconds=60) == refuse(loop, cpu_seconds=60, seconds=1) == [STOPPED]
    assert time.monotonic() - start < 40
    assert (refuse(sleep, seconds=1), refuse(sleep, cpu_seconds=1, seconds=20)) == ([STOPPED], [None])
    large, file = "bytearray(200 * 2**20)", "open('f', 'wb').write(bytes(3 * 2**19))"
    assert (refuse(large, memory=150), refuse(large, memory=600)) == ([FAILED], [None])
    assert (refuse(file, file_size=1), refuse(file, file_size=2)) == ([FAILED], [None])


@pytest.mark.skipif(not ALONE, reason="this kernel lets no process have namespaces of its own")
def test_a_program_has_no_network_and_sees_no_other_process():
    names = "[line.split(':')[0].strip() for line in open('/proc/self/net/dev') if ':' in line]"
    secrets = f"open('/proc/{os.getpid()}/environ', 'rb').read()"
    assert refuse(f"assert {names} == ['lo']", "import os\nassert os.getpid() == 1", secrets) == [None, None, FAILED]


def test_text_around_the_answer_and_the_input_makes_the_program():
    answer = "```\ndef double(n): return n + n\n```"
    around = "text = '{input} {answer}'\n"
    assert refuse(answer, program="{answer}\nassert double({input}) == 6", given="3") == [None]
    assert refuse(answer, program="{answer}\nassert double({input}) == 6", given="4") == [FAILED]
    assert refuse("{input}", program=around + "assert text == 'x {' 'input}'") == [None]
    leaves = "import sys\nsys.exit()"
    assert refuse(leaves, program="{answer}\nassert False") == [FAILED], "checks cannot be left out"
    assert list(parts.problems(config.Executes(program="{input}"))) == ["program='{input}' must contain {answer}"]


def test_each_answer_has_its_own_verdict_and_all_are_counted():
    texts = ("1", "x", "import sys; sys.exit(1)", "print(2)", "(")
    assert refuse(*texts) == [None, FAILED, FAILED, None, FAILED]
    cfg = config.Keep(filters=(config.Executes(),))
    kept, dropped = keep([rollout(text) for text in texts], FORMAT, cfg)
    assert [one.text for one in kept] == ["1", "print(2)"] and dropped == {FAILED: 3}


def test_no_more_programs_run_at_once_than_there_are_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    run, lock, running, most = subprocess.run, threading.Lock(), [], []

    def count(*args, **kwargs):
        with lock:
            running.append(1)
            most.append(len(running))
        done = run(*args, **kwargs)
        with lock:
            running.pop()
        return done

    monkeypatch.setattr(subprocess, "run", count)
    assert refuse(*["import time\ntime.sleep(0.2)"] * 8) == [None] * 8
    assert max(most) == 2


def test_an_interpreter_that_cannot_run_them_is_no_fault_of_the_answers(monkeypatch, tmp_path_factory):
    broken = tmp_path_factory.mktemp("broken") / "python"
    broken.write_text("#!/bin/sh\necho no such library >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(config.UserError, match="'executes' cannot run programs here: no such library"):
        refuse("1")


def test_a_run_of_the_command_line_drops_what_does_not_run(tmp_path_factory):
    program = json.dumps([{"kind": "executes", "program": "assert 'e' in r'''{answer}'''"}])
    workdir, inputs = tmp_path_factory.mktemp("run"), {"operations__0__inputs__limit": "16"}
    told = run_tiny(workdir, operations__0__keep__filters=program, limits__completion="4", **inputs)["rollouts"]
    assert told["sampled"] == 16 == told["kept"] + told["dropped"][FAILED] and told["kept"]
