"""The program that runs attacks inside a sandbox: one Python, a fork for each attack, a time limit for each.

Its text is given to ``python -c`` in the sandbox, which has nothing of this repository; on its input comes
JSON with the attacks and what the attackers know of the host, and it prints one JSON line per attack:
``[name, "LEAK" | "SAFE" | "BROKEN", detail]``.
"""

import ctypes
import errno
import json
import os
import select
import signal
import socket  # noqa: F401 - for the attacks
import stat  # noqa: F401
import struct  # noqa: F401
import sys
import time  # noqa: F401
import traceback

#: Open before anything here opens one.
START_FDS = []
for _fd in range(3, 4096):
    try:
        os.fstat(_fd)
        START_FDS.append((_fd, os.readlink(f"/proc/self/fd/{_fd}")))
    except OSError:
        continue
#: As /proc numbers processes, which is not how this process does where /proc is the host's.
with open("/proc/self/status") as _file:
    PARENT = next(int(line.split()[1]) for line in _file if line.startswith("PPid:"))
#: Seconds one attack may take.
LIMIT = 10

libc = ctypes.CDLL(None, use_errno=True)


def leak(what=""):
    _say("LEAK", what)


def safe(why=""):
    _say("SAFE", why)


def _say(word, detail):
    os.write(1, f"{word} {str(detail)[:300]}\n".encode("utf-8", "backslashreplace"))
    os._exit(0)


def call(number, *arguments):
    """The system call `number`; raises OSError."""
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def reachable(number, *arguments):
    """LEAK unless the call is refused: any other answer comes from the call itself, which can be attacked."""
    try:
        call(number, *arguments)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            safe(error)
    leak(number)


def pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def status_line(name):
    with open("/proc/self/status") as file:
        return next(line.split()[1] for line in file if line.startswith(name + ":"))


def _attack(code, facts, out):
    """In the fork: become the attacker. Does not return."""
    try:
        os.setsid()
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.closerange(3, 4096)
        exec(compile(code, "attack", "exec"), {**globals(), "facts": facts})
        _say("BROKEN", "the attack ended without a verdict")
    except OSError as error:
        safe(error)
    except BaseException:
        _say("BROKEN", traceback.format_exc())


def _run(code, facts):
    """The verdict of one attack and its detail."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _attack(code, facts, write)
    os.close(write)
    ended = os.pidfd_open(pid)
    in_time = bool(select.select([ended], [], [], LIMIT)[0])
    os.close(ended)
    for kill in (os.kill, os.killpg):
        try:
            kill(pid, signal.SIGKILL)
        except OSError:
            continue
    status = os.waitpid(pid, 0)[1]
    os.set_blocking(read, False)
    try:
        said = os.read(read, 65536).decode("utf-8", "replace").strip()
    except BlockingIOError:
        said = ""
    os.close(read)
    word, _, detail = said.partition(" ")
    if word in ("LEAK", "SAFE", "BROKEN"):
        return word, detail
    if not in_time:
        return "BROKEN", f"no verdict within {LIMIT} s: {said}"
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS:
        return "SAFE", "killed by the system call filter"
    return "BROKEN", f"status {status}: {said}"


def main():
    order = json.load(sys.stdin)
    for name, code, facts in order["attacks"]:
        verdict, detail = _run(code, {**order["facts"], **facts})
        print(json.dumps([name, verdict, detail]), flush=True)


if __name__ == "__main__":
    main()
