"""Archives of a hostile sandbox: unpacked, nothing of them reaches beyond its folder."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daytona_magics.errors import ProtocolError, SandboxUsageError
from daytona_magics.sandboxes import archives

Build = Callable[[tarfile.TarFile], None]


def add(
    archive: tarfile.TarFile, name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"x"
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, link, 0o4777
    member.size = len(data) if kind == tarfile.REGTYPE else 0
    archive.addfile(member, io.BytesIO(data))


def made(build: Build) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        build(archive)
    file.seek(0)
    return file


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    """The folder that is unpacked into; beside it stands what must not change."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("mine")
    folder = tmp_path / "top"
    folder.mkdir()
    yield folder


def untouched(top: Path) -> bool:
    outside = top.parent / "outside"
    names = sorted(path.name for path in top.parent.iterdir())
    return (
        names == ["outside", "top"]
        and [p.name for p in outside.iterdir()] == ["file"]
        and (outside / "file").read_text() == "mine"
    )


def up_from_below(archive: tarfile.TarFile) -> None:
    add(archive, "a", tarfile.DIRTYPE)
    add(archive, "a/../../outside/file", data=b"stolen")


def through_link(archive: tarfile.TarFile) -> None:
    add(archive, "link", tarfile.SYMTYPE, "../outside")
    add(archive, "link/file", data=b"stolen")


def through_two_links(archive: tarfile.TarFile) -> None:
    add(archive, "a/here", tarfile.SYMTYPE, ".")
    add(archive, "out", tarfile.SYMTYPE, "a/here/../../outside")
    add(archive, "out/file", data=b"stolen")


def hard_link_out(archive: tarfile.TarFile) -> None:
    add(archive, "file", tarfile.LNKTYPE, "../outside/file")
    add(archive, "file", data=b"stolen")


def hard_link_by_link(archive: tarfile.TarFile) -> None:
    add(archive, "dir", tarfile.SYMTYPE, "../outside")
    add(archive, "file", tarfile.LNKTYPE, "dir/file")


def link_over_file(archive: tarfile.TarFile) -> None:
    add(archive, "name", tarfile.SYMTYPE, "../outside/file")
    add(archive, "name", data=b"stolen")


ESCAPES: dict[str, Build] = {
    "up": lambda archive: add(archive, "../outside/file", data=b"stolen"),
    "up from below": up_from_below,
    "through a link": through_link,
    "over a link": link_over_file,
    "by a second name": hard_link_out,
    "by a second name through a link": hard_link_by_link,
}


@pytest.mark.parametrize("name", ESCAPES)
def test_nothing_is_written_outside(name: str, top: Path) -> None:
    try:
        archives.unpack(made(ESCAPES[name]), top)
    except ProtocolError:
        assert True
    assert untouched(top)
    for path in top.rglob("*"):
        assert path.resolve().is_relative_to(top.resolve()) and not (
            path.is_file() and path.stat().st_mode & 0o6000
        )


@pytest.mark.parametrize("name", ["up", "up from below", "through a link", "over a link", "by a second name"])
def test_the_control_writes_outside(name: str, top: Path) -> None:
    with tarfile.open(fileobj=made(ESCAPES[name])) as archive:
        try:
            for member in archive:
                archive.extract(member, top, filter="fully_trusted")
        except (OSError, KeyError, tarfile.TarError):
            assert name == "over a link"
    assert not untouched(top) or name == "over a link"


def test_an_absolute_name_is_refused(top: Path) -> None:
    target = top.parent / "absolute"
    with pytest.raises(ProtocolError, match="a member called"):
        archives.unpack(made(lambda archive: add(archive, str(target))), top)
    assert untouched(top)


def test_links_stay_where_they_lead_inside(top: Path) -> None:
    def build(archive: tarfile.TarFile) -> None:
        add(archive, "a/file", data=b"content")
        add(archive, "a/same", tarfile.LNKTYPE, "a/file")
        add(archive, "b/up", tarfile.SYMTYPE, "../a/file")
        add(archive, "gone", tarfile.SYMTYPE, "nowhere")
        add(archive, "out", tarfile.SYMTYPE, "/etc/passwd")
        add(archive, "b/out", tarfile.SYMTYPE, "../../outside")
        add(archive, "winding", tarfile.SYMTYPE, "b/up/../../outside")
        add(archive, "pipe", tarfile.FIFOTYPE)
        add(archive, "disk", tarfile.BLKTYPE)
        add(archive, "tty", tarfile.CHRTYPE)

    done = archives.unpack(made(build), top)
    assert (done.files, done.size, done.left_out) == (1, 7, 6)
    assert (top / "b/up").read_text() == "content" and os.readlink(top / "gone") == "nowhere"
    assert (top / "a/same").read_text() == "content"
    assert sorted(path.name for path in top.rglob("*")) == ["a", "b", "file", "gone", "same", "up"]


