"""Scenarios of the file system service."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import aiohttp
from daytona import FileDownloadRequest, FileUpload

from tests.contract.walk import Walk, walks

#: Every byte, and more than one chunk of every sender.
DATA = bytes(range(256)) * 3000
SUM = hashlib.sha256(DATA).hexdigest()


async def sums(w: Walk, *paths: str) -> list[str]:
    """SHA-256 of files inside."""
    return [line.split()[0] for line in (await w.sh(f"sha256sum {' '.join(paths)}")).splitlines()]


@walks("FileSystem.upload_file", "FileSystem.upload_files", "FileSystem.upload_file_stream")
async def uploads(w: Walk) -> None:
    """files inside have the SHA-256 of what was sent: bytes, a local file, several, a stream"""
    local = w.folder / "local"
    local.write_bytes(DATA)
    await w(w.box.fs.upload_file, DATA, "up/one")
    await w(w.box.fs.upload_file, str(local), "up/two")
    await w(w.box.fs.upload_files, [FileUpload(DATA, "up/three"), FileUpload(str(local), "up/four")])
    sent: list[int] = []
    await w(w.box.fs.upload_file_stream, DATA, "up/five", on_progress=lambda p: sent.append(p.bytes_sent))
    assert await sums(w, *(f"up/{name}" for name in ("one", "two", "three", "four", "five"))) == [SUM] * 5
    assert sent == sorted(sent) and sent[-1] == len(DATA)
    await w.fails("no such file", w.box.fs.upload_file, b"x", "/proc/nope")


@walks("FileSystem.download_file", "FileSystem.download_files", "FileSystem.download_file_stream")
async def downloads(w: Walk) -> None:
    """bytes equal what a program inside wrote; a missing file is a typed error, alone or among others"""
    await w.sh("mkdir -p down; python3 -c \"open('down/a', 'wb').write(bytes(range(256)) * 3000)\"")
    assert await w(w.box.fs.download_file, "down/a") == DATA
    to = w.folder / "down"
    await w(w.box.fs.download_file, "down/a", str(to))
    assert to.read_bytes() == DATA
    seen: list[tuple[int, int | None]] = []
    chunks = await w.all(
        w.box.fs.download_file_stream,
        "down/a",
        on_progress=lambda p: seen.append((p.bytes_received, p.total_bytes)),
    )
    assert b"".join(chunks) == DATA and seen[-1] == (len(DATA), len(DATA))
    wanted = [FileDownloadRequest("down/a"), FileDownloadRequest("down/gone")]
    there, gone = await w(w.box.fs.download_files, wanted)
    assert there.result == DATA and gone.result is None and gone.error_details.code == "FILE_NOT_FOUND"
    await w.fails("DaytonaFileNotFoundError", w.box.fs.download_file, "down/gone")


@walks("FileSystem.create_folder", "FileSystem.set_file_permissions", "FileSystem.get_file_info")
async def folders(w: Walk) -> None:
    """stat inside shows the folder and its mode; the answer has the same name, size and mode"""
    await w(w.box.fs.create_folder, "made/deep", "750")
    assert await w.sh("stat -c '%F %a' made/deep") == "directory 750"
    await w.sh("printf 12345 > made/f; chmod 600 made/f")
    await w(w.box.fs.set_file_permissions, "made/f", mode="640")
    assert await w.sh("stat -c %a made/f") == "640"
    info = await w(w.box.fs.get_file_info, "made/f")
    assert (info.name, info.size, info.is_dir, info.permissions) == ("f", 5, False, "0640")


@walks("FileSystem.list_files", "FileSystem.find_files", "FileSystem.search_files")
async def looking(w: Walk) -> None:
    """the answers name exactly the files, lines and folders that a program inside made"""
    await w.sh(
        "mkdir -p look/sub; echo needle > look/a.txt; printf 'x\\nneedle 2\\n' > look/sub/b.txt; : > look/c"
    )
    listed = await w(w.box.fs.list_files, "look")
    assert sorted((entry.name, entry.is_dir) for entry in listed) == [
        ("a.txt", False),
        ("c", False),
        ("sub", True),
    ]
    found = await w(w.box.fs.find_files, "look", "needle")
    lines = {(match.file.rpartition("/")[2], match.line, match.content) for match in found}
    assert lines == {("a.txt", 1, "needle"), ("b.txt", 2, "needle 2")}
    names = (await w(w.box.fs.search_files, "look", "*.txt")).files
    assert sorted(name.rpartition("/")[2] for name in names) == ["a.txt", "b.txt"]


@walks("FileSystem.replace_in_files", "FileSystem.move_files", "FileSystem.delete_file")
async def changing(w: Walk) -> None:
    """cat inside shows the replaced text, ls the moved and the deleted file"""
    await w.sh("mkdir -p change; echo old old > change/a; echo none > change/b")
    replaced = await w(w.box.fs.replace_in_files, ["change/a", "change/b"], "old", "new")
    assert all(result.success for result in replaced)
    assert await w.sh("cat change/a change/b") == "new new\nnone"
    await w(w.box.fs.move_files, "change/a", "change/moved")
    assert await w.sh("ls change; cat change/moved") == "b\nmoved\nnew new"
    await w(w.box.fs.delete_file, "change/b")
    await w.fails("DaytonaInvalidFilePathError", w.box.fs.delete_file, "change")
    await w(w.box.fs.delete_file, "change", recursive=True)
    assert await w.sh("ls -d change", code=2)


@walks("Sandbox.download_url", "Sandbox.upload_url", "Sandbox.rotate_signing_key")
async def signed_urls(w: Walk) -> None:
    """a client that has only the URL reads and writes the file's bytes, until the key is rotated"""
    await w.sh("printf 'signed bytes' > signed")
    async with aiohttp.ClientSession() as anybody:

        async def get(url: str) -> tuple[int, bytes]:
            async with anybody.get(url) as answer:
                return answer.status, await answer.read()

        url = await w(w.box.download_url, "signed")
        assert await get(url) == (200, b"signed bytes")
        upload = await w(w.box.upload_url, "signed-up", 60)
        async with anybody.post(upload, data=DATA) as answer:
            assert answer.status == 200, await answer.text()
        assert await sums(w, "signed-up") == [SUM]
        await w(w.box.rotate_signing_key)
        assert (await get(url))[0] == 401
        assert (await get(await w(w.box.download_url, "signed")))[0] == 200


async def served(w: Walk, box: Any, folder: str, port: int) -> None:
    """A web server inside that is up."""
    await w.sh(
        f"mkdir -p {folder}; cd {folder}; echo seen > page; "
        f"setsid python3 -m http.server {port} --bind 127.0.0.1 >/dev/null 2>&1 &",
        box,
    )
    await w.until(lambda: _is_up(w, box, port), f"port {port} is listened on")


async def _is_up(w: Walk, box: Any, port: int) -> bool:
    probe = f"python3 -c \"import socket; socket.create_connection(('127.0.0.1', {port}))\""
    done = await w(box.process.exec, probe)
    await asyncio.sleep(0)
    return bool(done.exit_code == 0)
