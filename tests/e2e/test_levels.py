"""A notebook at the levels below L3 works as it does there: as root, and once more as an ordinary user."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import forks
from tests.isolation import as_user
from tests.kernel_client import ROOT, Cell, Kernel

pytestmark = pytest.mark.isolation

#: Level, and the newest Landlock ABI it may use. ABI 4 stops no signals where sandboxes have no own uids.
LEVELS = {
    "L2": ("L2", ""),
    "L1": ("L1", ""),
    "ABI 4": ("L1" if os.geteuid() == 0 else "L0.5", "4"),
}


@pytest.fixture(scope="module", params=LEVELS)
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    level, landlock = LEVELS[request.param]
    env: dict[str, str | None] = {"DAYTONA_MAGICS_ISOLATION": level}
    if landlock:
        env["DAYTONA_MAGICS_LANDLOCK_ABI"] = landlock
    with Kernel(env=env) as made:
        made.run("%sandbox config min_isolation=L0.5")
        first = made.run("%%sandbox\nkept = 7")
        assert first.status == "ok" and f"isolation {level}" in first.notes, first
        yield made


def test_streams_values_pictures_and_errors(kernel: Kernel) -> None:
    cell = kernel.run(
        "%%sandbox\nimport sys\nprint('out'); print('err', file=sys.stderr)\n"
        "!echo shell; exit 3\nprint('code', _exit_code)\n"
        "display({'text/html': '<b>bold</b>', 'text/plain': 'plain'}, raw=True)\n40 + 2"
    )
    assert (cell.stdout, cell.stderr, cell.result) == ("out\nshell\ncode 3\n", "err\n", "42"), cell
    assert [b["text/plain"] for b in cell.bundles()] == ["plain"]
    cell = kernel.run("%%sandbox\ndef f():\n    return 1 / 0\nf()")
    assert cell.ename == "ZeroDivisionError" and "line 4" in cell.traceback
    assert (
        kernel.run("%%sandbox\n'%d lines' % len([print(i) for i in range(20000)])").result == "'20000 lines'"
    )


def test_bash_and_files(kernel: Kernel, tmp_path: Path) -> None:
    assert (
        kernel.run("%%sandbox bash\nmkdir -p kept && cd kept\nx=5\ncat <<END > file\nhere $x\nEND").status
        == "ok"
    )
    cell = kernel.run(
        '%%sandbox bash\ncat file; basename "$PWD"; echo $x > "$TMPDIR/x"; mktemp -d > /dev/null && echo ok'
    )
    assert cell.stdout == "here 5\nkept\nok\n"
    assert (
        kernel.run("%%sandbox\nimport tempfile\nwith tempfile.TemporaryFile() as f: f.write(b'x')").status
        == "ok"
    )
    here = tmp_path / "up.bin"
    here.write_bytes(bytes(range(256)) * 1000)
    # Places of the cloud are understood where they are asked for.
    for place in ("", "/home/daytona/", "/tmp/"):
        assert kernel.run(f"%sandbox upload {here} {place}deep/up.bin").status == "ok"
        assert "up.bin" in str(kernel.run(f"%sandbox ls {place}deep").result)
        back = tmp_path / "back.bin"
        assert kernel.run(f"%sandbox download {place}deep/up.bin {back}").status == "ok"
        assert back.read_bytes() == here.read_bytes()
        back.unlink()
    assert (
        kernel.run("%sandbox exec wc -c < deep/up.bin; wc -c < $TMPDIR/deep/up.bin").stdout == "256000\n" * 2
    )


POOLS = """%%sandbox
import multiprocessing as mp, subprocess, sys
def square(x): return x * x
with mp.Pool(2) as pool: print(pool.map(square, range(5)))
open("pool.py", "w").write('''
import multiprocessing as mp
def square(x): return x * x
if __name__ == "__main__":
    with mp.get_context("spawn").Pool(2) as pool: print(pool.map(square, range(5)))
''')
!python3 pool.py
try: mp.get_context("forkserver").Pool(1)
except OSError as error: print(error)
"""


def test_multiprocessing(kernel: Kernel) -> None:
    cell = kernel.run(POOLS)
    assert cell.stdout.startswith("[0, 1, 4, 9, 16]\n" * 2 + "forkserver needs unix sockets"), cell


def sleepers(mark: str) -> list[str]:
    """Processes called ``sleep MARK``, seen from outside."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if (folder / "cmdline").read_bytes() == f"sleep\0{mark}\0".encode() and state != "Z":
                found.append(folder.name)
        except OSError:  # it ended meanwhile
            continue
    return found


def press(kernel: Kernel, code: str, times: int) -> Cell:
    cell = kernel.run(code, on=kernel.interrupt_when("go", times))
    assert (cell.status, cell.ename) == ("error", "KeyboardInterrupt"), cell
    return cell


STUBBORN = """%%sandbox
import subprocess, time
for head in [], ["setsid"]:
    subprocess.Popen([*head, "sh", "-c", "trap '' INT; exec sleep {mark}"])
print("go", flush=True)
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        {ends}
"""


