"""A second notebook's first cell, in a sandbox that was kept ready with its guest, in real kernels."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from daytona_magics.runtime.bundle import bundle
from tests.e2e.test_kills import check_nothing_is_missing, killer_of_terminals
from tests.kernel_client import Kernel

SANDBOX = "from daytona_magics import sandboxes\nsandboxes.current().sandbox.id"


@pytest.fixture(scope="module")
def first() -> Iterator[Kernel]:
    with Kernel(env={"DAYTONA_MAGICS_SPARE": "1"}) as made:
        yield made


@pytest.fixture
def second(first: Kernel) -> Iterator[Kernel]:
    with Kernel(first.home, env={"DAYTONA_MAGICS_SPARE": "1"}) as made:
        yield made


def id_of(kernel: Kernel) -> str:
    return str(kernel.run(SANDBOX).result).strip("'")


def spare(kernel: Kernel) -> str:
    """The id of the sandbox that is kept ready, once it is."""
    state = Path(kernel.env["DAYTONA_MAGICS_HOME"])
    record = json.loads((state / "engine.json").read_text())
    bearer = {"Authorization": f"Bearer {record['api_key']}"}
    url = f"http://127.0.0.1:{record['port']}/api"
    until = time.monotonic() + 30
    while True:
        body = json.dumps({"key": bundle().name}).encode()
        with urlopen(Request(f"{url}/engine/spare", body, bearer)) as answer:
            if json.load(answer)["ready"]:
                break
        assert time.monotonic() < until, "no sandbox was made ready"
        time.sleep(0.05)
    with urlopen(Request(f"{url}/sandbox", headers=bearer)) as answer:
        known = {box["id"] for box in json.load(answer)["items"]}
    (made,) = {path.name for path in (state / "sandboxes").iterdir()} - known
    return made


def test_the_next_notebook_gets_it_and_its_line_is_made_anew(first: Kernel, second: Kernel) -> None:
    assert first.run("%%sandbox\nkept = 1", timeout=90).status == "ok"
    ready = spare(first)
    cell = second.run("%%sandbox\nkept = 3\nprint('first')")
    assert (cell.status, cell.stdout) == ("ok", "first\n"), cell
    assert "created sandbox" in cell.notes
    assert id_of(second) == ready != id_of(first)
    check_nothing_is_missing(second, "printing", killer_of_terminals(second))
    # Its guest is found again by a new kernel process, and started anew when it has ended.
    second.restart()
    cell = second.run("%%sandbox\nkept")
    assert cell.result == "3" and "re-attached" in cell.notes, cell
    second.run("%%sandbox bash\nkill -9 $(pgrep -o daytona-guest)")
    assert second.run("%%sandbox\n'anew'").result == "'anew'"


def test_what_is_not_asked_for_by_a_notebook_leaves_it_alone(first: Kernel, second: Kernel) -> None:
    assert first.run("%%sandbox\n1", timeout=90).status == "ok"
    ready = spare(first)
    second.run("%sandbox create --env A=1")
    assert second.run("%%sandbox bash\necho $A").stdout == "1\n"
    assert id_of(second) != ready == spare(first)
