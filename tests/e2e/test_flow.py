"""Floods of a cell in a real kernel: what is shown and what is kept add up to what was printed."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daytona_magics.notebook import flow
from tests.kernel_client import Cell, Kernel

LIMIT = 8 << 20
TOLD = re.compile(r"([\d,]+) bytes were printed: ([\d,]+) are shown above(?:, the last (\S+) KiB below)?")
LOGS = re.compile(r"`%sandbox logs (\w+) ")


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel() as made:
        first = made.run("%%sandbox\n0")
        assert first.status == "ok", first
        yield made


def counted(cell: Cell) -> tuple[int, int]:
    """How many bytes were printed and how many shown before the end, by the cell's own words."""
    found = TOLD.findall(cell.notes)
    assert found, cell.notes
    return int(found[-1][0].replace(",", "")), int(found[-1][1].replace(",", ""))


def rss(kernel: Kernel) -> int:
    status = Path(f"/proc/{kernel.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) << 10  # type: ignore[index]


def test_a_long_output_is_shown_kept_and_fetched_whole(kernel: Kernel) -> None:
    before = rss(kernel)
    flood = kernel.run(
        "%%sandbox\nimport sys, os, hashlib\nseen = hashlib.sha256()\n"
        "for i in range(400):\n"
        "    piece = (b'%06d' % i) + b'\\xc3\\xa9' * 49_995 + bytes([128 + i % 128]) * 5\n"
        "    seen.update(piece); sys.stdout.buffer.write(piece)\nsys.stdout.flush()\nseen.hexdigest()",
        timeout=120,
    )
    printed, shown = counted(flood)
    assert printed == 400 * 100_001 and LIMIT - (64 << 10) <= shown <= LIMIT
    assert rss(kernel) - before < 150 << 20, "what is not shown takes no memory"
    assert len([c for kind, c, _ in flood.messages if kind == "display_data"]) == 1, "said once"
    name = LOGS.search(flood.notes)[1]  # type: ignore[index]
    saved = kernel.run(f"%sandbox logs {name} --to whole.bin")
    assert f"{printed:,} bytes" in saved.notes, saved
    again = kernel.run("import hashlib; hashlib.sha256(open('whole.bin', 'rb').read()).hexdigest()")
    assert again.result == flood.result
    refused = kernel.run(f"%sandbox logs {name} --to whole.bin")
    assert "exists on this machine" in refused.traceback
    assert kernel.run(f"%sandbox logs {name} --to nowhere/x").status == "error"
    assert kernel.run(f"%sandbox logs {name} --forget").status == "ok"


def test_every_character_of_a_flood_is_shown_or_counted(kernel: Kernel) -> None:
    flood = kernel.run("%%sandbox\nfor i in range(300_000): print(f'{i:049d}')\n'value'", timeout=120)
    printed, shown = counted(flood)
    lines = [f"{i:049d}\n" for i in range(300_000)]
    whole = "".join(lines)
    assert printed == len(whole) and flood.result == "'value'"
    assert flood.stdout == whole[:shown] + whole[-flow.TAIL :]
    name = LOGS.search(flood.notes)[1]  # type: ignore[index]
    replayed = kernel.run(f"%sandbox logs --plain {name}", timeout=120)
    assert counted(replayed)[0] == printed and replayed.result == "'value'"
    assert kernel.run(f"%sandbox logs {name} --all", timeout=120).stdout == whole
    assert kernel.run(f"%sandbox logs {name} -n 3").stdout == "".join(lines[-3:])


def test_below_the_limit_everything_is_shown_and_nothing_kept(kernel: Kernel) -> None:
    cell = kernel.run("%%sandbox\nfor i in range(100_000): print(i)")
    assert cell.stdout == "".join(f"{i}\n" for i in range(100_000)) and not cell.notes
    held = (
        "from daytona_magics import sandboxes\nfrom daytona_magics.runtime.loop import loop_thread\n"
        "known = loop_thread().run(sandboxes.current().channel.status())['executions']\n"
        f"print([one['kept'] for one in known if one['number'] == {number(cell)}])"
    )
    deadline = time.monotonic() + 60
    while kernel.run(held).stdout != "[]\n":
        assert time.monotonic() < deadline, "the sandbox's copy is not released"


def number(cell: Cell) -> int:
    return next(int(c["execution_count"]) for kind, c, _ in cell.messages if kind == "execute_input")


@pytest.mark.parametrize("language", ["python", "bash"])
def test_an_endless_output_is_interrupted_at_once(kernel: Kernel, language: str) -> None:
    body = "while True: print('x' * 2000)" if language == "python" else "yes xxxxxxxxxxxxxxxxxxxx"
    before = rss(kernel)
    cell = kernel.run(f"%%sandbox {language}\n{body}", on=kernel.interrupt_when("xx", after=1.5), timeout=120)
    assert cell.ename == "KeyboardInterrupt" and "variables are alive" in cell.error["evalue"], cell
    printed, shown = counted(cell)
    tail = len(cell.stdout) - shown
    assert 0 < tail <= flow.TAIL and printed > LIMIT
    assert rss(kernel) - before < 150 << 20
    assert kernel.run("%%sandbox\n'alive'").result == "'alive'"
    name = LOGS.search(cell.notes)[1]  # type: ignore[index]
    kernel.run(f"%sandbox logs {name} --forget")


def test_ten_thousand_displays(kernel: Kernel) -> None:
    cell = kernel.run(
        "%%sandbox\nfrom IPython.display import display\nfor i in range(10_000): display(i)", timeout=120
    )
    assert [data["text/plain"] for data in cell.bundles()] == [str(i) for i in range(10_000)]


def test_a_large_image_is_not_shown_and_can_be_fetched(kernel: Kernel) -> None:
    image = (
        "%%sandbox\nfrom IPython.display import Image, display\nimport hashlib, os\nprint('before')\n"
        "drawn = b'\\x89PNG\\r\\n\\x1a\\n' + os.urandom({})\n"
        "display(Image(data=drawn, format='png'))\nprint('after')"
    )
    cell = kernel.run(image.format(9_000_000), timeout=120)
    assert cell.status == "ok" and cell.stdout == "before\nafter\n"
    assert "1 display was not shown (11.4 MiB; the limit is 8.0 MiB)" in cell.notes, cell.notes
    name = LOGS.search(cell.notes)[1]  # type: ignore[index]
    whole = kernel.run(f"%sandbox logs {name} --all", timeout=120)
    came = hashlib.sha256(base64.b64decode(whole.bundles()[0]["image/png"])).hexdigest()
    assert came in kernel.run("%%sandbox\nprint(hashlib.sha256(drawn).hexdigest())").stdout
    largest = kernel.run(image.format(50_000_000), timeout=120)
    assert largest.status == "ok" and "1 display was not shown" in largest.notes, largest.notes
    beyond = kernel.run(image.format(60_000_000), timeout=120)
    assert beyond.status == "ok" and "the limit is 64 MiB" in beyond.notes, beyond.notes


def test_a_capture_is_not_limited_by_the_page(kernel: Kernel) -> None:
    cell = kernel.run(
        "%%sandbox --out kept\nimport sys\nfor i in range(10): sys.stdout.write('x' * 1_000_000)"
    )
    assert cell.status == "ok" and not cell.notes and not cell.stdout
    assert kernel.run("print(len(kept.stdout))").stdout == "10000000\n"


def test_a_servers_kernel_shows_no_faster_and_obeys_at_once() -> None:
    with Kernel(name="/notebooks/flood.ipynb") as served:
        served.run("%config SandboxConfig.pace_rate = 300")
        cell = served.run("%%sandbox\nimport sys\nsys.stdout.write('x' * 600_000);")
        assert cell.stdout == "x" * 600_000 and cell.messages[-1][2] > 0.6, "600 kB, of which 256 KiB at once"
        flood = served.run(
            "%%sandbox\nwhile True: print('x' * 2000)", on=served.interrupt_when("xx", after=1.0), timeout=60
        )
        assert flood.ename == "KeyboardInterrupt", flood
        printed, shown = counted(flood)
        assert shown < 4 << 20 < printed, "the press does not wait for what has not been shown"
        assert served.run("%config SandboxConfig.pace = 'off'").status == "ok"
        assert served.run("%config SandboxConfig.show_limit = 0.5").status == "ok"
        printed, shown = counted(served.run("%%sandbox\nprint('x' * 600_000)"))
        assert printed == 600_001 and shown <= 1 << 19
