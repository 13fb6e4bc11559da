"""Variables in and out of cells of a real kernel, and what a sandbox may try with them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel_client import Kernel

SETUP = """
import datetime, decimal, pathlib, uuid
import numpy as np, pandas as pd, polars as pl, pyarrow as pa
from PIL import Image
plain = {"a": [1, 2.5, None, (1, 2)], 3: {4}, "n": 2**80, "s": "\\x00ü", "b": b"\\xff"}
plain["t"] = datetime.datetime.now()
more = [decimal.Decimal("1.10"), uuid.UUID(int=1), pathlib.Path("/a"), 1j, float("inf")]
array = np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3))
frame = pd.DataFrame(
    {"i": pd.array([1, None], dtype="Int64"), "c": pd.Categorical(["b", "a"]), "s": ["x", None]},
    index=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["x", "y"]),
)
polar = pl.DataFrame({"l": [[1], []], "c": pl.Series(["a", None], dtype=pl.Categorical)})
table = pa.table({"d": pa.array(["x", "y"]).dictionary_encode()})
picture = Image.fromarray(np.arange(27, dtype="u1").reshape(3, 3, 3))
large = np.random.default_rng(1).random((400, 1000))
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel() as made:
        assert made.run("%%sandbox\n0").status == "ok"
        assert made.run(SETUP).status == "ok"
        yield made


def test_values_of_every_kind_go_in_and_come_out_exactly(kernel: Kernel) -> None:
    names = "plain,more,array,frame,polar,table,picture,large"
    back = ",".join(f"back_{name}={name}" for name in names.split(","))
    cell = kernel.run(
        f"%%sandbox -i {names} -o {back}\n"
        "plain['a'][3], more[1].int, array.flags.f_contiguous, list(frame.index.names), frame.i.dtype, "
        "polar.schema['c'], table.schema.field('d').type, picture.mode, large.sum() > 0"
    )
    assert cell.status == "ok", cell.traceback
    assert cell.result is not None and "(1, 2)" in cell.result and "Int64Dtype()" in cell.result
    check = kernel.run(
        "pd.testing.assert_frame_equal(back_frame, frame)\n"
        "(back_plain == plain, list(map(type, back_more)) == list(map(type, more)), back_more == more,\n"
        " back_array.dtype == array.dtype, back_array.flags.f_contiguous, (back_array == array).all(),\n"
        " back_polar.equals(polar), back_polar.schema == polar.schema, back_table.equals(table),\n"
        " back_picture.tobytes() == picture.tobytes(), (back_large == large).all(),\n"
        " back_large.flags.writeable)"
    )
    assert check.status == "ok" and "False" not in (check.result or "False"), check


def test_names_on_both_sides_can_differ(kernel: Kernel) -> None:
    kernel.run("here = 20")
    cell = kernel.run("%%sandbox -i there=here -o double=result -o there\nresult = there * 2")
    assert cell.status == "ok" and kernel.run("double, there").result == "(40, 20)"


def test_a_cell_whose_variables_do_not_arrive_does_not_run(kernel: Kernel) -> None:
    kernel.run("thing = print; ran = 0")
    cell = kernel.run("%%sandbox -i ran,thing\nimport pathlib; pathlib.Path('ran.txt').touch()")
    assert cell.ename == "SandboxUsageError" and "'thing' is a builtin_function" in cell.traceback
    # Also when only the sandbox finds out.
    kernel.run("import sys; kept = np.arange(3)")
    kernel.run("%%sandbox\nimport sys; hidden = sys.modules.pop('numpy'); sys.modules['numpy'] = None")
    cell = kernel.run("%%sandbox -i kept\nimport pathlib; pathlib.Path('ran.txt').touch()")
    assert cell.ename == "TransferError" and "the sandbox has no numpy" in cell.traceback
    kernel.run("%%sandbox\nsys.modules['numpy'] = hidden")
    assert kernel.run("%%sandbox\nimport pathlib; pathlib.Path('ran.txt').exists()").result == "False"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-i nothere", "there is no variable 'nothere' in this notebook"),
        ("-i plan", "did you mean plain?"),
        ("-i plain, more", "Write -i a,b or -i a -i b"),
        ("-o a,", "a name is missing"),
        ("-i a.b", "'a.b' is not a variable name"),
        ("-i class", "'class' is not a variable name"),
        ("-i x=plain,x=more", "x is named twice"),
        ("--unsafe-pickle", "name them with -o"),
    ],
)
def test_wrong_names_are_explained_before_anything_runs(kernel: Kernel, line: str, words: str) -> None:
    cell = kernel.run(f"%%sandbox {line}\nprint('ran')")
    assert cell.ename == "SandboxUsageError" and words in cell.traceback and cell.stdout == ""


