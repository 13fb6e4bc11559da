"""The Python interface, in a plain program and in a notebook."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel_client import Kernel, environment, stop_engine


@pytest.fixture(scope="module")
def env() -> Iterator[dict[str, str]]:
    home = Path(tempfile.mkdtemp(prefix="dm-"))
    made = environment(home)
    yield made
    stop_engine(made)


def program(env: dict[str, str], text: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = cwd / "program.py"
    path.write_text(text)
    return subprocess.run(
        [sys.executable, str(path)],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


PLAIN = """
import sys, warnings
import daytona_magics as dm
from daytona_magics.errors import ExitCodeError, RemoteError, SandboxError, SandboxUsageError

box = dm.current()
assert repr(box) == "<Sandbox: none yet>"
out = box.run("import sys\\nprint('out')\\nprint('err', file=sys.stderr)\\nx = 40\\nx + 2")
assert (out.stdout, out.stderr, repr(out.result)) == ("out\\n", "err\\n", "42"), out
assert box.run("x").ok and box.state == "started" and box.name in repr(box)
assert box.run("echo $A; exit 3", language="bash", env={"A": "b"}, check=False).exit_code == 3

try:
    box.run("def f():\\n    1/0\\nf()")
    raise SystemExit("no error")
except RemoteError as error:
    assert type(error).__name__ == "ZeroDivisionError" and "division" in str(error)
try:
    box.run("exit 3", language="bash")
    raise SystemExit("no error")
except ExitCodeError as error:
    assert error.exit_code == 3
assert type(box.run("while True: pass", timeout=0.5, check=False).error).__name__ == "CellTimeout"
asked = box.run("input('who?')", check=False)
assert "nobody can be asked" in str(asked.error), asked.error
heard = []
box.run("print('a'); print('b')", on_output=lambda name, text: heard.append((name, text)))
assert "".join(text for _, text in heard) == "a\\nb\\n"

box.push(numbers=[1, 2, 3], data=b"\\0\\xff", big=b"x" * 3_000_000)
assert box.run("sum(numbers), data[1], len(big)").result.data["text/plain"] == "(6, 255, 3000000)"
box.run("back = {'a': (1, 2.5, None)}; big2 = big + b'y'")
assert box.pull("back") == {"a": (1, 2.5, None)}
assert box.pull("numbers", "big2")[1] == b"x" * 3_000_000 + b"y"
for wrong in (lambda: box.push(f=lambda: 0), lambda: box.pull("nothing"), lambda: box.pull()):
    try:
        wrong()
        raise SystemExit("no error")
    except (SandboxError, SandboxUsageError) as error:
        assert str(error), error

box.write("~/note.txt", "text \\u00e9")
assert box.read("~/note.txt").decode() == "text \\u00e9"
print(box.download("~/note.txt"))
assert box.upload("note.txt", "~/copy.txt").endswith("/copy.txt")
assert box.run("cat ~/copy.txt", language="bash").stdout == "text \\u00e9"
assert [one.name for one in box.wait(box.sandbox.fs.list_files("."))]

with dm.create(labels={"purpose": "test"}) as other:
    assert other.name != box.name and other.run("'x' in globals()").result.data["text/plain"] == "False"
    assert dm.get(other.name).id == other.id and dm.current().id == box.id
    assert other.sandbox.labels["purpose"] == "test"
    # An error of the block is not hidden by a deletion that fails.
    really = other._delete

    async def fails():
        raise SandboxError("not deleted")

    other._delete = fails
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            with other:
                raise KeyError("of the block")
        except KeyError:
            assert "not deleted" in str(warned[-1].message)
    try:
        with other:
            pass
        raise SystemExit("no error")
    except SandboxError as error:
        assert "not deleted" in str(error)
    other._delete = really
pattern = box.preview_pattern()
assert pattern.replace("{PORT}", "3000") == box.wait(box.sandbox.get_preview_link(3000)).url, pattern
try:
    dm.get("nobody-has-this-name")
    raise SystemExit("no error")
except SandboxError as error:
    assert "nobody-has-this-name" in str(error)
