"""The tie between kernel and sandbox across restarts, stops, deletions and exits, in real kernels."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel_client import Cell, Kernel, stop_engine


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """One user: kernels that share an embedded engine. The path has what shells trip over."""
    top = Path(tempfile.mkdtemp(prefix="dm-"))
    top.chmod(0o711)
    home = top / 'it\'s a "home" $(x)'
    home.mkdir()
    with Kernel(home, load=False) as kernel:
        env = kernel.env
    yield home
    stop_engine(env)
    shutil.rmtree(top, ignore_errors=True)


@pytest.fixture
def kernel(home: Path) -> Iterator[Kernel]:
    with Kernel(home) as made:
        yield made


def name_of(kernel: Kernel) -> str:
    cell = kernel.run("from daytona_magics import sandboxes\nsandboxes.current().sandbox.name")
    assert cell.result is not None, cell
    return cell.result.strip("'")


def eventually(state: Callable[[], str], wanted: str, within: float = 15.0) -> str:
    """Poll a state that another process changes."""
    until = time.monotonic() + within
    seen = state()
    while wanted not in seen and time.monotonic() < until:
        time.sleep(0.1)
        seen = state()
    return seen


def test_the_first_cell_says_where_it_runs(kernel: Kernel) -> None:
    before = kernel.run("%sandbox")
    assert "No sandbox yet" in str(before.result)
    cell = kernel.run("%%sandbox\n1")
    assert cell.result == "1"
    assert "created sandbox" in cell.notes and "embedded engine, isolation L3" in cell.notes
    assert kernel.run("%%sandbox\n2").notes == ""
    card = str(kernel.run("%sandbox").result)
    assert "[started]" in card and "isolation L3" in card and "after 15 min" in card and "7 days" in card


def test_quiet_shows_nothing_of_ours(kernel: Kernel) -> None:
    cell = kernel.run("%%sandbox -q\nprint('only this')")
    assert {kind for kind, _, _ in cell.messages} == {"execute_input", "stream"}
    assert cell.stdout == "only this\n"


def test_a_restarted_kernel_finds_its_variables(kernel: Kernel) -> None:
    kernel.run("%%sandbox\nx = 1\nopen('kept.txt', 'w').write('file')")
    name = name_of(kernel)
    kernel.restart()
    cell = kernel.run("%%sandbox\nx")
    assert cell.result == "1"
    assert (
        f"re-attached to {name}" in cell.notes and "variables of the earlier kernel are alive" in cell.notes
    )
    assert "%sandbox reset" in cell.notes
    assert kernel.run("%%sandbox\nx").notes == ""
    kernel.run("%%sandbox --context side\nx = 2")
    kernel.run("%%sandbox bash --context other\nx=3")
    cell = kernel.run("%sandbox reset")
    assert "variables of this notebook are lost, files kept" in cell.notes, cell
    assert "other contexts keep theirs (other, side): `%sandbox reset --all`" in cell.notes
    assert kernel.run("%%sandbox\nx").ename == "NameError"
    assert kernel.run("%%sandbox --context side\nx").result == "2"
    assert "has no context 'nowhere'" in kernel.run("%sandbox reset --context nowhere").traceback
    assert "variables of context side are lost" in kernel.run("%sandbox reset --context side").notes
    assert kernel.run("%%sandbox --context side\nx").ename == "NameError"
    assert kernel.run("%%sandbox bash --context other\necho $x").stdout == "3\n"
    job = kernel.run("%%sandbox --bg\nimport time; time.sleep(600)\n")
    assert job.status == "ok"
    assert "variables of all contexts (" in kernel.run("%sandbox reset --all").notes
    assert kernel.run("%%sandbox bash --context other\necho $x").stdout == "\n"
    assert kernel.run("job = _\njob.refresh().state").result == "'running'"
    kernel.run("job.cancel()")
    assert kernel.run("%%sandbox\nopen('kept.txt').read()").result == "'file'"


def test_the_card_says_where_in_a_repository_the_notebook_works(kernel: Kernel) -> None:
    made = kernel.run(
        "%%sandbox bash\ngit init -q -b topic/x repo && cd repo && echo 1 > file && git add file\n"
        "git -c user.name=n -c user.email=n@x commit -qm one\n"
        "git remote add origin https://someone:t0ken@github.com/me/it.git"
    )
    assert made.status == "ok", made
    kernel.run("%%sandbox\nimport os; os.chdir('repo')")
    shown = str(kernel.run("%sandbox status").result)
    assert "[started]" in shown and re.search(r"folder +/\S+/repo\n", shown), shown
    assert re.search(r"branch +topic/x\n", shown) and "all committed, no remote branch" in shown
    assert "https://github.com/me/it/tree/topic/x" in shown and "t0ken" not in shown
    kernel.run("%%sandbox\nopen('new', 'w').close()")
    assert "1 not committed" in str(kernel.run("%sandbox").result)
    kernel.run("%%sandbox\nos.chdir(os.path.expanduser('~'))")


#: A cell that says that it runs, and does so until it is told.
UNTIL_IT_MAY = """%%sandbox
import os, time
open('started', 'w').close()
while not os.path.exists('may'): time.sleep(0.05)
"""


def started(home: Path) -> Path:
    """The folder of the sandbox in which that cell runs by now, seen from this machine."""
    found: list[Path] = []
    deadline = time.monotonic() + 30
    while not found:
        assert time.monotonic() < deadline, "the cell does not start"
        found = list((home / "state/sandboxes").glob("*/home/started"))
        time.sleep(0.02)
    found[0].unlink()
    return found[0].parent


def killed(kernel: Kernel) -> None:
    """A forced restart, without the interrupt jupyter_client sends first: a quick kernel passes it on."""
    os.kill(kernel.pid, signal.SIGKILL)
    kernel.restart(now=True)


def test_a_forced_restart_also_re_attaches_and_a_running_cell_is_announced(
    kernel: Kernel, home: Path
) -> None:
    kernel.run("%%sandbox\nx = 2")
    kernel.send(UNTIL_IT_MAY + "x = 3")
    running = started(home)
    killed(kernel)

    def on(kind: str, content: dict, cell: Cell) -> None:
        if "waits behind" in str(content.get("data", "")):
            (running / "may").touch()

    cell = kernel.run("%%sandbox\nx", on=on)
    assert "is still running" in cell.notes and "waits behind" in cell.notes
    assert cell.result == "3", cell


def test_waiting_behind_a_running_cell_can_be_interrupted(kernel: Kernel, home: Path) -> None:
    kernel.run("%%sandbox\nx = 2")
    kernel.send(UNTIL_IT_MAY)
    started(home)
    killed(kernel)

    def on(kind: str, content: dict, cell: object) -> None:
        if "waits behind" in str(content.get("data", "")):
            kernel.interrupt()

    cell = kernel.run("%%sandbox\nx", on=on, timeout=30)
    assert cell.ename == "KeyboardInterrupt", cell
    kernel.run("%sandbox reset")
    assert kernel.run("%%sandbox\n5").result == "5"


def test_the_card_after_a_restart_does_not_swallow_the_notice(kernel: Kernel) -> None:
    kernel.run("%%sandbox\nx = 1")
    name = name_of(kernel)
    kernel.restart()
    assert name in str(kernel.run("%sandbox").result)
    assert "re-attached to" in kernel.run("%%sandbox\nx").notes


def test_on_restart_reset(home: Path) -> None:
    with Kernel(home) as kernel:
        kernel.run("%%sandbox\nx = 1")
        kernel.restart()
        kernel.run("%config SandboxConfig.on_restart = 'reset'")
        cell = kernel.run("%%sandbox\nx")
        assert cell.ename == "NameError" and "variables were reset" in cell.notes


def test_a_stopped_sandbox_is_started_again_and_the_cell_says_what_is_lost(kernel: Kernel) -> None:
    kernel.run("%%sandbox\nx = 1\nopen('kept.txt', 'w').write('file')")
    assert kernel.run("%sandbox stop").status == "ok"
    cell = kernel.run("%%sandbox\nopen('kept.txt').read()")
    assert cell.result == "'file'" and "started again; variables were lost, files kept" in cell.notes
    assert kernel.run("%%sandbox\nx").ename == "NameError"


def test_stopped_by_somebody_else_between_two_cells(kernel: Kernel, home: Path) -> None:
    kernel.run("%%sandbox\nx = 1")
    name = name_of(kernel)
    with Kernel(home) as other:
        other.run(f"%sandbox use {name}")
        assert other.run("%sandbox stop").status == "ok"
    cell = kernel.run("%%sandbox\n'back'", timeout=90)
    assert cell.result == "'back'" and "variables were lost" in cell.notes, cell


def test_a_deleted_sandbox_is_named_with_the_command_that_helps(kernel: Kernel, home: Path) -> None:
    kernel.run("%%sandbox\nx = 1")
    name = name_of(kernel)
    with Kernel(home) as other:
        refused = other.run(f"%sandbox delete {name}")
        assert refused.ename == "SandboxUsageError" and "--yes" in refused.traceback
        assert other.run(f"%sandbox delete --yes {name}").status == "ok"
    for _ in range(2):
        cell = kernel.run("%%sandbox\nx", timeout=90)
        assert (
            cell.ename == "SandboxGone" and name in cell.traceback and "%sandbox create" in cell.traceback
        ), cell
    assert kernel.run("%sandbox create").status == "ok"
    assert kernel.run("%%sandbox\n1").result == "1"


def test_delete_and_the_next_cell_makes_a_new_one(kernel: Kernel) -> None:
    kernel.run("%%sandbox\n1")
    first = name_of(kernel)
    assert "deleted with all its files" in kernel.run("%sandbox delete").notes
    cell = kernel.run("%%sandbox\n2")
    assert cell.result == "2" and "created sandbox" in cell.notes
    assert name_of(kernel) != first
    # Its end is waited for: the name is free at once.
    for _ in range(2):
        assert kernel.run("%sandbox create --name once-more -q").status == "ok"
        assert kernel.run("%sandbox delete").status == "ok"


def test_another_kernel_of_the_same_notebook_is_only_told(home: Path) -> None:
    notebook = str(home / "work" / "Analysis of it.ipynb")
    with Kernel(home, name=notebook) as first:
        first.run("%%sandbox\nx = 'first'")
        name = name_of(first)
        assert name.startswith("analysis-of-it-")
        with Kernel(home, name=notebook) as beside:
            cell = beside.run("%%sandbox\n1")
            assert "created sandbox" in cell.notes and "%sandbox use" not in cell.notes
        first.run("%config SandboxConfig.on_exit = 'keep'")
    with Kernel(home, name=notebook) as later:
        cell = later.run("%%sandbox\n1")
        assert "created sandbox" in cell.notes
        assert "`%sandbox use " in cell.notes and "earlier kernel of this notebook" in cell.notes
        used = later.run(f"%sandbox use {name}")
        assert used.status == "ok" and "variables of the earlier kernel are alive" in used.notes
        assert later.run("%%sandbox\nx").result == "'first'"


def test_a_living_kernel_keeps_its_variables_to_itself(home: Path) -> None:
    with Kernel(home) as first, Kernel(home) as second:
        first.run("%%sandbox\nx = 'first'\nopen('shared.txt', 'w').write('s')")
        used = second.run(f"%sandbox use {name_of(first)}")
        assert "another kernel is using" in used.notes
        assert second.run("%%sandbox\nx").ename == "NameError"
        assert second.run("%%sandbox\nopen('shared.txt').read()").result == "'s'"
        assert first.run("%%sandbox\nx").result == "'first'"
        refused = second.run("%sandbox delete")
        assert refused.ename == "SandboxUsageError" and "is in use by another kernel" in refused.traceback
        assert first.run("%%sandbox\nx").result == "'first'"
        assert first.run("%sandbox delete").status == "ok", "who made it may delete it"


def test_the_sandbox_stops_when_the_kernel_is_shut_down(home: Path) -> None:
    with Kernel(home) as watcher:
        watcher.run("%sandbox create --name watcher")
        with Kernel(home) as kernel:
            kernel.run("%%sandbox\n1")
            name = name_of(kernel)
        state = eventually(lambda: str(watcher.run(f"%sandbox info {name}").result), "[stopped]")
        assert "[stopped]" in state
        with Kernel(home) as kernel:
            kernel.run("%config SandboxConfig.on_exit = 'delete'")
            kernel.run("%%sandbox\n1")
            name = name_of(kernel)
        assert "SandboxGone" in eventually(lambda: watcher.run(f"%sandbox info {name}").ename, "SandboxGone")


def test_labels_tell_the_truth_and_are_merged(kernel: Kernel) -> None:
    kernel.run("%sandbox create --label team=a")
    labels = kernel.run(
        "sandboxes = __import__('daytona_magics.sandboxes').sandboxes\nsandboxes.current().sandbox.labels"
    ).result
    assert labels is not None
    for word in (
        "'created-by': 'daytona-magics'",
        "daytona-magics/kernel",
        "daytona-magics/host",
        "'team': 'a'",
    ):
        assert word in labels
    assert "code-toolbox-language" in labels
    name = name_of(kernel)
    kernel.run(f"%sandbox use {name}")
    after = kernel.run("sandboxes.current().sandbox.labels").result
    assert after is not None and "'team': 'a'" in after and "code-toolbox-language" in after


def test_files(kernel: Kernel, tmp_path: Path) -> None:
    source = tmp_path / "a 'file'.bin"
    source.write_bytes(bytes(range(256)) * 1000)
    assert kernel.run(f'%sandbox upload "{source}" --to "in put/"').status == "ok"
    listing = kernel.run("%sandbox ls 'in put'").result
    assert listing is not None and "a 'file'.bin" in listing
    target = tmp_path / "back.bin"
    assert kernel.run(f"%sandbox download \"in put/a 'file'.bin\" {target}").status == "ok"
    assert target.read_bytes() == source.read_bytes()
    assert kernel.run(f"%sandbox download \"in put/a 'file'.bin\" {target}").ename == "SandboxUsageError"
    assert kernel.run("%sandbox cat nothing.txt").ename == "SandboxError"
    kernel.run("%%sandbox\nopen('t.txt', 'w').write('one\\ntwo\\n')")
    assert kernel.run("print(%sandbox cat -n 1 t.txt)").status == "error"
    assert kernel.run("text = %sandbox cat -n 1 t.txt\nprint(text)").stdout == "one\n\n"


def test_exec(kernel: Kernel) -> None:
    cell = kernel.run('%sandbox exec --cwd /tmp echo $HOME "it\'s" | cat; pwd')
    assert cell.stdout == "/home/daytona it's\n/tmp\n" and cell.result is None
    assert kernel.run("%sandbox exec exit 3").ename == "ExitCodeError"
    assert kernel.run("r = %sandbox exec --no-raise exit 3\nr.exit_code").result == "3"
    late = kernel.run("%sandbox exec --timeout 1 sleep 60")
    assert late.status == "error" and "--timeout SECONDS gives it longer" in late.traceback, late


def test_keep_config_doctor_list(kernel: Kernel) -> None:
    kernel.run("%%sandbox\n1")
    assert "stops after 2 hours" in kernel.run("%sandbox keep").notes
    assert "never" in kernel.run("%sandbox keep forever").notes
    assert "timeout  1.5" in str(kernel.run("%sandbox config timeout=1.5").result)
    assert kernel.run("%%sandbox\nwhile True: pass").ename == "CellTimeout"
    kernel.run("%sandbox config timeout=0")
    assert kernel.run("%sandbox config min_isolation=L9").ename == "SandboxUsageError"
    checks = str(kernel.run("%sandbox doctor").result)
    assert "failed" not in checks and "Python 3" in checks
    assert "this kernel" in str(kernel.run("%sandbox list").result)


def test_a_key_in_a_dotenv_file_is_offered_and_never_used(home: Path) -> None:
    with Kernel(home) as kernel:
        env = home / "work" / ".env"
        env.write_text("DAYTONA_API_KEY=dtn_not_to_be_used\nDAYTONA_TARGET=mars\nDAYTONA_OTEL_ENABLED=true\n")
        try:
            cell = kernel.run("%%sandbox\n1")
            assert (
                cell.result == "1"
                and ".env holds a DAYTONA_API_KEY" in cell.notes
                and "embedded" in cell.notes
            )
            assert "dtn_not" not in str(cell)
            told = kernel.run(
                "from daytona_magics import sandboxes\nb = sandboxes.current()\n"
                "b.client._target, b.client._tracer_provider, b.sandbox.target"
            )
            assert (
                told.result is not None
                and "mars" not in told.result
                and told.result.startswith("(None, None,")
            )
        finally:
            env.unlink()


def test_nothing_goes_through_a_proxy_of_the_environment(home: Path) -> None:
    """A proxy would be sent the engine's bearer; a whole notebook must leave it without a connection."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        names = [f"{kind}_proxy" for kind in ("http", "https", "all", "ws")]
        env: dict[str, str | None] = {name: url for name in names} | {name.upper(): url for name in names}
        with Kernel(home, env={**env, "NO_PROXY": None, "no_proxy": None}) as kernel:
            for cell in (
                "%%sandbox\n40 + 2",
                "%%sandbox bash\npwd",
                "%sandbox",
                "%sandbox list",
                "%sandbox exec true",
                "%sandbox ls -a",
                "%%sandbox\nopen('p.txt', 'w').write('x')",
                "%sandbox cat p.txt",
                "%sandbox download -f p.txt",
                "%sandbox upload p.txt --to q/",
                "%sandbox keep 1h",
                "%sandbox doctor",
                "%sandbox reset",
                "%sandbox restart",
                "%%sandbox\n1",
                "%sandbox stop",
                "%sandbox delete",
                "%%sandbox\n2",
            ):
                ran = kernel.run(cell)
                assert ran.status == "ok", ran
        with pytest.raises(BlockingIOError):
            listener.accept()
        # The positive control: the listener does record.
        with socket.create_connection(listener.getsockname()):
            time.sleep(0.05)
            listener.accept()[0].close()


