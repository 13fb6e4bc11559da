"""Containers that are handed over through a pipe: whole, or as a file, or not at all; and nothing is left."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from daytona_magics.runtime.guest import offering, variables
from daytona_magics.runtime.guest.packing import Package, pack

DATA = os.urandom(1 << 20) * 12


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "container"
    assert descriptors(tmp_path) == [] and not offering._pending


def descriptors(folder: Path) -> list[str]:
    """What this process has open in a folder."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        # The listing's own is gone.
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [target for target in found if target.startswith(str(folder))]


@pytest.fixture
def waiting() -> Iterator[int]:
    """What can be read when the next cell waits; none does yet."""
    reading, writing = os.pipe()
    yield reading
    os.close(reading)
    os.close(writing)


def read(path: Path, most: int = 1 << 40) -> tuple[threading.Thread, list[bytes]]:
    """Read a file in a thread; it stays open until ``most`` bytes came, or its end."""
    found: list[bytes] = []

    def run() -> None:
        with path.open("rb", 0) as file:
            while sum(map(len, found)) < most and (piece := file.read(1 << 16)):
                found.append(piece)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def offered(place: Path, package: Package) -> None:
    assert offering.offer(package, str(place), variables._write) and place.is_fifo()


def test_it_is_handed_over_whole_and_never_a_file(place: Path, waiting: int) -> None:
    package = pack({"x": DATA})
    offered(place, package)
    thread, found = read(place)
    offering.settle(waiting, True)
    thread.join(30)
    assert b"".join(found) == package.bytes()
    assert os.listdir(place.parent) == []


def test_a_small_one_is_no_pipe(place: Path) -> None:
    assert not offering.offer(pack({"x": b"small"}), str(place), variables._write)
    assert not place.exists()


def test_a_cell_that_did_not_end_well_hands_nothing_over(place: Path, waiting: int) -> None:
    offered(place, pack({"x": DATA}))
    offering.settle(waiting, False)
    assert os.listdir(place.parent) == []


@pytest.mark.parametrize("why", ["nobody", "command"])
def test_without_a_reader_it_becomes_a_file(place: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    package = pack({"x": DATA})
    offered(place, package)
    monkeypatch.setattr(offering, "HURRY", 0.01)
    monkeypatch.setattr(offering, "PATIENCE", 0.01 if why == "nobody" else 600.0)
    reading, writing = os.pipe()
    if why == "command":
        os.write(writing, b"a cell")
    offering.settle(reading, True)
    assert place.is_file() and place.read_bytes() == package.bytes()
    assert os.listdir(place.parent) == [place.name]
    os.close(reading)
    os.close(writing)


def test_a_reader_that_comes_while_the_file_is_written_gets_all(
    place: Path, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, readers = pack({"x": DATA}), []

    def write(package: Package, path: str) -> None:
        variables._write(package, path)
        readers.append(read(place))
        while not readers[0][1]:
            assert readers[0][0].is_alive()

    monkeypatch.setattr(offering, "PATIENCE", 0.0)
    monkeypatch.setattr(offering, "HURRY", 0.0)
    assert offering.offer(package, str(place), write)
    offering.settle(waiting, True)
    thread, found = readers[0]
    thread.join(30)
    assert b"".join(found) == package.bytes() and os.listdir(place.parent) == []


def test_a_reader_that_leaves_ends_it(place: Path, waiting: int) -> None:
    """Also where the cell chose to die of such a pipe."""
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        offered(place, pack({"x": DATA}))
        thread, _ = read(place, 3 << 20)
        offering.settle(waiting, True)
        assert signal.getsignal(signal.SIGPIPE) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGPIPE, before)
    thread.join(30)
    assert os.listdir(place.parent) == []


def test_a_reader_that_takes_nothing_any_more_is_given_up(
    place: Path, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offering, "STALL", 0.05)
    offered(place, pack({"x": DATA}))
    stays = os.open(place, os.O_RDONLY)
    taking = threading.Thread(target=lambda: os.read(stays, 1 << 16))
    taking.start()
    offering.settle(waiting, True)
    taking.join(30)
    os.close(stays)
    assert os.listdir(place.parent) == []


def test_a_value_that_shrinks_meanwhile_and_a_full_disk_leave_nothing(
    place: Path, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = pack({"x": DATA})
    package._bodies[0].size += 1
    offered(place, package)
    thread, found = read(place)
    offering.settle(waiting, True)
    thread.join(30)
    assert len(b"".join(found)) == package.size and os.listdir(place.parent) == []

    def write(package: Package, path: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(offering, "PATIENCE", 0.0)
    monkeypatch.setattr(offering, "HURRY", 0.0)
    assert offering.offer(pack({"x": DATA}), str(place), write)
    offering.settle(waiting, True)
    assert os.listdir(place.parent) == []
