"""The shared memory of printed text: what two processes see of it at the same time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from daytona_magics.runtime.guest import ring


class Ends:
    """A writer; the reader is the test, or one made by ``reader``."""

    def __init__(self) -> None:
        self.memory = ring.Ring()
        self.tag_read, self.tag_write = os.pipe()
        self.raw = os.pipe()
        self.writer = ring.Writer(self.memory, self.tag_write, (self.raw[1], self.raw[1]))
        self.print = self.writer.make_text_write(b"1")
        self.read_raw: list[tuple[int, ...]] = []

    def reader(self) -> tuple[ring.Reader, list[tuple[bytes, bytes]]]:
        os.set_blocking(self.tag_read, False)
        got: list[tuple[bytes, bytes]] = []

        def take(stream: bytes, data: bytes) -> None:
            got.append((stream, data))

        return ring.Reader(self.memory, self.tag_read, take, lambda body: None, self.read_raw.append), got

    def close(self) -> None:
        for fd in (self.tag_read, self.tag_write, *self.raw):
            os.close(fd)


@pytest.fixture
def ends() -> Iterator[Ends]:
    one = Ends()
    yield one
    one.close()


def test_the_memory_is_filled_anew_by_its_writer_when_everything_was_taken(ends: Ends) -> None:
    data = ends.memory.data
    ends.print("a" * (ring.SIZE - 1))
    writing = threading.Thread(target=ends.print, args=("b" * 1000,))
    writing.start()
    time.sleep(0.05)
    assert data[:] == b"a" * (ring.SIZE - 1) + b"b" and writing.is_alive()
    ends.memory.words[ring.TAIL] = ring.SIZE - 1
    time.sleep(0.05)
    assert writing.is_alive()
    ends.memory.words[ring.TAIL] = ring.SIZE
    writing.join(20)
    assert data[:] == b"b" * 999 + ring.UNWRITTEN * (ring.SIZE - 999)


def test_a_byte_that_is_written_again_after_it_was_taken_comes_once(ends: Ends) -> None:
    """As the C library does it: the first four bytes of six, then the last four."""
    reader, got = ends.reader()
    data = ends.memory.data
    data.write(b"1487")
    assert reader.collect() and got == [(b"1", b"1487")]
    data[2:6] = b"871\n"
    data.seek(6)
    assert reader.collect() and got[1:] == [(b"1", b"1\n")]
    ends.print("x" * (ring.SIZE - 6))
    writing = threading.Thread(target=ends.print, args=("yy",))
    writing.start()
    while writing.is_alive():
        reader.collect()
    # In the next round nothing of it is left.
    while reader.collect():
        continue
    assert b"".join(text for _, text in got) == b"14871\n" + b"x" * (ring.SIZE - 6) + b"yy"
    assert data[2:] == ring.UNWRITTEN * (ring.SIZE - 2)


def test_a_record_about_text_that_is_not_there_breaks_the_channel(ends: Ends) -> None:
    reader, _ = ends.reader()
    ends.writer._send(ring.RAW_FIRST, 100, bytes(16))
    with pytest.raises(ring.Broken):
        reader.collect()


def test_no_more_is_read_of_the_pipes_than_was_there_before_the_text(ends: Ends) -> None:
    reader, got = ends.reader()
    os.write(ends.raw[1], b"first")
    ends.memory.words[ring.RAW + 1] = 3
    ends.print("text")
    os.write(ends.raw[1], b"later")
    reader.collect()
    assert ends.read_raw == [(5, 8)] and got == [(b"1", b"text")]


def test_a_record_without_its_numbers_breaks_the_channel(ends: Ends) -> None:
    reader, _ = ends.reader()
    ends.writer._send(ring.RAW_FIRST, 0)
    with pytest.raises(ring.Broken):
        reader.collect()


def test_text_around_the_end_of_the_memory_arrives_whole_and_in_order(ends: Ends) -> None:
    reader, got = ends.reader()
    size = 3 * ring.SIZE // 7
    errors = ends.writer.make_text_write(b"2")

    def write() -> None:
        for number in range(20):
            (errors if number % 3 == 2 else ends.print)(chr(97 + number) * size)

    writing = threading.Thread(target=write)
    writing.start()
    deadline = time.monotonic() + 60
    while writing.is_alive() or reader.collect():
        reader.collect()
        assert time.monotonic() < deadline
    reader.collect()
    whole: list[tuple[bytes, bytes]] = []
    for stream, data in got:
        whole += [(stream, bytes([byte])) for byte in sorted(set(data), key=data.index)]
    counts = {letter: sum(data.count(letter) for _, data in got) for _, letter in whole}
    expected = [(b"2" if n % 3 == 2 else b"1", bytes([97 + n])) for n in range(20)]
    assert list(dict.fromkeys(whole)) == expected
    assert set(counts.values()) == {size}