def test_the_engine_killed_during_a_cell_is_a_clear_error_and_files_are_intact(home: Path) -> None:
    with Kernel() as kernel:
        kernel.run("%%sandbox\nopen('kept.txt', 'w').write('file')")
        pid = int(str(kernel.run("from daytona_magics.engine import address\naddress.find().pid").result))

        def on(kind: str, content: dict, cell: Cell) -> None:
            if kind == "stream" and "go" in content["text"]:
                os.kill(pid, signal.SIGKILL)

        cell = kernel.run(
            "%%sandbox\nimport time\nprint('go', flush=True); time.sleep(60)", on=on, timeout=90
        )
        assert cell.ename in ("SandboxUnreachable", "WorkerDied") and cell.seconds < 60, cell
        again = kernel.run("%%sandbox\nopen('kept.txt').read()", timeout=90)
        assert again.result == "'file'" and "variables were lost" in again.notes, again


def test_a_cell_never_runs_on_the_host_when_there_is_no_way_to_a_sandbox(tmp_path: Path) -> None:
    marker = tmp_path / "ran-on-host"
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    (runtime / "daytona-magics").symlink_to(tmp_path)
    cases: list[dict[str, str | None]] = [
        {"XDG_RUNTIME_DIR": str(runtime)},
        {"DAYTONA_API_URL": "http://127.0.0.1:9/api", "DAYTONA_API_KEY": "k"},
        {"DAYTONA_API_URL": "https://daytona.invalid/api"},
    ]
    for env in cases:
        with Kernel(tmp_path / "kernel", env=env) as kernel:
            kernel.run("import daytona_magics.sandboxes.client as c; c.retrying.__defaults__ = ((),)")
            # Where a key could be typed it would be asked for.
            cell = kernel.run(f"%%sandbox\nopen({str(marker)!r}, 'w').close()", timeout=90, allow_stdin=False)
            assert cell.status == "error", cell
            assert cell.ename in ("EndpointError", "SandboxUnreachable"), cell
            assert not marker.exists()


