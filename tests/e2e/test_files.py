"""Files and folders of a sandbox, from a real kernel."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daytona_magics.sandboxes import installing
from tests.kernel_client import Cell, Kernel, close_loop


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel() as made:
        assert made.run("%%sandbox\n0").status == "ok"
        yield made


@pytest.fixture(scope="module")
def work(kernel: Kernel) -> Path:
    """The kernel's own folder, with a tree in it."""
    folder = kernel.home / "work"
    tree = folder / "tree" / "sub dir"
    tree.mkdir(parents=True)
    (tree / "a.txt").write_text("hi ü TODO\n")
    (tree / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (tree / "run.sh").chmod(0o755)
    (tree / "empty").mkdir()
    (tree / "link").symlink_to("a.txt")
    (tree / "out").symlink_to("/etc/passwd")
    os.mkfifo(tree / "pipe")
    return folder


#: How much is left of an upload that was cancelled.
LEFT = "%sandbox exec ls -A ~ | grep -c -e huge -e '^.daytona-magics-upload' || true"


def ok(kernel: Kernel, code: str) -> Cell:
    cell = kernel.run(code)
    assert cell.status == "ok", cell
    return cell


def clean(kernel: Kernel) -> None:
    """Nothing is left of transfers in the sandbox."""
    assert ok(kernel, "%sandbox exec ls -A ~/.daytona-magics/transfers 2>/dev/null; true").stdout == ""


def test_a_folder_goes_up_and_comes_down(kernel: Kernel, work: Path) -> None:
    cell = ok(kernel, "%sandbox upload tree/ there")
    assert "2 files" in cell.notes and "sub dir/pipe (1)" in cell.notes
    listing = ok(kernel, "%sandbox exec cd there && find . -printf '%p %l %m %u\\n' | sort").stdout
    assert "./sub dir/run.sh  755 " in listing and "./sub dir/link a.txt" in listing
    assert ok(kernel, "%sandbox exec there/'sub dir'/run.sh").stdout == "ran\n"
    # Into a folder that exists, under its own name, as cp does it.
    ok(kernel, "%sandbox upload tree there")
    assert ok(kernel, "%sandbox exec ls there").stdout.split("\n")[:2] == ["sub dir", "tree"]

    cell = ok(kernel, "%sandbox download there/tree back")
    assert "left out, as no file, folder or link inside: sub dir/out (1)" in cell.notes
    back = work / "back" / "sub dir"
    assert (back / "a.txt").read_text() == "hi ü TODO\n" and os.access(back / "run.sh", os.X_OK)
    assert os.readlink(back / "link") == "a.txt" and (back / "empty").is_dir()
    assert not os.path.lexists(back / "out")
    assert "exists on this machine" in kernel.run("%sandbox download there/tree --to .").traceback
    assert sorted(path.name for path in work.iterdir()) == ["back", "tree"]
    clean(kernel)


def test_a_folder_that_cannot_come_leaves_nothing(kernel: Kernel, work: Path) -> None:
    cell = kernel.run("%sandbox download nowhere-at-all here")
    assert "there is no 'nowhere-at-all'" in cell.traceback
    ok(kernel, "%sandbox exec mkdir -p locked/in && touch locked/in/f && chmod 000 locked/in")
    cell = kernel.run("%sandbox download locked got")
    assert cell.ename == "SandboxError" and "packing locked failed in the sandbox" in cell.traceback
    assert not (work / "got").exists() and not list(work.glob(".got*"))
    ok(kernel, "%sandbox exec touch afile")
    cell = kernel.run("%sandbox upload tree afile")
    assert "it is there, and no folder" in cell.traceback
    clean(kernel)


def test_an_archive_goes_out_and_into_another_place(kernel: Kernel, work: Path) -> None:
    ok(kernel, "%%sandbox bash\nmkdir -p team/src; echo 1 > team/src/x; ln -s /etc/passwd team/abs")
    ok(kernel, "%sandbox export team winner.tar.gz")
    assert (work / "winner.tar.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert "exists on this machine" in kernel.run("%sandbox export team winner.tar.gz").traceback
    cell = ok(kernel, "%sandbox import winner.tar.gz next/round")
    assert "left out" in cell.notes and "abs (1)" in cell.notes
    assert ok(kernel, "%sandbox exec cat next/round/src/x; ls next/round").stdout == "1\nsrc\n"
    ok(kernel, "%sandbox export team/src/x one.tar.gz")
    ok(kernel, "%sandbox import one.tar.gz next/round")
    assert ok(kernel, "%sandbox exec ls next/round").stdout == "src\nx\n"
    clean(kernel)


def test_an_import_that_would_leave_its_folder_sends_nothing(kernel: Kernel, work: Path) -> None:
    ok(
        kernel,
        "import io, tarfile\nwith tarfile.open('evil.tar', 'w') as t:\n"
        "    m = tarfile.TarInfo('../escaped'); m.size = 1; t.addfile(m, io.BytesIO(b'x'))",
    )
    cell = kernel.run("%sandbox import evil.tar target/deep")
    assert cell.ename == "SandboxUsageError" and "leads out of where it is unpacked" in cell.traceback
    # The control: tar told to believe the names writes it there.
    ok(kernel, "%sandbox upload evil.tar")
    ok(kernel, "%sandbox exec mkdir -p target/deep && tar -P -C target/deep -xf evil.tar; rm evil.tar")
    assert ok(kernel, "%sandbox exec ls target").stdout == "deep\nescaped\n"


def test_verbs_inside_the_sandbox(kernel: Kernel) -> None:
    ok(
        kernel,
        "%%sandbox bash\nmkdir -p verbs/src; echo 'x TODO y' > verbs/src/a.txt; echo b > 'verbs/src/b c.txt'",
    )
    ok(kernel, "%sandbox cp verbs/src/a.txt 'verbs/src/b c.txt' verbs/copies/")
    ok(kernel, "%sandbox cp verbs/src verbs/whole")
    ok(kernel, "%sandbox mv verbs/copies/a.txt verbs/moved.txt")
    assert "something is in the way" in kernel.run("%sandbox mv 'verbs/copies/b c.txt' verbs/whole").traceback
    ok(kernel, "%sandbox rm 'verbs/whole/b c.txt'")
    ok(kernel, "%sandbox mv verbs/moved.txt 'verbs/copies/b c.txt' verbs/whole")
    listing = ok(kernel, "%sandbox exec cd verbs && find . -type f | sort").stdout.split("\n")[:-1]
    assert listing[:3] == ["./src/a.txt", "./src/b c.txt", "./whole/a.txt"]
    assert listing[3:] == ["./whole/b c.txt", "./whole/moved.txt"]
    assert len(ok(kernel, "found = %sandbox find 'a.*' verbs\nlist(found)").result or "") > 10
    assert "src/a.txt" in str(ok(kernel, "%sandbox grep TODO verbs/src").result)
    ok(kernel, "%sandbox chmod 640 verbs/src/a.txt")
    assert "0640" in str(ok(kernel, "%sandbox stat verbs/src/a.txt").result)
    assert "done" in str(ok(kernel, "%sandbox replace TODO DONE verbs/src/a.txt").result)
    assert ok(kernel, "%sandbox exec cat verbs/src/a.txt").stdout == "x DONE y\n"
    some = kernel.run("%sandbox replace DONE READY verbs/none verbs/src/a.txt")
    assert some.ename == "SandboxError" and "1 of 2 files could not be changed" in some.traceback
    shown = str(some.bundles())
    assert "No such file" in shown and "done" in shown
    ok(kernel, "%sandbox replace READY DONE verbs/src/a.txt")
    ok(kernel, "%sandbox chown daytona:daytona verbs/src/a.txt")
    ok(kernel, "%sandbox mkdir --mode 700 verbs/new/deep verbs/other")
    assert "drwx------" in str(ok(kernel, "%sandbox stat verbs/other").result)
    cell = kernel.run("%sandbox rm verbs")
    assert cell.ename == "SandboxError" and "%sandbox rm -r verbs" in cell.traceback
    ok(kernel, "%sandbox rm verbs/src/a.txt")
    ok(kernel, "%sandbox rm -r verbs")
    for code, words in (
        ("cp verbs", "where to?"),
        ("rm gone.txt", "there is no 'gone.txt'"),
        ("mv gone.txt a", "there is no 'gone.txt'"),
        ("cp gone.txt a", "gone.txt"),
        ("mkdir --mode 9 a", "three octal digits"),
        ("chown nobody-there verbs", "nobody-there"),
        ("chown : verbs", "names nobody"),
        ("replace '' a verbs", "an empty text is everywhere"),
        ("stat gone", "there is no 'gone'"),
        ("import nothing.tar a", "there is no file 'nothing.tar'"),
    ):
        assert words in kernel.run(f"%sandbox {code}").traceback, code


def test_several_files_come_down_into_a_folder(kernel: Kernel, work: Path) -> None:
    ok(kernel, "%sandbox exec mkdir -p many && cd many && echo 1 > one && echo 2 > two")
    (work / "into").mkdir()
    ok(kernel, "%sandbox download many/one many/two into")
    assert (work / "into" / "two").read_text() == "2\n"
    cell = kernel.run("%sandbox download many/one many/two into")
    assert "'into/one' exists on this machine" in cell.traceback
    cell = ok(kernel, "%sandbox download -f --to into/ many/one many/two")
    assert cell.notes.count(" ok ") == 2 and "into/two" in cell.notes


def test_of_several_files_each_is_tried(kernel: Kernel, work: Path) -> None:
    for name in ("first", "blocked", "third"):
        (work / name).write_text(f"{name}\n")
    ok(kernel, "%sandbox exec mkdir -p each/blocked")
    cell = kernel.run("%sandbox upload first blocked tree third each")
    assert cell.ename == "SandboxError" and "1 of 4 were not uploaded: blocked" in cell.traceback
    rows = {line.split()[0]: line for line in cell.notes.splitlines() if " ok " in line or " failed " in line}
    assert [name for name, row in rows.items() if " failed " in row] == ["blocked"] and len(rows) == 4
    assert "each/blocked" in rows["blocked"] and "2 files" in rows["tree"] and "each/third" in rows["third"]
    assert (
        ok(kernel, "%sandbox exec cat each/first each/third; ls each/tree").stdout
        == "first\nthird\nsub dir\n"
    )

    (work / "got").mkdir()
    cell = kernel.run("%sandbox download each/first 'each/<i>none' each/tree each/third got")
    assert cell.ename == "SandboxError" and "1 of 4 were not downloaded: each/<i>none" in cell.traceback
    assert "there is no 'each/<i>none'" in cell.notes and cell.notes.count(" ok ") == 3
    assert not any("<i>" in bundle.get("text/html", "") for bundle in cell.bundles())
    assert sorted(path.name for path in (work / "got").iterdir()) == ["first", "third", "tree"]
    # Nothing at all is begun when two of them would be one file.
    cell = kernel.run("%sandbox upload first ./first twice")
    assert cell.ename == "SandboxUsageError" and "two of them would be 'twice/first'" in cell.traceback
    assert ok(kernel, "%sandbox exec test -e twice || echo none").stdout == "none\n"


def test_a_long_upload_shows_its_rate_and_can_be_cancelled(kernel: Kernel, work: Path) -> None:
    with (work / "huge").open("wb") as file:
        file.truncate(8 << 30)
    done: list[bool] = []

    def on(kind: str, content: dict[str, Any], cell: Cell) -> None:
        if not done and "MiB/s" in str(content):
            done.append(True)

            def press() -> None:
                kernel.interrupt()
                close_loop()

            threading.Thread(target=press).start()

    cell = kernel.run("%sandbox upload huge", on=on, timeout=100)
    (work / "huge").unlink()
    assert done and cell.ename == "KeyboardInterrupt" and "cancelled" in cell.traceback
    assert "huge ░" in cell.notes or "huge █" in cell.notes
    # The sandbox learns of it when the connection is found closed.
    deadline = time.monotonic() + 30
    while ok(kernel, LEFT).stdout != "0\n":
        assert time.monotonic() < deadline, ok(kernel, "%sandbox exec ls -lA ~").stdout
        time.sleep(0.2)
    assert ok(kernel, "%%sandbox\n40 + 2").result == "42"


def test_a_program_is_installed_checked_and_tried_again(kernel: Kernel) -> None:
    kernel.run("from daytona_magics.sandboxes import installing\ninstalling.PAUSES = (0.0, 0.0)")
    lost = "{ echo try >> tries; echo 'curl: (6) Could not resolve host: x' >&2; "
    tool = "mkdir -p ~/.local/bin && echo 'echo tool 7' > ~/.local/bin/tool && chmod +x ~/.local/bin/tool"
    # The network is there at the third try; what the check finds is not installed again.
    line = f"%sandbox install --verify 'tool' {lost}[ $(wc -l < tries) = 3 ] && {tool}; }}"
    done = str(kernel.run(line).result)
    assert re.search("tries +3", done) and "tool: tool 7" in done, done
    assert "there already" in str(kernel.run(line).result)
    assert kernel.run("%sandbox exec wc -l < tries").stdout.strip() == "3"
    # Three tries and no more; the other way brings it. What fails otherwise is not tried again.
    kernel.run("%sandbox exec rm ~/.local/bin/tool tries")
    other = str(kernel.run(f'%sandbox install "{lost}false; }}" --verify "tool" --fallback "{tool}"').result)
    assert "tool 7" in other and "tries" not in other.replace("tries;", ""), other
    assert kernel.run("%sandbox exec wc -l < tries; rm tries ~/.local/bin/tool").stdout.strip() == "3"
    failed = kernel.run("%sandbox install { echo try >> tries; echo no such package; false; } | cat")
    assert "failed (exit code 1)" in failed.traceback and "| no such package" in failed.traceback, failed
    assert kernel.run("%sandbox exec wc -l < tries").stdout.strip() == "1"
    # An installer that only says it did is not believed.
    lied = kernel.run("%sandbox install --verify 'tool' --fallback 'exit 3' true")
    assert "ended well, but `tool` still fails" in lied.traceback and "exit code 3" in lied.traceback
    assert "stands behind the command" in kernel.run("%sandbox install true --verify true").traceback
    assert "needs a command" in kernel.run("%sandbox install").traceback


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("curl: (6) Could not resolve host: claude.ai", True),
        ("npm error code EAI_AGAIN", True),
        ("E: Failed to fetch http://deb: Connection timed out", True),
        ("ReadTimeoutError: Read timed out. (read timeout=15)", True),
        ("fatal: unable to access: 503 Service Unavailable", True),
        ("E: Unable to locate package nothing", False),
        ("npm error code E404", False),
        # The sandbox's own settings: it will be the same in ten seconds.
        ("curl: (56) CONNECT tunnel failed, response 403", False),
        ("pypi.org:443 is refused: --network-block-all is set; Connection refused", False),
    ],
)
def test_a_network_that_failed_is_known_by_its_words(text: str, network: bool) -> None:
    assert installing.broken_network(text) is network


