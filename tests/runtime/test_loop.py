"""The loop thread: interruptible, fork-aware, never in the way of an interpreter's exit."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from daytona_magics.runtime.loop import loop_thread


def test_run_returns_the_result_and_raises_the_error() -> None:
    async def fail() -> None:
        raise LookupError("x")

    assert loop_thread().run(asyncio.sleep(0, 42)) == 42
    with pytest.raises(LookupError):
        loop_thread().run(fail())


def test_a_timeout_cancels_the_coroutine() -> None:
    ended = threading.Event()

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    with pytest.raises(TimeoutError, match=r"0\.05 s"):
        loop_thread().run(long(), timeout=0.05)
    assert ended.wait(2)


def test_a_timeout_error_of_the_coroutine_is_passed_on() -> None:
    async def fail() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        loop_thread().run(fail(), timeout=5)


def test_an_interrupt_ends_the_wait_and_cancels_the_coroutine() -> None:
    running, ended = threading.Event(), threading.Event()
    sent = [0.0]

    async def long() -> None:
        running.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    def press() -> None:
        running.wait(5)
        time.sleep(0.05)  # the main thread has to be inside its wait
        sent[0] = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=press).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            loop_thread().run(long())
        latency = time.monotonic() - sent[0]
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.wait(2)
    assert latency < 5


def test_run_on_the_loop_thread_is_refused() -> None:
    async def nested() -> None:
        assert loop_thread().inside
        loop_thread().run(asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="own thread"):
        loop_thread().run(nested())


def test_a_forked_child_gets_a_loop_of_its_own() -> None:
    program = """
import asyncio, os
from daytona_magics.runtime.loop import loop_thread
assert loop_thread().run(asyncio.sleep(0, 1)) == 1
parent = loop_thread().loop
pid = os.fork()
if pid == 0:
    fresh = loop_thread().run(asyncio.sleep(0, 2), timeout=5) == 2 and loop_thread().loop is not parent
    os._exit(0 if fresh else 7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert loop_thread().run(asyncio.sleep(0, 3)) == 3
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=20)


def test_a_busy_loop_does_not_keep_the_interpreter() -> None:
    program = """
import asyncio
from daytona_magics.runtime.loop import loop_thread
loop_thread().submit(asyncio.sleep(600))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=20, capture_output=True, text=True
    )
    assert done.stderr == ""
