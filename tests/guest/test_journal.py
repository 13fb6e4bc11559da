"""The journal: head, tail and gap, and a disk that refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from daytona_magics.runtime.guest import frames
from daytona_magics.runtime.guest.journal import Cursor, Journal

KIB = 1024


def fill(journal: Journal, count: int, size: int = 100) -> None:
    for _ in range(count):
        number = journal.last + 1
        payload = (b"%d." % number).ljust(size, b"x")
        journal.append((frames.encode(frames.STDOUT, 1, number, payload),), size)


def read_all(cursor: Cursor, room: int = 4000) -> list[frames.Frame]:
    decoder, got = frames.Decoder(), []
    while cursor.pending:
        data = cursor.take(room)
        assert data and len(data) <= room
        got += decoder.feed(data)
    assert decoder.dropped == 0
    return got


@pytest.mark.parametrize("after", [0, 1, 57, 99, 100])
def test_reads_from_any_sequence(tmp_path: Path, after: int) -> None:
    journal = Journal(str(tmp_path / "j"), chunk=KIB)
    fill(journal, 100)
    assert [f.sequence for f in read_all(Cursor(journal, 1, after))] == list(range(after + 1, 101))


def test_small_output_stays_off_the_disk(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "j"))
    fill(journal, 10)
    assert not os.path.exists(tmp_path / "j")
    journal.spill()
    assert os.listdir(tmp_path / "j") and journal.in_memory == 0
    fill(journal, 5)
    assert [f.sequence for f in read_all(Cursor(journal, 1, 0))] == list(range(1, 16))
    journal.forget()
    assert not os.path.exists(tmp_path / "j") and journal.last == 15


def test_head_and_tail_are_kept_and_the_gap_is_counted(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "j"), head=4 * KIB, tail=6 * KIB, chunk=KIB)
    early = Cursor(journal, 1, 0)
    fill(journal, 5)
    assert len(early.take(4000)) > 0
    fill(journal, 995)
    got = read_all(Cursor(journal, 1, 0))
    gap = next(f for f in got if f.type == frames.GAP)
    note = json.loads(gap.payload)
    before = [f.sequence for f in got if f.sequence < gap.sequence]
    behind = [f.sequence for f in got if f.sequence > gap.sequence]
    assert before == list(range(1, len(before) + 1)) and behind == list(range(gap.sequence + 1, 1001))
    assert note == {"bytes": note["frames"] * 100, "frames": 1000 - len(before) - len(behind)}
    assert sum(e.stat().st_size for e in os.scandir(tmp_path / "j")) <= 11 * KIB
    late = read_all(early)
    assert [f.type for f in late].count(frames.GAP) == 1 and late[-1].sequence == 1000


def test_a_message_is_dropped_whole(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "j"), head=0, tail=0, chunk=KIB)
    for _ in range(20):
        first = journal.last + 1
        journal.append(
            [
                frames.encode(frames.MESSAGE, 1, first + n, piece, flags)
                for n, (flags, piece) in enumerate(frames.split(b"m" * 900, 100))
            ],
            900,
        )
    got = read_all(Cursor(journal, 1, 0))
    assert got[0].type == frames.GAP and got[0].sequence % 9 == 0


def test_a_full_disk_keeps_the_end_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    journal = Journal(str(tmp_path / "file" / "j"), head=KIB * 64, tail=KIB * 64, memory=8 * KIB, chunk=KIB)
    fill(journal, 1000)
    assert journal.disk_error and journal.in_memory <= 19 * KIB
    got = read_all(Cursor(journal, 1, 0))
    assert [f.type for f in got].count(frames.GAP) == 1 and got[-1].sequence == 1000


@pytest.mark.parametrize("count", [30, 1000])
def test_a_reader_far_behind_skims_and_nothing_is_lost(tmp_path: Path, count: int) -> None:
    journal = Journal(str(tmp_path / "j"), head=64 * KIB, tail=192 * KIB, chunk=KIB)
    fill(journal, 20)
    reader = Cursor(journal, 1, 0)
    assert reader.take(4 * KIB)
    read = reader.sequence
    fill(journal, count)
    journal.skim_backlog(1000 * KIB)
    assert not reader.skim
    journal.skim_backlog(2 * KIB)
    message = frames.encode(frames.MESSAGE, 1, journal.last + 1, b"{}")
    journal.append((message,), 2)
    got = read_all(reader)
    gaps = [json.loads(frame.payload) for frame in got if frame.type == frames.GAP]
    assert all(gap["kept"] for gap in gaps) and got[-1].type == frames.MESSAGE
    assert sum(gap["bytes"] for gap in gaps) == (20 + count - read) * 100
    assert sum(gap["frames"] for gap in gaps) == 20 + count - read
    whole = read_all(Cursor(journal, 1, 0))
    assert [f.sequence for f in whole] == list(range(1, journal.last + 1))


def test_skimming_counts_what_was_dropped_apart(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "j"), head=10 * KIB, tail=12 * KIB, chunk=KIB)
    fill(journal, 1000)
    reader = Cursor(journal, 1, 0)
    reader.skim = True
    gaps = [json.loads(frame.payload) for frame in read_all(reader)]
    kept = sum(gap["bytes"] for gap in gaps if gap.get("kept"))
    lost = sum(gap["bytes"] for gap in gaps if not gap.get("kept"))
    assert kept > 0 and lost > 0 and kept + lost == 1000 * 100


def test_a_gap_frame_waits_for_room(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "j"))
    fill(journal, 3)
    reader = Cursor(journal, 1, 0)
    reader.skim = True
    assert reader.take(10) == b"" and reader.pending
    assert json.loads(read_all(reader)[0].payload) == {"bytes": 300, "frames": 3, "kept": True}
    assert not reader.pending


@pytest.mark.parametrize("limit", [0, 50, 250, 10_000])
def test_the_tail_is_the_end_of_the_text(tmp_path: Path, limit: int) -> None:
    journal = Journal(str(tmp_path / "j"), chunk=KIB)
    for number in range(100):
        journal.append((frames.encode(frames.STDOUT, 1, journal.last + 1, b"%100d" % number),), 100)
        journal.append((frames.encode(frames.MESSAGE, 1, journal.last + 1, b"{}"),), 2)
    text = b"".join(b"%100d" % number for number in range(100))
    got = journal.tail(limit)
    assert text.endswith(got) and len(got) == min(limit, len(got)) and (limit > 250 or len(got) == limit)


def test_without_a_reader_everything_stays(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "j"), chunk=KIB)
    fill(journal, 100)
    Cursor(journal, 1, 0)  # it is gone again at once
    journal.skim_backlog(KIB)
    assert [f.sequence for f in read_all(Cursor(journal, 1, 0))] == list(range(1, 101))
