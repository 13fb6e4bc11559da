"""A terminal on real PTY sessions: pages that look away, floods, interrupts, lost connections, ends."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable

import pytest
from daytona import AsyncSandbox

from daytona_magics.runtime.transport import PtyAddress
from daytona_magics.sandboxes import terminals
from daytona_magics.widgets import terminal_shell
from daytona_magics.widgets.terminal_shell import Shell
from daytona_magics.widgets.terminal_stream import AHEAD, HISTORY, PIECE, WINDOW, Stream
from tests.engine_process import IsolatedEngine


class Page:
    """What a page was sent; it says that it showed it, or does not."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []
        self.shows = True
        self.changes = 0
        self.shell: Shell | None = None

    def send(self, at: int, data: bytes) -> None:
        self.sent.append((at, data))
        if self.shows and self.shell is not None:
            asyncio.get_running_loop().call_soon(self.shell.shown, at + len(data))

    def changed(self) -> None:
        self.changes += 1

    @property
    def text(self) -> bytes:
        return b"".join(data for _, data in self.sent)


def at_prompt(page: Page) -> bool:
    """Whether the last that was printed is a shell's prompt."""
    text = b"".join(data for _, data in page.sent[-20:])
    return re.sub(rb"\x1b\[[?\d;]*[A-Za-z]", b"", text).rstrip().endswith((b"$", b"#"))


async def until(condition: Callable[[], bool], within: float = 60.0) -> None:
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def opened(sandbox: AsyncSandbox, engine: IsolatedEngine) -> AsyncIterator[tuple[Shell, Page]]:
    page, address = Page(), PtyAddress.of(sandbox, engine.key)
    page.shell = Shell(
        sandbox,
        address,
        "terminal-test",
        existing=False,
        stream=Stream(),
        send=page.send,
        changed=page.changed,
    )
    await page.shell.open(80, 24)
    await until(lambda: at_prompt(page))
    yield page.shell, page
    await page.shell.end()


async def test_a_page_that_looks_away_holds_nobody_up(
    opened: tuple[Shell, Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    shell, page = opened
    monkeypatch.setattr(terminal_shell, "AWAY_AFTER", 0.2)
    monkeypatch.setattr(terminal_shell, "UNWATCHED_RATE", 1 << 30)
    page.shows = False
    before = len(page.text)
    await shell.type(b"seq 1 430000; echo d''one\r")
    await until(lambda: not shell.watched)
    assert len(page.text) - before <= WINDOW + PIECE
    await until(lambda: b"done" in shell.stream.replay()[2][-200:])
    missing, _, kept = shell.stream.replay()
    assert missing > 2_000_000 and len(kept) <= HISTORY + PIECE
    # It looks again: a number that it cannot expect tells it to start over.
    sent = len(page.sent)
    shell.shown(before)
    assert shell.watched and page.sent[sent:] == [(shell.stream.sent, b"")]


async def test_a_flood_waits_and_an_interrupt_does_not(opened: tuple[Shell, Page]) -> None:
    shell, page = opened
    page.shows = False
    await shell.type(b"yes\r")
    # The page shows nothing: what waits here is bounded, and so is what is on its way.
    await until(lambda: shell.stream.waiting >= AHEAD)
    await asyncio.sleep(0.3)
    assert shell.stream.waiting < AHEAD + (1 << 20)
    page.shows = True
    await shell.type(b"\x03")
    shell.shown(shell.stream.sent)
    await until(lambda: at_prompt(page))
    assert b" bytes not shown after the interrupt]" in page.text
    assert len(page.text) < 4 << 20
    page.sent.clear()
    await shell.type(b"echo al''ive\r")
    await until(lambda: b"\r\nalive" in page.text)


async def test_a_lost_connection_is_made_again_and_says_so(opened: tuple[Shell, Page]) -> None:
    shell, page = opened
    assert shell._socket is not None
    page.changes = 0
    await shell._socket._ws.close()
    await until(lambda: page.changes >= 2 and shell.state == "running")
    assert terminal_shell.CUT_OFF.encode() in page.text or shell.stream.waiting
    await shell.type(b"echo sa''me $0\r")
    await until(lambda: b"\r\nsame" in page.text)


async def test_its_end_has_an_exit_code_and_leaves_nothing(
    opened: tuple[Shell, Page], sandbox: AsyncSandbox
) -> None:
    shell, _ = opened
    assert "terminal-test" in terminals._open
    await shell.type(b"exit 7\r")
    await until(lambda: shell.state == "ended")
    assert shell.code == 7 and shell.said == "The shell has ended with exit code 7."
    assert "terminal-test" not in terminals._open
    assert [one.id for one in await sandbox.process.list_pty_sessions()] == []