def test_a_level_below_min_isolation_is_refused() -> None:
    with Kernel(env={"DAYTONA_MAGICS_ISOLATION": "L0"}) as kernel:
        cell = kernel.run("%%sandbox\n1")
        assert cell.ename == "IsolationUnavailable" and "asks for L1" in cell.traceback, cell
        kernel.run("%sandbox config min_isolation=L0")
        cell = kernel.run("%%sandbox\n1")
        assert cell.result == "1" and "isolation L0" in cell.notes


def test_below_l3_the_first_creation_and_the_card_say_what_is_open() -> None:
    with Kernel(env={"DAYTONA_MAGICS_ISOLATION": "L1"}) as kernel:
        cell = kernel.run("%%sandbox\nimport os\nos.getcwd() == os.path.expanduser('~')")
        assert cell.result == "True", cell
        told = [line for line in cell.notes.splitlines() if line.startswith("isolation L1 leaves open: ")]
        assert len(told) == 1 and "processes" in told[0] and "write `~`" in told[0], cell.notes
        card = str(kernel.run("%sandbox").result)
        assert "isolation L1" in card and "command lines" in card and "engine's proxy" in card, card
        checks = kernel.run("%sandbox doctor")
        assert "! isolation" in str(checks.result) and "✗" not in str(checks.result)
        assert "<table" in checks.bundles("execute_result")[0]["text/html"]
        facts = kernel.run("facts = %sandbox doctor --json\nfacts['open'][0]")
        assert ast.literal_eval(str(facts.result)) in told[0]
        # Once per kernel is enough.
        assert "leaves open" not in kernel.run("%sandbox create").notes
        kernel.run("%sandbox config min_isolation=L3")
        cell = kernel.run("%%sandbox\n1")
        assert cell.ename == "IsolationUnavailable" and "%sandbox config min_isolation=L1" in cell.traceback


def test_plain_ipython_gets_text(home: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    from tests.kernel_client import environment

    script = tmp_path / "s.ipy"
    script.write_text(
        "%load_ext daytona_magics\nr = %sandbox list\nprint(r)\n"
        "get_ipython().run_cell('%%sandbox\\nprint(6 * 7)')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", str(script)],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert "created sandbox" in ran.stdout and "\n42\n" in ran.stdout, ran
