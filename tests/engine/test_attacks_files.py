"""Attacks by names of files, through the routes that upload and download; each works without isolation.

At level L0, which is never chosen by itself, the toolbox sees this machine's files, so there the same
requests reach the secret and write beside it. That is the control; behind isolation they reach the sandbox
only.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from daytona import Daytona, FileUpload
from daytona.common.errors import DaytonaError

from tests.engine_process import IsolatedEngine, isolated_engine

pytestmark = pytest.mark.timeout(90)

SECRET = b"the host's own words"


@dataclass
class House:
    """A sandbox and a folder of the host beside it."""

    box: Any
    folder: Path
    engine: IsolatedEngine
    is_open: bool

    def ask(self, method: str, path: str) -> tuple[int, Any]:
        """A request without the SDK: status and JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.engine.record["port"], timeout=30)
        connection.request(method, path, b"x", {"Authorization": f"Bearer {self.engine.key}"})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, json.loads(data)

    def reads(self, path: str) -> bool:
        """Whether the secret comes back as the file `path`."""
        try:
            return SECRET in self.box.fs.download_file(path)
        except DaytonaError:
            return False

    def writes(self, path: str) -> bool:
        """Whether a file sent to `path` is then found in the host's folder."""
        with suppress(DaytonaError):
            self.box.fs.upload_files([FileUpload(b"escaped", path), FileUpload(b"good", "good")])
        found = any(file.read_bytes() == b"escaped" for file in self.folder.iterdir() if file.is_file())
        for file in self.folder.glob("escaped*"):
            file.unlink()
        return found


@pytest.fixture(scope="module", params=["isolated", "L0"])
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    level = {"DAYTONA_MAGICS_ISOLATION": "L0"} if request.param == "L0" else {}
    folder = Path(tempfile.mkdtemp(prefix="dm-host-", dir="/var/tmp"))
    folder.chmod(0o777)
    (folder / "secret").write_bytes(SECRET)
    (folder / "secret").chmod(0o644)
    try:
        with isolated_engine(**level) as engine:
            box = Daytona(engine.config()).create()
            yield House(box, folder, engine, request.param == "L0")
    finally:
        shutil.rmtree(folder)


def up(path: Path) -> str:
    return "../" * 12 + str(path).lstrip("/")


READS: dict[str, Callable[[House], bool]] = {
    "../": lambda house: house.reads(up(house.folder / "secret")),
    "absolute": lambda house: house.reads(str(house.folder / "secret")),
    "../ within": lambda house: house.reads(f"./x/../{up(house.folder / 'secret')}"),
    "symlink": lambda house: _link(house, "ln -sfn {0}/secret link") and house.reads("link"),
    "symlink of a folder": lambda house: _link(house, "ln -sfn {0} links") and house.reads("links/secret"),
    "hard link": lambda house: _link(house, "ln -f {0}/secret hard") and house.reads("hard"),
    "/proc/self/root": lambda house: house.reads(f"/proc/self/root{house.folder}/secret"),
    "copied by moving": lambda house: _moved(house),
    "searched": lambda house: _searched(house),
}
WRITES: dict[str, Callable[[House], bool]] = {
    "../": lambda house: house.writes(up(house.folder / "escaped")),
    "absolute": lambda house: house.writes(str(house.folder / "escaped")),
    "through a link": lambda house: _link(house, "ln -sfn {0} out") and house.writes("out/escaped"),
    "a link as the file": lambda house: (
        _link(house, "ln -sfn {0}/escaped-2 file-link") and house.writes("file-link")
    ),
}


def _link(house: House, command: str) -> bool:
    house.box.process.exec(command.format(house.folder))
    return True


def _moved(house: House) -> bool:
    try:
        house.box.fs.move_files(str(house.folder / "secret"), "mine")
    except DaytonaError:
        return False
    finally:
        (house.folder / "secret").write_bytes(SECRET)
        (house.folder / "secret").chmod(0o644)
    return house.reads("mine")


def _searched(house: House) -> bool:
    try:
        return bool(house.box.fs.find_files(str(house.folder), "own words"))
    except DaytonaError:
        return False


@pytest.mark.parametrize("what", READS)
def test_the_hosts_files_are_not_read(house: House, what: str) -> None:
    # Hard links to files of others are refused by the kernel's own setting at every level.
    expected = house.is_open and not (what == "hard link" and _links_are_protected(house))
    assert READS[what](house) is expected
    assert (house.folder / "secret").read_bytes() == SECRET