def test_interrupts_end_what_the_cell_started_and_nothing_else(kernel: Kernel) -> None:
    # Of this machine, and of the user: below L3 the guest sees such processes.
    mark = str(600 + os.getpid() % 100_000)
    bystander = subprocess.Popen(["sleep", "1" + mark])
    try:
        press(kernel, f"%%sandbox\nimport os; print('go', flush=True); os.system('sleep {mark}')", 1)
        assert sleepers(mark) == []
        assert kernel.run("%%sandbox\nkept").result == "7"
        press(kernel, f"%%sandbox bash\necho go; sleep {mark}", 1)
        assert sleepers(mark) == []
        press(kernel, STUBBORN.format(mark=mark, ends="time.sleep(0.7); raise"), 2)
        assert sleepers(mark) == []
        assert kernel.run("%%sandbox\nkept").result == "7"
        cell = press(kernel, STUBBORN.format(mark=mark, ends="pass"), 3)
        assert "variables" in cell.error["evalue"] and sleepers(mark) == []
        cell = kernel.run("%%sandbox\n'kept' in globals()")
        assert cell.result == "False", cell
        assert kernel.run("%%sandbox\nkept = 7").status == "ok"
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_time_outs_and_the_end_of_the_process(kernel: Kernel) -> None:
    mark = str(700 + os.getpid() % 100_000)
    cell = kernel.run(f"%%sandbox --timeout 0.3\nimport subprocess; subprocess.run(['sleep', '{mark}'])")
    assert cell.status == "error" and "0.3" in cell.error["evalue"] and sleepers(mark) == []
    cell = kernel.run("%%sandbox\nimport os; os._exit(3)")
    assert cell.status == "error" and "exit code 3" in cell.error["evalue"]
    assert kernel.run("%%sandbox\nkept = 7\nkept").result == "7"


def test_a_restarted_kernel_finds_its_variables(kernel: Kernel) -> None:
    if kernel.env["DAYTONA_MAGICS_ISOLATION"] == "L2":
        pytest.skip("costs seconds, and that pipes lead to the same daemon is seen at L1")
    kernel.restart()
    kernel.run("%sandbox config min_isolation=L0.5")
    cell = kernel.run("%%sandbox\nkept")
    assert cell.result == "7" and "re-attached" in cell.notes, cell


#: The unmodified SDK, with the paths of the cloud.
PROGRAM = r"""
import asyncio, json
from daytona import AsyncDaytona
from daytona.common.pty import PtySize

async def main():
    async with AsyncDaytona() as daytona:
        sandbox, size = await daytona.create(), PtySize(rows=24, cols=80)
        home = await sandbox.get_user_home_dir()
        await sandbox.fs.create_folder("/home/daytona/made", "755")
        await sandbox.fs.upload_file(b"data", "/home/daytona/made/file")
        assert (await sandbox.fs.download_file(home + "/made/file")) == b"data"
        assert [f.name for f in await sandbox.fs.list_files("/home/daytona/made")] == ["file"]
        done = await sandbox.process.exec("pwd", cwd="/home/daytona/made")
        assert done.result == home + "/made\n", done
        await sandbox.fs.upload_file(b"t", "/tmp/file")
        done = await sandbox.process.exec("cat $TMPDIR/file", cwd="/tmp")
        assert done.result == "t", done
        seen, ready = bytearray(), asyncio.Event()
        def on_data(data):
            seen.extend(data)
            if b"typed-ok" in seen:
                ready.set()
        pty = await sandbox.process.create_pty_session("mine", on_data=on_data, pty_size=size, cwd="/tmp")
        await pty.send_input("echo typed-'ok'\n")
        await asyncio.wait_for(ready.wait(), 20)
        await pty.resize(PtySize(rows=33, cols=111))
        # Job control, and the terminal by its own name.
        await pty.send_input("stty size < /dev/tty; sleep 60\n")
        await asyncio.sleep(0.3)
        await pty.send_input("\x03")
        await pty.send_input("echo in-$(basename $PWD) > /dev/tty; set -m\n")
        await pty.send_input("sleep 61 & kill %1; wait; exit 7\n")
        code = (await asyncio.wait_for(pty.wait(), 20)).exit_code
        others = [await sandbox.process.create_pty_session(f"p{n}", on_data=on_data) for n in range(5)]
        for other in others:
            await other.kill()
        print(json.dumps([code, b"33 111" in seen, b"in-.tmp" in seen, home == "/home/daytona"]))
        await sandbox.delete()

asyncio.run(main())
"""


def test_the_sdk_with_paths_of_the_cloud_and_terminals(kernel: Kernel) -> None:
    printed = forks.run(["-m", "daytona_magics.engine", "env"], env=kernel.env, cwd=ROOT, timeout=60).stdout
    env = dict(re.findall(r"^export (\w+)='?(.*?)'?$", printed, re.M))
    done = forks.run(["-c", PROGRAM], env={**kernel.env, **env}, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == [7, True, True, False]


@pytest.mark.shard_group("cells at the levels as an ordinary user")
@pytest.mark.timeout(180)
@pytest.mark.skipif(os.geteuid() != 0, reason="this process already is an ordinary user")
def test_the_same_as_an_ordinary_user() -> None:
    said = as_user.run_tests(__file__)
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None and int(passed[1]) >= 5 * len(LEVELS), said[-3000:]