def test_a_variable_that_cannot_come_out_is_named(kernel: Kernel) -> None:
    kernel.run("late = 1")
    cell = kernel.run("%%sandbox -o late,value\nlate = 2; valeu = 1")
    assert cell.ename == "TransferError" and "no variable value" in cell.traceback
    assert "did you mean valeu?" in cell.traceback and kernel.run("late").result == "1"
    cell = kernel.run("%%sandbox -o late=made\nclass Own: pass\nmade = {'a': [Own()]}")
    assert "'late'['a'][0] is a __main__.Own, which cannot be carried safely" in cell.traceback
    assert "--unsafe-pickle" in cell.traceback
    # What the cell did before it failed stays; a cell that fails gives nothing.
    cell = kernel.run("%%sandbox -o late=valeu\n1/0")
    assert cell.ename == "ZeroDivisionError" and kernel.run("late").result == "1"


def test_push_and_pull(kernel: Kernel) -> None:
    assert kernel.run("%sandbox push plain pushed=array,large").status == "ok"
    assert kernel.run("%%sandbox\npushed.shape, large.shape").result == "((2, 3), (400, 1000))"
    kernel.run("%%sandbox\nmade = {'x': (1, 2)}; numbers = large * 2")
    assert kernel.run("%sandbox pull made got=numbers").status == "ok"
    assert kernel.run("made, (got == large * 2).all()").result == "({'x': (1, 2)}, np.True_)"
    cell = kernel.run("%sandbox pull mad")
    assert cell.ename == "SandboxError" and "did you mean made?" in cell.traceback
    # No input is counted for it in the sandbox, and files of the way are gone.
    assert left(kernel) == ""


def left(kernel: Kernel) -> str:
    """What is still in the sandbox's folder for variables."""
    return kernel.run("%sandbox exec ls ~/.daytona-magics/run/variables").stdout


def test_what_is_large_comes_out_of_a_pipe(kernel: Kernel) -> None:
    assert (
        kernel.run("%%sandbox\nimport numpy as np; wide = np.random.default_rng(2).random(900_000)").status
        == "ok"
    )
    kernel.run("total = 0")
    # While it is read, the cell that gave it has ended and the next one has not begun.
    cell = kernel.run("%%sandbox -o wide -o total\ntotal = wide.sum()\nprint('printed')")
    assert cell.status == "ok" and cell.stdout == "printed\n"
    assert kernel.run("wide.sum() == total, wide.nbytes").result == "(np.True_, 7200000)"
    assert left(kernel) == ""


def test_an_engine_that_reads_no_pipes_gets_a_file(kernel: Kernel) -> None:
    kernel.run("%%sandbox\nimport numpy as np; wide = np.arange(900_000.)")
    kernel.run("from daytona_magics.runtime import straight; named = straight.PIPE")
    kernel.run("straight.PIPE = 'X-Not-Heard-Of'; wide = None")
    cell = kernel.run("%sandbox pull wide")
    kernel.run("straight.PIPE = named")
    assert cell.status == "ok" and kernel.run("wide.sum()").result == "np.float64(404999550000.0)", cell
    assert left(kernel) == ""


def test_push_finds_the_variables_of_a_function(kernel: Kernel) -> None:
    kernel.run("def send():\n    local_value = [1, 2]\n    %sandbox push local_value\nsend()")
    assert kernel.run("%%sandbox\nlocal_value").result == "[1, 2]"


def test_bash_gets_its_environment_and_gives_its_variables(kernel: Kernel) -> None:
    kernel.run("count = 3; words = 'a b\\n\"ü'; where = pathlib.Path('/tmp')")
    cell = kernel.run(
        "%%sandbox bash -i count,W=words,where -o W2=W,list,table2=assoc,empty\n"
        'python3 -c \'import os; print(os.environ["count"], os.environ["where"])\'\n'
        "list=(1 'b c' ''); declare -A assoc=([k]=v); empty=()"
    )
    assert cell.status == "ok" and cell.stdout == "3 /tmp\n", cell
    result = kernel.run("W2 == words, list, table2, empty").result
    assert result == "(True, ['1', 'b c', ''], {'k': 'v'}, [])"
    assert kernel.run("%%sandbox bash\necho ${count-gone} $(declare -F | grep -c give)").stdout == "gone 0\n"
    kernel.run("del list")
    cell = kernel.run("%%sandbox bash -o nothing\ntrue")
    assert cell.ename == "TransferError" and "the shell has no variable nothing" in cell.traceback
    cell = kernel.run("%%sandbox bash -i plain\ntrue")
    assert cell.ename == "SandboxUsageError" and "plain is a dict" in cell.traceback