def _links_are_protected(house: House) -> bool:
    done = house.box.process.exec(f"ln -f {house.folder}/secret probe")
    return bool(done.exit_code)


@pytest.mark.parametrize("what", WRITES)
def test_nothing_is_written_beside_the_sandbox(house: House, what: str) -> None:
    """Also zip-slip: names that leave the folder, inside the form of a bulk upload."""
    assert WRITES[what](house) is house.is_open
    # What is good in the same form is written where it belongs.
    assert house.box.fs.download_file("good") == b"good"


SWAP = """
import ctypes, os, sys
rename = ctypes.CDLL(None, use_errno=True).renameat2
open("swap", "w").write("inside")
if os.path.lexists("other"): os.unlink("other")
os.symlink(sys.argv[1], "other")
open("ready", "w").close()
while not os.path.exists("enough"):
    rename(-100, b"swap", -100, b"other", 2)
"""


def test_a_link_that_is_swapped_during_the_request(house: House) -> None:
    """A name is a file of the sandbox at one moment and a link to the host at the next, all the time."""
    from daytona import SessionExecuteRequest

    box, target = house.box, house.folder / "secret"
    box.fs.upload_file(SWAP.encode(), "swap.py")
    box.process.create_session("swap")
    run = SessionExecuteRequest(command=f"rm -f enough; python3 swap.py {target}", run_async=True)
    command = box.process.execute_session_command("swap", run).cmd_id
    box.process.exec("while [ ! -e ready ]; do sleep 0.05; done", timeout=20)
    try:
        seen = set()
        for _ in range(60):
            try:
                seen.add(box.fs.download_file("swap"))
            except DaytonaError:
                seen.add(b"refused")
        assert b"inside" in seen or b"refused" in seen
        assert (SECRET in seen) is house.is_open
        if not house.is_open:
            for _ in range(20):
                try:
                    box.fs.upload_file(b"over it", "swap")
                except DaytonaError:
                    continue
            assert target.read_bytes() == SECRET
    finally:
        box.process.exec("touch enough")
        assert box.process.get_session_command(session_id="swap", command_id=command).id == command
        box.process.delete_session("swap")


ODD = {
    "NUL": "a\0b",
    "a name of 4 kB": "n" * 4096,
    "a path beyond 4 kB": "d/" * 2_100,
    "FIFO": "fifo",
    "/dev/zero": "/dev/zero",
    "a link to /dev/zero": "zero",
    "/dev/tty": "/dev/tty",
    "a folder": "folder",
}


@pytest.mark.parametrize("what", ODD)
def test_names_that_are_no_files_are_refused_at_once(house: House, what: str) -> None:
    """Without the check of what a name is, reading these waits or goes on forever, as the control shows."""
    house.box.process.exec("mkfifo -m 600 fifo; ln -sfn /dev/zero zero; mkdir -p folder")
    route = f"/toolbox/{house.box.id}/files"
    for method, path in (("GET", "download"), ("POST", "upload-v2")):
        status, answer = house.ask(method, f"{route}/{path}?path={quote(ODD[what])}")
        assert status in (400, 403, 404), answer
        assert answer["code"] in ("INVALID_FILE_PATH", "FILE_NOT_FOUND", "FILE_ACCESS_DENIED"), answer
    if what in ("FIFO", "/dev/zero"):
        code = house.box.process.exec(f"timeout 0.3 cat {ODD[what]} > /dev/null").exit_code
        assert code == 124


def test_names_that_are_not_text(house: House) -> None:
    make = "import os; open(b'bad-\\xff-\\xc0', 'w').close(); open('half-\\udc80', 'w').close()"
    assert house.box.process.code_run(make).exit_code == 0
    names = [info.name for info in house.box.fs.list_files(".")]
    assert "bad-\\xff-\\xc0" in names and "half-\\x80" in names
    assert os.fsencode("\udcff") == b"\xff", "control: such a name cannot be written as UTF-8"


def test_a_file_in_two_thousand_folders(house: House) -> None:
    """As deep as a path can go: made, read and deleted without a program calling itself for each level."""
    path = "deep/" + "d/" * 1900 + "file"
    house.box.fs.upload_file(b"deep", path)
    assert house.box.fs.download_file(path) == b"deep"
    house.box.fs.delete_file("deep", recursive=True)
    assert "deep" not in [info.name for info in house.box.fs.list_files(".")]
