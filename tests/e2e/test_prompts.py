"""Questions of a sandbox cell at a real kernel: the box opens, the answer arrives, the box is taken away."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kernel_client import Cell, Kernel


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel() as made:
        assert made.run("%%sandbox\n0").status == "ok"
        yield made


def ask(
    kernel: Kernel, body: str, answer: Callable[[dict[str, Any]], str | None], magic: str = "%%sandbox"
) -> Cell:
    """Run a cell and answer its questions; None leaves one open."""
    ended = threading.Event()

    def listen() -> None:
        while not ended.is_set():
            try:
                question = kernel.client.get_stdin_msg(timeout=0.2)
            except queue.Empty:
                continue
            text = answer(question["content"])
            if text is not None:
                kernel.client.input(text)

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        return kernel.run(f"{magic}\n{body}")
    finally:
        ended.set()
        listener.join()


def test_a_password_is_asked_for_masked_and_is_nowhere_in_the_output(kernel: Kernel) -> None:
    seen: list[dict[str, Any]] = []

    def answer(question: dict[str, Any]) -> str:
        seen.append(question)
        return "s3cret-w0rd"

    cell = ask(kernel, "import getpass\nlen(getpass.getpass('Token: '))", answer)
    assert cell.result == "11" and "s3cret-w0rd" not in str(cell.messages)
    assert [(one["prompt"], one["password"]) for one in seen] == [("Token: ", True)]


def test_a_question_cannot_act_on_a_terminal(kernel: Kernel) -> None:
    seen: list[str] = []

    def answer(question: dict[str, Any]) -> str:
        seen.append(question["prompt"])
        return ""

    ask(kernel, r"input('\x1b]52;c;AA\x07plain \x1b[2J')", answer)
    assert seen == ["plain "]


def test_a_time_limit_takes_the_box_away(kernel: Kernel) -> None:
    cell = ask(kernel, "kept = 7\ninput('never ')", lambda _: None, magic="%%sandbox --timeout 1")
    assert cell.ename == "CellTimeout" and "variables are alive" in cell.traceback
    # What was pressed on nobody's behalf interrupts nobody.
    assert kernel.run("%%sandbox\nkept").result == "7"
    assert kernel.run("6 * 7").result == "42"


def test_an_interrupt_at_the_box_reaches_the_cell(kernel: Kernel) -> None:
    def answer(_: dict[str, Any]) -> None:
        time.sleep(0.2)
        kernel.interrupt()

    cell = ask(kernel, "kept = 8\ninput('never ')", answer)
    assert cell.ename == "KeyboardInterrupt" and "variables are alive" in cell.traceback
    assert kernel.run("%%sandbox\nkept").result == "8"


def test_a_command_of_a_python_cell_has_the_keyboard_too(kernel: Kernel) -> None:
    seen: list[bool] = []

    def answer(question: dict[str, Any]) -> str:
        seen.append(question["password"])
        return "s3cret-w0rd"

    cell = ask(kernel, "!read name; read -s word; echo ${#name} ${#word}", answer)
    assert cell.stdout == "11 11\n" and seen == [False, True] and "s3cret-w0rd" not in str(cell.messages)

    def press(_: dict[str, Any]) -> None:
        time.sleep(0.2)
        kernel.interrupt()

    cell = ask(kernel, "kept = 9\n!read never; echo ${#never}", press)
    assert cell.ename == "KeyboardInterrupt" and "variables are alive" in cell.traceback, cell
    assert kernel.run("%%sandbox\nkept").result == "9"
    # Where nobody can answer, that is said, and the command goes on with the end of its input.
    cell = kernel.finish(kernel.send("%%sandbox\n!read word || echo none", allow_stdin=False))
    assert cell.stdout == "none\n" and "does not support input requests" in cell.stderr, cell


def test_an_answer_after_the_connection_was_lost_arrives(kernel: Kernel) -> None:
    drop = (
        "from daytona_magics import sandboxes\nfrom daytona_magics.runtime.loop import loop_thread\n"
        "import threading\n"
        "def cut():\n    channel = sandboxes.current().open_channel()\n"
        "    loop_thread().loop.call_soon_threadsafe(lambda: channel._link.drop('a test'))\n"
        "threading.Timer(1.0, cut).start()"
    )
    assert kernel.run(drop).status == "ok"

    def answer(_: dict[str, Any]) -> str:
        time.sleep(2.0)
        return "after the cut"

    assert ask(kernel, "input('? ')", answer).result == "'after the cut'"
