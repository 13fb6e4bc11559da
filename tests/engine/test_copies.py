"""Copying and archiving what a sandbox has made of its files, without an engine around it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daytona_magics.engine.life.copies import plant
from daytona_magics.engine.life.copies.pack import Damaged, TooDeep, pack, unpack
from daytona_magics.engine.life.copies.plant import clone
from daytona_magics.engine.life.copies.walk import Aborted
from daytona_magics.engine.toolbox.trees import remove_tree

_OLD, _NEW = (300_001, 300_002) if os.geteuid() == 0 else (None, None)


def proceed() -> None:
    """Nobody wants it to end."""


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """A sandbox's folder with everything in it that a sandbox can make."""
    folder = tmp_path / "source"
    home = folder / "home"
    home.mkdir(parents=True)
    (home / "plain").write_bytes(b"text\n" * 1000)
    (home / "empty").write_bytes(b"")
    os.link(home / "plain", home / "same")
    (home / "etc").symlink_to("/etc")
    (home / "dangling").symlink_to("../../../nowhere\n")
    (home / "script").write_text("#!/bin/sh\n")
    (home / "script").chmod(0o4755)
    (home / "closed").mkdir()
    (home / "closed/inner").write_bytes(b"inner")
    (home / "closed/inner").chmod(0)
    os.utime(home / "closed/inner", ns=(5, 1_234_567_890_123_456_789))
    (home / b"\xff name\n".decode("utf-8", "surrogateescape")).write_bytes(b"odd")
    os.mkfifo(home / "fifo", 0o620)
    with (home / "holes").open("wb") as file:
        file.truncate(1 << 40)
        file.seek(5 << 30)
        file.write(b"far away")
    with (home / "all hole").open("wb") as file:
        file.truncate(1 << 30)
    work = folder / "system" / "usr" / "work" / "work"
    work.mkdir(parents=True)
    (work / "of the kernel").write_bytes(b"not copied")
    upper = folder / "system" / "usr" / "upper"
    upper.mkdir()
    os.mknod(upper / "gone", stat.S_IFCHR, 0)
    os.setxattr(upper, "user.overlay.opaque", b"y")
    (home / "marked").write_bytes(b"")
    os.setxattr(home / "marked", "user.binary", bytes(range(256)))
    if _OLD is not None:
        subprocess.run(["chown", "-hR", f"{_OLD}:{_OLD}", str(home), str(upper)], check=True)
        (home / "script").chmod(0o4755)
    (home / "closed").chmod(0)
    yield folder
    (home / "closed").chmod(0o700)