box.delete()
box.delete()
print("done")
"""

ASYNC = """
import asyncio, time
import daytona_magics as dm

async def main():
    boxes = await asyncio.gather(*(dm.create_async() for _ in range(3)))
    try:
        outs = await asyncio.gather(*(box.run_async(f"print({n})\\n{n} * 2") for n, box in enumerate(boxes)))
        assert [out.stdout for out in outs] == ["0\\n", "1\\n", "2\\n"]
        await boxes[0].push_async(x=5)
        assert await boxes[0].pull_async("x") == 5
        await boxes[0].write_async("a.txt", b"1")
        assert await boxes[0].read_async("a.txt") == b"1"

        # A run that is cancelled does not go on in the sandbox.
        loops = "import time\\ntry:\\n    while True: time.sleep(0.01)\\nfinally: ended = True"
        task = asyncio.ensure_future(boxes[1].run_async(loops))
        await asyncio.sleep(1)
        task.cancel()
        try:
            await task
            raise SystemExit("not cancelled")
        except asyncio.CancelledError:
            pass
        assert (await boxes[1].run_async("ended")).result.data["text/plain"] == "True"
        try:
            await asyncio.wait_for(boxes[2].run_async("import time; time.sleep(1000)"), 1)
        except asyncio.TimeoutError:
            print("timed out")
    finally:
        await asyncio.gather(*(box.delete_async() for box in boxes))

asyncio.run(main())
print("done")
"""


def test_a_plain_program(env: dict[str, str], tmp_path: Path) -> None:
    ran = program(env, PLAIN, tmp_path)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert ran.stdout == "note.txt\ndone\n" and (tmp_path / "note.txt").read_text() == "text é"


def test_awaitable_twins(env: dict[str, str], tmp_path: Path) -> None:
    ran = program(env, ASYNC, tmp_path)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert ran.stdout == "timed out\ndone\n"


def test_an_error_of_a_callback_ends_the_run_and_is_raised(env: dict[str, str], tmp_path: Path) -> None:
    text = """
import daytona_magics as dm
box = dm.current()
def heard(name, text):
    raise LookupError("mine")
try:
    code = "import time\\ntry:\\n    while True: print('x'); time.sleep(0.01)\\nfinally: over = 1"
    box.run(code, on_output=heard)
except LookupError as error:
    print(error)
print(box.run("over").result)
box.delete()
"""
    ran = program(env, text, tmp_path)
    assert ran.stdout == "mine\n1\n", ran.stderr


def test_in_a_notebook_it_is_the_sandbox_of_the_cells() -> None:
    with Kernel() as kernel:
        assert kernel.run("%%sandbox\nvalue = 20").status == "ok"
        kernel.run("import daytona_magics as dm")
        assert kernel.run("dm.current().run('value + 1').result").result == "21"
        assert kernel.run("dm.current().pull('value')").result == "20"
        assert (
            kernel.run("out = await dm.current().run_async('print(value)')\nout.stdout").result == "'20\\n'"
        )
        kernel.run("dm.current().push(value=30)")
        assert kernel.run("%%sandbox\nvalue").result == "30"
        failed = kernel.run("dm.current().run('1/0')")
        assert failed.ename == "ZeroDivisionError" and "daytona_magics/" not in failed.traceback
        press = kernel.interrupt_when("begun")
        loops = "import time\\ntry:\\n    while True: time.sleep(0.01)\\nfinally: over = 1"
        cell = kernel.run(f"print('begun', flush=True)\ndm.current().run('{loops}')", on=press)
        assert cell.ename == "KeyboardInterrupt", cell
        assert kernel.run("%%sandbox\nover").result == "1"
        # A kernel whose cell awaits learns of an interrupt only when its loop wakes.
        press = kernel.interrupt_when("awaiting")
        sleeps = "import time\\ntry: time.sleep(600)\\nfinally: slept = 1"
        awaits = f"print('awaiting', flush=True)\nawait dm.current().run_async('{sleeps}')"
        cell = kernel.run(awaits, on=press)
        assert cell.status == "error", cell
        assert kernel.run("%%sandbox\nslept").result == "1"