def test_members_that_cannot_both_be_are_refused(top: Path) -> None:
    def build(archive: tarfile.TarFile) -> None:
        add(archive, "a")
        add(archive, "a/b")

    with pytest.raises(ProtocolError, match="cannot both be"):
        archives.unpack(made(build), top)


def test_an_archive_that_was_cut_between_two_members_is_not_whole(top: Path) -> None:
    whole = made(lambda archive: [add(archive, "a"), add(archive, "b")]).getvalue()  # type: ignore[func-returns-value]
    with pytest.raises(ProtocolError, match="ends too early"):
        archives.unpack(io.BytesIO(whole[:1024]), top)


def test_a_name_of_a_gigabyte_is_not_read_into_memory(top: Path) -> None:
    head = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1 << 30

    class Endless(io.RawIOBase):
        """The header of a name of 1 GiB, and then the name."""

        sent = 0

        def read(self, size: int = -1) -> bytes:
            piece = member.tobuf(tarfile.GNU_FORMAT) if not self.sent else b"a" * size
            self.sent += len(piece)
            return piece[:size]

    assert head
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="a name or attributes of 1,073,741,824 bytes"):
            archives.unpack(Endless(), top)  # type: ignore[arg-type]
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_sparse_file_is_no_file_of_any_size(top: Path) -> None:
    member = tarfile.TarInfo("big")
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 0
    head = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    head[386 : 386 + 24] = b"%011o\0%011o\0" % (0, 0)
    head[483:495] = b"%011o\0" % (1 << 32)  # its size when it is unpacked
    head[148:156] = b"        "
    head[148:156] = b"%06o\0 " % sum(head)
    with pytest.raises(ProtocolError, match="a sparse file"):
        archives.unpack(io.BytesIO(bytes(head) + b"\0" * 1024), top)


@pytest.mark.parametrize(
    "data",
    [b"", b"no archive at all" * 100, struct.pack("<I", 7) * 1000, made(through_link).getvalue()[:700]],
)
def test_what_is_no_archive_says_so(data: bytes, top: Path) -> None:
    with pytest.raises(ProtocolError):
        archives.unpack(io.BytesIO(data), top)
    assert untouched(top)


def test_an_archive_of_ours_comes_back_as_it_was(top: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub dir" / "empty").mkdir(parents=True)
    (source / "sub dir" / ("ü" * 60)).write_bytes(b"\x00\xff" * 5000)
    (source / "run").write_text("#!/bin/sh\n")
    (source / "run").chmod(0o755)
    (source / "link").symlink_to("run")
    os.link(source / "run", source / "twice")
    os.mkfifo(source / "pipe")
    file = io.BytesIO()
    went = archives.pack(source, file)
    assert (went.files, went.left) == (3, ["pipe"])
    file.seek(0)
    came = archives.unpack(file, top)
    assert (came.files, came.size) == (went.files, went.size) and came.left_out == 0
    assert (top / "sub dir" / ("ü" * 60)).read_bytes() == b"\x00\xff" * 5000
    assert os.access(top / "run", os.X_OK) and os.readlink(top / "link") == "run"
    assert (top / "sub dir" / "empty").is_dir() and (top / "twice").read_text() == "#!/bin/sh\n"


def test_archives_of_this_machine_are_looked_over_before_they_are_sent(tmp_path: Path) -> None:
    for number, build in enumerate([ESCAPES["up"], ESCAPES["through a link"], link_over_file, hard_link_out]):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(made(build).getvalue())
        if number:
            path = tmp_path / f"{number}.tar.gz"
            with tarfile.open(path, "w:gz") as archive:
                build(archive)
        try:
            _, skipped = archives.look_over(path)
            # A link that leads out is left out; what would be written through it then lies inside.
            assert skipped == {0} and number in (1, 2)
        except SandboxUsageError as error:
            assert "leads out of where it is unpacked" in str(error) and number in (0, 3)
    (tmp_path / "none.tar.gz").write_bytes(b"\x1f\x8bnothing")
    with pytest.raises(SandboxUsageError, match="cannot be read as a tar archive"):
        archives.look_over(tmp_path / "none.tar.gz")
