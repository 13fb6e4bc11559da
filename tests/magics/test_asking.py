"""A question's box at the kernel: what takes it away, and that nothing else is taken with it."""

from __future__ import annotations

import builtins
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from daytona_magics.notebook.asking import Questions
from daytona_magics.notebook.presses import Press, Presses
from daytona_magics.runtime.events import Done, Input, InputOver


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """A box that nobody answers; says whether it is open."""
    opened = threading.Event()

    def shown(prompt: str = "") -> str:
        opened.set()
        try:
            time.sleep(60)
        finally:
            opened.clear()
        return ""

    monkeypatch.setattr(builtins, "input", shown)
    yield opened.is_set


def later(is_open: Callable[[], bool], do: Callable[[], Any]) -> threading.Thread:
    def run() -> None:
        while not is_open():
            time.sleep(0.005)
        do()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("count", [1, 500])
def test_a_flood_of_ends_takes_one_box_away_and_no_press(box: Callable[[], bool], count: int) -> None:
    queue: SimpleQueue[Any] = SimpleQueue()
    with Presses(queue) as presses:
        questions = Questions(presses)
        over = later(box, lambda: [questions.saw(InputOver(7)) for _ in range(count)])
        assert questions.ask(Input(7, "? ")) is None
        over.join()
        # What the person presses afterwards is theirs.
        os.kill(os.getpid(), signal.SIGINT)
        assert queue.get(timeout=30) == Press(1)
        os.kill(os.getpid(), signal.SIGINT)
        assert queue.get(timeout=30) == Press(2)


def test_the_end_of_an_earlier_question_leaves_the_box_open(box: Callable[[], bool]) -> None:
    with Presses(SimpleQueue()) as presses:
        questions = Questions(presses)
        questions.saw(InputOver(3))
        assert questions.ask(Input(3, "? ")) is None and not box()
        stale = later(box, lambda: (questions.saw(InputOver(4)), questions.saw(Done("ok"))))
        started = time.monotonic()
        assert questions.ask(Input(5, "? ")) is None
        stale.join()
        assert time.monotonic() - started < 50
