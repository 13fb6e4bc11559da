"""Questions of a cell: what is sent, who may answer, and what becomes of those nobody answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .harness import Client, Run


def asked(client: Client, run: Run, count: int = 1) -> dict[str, Any]:
    client.until(lambda: len(run.of("input")) >= count or run.done)
    assert len(run.of("input")) >= count, client.story()
    return run.of("input")[count - 1]


def answer(client: Client, run: Run, number: int, **fields: Any) -> dict[str, Any]:
    return client.request("answer", id=run.id, number=number, **fields)


def test_a_question_waits_for_its_answer(client: Client) -> None:
    run = client.start("name = input('name? ')\nprint('hello', name)")
    question = asked(client, run)
    assert (question["prompt"], question["password"]) == ("name? ", False) and run.done is None
    assert answer(client, run, question["number"], text="Ada é")["ok"]
    assert client.wait(run).text == "hello Ada é\n"


def test_passwords_lines_and_the_end_of_the_input(client: Client) -> None:
    run = client.start("import getpass, sys\nlen(getpass.getpass()), sys.stdin.readline(), sys.stdin.read()")
    first = asked(client, run)
    assert first["password"]
    answer(client, run, first["number"], text="secret")
    answer(client, run, asked(client, run, 2)["number"], text="a line")
    answer(client, run, asked(client, run, 3)["number"], end=True)
    assert client.wait(run).result == "(6, 'a line\\n', '')"


def test_no_keyboard_is_an_error_of_the_cell(client: Client) -> None:
    run = client.start("input('x')")
    answer(client, run, asked(client, run)["number"], error="nobody is there")
    client.wait(run)
    assert (run.error["ename"], run.error["evalue"]) == ("StdinNotImplementedError", "nobody is there")


@pytest.mark.parametrize("number", [0, -1, 99, 1 << 70, True, "1", None, [1]])
def test_only_the_question_that_waits_is_answered(client: Client, number: Any) -> None:
    run = client.start("input()")
    question = asked(client, run)
    refused = answer(client, run, number, text="forged")
    assert not refused["ok"] and run.done is None
    # The control: the right number is taken, once.
    assert answer(client, run, question["number"], text="right")["ok"]
    assert client.wait(run).result == "'right'"
    assert answer(client, run, question["number"], text="again")["error"] == "not-asked"


def test_an_interrupt_ends_the_question_and_a_late_answer_reaches_nobody(client: Client) -> None:
    run = client.start("try:\n    input()\nexcept KeyboardInterrupt:\n    print('gone')\ninput('second ')")
    first = asked(client, run)
    client.request("interrupt", id=run.id, level=1)
    second = asked(client, run, 2)
    assert answer(client, run, first["number"], text="late")["error"] == "not-asked"
    answer(client, run, second["number"], text="in time")
    assert client.wait(run).text == "gone\n" and run.result == "'in time'"
    assert client.run("1 + 1").result == "2"


def test_the_time_limit_counts_while_a_question_waits(client: Client) -> None:
    run = client.start("kept = 3\ninput()", timeout=0.5)
    assert client.wait(run).status == "timeout"
    assert client.run("kept").result == "3"


def test_nobody_asks_between_cells_or_from_another_process(client: Client) -> None:
    heard = Path(client.guest.home, "heard")
    code = """
import os, threading
between = threading.Event()
def late():
    while os.path.exists("wait"):
        between.wait(0.01)
    try:
        said = input("late? ")
    except Exception as error:
        said = type(error).__name__
    with open("heard.part", "w") as file:
        file.write(said)
    os.rename("heard.part", "heard")
threading.Thread(target=late).start()
"""
    (heard.parent / "wait").touch()
    assert client.run(code).of("input") == []
    (heard.parent / "wait").unlink()
    client.until(heard.exists)
    assert heard.read_text() == "StdinNotImplementedError"
    run = client.run(
        "import os, time\npid = os.fork()\nif not pid:\n    try:\n        input()\n"
        "    except Exception as error:\n        os._exit(7)\n"
        "code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\ncode"
    )
    assert run.result == "7" and run.of("input") == []


def test_a_thread_of_an_ended_cell_does_not_hold_up_the_next(client: Client) -> None:
    run = client.start("import threading\nthreading.Thread(target=input).start()\n'ended'")
    assert client.wait(run).result == "'ended'"
    assert client.run("5").result == "5"


def test_two_threads_take_turns(client: Client) -> None:
    run = client.start(
        "import threading\nheard = []\n"
        "def ask(): heard.append(input('?'))\n"
        "both = [threading.Thread(target=ask) for _ in range(2)]\n"
        "[one.start() for one in both]; [one.join() for one in both]; sorted(heard)"
    )
    answer(client, run, asked(client, run)["number"], text="a")
    assert len(run.of("input")) <= 2
    answer(client, run, asked(client, run, 2)["number"], text="b")
    assert client.wait(run).result == "['a', 'b']"
