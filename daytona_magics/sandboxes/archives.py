"""Tar archives between this machine and a sandbox: made without leaving a folder, unpacked without trusting.

An archive from a sandbox is hostile. It is unpacked in one pass, from a stream, into a folder that was made a
moment ago, by rules that leave nothing to chance:

- a name that is absolute, or leads up, is no archive of ours: nothing of it is kept;
- files and folders are made anew, one by one, and nothing is ever written through a link: links are made when
  everything else is there, and only those that lead to something inside;
- devices, pipes, and whatever else is no file, folder or link, are left out and counted;
- no member is larger than what the archive really holds of it (sparse files), and there are bounded many.

Everything here is ordinary, blocking code for a thread of its own.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from daytona_magics.errors import ProtocolError, SandboxUsageError

#: Most entries of an archive from a sandbox, and how deep they lie.
MAX_ENTRIES, MAX_DEPTH = 1_000_000, 200
PIECE = 1 << 20
#: Members that tell of the next one, and the most bytes they may have: they are read into memory.
_TOLD_BEFORE = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
MAX_TOLD = 1 << 20


class _Member(tarfile.TarInfo):
    """A member whose long name or attributes are not read when they are longer than any honest ones."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.type in _TOLD_BEFORE and self.size > MAX_TOLD:
            raise tarfile.ReadError(f"a name or attributes of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


class _Tail:
    """A stream whose last bytes are known: an archive that was cut between two members just ends."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.tail = b""

    def read(self, size: int) -> bytes:
        piece = self._stream.read(size)
        if piece:
            self.tail = (self.tail + piece)[-tarfile.BLOCKSIZE :]
        return piece


@dataclass
class Unpacked:
    """What came out of an archive.

    Attributes:
        files: how many files.
        size: bytes in them.
        left: names of entries that were left out, the first few; ``left_out`` counts them all.
    """

    files: int = 0
    size: int = 0
    left: list[str] = field(default_factory=list)
    left_out: int = 0

    def leave(self, name: str) -> None:
        """Count an entry that is left out."""
        self.left_out += 1
        if len(self.left) < 3:
            self.left.append(name)


def _refuse(what: str) -> ProtocolError:
    return ProtocolError(f"the sandbox sent an archive that none of ours is: {what}; nothing of it was kept")


def inside(name: str) -> str | None:
    """A member's name as a path below the target; None for the target itself.

    Raises:
        ProtocolError: it leads out.

    In:  inside("./a/b"), inside(".")
    Out: ('a/b', None)
    """
    if name.startswith("/") or "\0" in name or ".." in name.split("/"):
        raise _refuse(f"a member called {name!r}")
    path = posixpath.normpath(name)
    if path.count("/") >= MAX_DEPTH:
        raise _refuse("folders that lie too deep")
    return None if path == "." else path


def leads_inside(path: str, target: str) -> bool:
    """Whether a link at ``path`` leads to something below the top, whatever else is there.

    In:  leads_inside("a/b", "../c"), leads_inside("a/b", "../../c"), leads_inside("a", "/etc")
    Out: (True, False, False)
    """
    if target.startswith("/") or "\0" in target or not target:
        return False
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), target)).split("/")[0] != ".."


def unpack(stream: IO[bytes], top: Path) -> Unpacked:
    """Unpack an uncompressed archive as it comes.

    Args:
        stream: its bytes; read to the end.
        top: an empty folder nobody else knows of.

    Raises:
        ProtocolError: it is none of ours.
        OSError: this machine cannot take it.
    """
    done, links = Unpacked(), list[tuple[str, str]]()
    modes: list[tuple[Path, int]] = []
    source = _Tail(stream)
    try:
        with tarfile.open(fileobj=source, mode="r|", tarinfo=_Member) as archive:  # type: ignore[call-overload]
            for number, member in enumerate(archive):
                if number >= MAX_ENTRIES:
                    raise _refuse(f"more than {MAX_ENTRIES:,} entries")
                path = inside(member.name)
                if path is not None:
                    _one(archive, member, path, top, done, links, modes)
        _link(top, links, done)
    except tarfile.TarError as error:
        raise _refuse(str(error)) from None
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _refuse(f"two members that cannot both be ({error.strerror})") from None
    while source.read(PIECE):
        continue
    if source.tail.strip(b"\0") or not source.tail:
        raise _refuse("it ends too early")
    # Last, so that a folder without the right to write gets its files first.
    for place, mode in reversed(modes):
        place.chmod(mode)
    return done


def _one(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    path: str,
    top: Path,
    done: Unpacked,
    links: list[tuple[str, str]],
    modes: list[tuple[Path, int]],
) -> None:
    place = top / path
    if member.isdir():
        place.mkdir(parents=True, exist_ok=True)
        modes.append((place, (member.mode & 0o777) | 0o700))
    elif member.issym():
        links.append((path, member.linkname))
    elif member.islnk():
        # No link exists yet, so the file it names can only be one of those that came.
        source = top / (inside(member.linkname) or "")
        if not source.is_file():
            raise _refuse(f"a second name for {member.linkname!r}, which is not there")
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, place)
    elif member.isreg() and member.sparse is None:
        content = archive.extractfile(member)
        assert content is not None
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as file:
            while piece := content.read(PIECE):
                file.write(piece)
        os.utime(place, (member.mtime, member.mtime))
        place.chmod((member.mode & 0o777) | 0o600)
        done.files += 1
        done.size += member.size
    elif member.isreg():
        raise _refuse(f"a sparse file {member.name!r}")
    else:
        done.leave(path)


def _link(top: Path, links: list[tuple[str, str]], done: Unpacked) -> None:
    """Make the links that lead inside; one that would lie below another link is left out."""
    made: set[str] = set()
    for path, target in links:
        parts = path.split("/")
        below = any("/".join(parts[:count]) in made for count in range(1, len(parts)))
        # Through a link that was made before, `..` would lead from where that leads to.
        through = any(part for part in _on_the_way(path, target) if part in made)
        if below or through or not leads_inside(path, target):
            done.leave(path)
            continue
        place = top / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)
        made.add(path)


def _on_the_way(path: str, target: str) -> Iterator[str]:
    """Every path below the top that following a link passes, but the last."""
    here = posixpath.dirname(path).split("/") if posixpath.dirname(path) else []
    parts = target.split("/")
    for part in parts[:-1]:
        if part == "..":
            here = here[:-1]
        elif part not in ("", "."):
            here = [*here, part]
        yield "/".join(here)


# -- packing -------------------------------------------------------------------------------------------------


def entries(top: Path) -> Iterator[tuple[Path, str, os.stat_result]]:
    """Everything below a folder, folders before what is in them; links are not followed."""
    for folder, names, files in os.walk(top):
        names.sort()
        for name in sorted([*names, *files]):
            path = Path(folder) / name
            yield path, path.relative_to(top).as_posix(), path.lstat()


def measure(top: Path) -> tuple[int, int]:
    """How many files are below a folder, and the bytes in them."""
    count = size = 0
    for path, _, info in entries(top):
        if path.is_file() and not path.is_symlink():
            count, size = count + 1, size + info.st_size
    return count, size


def pack(top: Path, stream: IO[bytes]) -> Unpacked:
    """Write everything below a folder as an archive. Links stay links: nothing outside is read."""
    done = Unpacked()
    # The newest form: names and sizes of any length.
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path, name, _ in entries(top):
            member = archive.gettarinfo(path, name)
            if member is None:
                done.leave(name)
                continue
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            if member.islnk():
                member.type, member.linkname = tarfile.REGTYPE, ""
                member.size = path.stat().st_size
            if member.isreg():
                with path.open("rb") as file:
                    archive.addfile(member, file)
                done.files += 1
                done.size += member.size
            elif member.isdir() or member.issym():
                archive.addfile(member)
            else:
                done.leave(name)
    return done


def look_over(path: Path) -> tuple[Unpacked, set[int]]:
    """Check an archive of this machine before a sandbox unpacks it.

    Args:
        path: a tar file, compressed in any way Python knows.

    Returns:
        what is in it, and the places of the members that are to be left out: devices, pipes, links that lead
        out of where it is unpacked.

    Raises:
        SandboxUsageError: it is no archive, or a member of it would be written somewhere else.
    """
    seen, skipped, links = Unpacked(), set[int](), set[str]()
    try:
        with tarfile.open(path, "r|*", tarinfo=_Member) as archive:
            for number, member in enumerate(archive):
                try:
                    name = inside(member.name)
                    target = inside(member.linkname) if member.islnk() else None
                except ProtocolError:
                    raise _leads_out(path, member.name) from None
                parts = (name or "").split("/")
                through = any("/".join(parts[:depth]) in links for depth in range(1, len(parts) + 1))
                if through or target in links:
                    raise _leads_out(path, member.name)
                if member.issym() and name is not None:
                    # What leads in by way of another link is not told apart from what leads out.
                    winding = any(part in links for part in _on_the_way(name, member.linkname))
                    if winding or not leads_inside(name, member.linkname):
                        seen.leave(name)
                        skipped.add(number)
                    else:
                        links.add(name)
                elif member.isreg() or member.islnk():
                    seen.files, seen.size = seen.files + 1, seen.size + member.size
                elif not member.isdir():
                    seen.leave(name or ".")
                    skipped.add(number)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise SandboxUsageError(f"{str(path)!r} cannot be read as a tar archive: {error}") from None
    return seen, skipped


def _leads_out(path: Path, name: str) -> SandboxUsageError:
    return SandboxUsageError(
        f"{str(path)!r} holds {name!r}, which leads out of where it is unpacked; nothing was sent"
    )


def repack(path: Path, skipped: set[int], stream: IO[bytes]) -> None:
    """Write an archive again, uncompressed, without the members at these places."""
    with tarfile.open(path, "r|*", tarinfo=_Member) as old:
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as new:
            for number, member in enumerate(old):
                if number not in skipped:
                    new.addfile(member, old.extractfile(member) if member.isreg() else None)
