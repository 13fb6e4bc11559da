"""Finding, searching, replacing, moving and changing modes, through the unmodified SDK."""

from __future__ import annotations

import time
from typing import Any

import pytest
from daytona import AsyncDaytona
from daytona.common.errors import (
    DaytonaAuthorizationError,
    DaytonaError,
    DaytonaNotFoundError,
    DaytonaValidationError,
)


def test_text_is_found_in_files_and_folders(shared: Any) -> None:
    script = """
mkdir -p find/sub; cd find
printf 'one needle\\r\\ntwo\\nneedle.*three' > a.txt; printf 'needle \\351\\n' > sub/b
printf 'needle\\0binary' > binary; mkfifo pipe; ln -s /proc/kcore link; ln -s . loop; ln -s nowhere broken
mkdir closed; echo needle > closed/x; chmod 000 closed
"""
    assert shared.process.exec(script).exit_code == 0
    found = [(m.file, m.line, m.content) for m in shared.fs.find_files("find", "needle")]
    base = "/home/daytona/find"
    assert found == [
        (f"{base}/a.txt", 1, "one needle"),
        (f"{base}/a.txt", 3, "needle.*three"),
        (f"{base}/sub/b", 1, "needle \ufffd"),
    ]
    # Plain text, not an expression.
    assert [m.line for m in shared.fs.find_files("find/a.txt", "needle.*")] == [3]
    assert shared.fs.find_files("find", "nothing like it") == []
    with pytest.raises(DaytonaNotFoundError):
        shared.fs.find_files("no/such/folder", "x")
    with pytest.raises(DaytonaAuthorizationError):
        shared.fs.find_files("find/closed", "x")
    long = shared.process.exec("head -c 100000 /dev/zero | tr '\\0' n > find/long")
    assert long.exit_code == 0 and len(shared.fs.find_files("find/long", "nnn")[0].content) == 4000


def test_names_are_searched_by_globs(shared: Any) -> None:
    shared.process.exec(
        "mkdir -p s/src/deep 's/[odd]' && touch s/a.ts s/src/b.ts s/src/deep/c.tsx 's/[odd]/d é.ts'"
    )
    search = shared.fs.search_files
    assert sorted(search("s", "*.ts").files) == sorted(
        f"/home/daytona/s/{name}" for name in ("a.ts", "src/b.ts", "[odd]/d é.ts")
    )
    assert search("s", "src/*.ts").files == ["/home/daytona/s/src/b.ts"]
    assert search("s", "[!a]*.ts[x]").files == ["/home/daytona/s/src/deep/c.tsx"]
    assert search("s", "deep").files == ["/home/daytona/s/src/deep"]
    assert search("s", "[").files == []
    with pytest.raises(DaytonaNotFoundError):
        search("nowhere", "*")


def test_text_is_replaced_file_by_file(shared: Any) -> None:
    shared.process.exec(
        "mkdir r; cd r; printf 'a.b a.b\\n\\377' > x; chmod 755 x; echo none > y; ln -s x link;"
        " printf 'a\\0a.b' > binary"
    )
    files = ["r/x", "r/y", "r/missing", "r", "r/binary"]
    results = shared.fs.replace_in_files(files=files, pattern="a.b", new_value="c")
    assert [(r.file, r.success) for r in results] == list(
        zip(files, (True, True, False, False, False), strict=True)
    )
    assert "No such file" in results[2].error and "folder" in results[3].error and "text" in results[4].error
    shown = shared.process.exec("cd r; od -c x | head -1; stat -c %a x; cat y; ls -A").result
    assert "c       c  \\n 377" in shown and "755\nnone\n" in shown and ".replace" not in shown
    assert shared.fs.replace_in_files(files=["r/link"], pattern="c", new_value="é")[0].success
    assert shared.process.exec("cd r; readlink link; head -1 x").result == "x\né é\n"
    with pytest.raises(DaytonaValidationError):
        shared.fs.replace_in_files(files=["r/x"], pattern="", new_value="y")


def test_files_and_folders_are_moved(shared: Any) -> None:
    shared.process.exec("mkdir -p m/folder; echo 1 > m/folder/f; echo 2 > m/other; ln -s nowhere m/link")
    move = shared.fs.move_files
    move("m/folder", "m/new/place")
    assert shared.process.exec("cat m/new/place/f; ls m").result == "1\nlink\nnew\nother\n"
    move("m/other", "/tmp/elsewhere")  # Another file system.
    assert shared.process.exec("cat /tmp/elsewhere; ls m").result == "2\nlink\nnew\n"
    move("m/link", "m/renamed")
    for source, destination, status in (
        ("m/none", "m/x", 404),
        ("m/new", "m/renamed", 400),
        ("m/new", "m/new/inside", 400),
        ("/tmp/elsewhere", "/dev/moved", 403),
    ):
        with pytest.raises(DaytonaError) as caught:
            move(source, destination)
        assert caught.value.status_code == status, source


def test_modes_and_owners(shared: Any) -> None:
    shared.process.exec("echo > p")
    shared.fs.set_file_permissions("p", mode="640")
    assert shared.fs.get_file_info("p").permissions == "0640"
    shared.fs.set_file_permissions("p", owner="daytona", group="1000")
    shared.fs.set_file_permissions("p", mode="0755", owner="daytona")
    assert shared.fs.get_file_info("p").permissions == "0755"
    with pytest.raises(DaytonaValidationError, match="octal"):
        shared.fs.set_file_permissions("p", mode="rwx")
    with pytest.raises(DaytonaValidationError, match="no user or group"):
        shared.fs.set_file_permissions("p", owner="nobody-like-this")
    for number in ("4294967295", "4294967296", "9" * 100, "a\0b"):
        with pytest.raises(DaytonaValidationError, match="no user or group"):
            shared.fs.set_file_permissions("p", owner=number)
        with pytest.raises(DaytonaValidationError, match="no user or group"):
            shared.fs.set_file_permissions("p", group=number)
    with pytest.raises(DaytonaAuthorizationError):
        shared.fs.set_file_permissions("/dev/null", mode="777")
    with pytest.raises(DaytonaNotFoundError):
        shared.fs.set_file_permissions("none", mode="600")


async def test_a_large_search_is_bounded_and_holds_up_nobody(async_daytona: AsyncDaytona) -> None:
    import asyncio

    box = await async_daytona.create()
    await box.process.exec(
        "mkdir big; cd big; seq 1 120000 > many; for i in $(seq 60); do cp many f$i; done; rm many"
    )
    with pytest.raises(DaytonaError, match="more than 100,000 results") as caught:
        await box.fs.find_files("big", "1")
    assert caught.value.status_code == 413
    running = asyncio.ensure_future(box.fs.find_files("big", "no such number"))
    slowest = 0.0
    for _ in range(10):
        begun = time.monotonic()
        await box.fs.get_file_info("big")
        slowest = max(slowest, time.monotonic() - begun)
    assert await running == [] and slowest < 5
    await box.delete()
