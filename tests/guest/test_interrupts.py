# ruff: noqa: E501, UP031  (cells are written as they are typed)
"""Interrupts, time-outs and deaths."""

from __future__ import annotations

import os
import time
import uuid

import pytest

from .harness import Client, Run, alive

ENDLESS = {
    "loop": "while True: pass",
    "sleep": "import time; time.sleep(60)",
    "subprocess": "import subprocess; subprocess.run(['sleep', '61.%s'])",
    "system": "!sleep 61.%s",
    "grandchild": "import subprocess; subprocess.run(['bash', '-c', 'sleep 61.%s & wait'])",
    "setsid": "import subprocess; subprocess.Popen(['setsid', 'sleep', '61.%s']).wait()",
    "orphan": "import subprocess,time\nsubprocess.run('setsid -f sleep 61.%s', shell=True)\ntime.sleep(60)",
    "new session": "import subprocess; subprocess.Popen(['sleep','61.%s'], start_new_session=True).wait()",
    "await": "import asyncio; await asyncio.sleep(60)",
    "fork": "import multiprocessing as m,time; m.get_context('fork').Process(target=time.sleep,args=(60,)).start()\ntime.sleep(60)",
}
DEAF = {
    "child": "import subprocess; subprocess.run(['bash','-c','trap \"\" INT; for i in {1..600}; do sleep 0.1 61.%s; done'])",
    "cell": "import time\nwhile True:\n    try:\n        time.sleep(60)\n    except KeyboardInterrupt:\n        print('no')",
}
#: Goes on when it is interrupted, LAST times; so do its children, one of them in a session of its own. Their
#: mark is in no command line before they ignore the interrupt.
STUBBORN = """import subprocess, time
for head in [], ['setsid']:
    subprocess.Popen([*head, 'sh', '-c', "trap '' INT; n=61; exec sleep $n.%s"])
caught = 0
while True:
    try:
        print('waits', caught)
        time.sleep(60)
    except KeyboardInterrupt:
        caught += 1
        print('caught', caught, kept)
        if caught == LAST:
            raise
"""