def _shown(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Everything below a folder as root sees it; numbers of owners as the sandbox's or the engine's."""
    found: dict[str, tuple[Any, ...]] = {}
    inodes: dict[int, str] = {}

    def visit(path: Path) -> None:
        info = path.lstat()
        name = str(path.relative_to(folder))
        closed = os.geteuid() != 0 and not stat.S_ISLNK(info.st_mode) and not info.st_mode & 0o400
        if closed:
            path.chmod(0o700)
        first = inodes.setdefault(info.st_ino, name)
        content: Any = None
        if stat.S_ISREG(info.st_mode) and info.st_size < 1 << 20:
            content = path.read_bytes()
        elif stat.S_ISREG(info.st_mode):
            with path.open("rb") as file:
                file.seek(5 << 30)
                content = (file.read(20), info.st_blocks < 100)
        elif path.is_symlink():
            content = path.readlink()
        xattrs = {} if path.is_symlink() else {key: os.getxattr(path, key) for key in os.listxattr(path)}
        times = None if name in ("home", ".") else info.st_mtime_ns
        owner = "own" if info.st_uid in (_OLD, _NEW) else "engine"
        found[name] = (info.st_mode, owner, info.st_size * (not path.is_dir()), times, first, content, xattrs)
        if stat.S_ISDIR(info.st_mode):
            for inner in sorted(path.iterdir()):
                visit(inner)
        if closed:
            path.chmod(stat.S_IMODE(info.st_mode))

    for top in sorted(folder.iterdir()):
        visit(top)
    return found


def _without_work(shown: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    return {
        name: what
        for name, what in shown.items()
        if "work/work" not in name and not name.endswith("usr/work")
    }


def test_a_clone_is_the_same_and_belongs_to_another(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    clone(source, target, (_OLD, _NEW), proceed)
    assert _without_work(_shown(target)) == _without_work(_shown(source))
    assert list((target / "system/usr/work").iterdir()) == []
    if _NEW is not None:
        assert (target / "home/plain").stat().st_uid == (target / "home/etc").lstat().st_uid == _NEW
    # They are two files, not one.
    assert (target / "home/plain").stat().st_ino != (source / "home/plain").stat().st_ino
    assert not (target / "home/closed").stat().st_mode & 0o777
    (target / "home/closed").chmod(0o700)


def test_an_archive_brings_everything_back(source: Path, tmp_path: Path) -> None:
    archive, target = tmp_path / "a.tar.gz", tmp_path / "target"
    pack(source, _OLD, archive, proceed)
    assert archive.stat().st_mode & 0o777 == 0o600
    # A terabyte of hole costs nothing.
    assert archive.stat().st_size < 100_000
    unpack(archive, target, _NEW, proceed)
    assert _without_work(_shown(target)) == _without_work(_shown(source))
    assert {path.name for path in tmp_path.iterdir()} == {"source", "a.tar.gz", "target"}
    (target / "home/closed").chmod(0o700)


def test_tar_reads_it_too(source: Path, tmp_path: Path) -> None:
    archive, target = tmp_path / "a.tar.gz", tmp_path / "target"
    pack(source, _OLD, archive, proceed)
    target.mkdir()
    done = subprocess.run(
        ["tar", "-xzpf", str(archive), "-C", str(target), "--exclude=*/gone"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name in ("plain", "same", "holes"):
        with (target / "home" / name).open("rb") as got, (source / "home" / name).open("rb") as wanted:
            assert os.fstat(got.fileno()).st_size == os.fstat(wanted.fileno()).st_size
            for at in (0, 5 << 30):
                assert os.pread(got.fileno(), 5000, at) == os.pread(wanted.fileno(), 5000, at)
    (target / "home/closed").chmod(0o700)


def test_very_deep_and_very_many(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    here = os.open(source, os.O_RDONLY)
    for _ in range(1000):
        os.mkdir("deep", dir_fd=here)
        inner = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    before = len(os.listdir("/proc/self/fd"))
    clone(source, target, (None, None), proceed)
    archive = tmp_path / "a.tar.gz"
    pack(source, None, archive, proceed)
    unpack(archive, tmp_path / "again", None, proceed)
    assert len(os.listdir("/proc/self/fd")) == before
    for copy in (target, tmp_path / "again"):
        done = subprocess.run(["find", str(copy), "-name", "bottom"], capture_output=True, text=True)
        assert done.stdout.count("/deep") == 1000
    for folder in (source, target, tmp_path / "again"):
        remove_tree(folder)


def test_a_path_beyond_all_measure_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    here = os.open(source, os.O_RDONLY)
    for _ in range(100):
        os.mkdir("d" * 250, dir_fd=here)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    with pytest.raises(TooDeep, match="longer than 16 KiB"):
        pack(source, None, tmp_path / "a.tar.gz", proceed)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    remove_tree(source)


@pytest.mark.skipif(os.geteuid() != 0, reason="a disk of its own needs root")
@pytest.mark.parametrize("what", ["clone", "pack", "unpack"])
def test_a_full_disk(tmp_path: Path, what: str) -> None:
    disk, source = tmp_path / "disk", tmp_path / "source"
    for folder in (disk, source):
        folder.mkdir()
    (source / "much").write_bytes(os.urandom(30 << 20))
    archive = tmp_path / "a.tar.gz"
    pack(source, None, archive, proceed)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=50m", "tmpfs", str(disk)], check=True)
    try:
        with pytest.raises(OSError) as caught:
            if what == "clone":
                (disk / "copy").mkdir()
                clone(source, disk / "copy", (None, None), proceed)
            elif what == "pack":
                pack(source, None, disk / "a.tar.gz", proceed)
            else:
                unpack(archive, disk / "copy", None, proceed)
        assert caught.value.errno == errno.ENOSPC
        # What the database needs is still free.
        assert shutil.disk_usage(disk).free > plant.RESERVE // 2
        assert not list(disk.glob("a.tar.gz*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _abort_after(calls: int) -> Callable[[], None]:
    left = [calls]

    def proceed() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Aborted

    return proceed


def test_given_up_in_the_middle(source: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    with pytest.raises(Aborted):
        pack(source, _OLD, archive, _abort_after(8))
    assert not list(tmp_path.glob("a.tar.gz*"))
    pack(source, _OLD, archive, proceed)
    with pytest.raises(Aborted):
        unpack(archive, tmp_path / "target", _NEW, _abort_after(8))
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("how", ["cut", "changed", "empty", "not there"])
def test_a_damaged_archive_is_no_archive(source: Path, tmp_path: Path, how: str) -> None:
    archive = tmp_path / "a.tar.gz"
    pack(source, _OLD, archive, proceed)
    data = bytearray(archive.read_bytes())
    if how == "cut":
        archive.write_bytes(data[: len(data) // 2])
    elif how == "changed":
        data[len(data) // 2] ^= 0xFF
        archive.write_bytes(data)
    elif how == "empty":
        archive.write_bytes(b"")
    else:
        archive.unlink()
    with pytest.raises((Damaged, FileNotFoundError)):
        unpack(archive, tmp_path / "target", _NEW, proceed)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("name", ["../out", "/etc/out", "home/../../out", "home//out", "link/out"])
def test_an_archive_of_somebody_else_writes_nothing_outside(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo(name))
    with pytest.raises((Damaged, OSError)):
        unpack(archive, tmp_path / "target", None, proceed)
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "out").exists()
    # The same archive does write outside when a program follows what it finds.
    if name == "link/out":
        with tarfile.open(archive) as tar:
            tar.extraction_filter = staticmethod(lambda member, path: member)  # type: ignore[assignment]
            tar.extractall(tmp_path / "believed")
        assert (outside / "out").exists()