FORGED = """
import base64, os, sys
frame = sys._getframe()
while "variables" not in frame.f_globals or "Session" not in frame.f_globals:
    frame = frame.f_back
module = frame.f_globals["variables"]
class Evil:
    def __reduce__(self):
        return (os.system, (f"touch {target}",))
"""


TAP = """
import threading, time
data = module.packing.pack({"x": "x"}).bytes()
def tap(sent, said, later=0):
    if os.path.exists("tap"):
        os.unlink("tap")
    os.mkfifo("tap")
    def write():
        with open("tap", "wb", 0) as file:
            time.sleep(later)
            file.write(sent)
    threading.Thread(target=write, daemon=True).start()
    return {"msg": "variables", "path": "tap", "piped": said}
"""


ERRORS = ("ProtocolError", "SandboxError", "SandboxUnreachable")


def tapped(arguments: str) -> str:
    return f"tap({arguments})"


def test_a_hostile_sandbox_gains_nothing_by_what_it_sends(kernel: Kernel) -> None:
    kernel.run("import os; target = os.path.join(os.getcwd(), 'stolen')")
    kernel.run("from daytona_magics.runtime import straight; stall, straight.STALL = straight.STALL, 1.0")
    assert kernel.run(f"%%sandbox -i target\n{FORGED}{TAP}").status == "ok"
    forge = "x = 1\nmodule.give = lambda *rest: {message}"
    pickled = (
        "(p := module.packing.pack({'x': Evil()}, pickled=True)) and "
        "{'msg': 'variables', 'data': base64.b64encode(p.bytes()).decode()}"
    )
    other = (
        "{'msg': 'variables', 'data': base64.b64encode("
        "module.packing.pack({'get_ipython': 1}).bytes()).decode()}"
    )
    for message, words in (
        (pickled, "a pickle, which nobody asked for"),
        (other, "nobody asked for"),
        ("{'msg': 'variables', 'path': '/etc/passwd'}", "cannot be read"),
        ("{'msg': 'variables', 'path': '/dev/zero'}", ""),
        ("{'msg': 'variables', 'path': '../../nowhere'}", "there is no"),
        ("{'msg': 'notice', 'text': 'nothing'}", "did not send the variables"),
        # A pipe that gives less than was said, more than there is, nothing, and nothing for ever.
        (tapped("data, len(data) + 1"), "to its end"),
        (tapped("data + b'x', len(data) + 1"), "more bytes than were announced"),
        (tapped("b'', len(data)"), "to its end"),
        (tapped("data, len(data), 900"), "nothing moved for 1 s"),
    ):
        cell = kernel.run(f"%%sandbox -o x\n{forge.format(message=message)}")
        assert cell.ename in ERRORS and words in cell.traceback, cell
        assert kernel.run("os.path.exists(target), get_ipython is not None").result == "(False, True)"
    # The controls: a pipe that is honest; and with the guard off by the person's own words, the pickle runs.
    cell = kernel.run(f"%%sandbox -o x\n{forge.format(message=tapped('data, len(data)'))}")
    assert cell.status == "ok" and kernel.run("x").result == "'x'", cell
    cell = kernel.run(f"%%sandbox -o x --unsafe-pickle\n{forge.format(message=pickled)}")
    assert kernel.run("os.path.exists(target)").result == "True", cell
    kernel.run("os.unlink(target); straight.STALL = stall")
    assert kernel.run("%sandbox reset").status == "ok"


def pipes(pid: int) -> int:
    """How many ends of pipes a process has."""
    found = 0
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found += os.readlink(fd).startswith("pipe:")
    return found


def test_an_engine_that_dies_in_a_transfer_is_one_clear_error(kernel: Kernel) -> None:
    state = Path(kernel.env["DAYTONA_MAGICS_HOME"])
    kernel.run("import numpy as np; heavy = np.zeros(80_000_000); count = 3")
    kernel.run("%%sandbox\n0")
    engine = int(json.loads((state / "engine.json").read_text())["pid"])
    ended, killed = threading.Event(), threading.Event()
    # What is large goes through a pipe of the engine's while it is on its way.
    before = pipes(engine)

    def kill() -> None:
        while not ended.is_set():
            if pipes(engine) > before:
                os.kill(engine, signal.SIGKILL)
                killed.set()
                return
            time.sleep(0.005)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        cell = kernel.run("%%sandbox -i heavy\nprint('ran')", timeout=100)
    finally:
        ended.set()
        killer.join()
    assert killed.is_set() and cell.ename == "SandboxUnreachable" and cell.stdout == "", cell
    # Whatever the first cell after it has to say, the second one runs.
    kernel.run("%%sandbox\n0", timeout=100)
    assert kernel.run("%%sandbox -i count -o again=count\n0", timeout=100).status == "ok"
    assert kernel.run("again").result == "3"