def test_terminals_are_listed_and_ended(kernel: Kernel) -> None:
    opened = (
        "import daytona_magics as dm\nfrom daytona.common.pty import PtySize\nbox = dm.current()\n"
        "made = box.wait(box.sandbox.process.create_pty_session('mine', on_data=lambda data: None, "
        "pty_size=PtySize(cols=91, rows=17)))"
    )
    assert kernel.run(opened).status == "ok"
    listed = str(kernel.run("%sandbox terminal --list").result)
    assert re.search(r"^mine +91×17 ", listed, re.MULTILINE) and "--kill NAME" in listed, listed
    assert "there is no terminal 'other'" in kernel.run("%sandbox terminal --kill other").traceback
    assert "terminal mine has ended" in kernel.run("%sandbox terminal --kill mine").notes
    assert kernel.run("box.wait(made.wait()).exit_code").result == "137"
    assert "No terminal is open" in str(kernel.run("%sandbox terminal --list").result)
    assert "each stand alone" in kernel.run("%sandbox terminal --list --kill mine").traceback
    # What cells run through is nobody's to end.
    cells = "[one.id for one in box.wait(box.sandbox.process.list_pty_sessions())][0]"
    name = str(kernel.run(f"name = {cells}\nname").result).strip("'")
    assert "there is no terminal" in kernel.run(f"%sandbox terminal --kill {name}").traceback
