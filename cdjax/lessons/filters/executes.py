"""Drops answers that are not a Python program that runs to its end."""

import ctypes
import dataclasses
import inspect
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

from cdjax.errors import UserError
from cdjax.lessons.filters import Evidence, Kept
from cdjax.parts import at_least

FENCED = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
ENDED, STOPPED = 86, 87  # exit codes that a program hardly ever has of itself
NOBODY = 65534
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # numpy fails where it may not start threads
GRACE = 30  # seconds for the interpreter itself
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Executes:
    """Keeps answers whose program runs to its end; reasons "program_failed", and "program_stopped" at a limit of time.

    The program is the answer's first fenced block, or all of it where there is none, with `program` around it. An
    exception, an exit code that is not 0, and any exit before the text that follows {answer} are failures.

    It runs in a subprocess of this interpreter (`python -I`): in an empty directory that is deleted after it, without
    environment, input, output, further processes or threads, within the limits below. It has no network: an audit hook
    refuses sockets, and where the kernel lets a process have namespaces of its own (Linux, unless forbidden) it has no
    network device and reaches no other process. Root's programs run as nobody, who may still read all files.

    This is for what a model writes by mistake, not for what an attacker writes. The program reads every file that this
    user can read, writes where the user can write, and may use the accelerator. It may fill the disk with many small
    files, the hook does not see what native code does, bugs of the kernel are within its reach, and it may claim an
    end that it has not reached. For programs that nobody trusts run the whole of cdjax in a virtual machine. Since
    time is limited, a program near a limit may be kept on one machine and dropped on another.
    """

    kind: ClassVar[str] = "executes"
    program: str = "{answer}"  # {input} stands for the input
    cpu_seconds: int = at_least(1, 5)
    seconds: int = at_least(1, 10)  # by the clock
    memory: int = at_least(64, 1024)  # MiB of address space
    file_size: int = at_least(0, 1)  # MiB of one file

    def problems(self) -> Iterator[str]:
        if "{answer}" not in self.program:
            yield f"program={self.program!r} must contain {{answer}}"

    def refuse(self, answers: Sequence[Kept], evidence: Evidence) -> list[str | None]:
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            return list(pool.map(self._verdict, map(self._source, answers)))

    def _source(self, answer: Kept) -> str:
        fenced = FENCED.search(answer.text)
        texts = {"{answer}": fenced[1] if fenced else answer.text, "{input}": answer.rollout.input}
        return re.sub(r"\{answer\}|\{input\}", lambda place: texts[place[0]], self.program)

    def _verdict(self, source: str) -> str | None:
        """The reason to drop a program's answer, or None."""
        may_exit = self.program.rstrip().endswith("{answer}")
        limits = self.cpu_seconds, self.seconds, self.memory * MIB, self.file_size * MIB, may_exit
        with tempfile.TemporaryDirectory(prefix="cdjax-") as folder:
            if os.geteuid() == 0:
                os.chown(folder, NOBODY, NOBODY)
            try:
                done = subprocess.run(
                    [sys.executable, "-I", "-c", f"{_guard()}\n_confine{limits}"],
                    input=source.encode(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    cwd=folder,
                    env=ENVIRONMENT,
                    start_new_session=True,
                    timeout=self.seconds + GRACE,
                )
            except subprocess.TimeoutExpired:
                return "program_stopped"
            finally:
                # shutil.rmtree recurses, and a program may make directories as deep as it likes.
                subprocess.run(["rm", "-rf", folder], stderr=subprocess.DEVNULL)
        if done.returncode == 1 and done.stderr:  # from the guard: the program's streams are /dev/null
            trouble = done.stderr.decode(errors="replace").strip().splitlines()[-1]
            raise UserError(f"the filter 'executes' cannot run programs here: {trouble}")
        return {ENDED: None, STOPPED: "program_stopped"}.get(done.returncode, "program_failed")


def _guard() -> str:
    """The source that the subprocess runs: the functions below, which use nothing else of this file."""
    constants = f"ENDED, STOPPED, NOBODY = {ENDED}, {STOPPED}, {NOBODY}"
    functions = [inspect.getsource(function) for function in (_separate, _limit, _run, _confine)]
    return "\n".join(["import ctypes, os, resource, signal, sys, types", constants, *functions])


def _confine(cpu_seconds: int, seconds: int, memory: int, file_size: int, may_exit: bool) -> None:
    """Runs standard input as a Python program, and exits with ENDED, STOPPED or the program's exit code."""
    source = sys.stdin.buffer.read()
    _separate()
    child = os.fork()  # the first process of its namespace: killing it kills all processes that it started
    if not child:
        _limit(cpu_seconds, memory, file_size)
        os._exit(ENDED if _run(source, may_exit) else 1)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.alarm(seconds)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(STOPPED if code == -signal.SIGKILL else code)


def _separate() -> None:
    """Leaves the namespaces and rights of the parent process, as far as the kernel lets it."""
    if sys.platform != "linux":
        return
    libc, root = ctypes.CDLL(None), os.geteuid() == 0
    libc.unshare(0x68000000 if root else 0x78000000)  # CLONE_NEW: IPC, PID, NET; and USER, which lets anybody ask
    if root:  # the kernel does not count root's processes
        libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    version, read = (ctypes.c_uint32 * 2)(0x20080522, 0), 1 << 2  # CAP_DAC_READ_SEARCH: Python may lie in /root
    if not root or libc.capset(version, (ctypes.c_uint32 * 6)(read, read)):
        libc.capset(version, (ctypes.c_uint32 * 6)())
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS


def _limit(cpu_seconds: int, memory: int, file_size: int) -> None:
    """Sets the limits of this process. Raises RuntimeError if it can still start other processes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: it does not outlive its parent
    limits = {
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: file_size,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    try:
        child = os.fork()
    except OSError:
        return
    if not child:
        os._exit(0)
    raise RuntimeError("the number of processes cannot be limited; run it as another user than root")


def _run(source: bytes, may_exit: bool) -> bool:
    """Whether the program runs to its end, without sockets, other processes, input and output."""
    refused = ("socket.", "subprocess.", "os.fork", "os.exec", "os.kill", "os.posix_spawn", "os.system")

    def refuse(event: str, _: object) -> None:
        if event.startswith(refused):
            raise PermissionError(event)

    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    sys.argv, main = ["answer"], types.ModuleType("__main__")
    sys.modules["__main__"] = main
    sys.addaudithook(refuse)
    try:
        exec(compile(source, "answer", "exec", dont_inherit=True), main.__dict__)
    except SystemExit as end:
        return may_exit and not end.code
    except BaseException:  # whatever the program raises is the program's failure
        return False
    return True