def living(mark: str) -> list[int]:
    """Processes whose command line contains ``mark``."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open("/proc/%s/cmdline" % name, "rb") as file:
                    if mark.encode() in file.read():
                        found.append(int(name))
            except OSError:
                continue
    return found


def begin(
    client: Client, code: str, language: str = "python", first: str = "", **options: object
) -> tuple[Run, str]:
    """A cell that has done ``first``, and runs ``code`` now."""
    mark = uuid.uuid4().int % 10**12
    code = code.replace("%s", str(mark))
    first += "echo go\n" if language == "bash" else "print('go')\n"
    run = client.start(first + code, language, **options)
    client.until_out(run, b"go\n")
    if "61." in code:
        client.until(lambda: living("61.%s" % mark))
    return run, "61.%s" % mark


@pytest.mark.parametrize("kind", ENDLESS)
def test_first_press_ends_the_cell_and_what_it_started(client: Client, kind: str) -> None:
    client.run("kept = 'yes'")
    run, mark = begin(client, ENDLESS[kind])
    started = time.monotonic()
    reply = client.request("interrupt", id=run.id, level=1)
    assert reply["ok"] and reply["worker"] == "kept" and reply["did"]
    client.wait(run)
    assert run.status == "interrupted" and run.done["worker"] == "kept"
    assert run.error["ename"] == "KeyboardInterrupt"
    assert not living(mark)
    assert time.monotonic() - started < 30  # of the 60 the cell would take
    assert client.run("kept").result == "'yes'"


@pytest.mark.parametrize(
    ("place", "number"),
    [
        *(("os.close", number) for number in range(1, 5)),
        ("threading.Thread.start", 1),
        ("threading.Thread.join", 1),
    ],
)
def test_an_interrupt_while_a_command_is_begun_or_ended_is_one(
    client: Client, place: str, number: int
) -> None:
    """At whatever line it comes: what was closed is not closed again, what never ran is not waited for."""
    module, _, name = place.rpartition(".")
    press = """
    import os, threading
    where, name = %s, %r
    real, calls = getattr(where, name), []
    def pressed(*given):
        done = real(*given)
        calls.append(given)
        if len(calls) == %d:
            raise KeyboardInterrupt
        return done
    setattr(where, name, pressed)
    try:
        get_ipython().system("true")
    finally:
        setattr(where, name, real)
    """
    run = client.run(press % (module, name, number))
    assert run.status == "interrupted" and run.error["ename"] == "KeyboardInterrupt", run.error
    assert client.run("import subprocess; subprocess.run('true').returncode").result == "0"


def test_what_starts_another_one_in_its_last_moment_does_not_leave_it_behind(client: Client) -> None:
    last = "trap 'sleep 61.%s & exit' TERM; trap '' INT; while :; do sleep 0.01; done"
    run, mark = begin(
        client, "import subprocess as s, time; s.Popen(['sh', '-c', %r]); time.sleep(60)" % last
    )
    client.request("interrupt", id=run.id, level=1)
    client.wait(run)
    assert run.status == "interrupted" and not living(mark)


@pytest.mark.parametrize(
    "kind", ["sleep 61.%s", "sleep 61.%s & wait", "setsid sleep 61.%s", "while :; do :; done"]
)
def test_first_press_on_bash(client: Client, kind: str) -> None:
    client.bash("kept=yes")
    run, mark = begin(client, kind, "bash", first="new=1\n")
    client.request("interrupt", id=run.id, level=1)
    if kind.startswith("setsid"):
        client.request("interrupt", id=run.id, level=2)
    client.wait(run)
    assert run.status == "interrupted" and not living(mark)
    assert client.bash("echo $kept $new").text == "yes 1\n"


def test_a_deaf_child_is_gone_by_the_second_press(client: Client) -> None:
    client.run("kept = 'yes'")
    run, mark = begin(client, DEAF["child"])
    client.request("interrupt", id=run.id, level=1)
    client.request("interrupt", id=run.id, level=2)
    client.wait(run)
    assert run.status == "interrupted" and not living(mark)
    assert client.run("kept").result == "'yes'"


@pytest.mark.parametrize("end", ["third press", "the cell gives up"])
def test_second_and_third_press(client: Client, end: str) -> None:
    """The cell goes on after the first press and the second, so only level 2 can have ended its children."""
    client.run("kept = 'yes'", context=end)
    code = STUBBORN.replace("LAST", "3" if end == "third press" else "2")
    run, mark = begin(client, code, context=end)
    children = set(client.until(lambda: found if len(found := living(mark)) == 2 else None))
    client.until_out(run, b"waits 0\n")  # a child is seen before Popen has returned
    assert client.request("interrupt", id=run.id, level=1)["processes"] == 0
    client.until_out(run, b"caught 1 yes\n")
    until = time.monotonic() + 0.5  # longer than level 2 gives them
    client.until(lambda: time.monotonic() > until)
    assert set(living(mark)) == children and run.done is None
    reply = client.request("interrupt", id=run.id, level=2)
    assert (reply["worker"], reply["processes"]) == ("kept", 2)
    client.until_out(run, b"caught 2 yes\n")
    client.until(lambda: not living(mark), 2)
    if end == "third press":
        assert run.done is None
        assert client.request("interrupt", id=run.id, level=3)["worker"] == "killed"
        fate, fresh = "killed", ("False", "new")
    else:
        fate, fresh = "kept", ("True", "kept")
    client.wait(run)
    assert (run.status, run.done["worker"]) == ("interrupted", fate)
    after = client.run("'kept' in globals()", context=end)
    assert (after.result, after.done["worker"]) == fresh


def test_bash_child_deaf_to_sigint_is_gone_by_the_second_press(client: Client) -> None:
    run, mark = begin(client, "a=1; bash -c 'trap \"\" INT; n=61; sleep $n.%s'; echo after", "bash")
    client.request("interrupt", id=run.id, level=1)
    client.request("interrupt", id=run.id, level=2)
    client.wait(run)
    assert run.status == "interrupted" and not living(mark) and b"after" not in run.out


def test_timeouts(client: Client) -> None:
    run = client.run("import time; time.sleep(60)", timeout=0.2)
    assert run.status == "timeout" and 0.2 <= run.done["seconds"] < 1.5
    assert client.bash("sleep 60", timeout=0.2).status == "timeout"
    assert run.done["limit"] == 0.2
    done = client.run("1", timeout=0.5)
    assert (done.status, done.done["limit"]) == ("ok", 0)
    run = client.run(DEAF["cell"], timeout=0.1, context="deaf")
    # Nothing is guessed of the death of what was killed here.
    assert (run.status, run.done["worker"], run.done["text"]) == ("timeout", "killed", "")


@pytest.mark.parametrize(
    ("code", "exit_code", "number"),
    [
        ("import os; os._exit(3)", 3, None),
        ("import ctypes; ctypes.string_at(0)", None, 11),
        ("import os; os.kill(os.getpid(), 9)", None, 9),
    ],
)
def test_death_of_the_worker(client: Client, code: str, exit_code: int | None, number: int | None) -> None:
    client.run("lost = 1")
    run = client.run("print('last'); print('words', end='')\n" + code)
    assert (run.status, run.done["exit_code"], run.done["signal"]) == ("died", exit_code, number)
    assert run.done["worker"] == "killed" and "variables are lost" in run.done["text"]
    assert run.text == "last\nwords"
    fresh = client.run("'lost' in globals()")
    assert (fresh.result, fresh.done["worker"]) == ("False", "new")


def test_interrupts_between_cells_do_no_harm(client: Client) -> None:
    client.run("value = 1")
    pid = next(c["worker_pid"] for c in client.request("status")["contexts"] if c["worker_pid"])
    for _ in range(50):
        run = client.start("value += 1\nvalue")
        os.kill(pid, 2)
        client.wait(run)
        assert run.status in ("ok", "interrupted")
    assert client.run("value > 0").status in ("ok", "interrupted")
    assert client.run("value > 0").result == "True"


def test_storm_of_prints_and_interrupts(client: Client) -> None:
    client.run("value = 7")
    for number in range(30):
        run = client.start(
            "import sys\nwhile True: print('x' * 50); sys.stderr.write('y' * %d)" % (number * 97)
        )
        client.until(lambda run=run: len(run.out) > 10000)
        client.request("interrupt", id=run.id, level=1)
        client.wait(run)
        assert run.status == "interrupted" and run.done["worker"] == "kept"
    assert client.run("value").result == "7"


def test_queue_behind_and_interrupt_of_a_waiting_cell(client: Client) -> None:
    first = client.start("import time; time.sleep(0.3); print('first')")
    ids = [uuid.uuid4().hex for _ in range(2)]
    replies = [
        client.request("execute", id=i, context="main", language="python", code="print('next')") for i in ids
    ]
    assert [r["state"] for r in replies] == ["queued", "queued"]
    assert [r["behind"] for r in replies] == [first.id, ids[0]]
    other = client.run("1", context="another")
    assert other.result == "1" and first.done is None
    reply = client.request("interrupt", id=ids[0], level=1)
    assert "not run" in reply["did"]
    runs = client.runs
    client.until(lambda: replies[1]["stream"] in runs and runs[replies[1]["stream"]].done)
    assert runs[replies[0]["stream"]].status == "interrupted"
    assert not runs[replies[0]["stream"]].out
    assert runs[replies[1]["stream"]].text == "next\n"


def test_reset_gives_new_workers_and_kills_what_ran(client: Client) -> None:
    client.run("v = 1")
    client.bash("b=1; sleep 61.777001 &")
    run, mark = begin(client, ENDLESS["subprocess"])
    assert client.request("reset", contexts=["main"])["ok"]
    client.wait(run)
    assert run.status == "interrupted" and run.done["worker"] == "killed"
    assert client.run("'v' in globals()").result == "False"
    assert client.bash("echo $b").text == "\n"
    client.until(lambda: not living(mark))


def test_reset_ends_what_earlier_workers_left_behind(client: Client) -> None:
    # By bash cells that are over, by a worker that died, in sessions of their own or not.
    mark, other = ("61.%d" % (uuid.uuid4().int % 10**12) for _ in range(2))
    client.bash("sleep %s & setsid -f sleep %s" % (mark, mark))
    client.bash("true")
    client.run("import subprocess; subprocess.Popen(['sleep', '%s'])\nimport os; os._exit(3)" % mark)
    client.bash("sleep %s &" % other, context="another")
    client.run("1")
    client.until(lambda: len(living(mark)) == 3 and living(other))
    assert client.request("reset", contexts=["main"])["ok"]
    client.until(lambda: not living(mark))
    assert living(other), "another context's processes are not meant"
    assert client.request("reset", contexts=["another"])["ok"]
    client.until(lambda: not living(other))


@pytest.mark.parametrize("how", ["timeout", "press"])
def test_a_stopped_flood_is_over_at_once_for_who_is_slow_to_read_it(client: Client, how: str) -> None:
    flood = "import sys\nwhile True: sys.stdout.write('x' * 100_000)"
    run = client.start(flood, timeout=1.5 if how == "timeout" else 0)
    client.until(lambda: run.out)
    if how == "press":
        time.sleep(1.0)
        # Nothing is read meanwhile: the flood piles up in the journal.
        assert client.request("interrupt", id=run.id, level=1)["ok"]
    else:
        time.sleep(2.0)
    began, before = time.monotonic(), len(run.out)
    client.wait(run)
    assert run.status == ("timeout" if how == "timeout" else "interrupted")
    assert len(run.out) - before < 8 << 20, "most of what waited was not sent"
    assert sum(gap["bytes"] for gap in run.gaps) > 8 << 20, "and counted"
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("how", ["third press", "reset"])
def test_a_cell_that_is_killed_does_not_go_on_when_its_child_dies_first(client: Client, how: str) -> None:
    code = "import subprocess\nall = [subprocess.Popen(['sleep', '61.%s']) for _ in range(50)]\nprint('go')\n"
    for _ in range(5):
        run, mark = begin(client, code + "all[0].wait()\nprint('after')", context=how)
        client.until_out(run, b"go\ngo\n")
        if how == "reset":
            client.request("reset", contexts=[how])
        else:
            client.request("interrupt", id=run.id, level=3)
        client.wait(run)
        assert (run.status, run.done["worker"], run.text) == ("interrupted", "killed", "go\ngo\n")
        client.until(lambda mark=mark: not living(mark))


def test_a_worker_that_dies_between_cells_is_told(client: Client) -> None:
    client.run("v = 1", context="quiet")
    pid = next(c["worker_pid"] for c in client.request("status")["contexts"] if c["name"] == "quiet")
    os.kill(pid, 9)
    client.until(lambda: not os.path.exists("/proc/%d" % pid))
    run = client.run("'v' in globals()", context="quiet")
    assert run.result == "False" and "between two cells" in run.of("notice")[0]["text"]
    client.request("reset", contexts=["quiet"])
    assert not client.run("1", context="quiet").of("notice")


def test_a_forked_orphan_in_a_session_of_its_own(client: Client) -> None:
    code = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n"
        "    open('pid', 'w').write(str(os.getpid())); time.sleep(60); os._exit(0)\n"
        "os.wait(); time.sleep(0.2); print(open('pid').read()); time.sleep(60)"
    )
    run = client.start(code)
    client.until_out(run, b"\n")
    pid = int(run.out)
    assert alive(pid)
    client.request("interrupt", id=run.id, level=1)
    client.wait(run)
    assert not alive(pid)


def test_a_broken_pipe_is_an_exception_not_a_death(client: Client) -> None:
    run = client.run("import os\nr, w = os.pipe(); os.close(r); os.write(w, b'x')")
    assert run.error["ename"] == "BrokenPipeError"
    assert client.bash("yes | head -1; echo ${PIPESTATUS[0]}").text == "y\n141\n"


def test_an_interrupt_that_hits_a_destructor_is_not_lost(client: Client) -> None:
    code = "import time\nclass D:\n    def __del__(self): time.sleep(0.002)\nprint('go')\nwhile True:\n    D()\n    for i in range(50000): pass"
    for _ in range(5):
        run = client.start(code)
        client.until_out(run, b"go")
        client.request("interrupt", id=run.id, level=1)
        client.wait(run)
        assert run.status == "interrupted" and run.done["worker"] == "kept"
