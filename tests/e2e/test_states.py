"""The verbs that change sandboxes, and the endpoint that needs a key, in real kernels on a real engine.

Another kernel with folders of its own knows the engine by its address and key alone: to it, that is a
self-hosted Daytona, and everybody else's sandboxes there are strangers'.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import forks
from tests.kernel_client import ROOT, Cell, Kernel


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel() as made:
        assert made.run("%sandbox create --name own").status == "ok"
        yield made


@pytest.fixture(scope="module")
def address(kernel: Kernel) -> dict[str, str]:
    """URL and key of the kernel's engine."""
    done = forks.run(["-m", "daytona_magics.engine", "env"], env=kernel.env, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"(DAYTONA_\w+)=['\"]?([^'\"\n]+)", done.stdout))


def ok(kernel: Kernel, code: str) -> Cell:
    cell = kernel.run(code, timeout=90)
    assert cell.status == "ok", cell
    return cell


def test_a_paused_sandbox_goes_on_with_its_variables(kernel: Kernel) -> None:
    ok(kernel, "%%sandbox\nx = 'kept'")
    assert "variables and processes are kept" in ok(kernel, "%sandbox pause").notes
    assert "[paused]" in str(ok(kernel, "%sandbox").result)
    cell = ok(kernel, "%%sandbox\nx")
    assert cell.result == "'kept'" and "was paused: it goes on" in cell.notes


def test_archive_wants_it_stopped_and_a_cell_brings_it_back(kernel: Kernel) -> None:
    ok(kernel, "%%sandbox\nopen('f.txt', 'w').write('file')")
    refused = kernel.run("%sandbox archive")
    assert refused.ename == "SandboxError" and "%sandbox stop" in refused.traceback
    ok(kernel, "%sandbox stop")
    assert "archived: files are kept" in ok(kernel, "%sandbox archive").notes
    cell = ok(kernel, "%%sandbox\nopen('f.txt').read()")
    assert cell.result == "'file'" and "was archived: started again" in cell.notes


def test_resize_grows_a_running_one_and_says_what_needs_a_stop(kernel: Kernel) -> None:
    before = float(str(ok(kernel, "h = %sandbox info own\nh.memory").result))
    ok(kernel, f"%sandbox resize --memory {before + 1:g}")
    assert float(str(ok(kernel, "h = %sandbox info own\nh.memory").result)) == before + 1
    refused = kernel.run("%sandbox resize --memory 1")
    assert "can only grow" in refused.traceback and "%sandbox stop" in refused.traceback
    assert "nothing to change" in kernel.run("%sandbox resize").traceback
    limit = ok(kernel, "%%sandbox bash\ncat /sys/fs/cgroup/memory.max /proc/self/limits 2>&1 | head -3")
    assert limit.stdout
    usage = str(ok(kernel, "%sandbox resources").result)
    assert f"of {before + 1:.1f} GiB" in usage and "CPU" in usage and "disk" in usage


def test_recover_says_that_there_is_nothing_to_recover_from(kernel: Kernel) -> None:
    assert "no error to recover from" in kernel.run("%sandbox recover").traceback
    assert "did you mean recover?" in kernel.run("%sandbox recovre").traceback


def test_a_fork_is_this_kernels_and_shows_in_the_tree(kernel: Kernel) -> None:
    ok(kernel, "%%sandbox\nopen('of-parent.txt', 'w').write('copied')")
    assert "a copy of the files, and with no variables" in ok(kernel, "%sandbox fork child").notes
    ok(kernel, "%sandbox fork grandchild --of child")
    assert "copied" in ok(kernel, "%%sandbox -s grandchild\nopen('of-parent.txt').read()").result
    ok(kernel, "%%sandbox -s child\nopen('of-parent.txt', 'w').write('changed')")
    assert ok(kernel, "%%sandbox\nopen('of-parent.txt').read()").result == "'copied'"
    lines = str(ok(kernel, "%sandbox tree grandchild").result).splitlines()
    assert lines[1].startswith("own") and "└ child" in lines[2] and "└ grandchild" in lines[3]
    # A restarted kernel comes back to its own sandbox, whose labels a fork had in the beginning.
    kernel.restart()
    assert "re-attached to own" in ok(kernel, "%%sandbox\n1").notes
    refused = kernel.run("%sandbox delete")
    assert refused.status == "error" and "fork children" in refused.traceback
    ok(kernel, "%sandbox delete --yes grandchild")
    ok(kernel, "%sandbox delete --yes child")


def test_labels_are_merged_and_the_magics_own_stay(kernel: Kernel) -> None:
    ok(kernel, "%sandbox labels team=a stage='first draft'")
    assert "first draft" in str(ok(kernel, "%sandbox labels stage").result)
    ok(kernel, "%sandbox labels --replace team=b")
    shown = str(ok(kernel, "%sandbox labels").result)
    assert "stage" not in shown and "daytona-magics/kernel" in shown and "code-toolbox-language" in shown
    refused = kernel.run("%sandbox labels daytona-magics/kernel=x")
    assert refused.ename == "SandboxUsageError" and "whose the sandbox is" in refused.traceback
    assert "did you mean team" in kernel.run("%sandbox labels tean").traceback
    used = ok(kernel, "%sandbox use --label team=b")
    assert "own" in str(used.result)
    ok(kernel, "%sandbox labels --remove team")
    assert "no sandbox carries" in kernel.run("%sandbox use --label team=b").traceback
    assert ok(kernel, "h = %sandbox info own\n'created-by' in h.labels, h.state, h.gpu").result == (
        "(True, 'started', 0.0)"
    )


def test_variables_for_all_cells(kernel: Kernel) -> None:
    ok(kernel, "import os\nos.environ['MY_API_TOKEN'] = 'ghp_' + 'abcdefgh12345678'")
    shown = str(ok(kernel, "%sandbox env MODE=test MY_API_TOKEN").result)
    assert "test" in shown and "ghp_" not in shown and "MY_API_TOKEN" in shown
    both = ok(kernel, "%%sandbox\nimport os\nos.environ['MODE'], os.environ['MY_API_TOKEN'][:4]").result
    assert both == "('test', 'ghp_')"
    assert ok(kernel, "%%sandbox bash -e MODE=other\necho $MODE").stdout == "other\n"
    assert ok(kernel, "%sandbox exec echo $MODE").stdout == "test\n"
    refused = kernel.run("%sandbox env K=ghp_0123456789abcdef0123")
    assert refused.ename == "SandboxUsageError" and "looks like a key" in refused.traceback
    ok(kernel, "%sandbox env --unset MODE --unset MY_API_TOKEN")
    assert "MODE" not in str(ok(kernel, "%sandbox env").result)
    assert "no such variable" in kernel.run("%sandbox env --unset MODE").traceback


def test_creation_options_and_what_the_card_says(kernel: Kernel) -> None:
    ok(kernel, "%sandbox create -q -n 1 --name opt --idle-stop 30 --public --snapshot daytona-small")
    assert ok(
        kernel, "h = %sandbox info opt\nb = h.sandbox\nb.auto_stop_interval, b.public, h.cpu"
    ).result == ("(30, True, 1.0)")
    ok(kernel, "%sandbox create -q -n 1 --name ever --auto-stop 0")
    assert "never by itself" in str(ok(kernel, "%sandbox info ever").result)
    ok(kernel, "%sandbox delete --yes opt ever")


def test_use_switches_at_once_and_a_context_can_be_shared(kernel: Kernel) -> None:
    ok(kernel, "%sandbox create -n 1 --name second")
    ok(kernel, "%%sandbox\nwhere = 'own'")
    ok(kernel, "%sandbox use second")
    assert kernel.run("%%sandbox\nwhere").ename == "NameError"
    ok(kernel, "%sandbox use own")
    assert ok(kernel, "%%sandbox\nwhere").result == "'own'"
    context = re.search(r"context\s+(\S+)", str(ok(kernel, "%sandbox").result))
    assert context is not None
    with Kernel(kernel.home) as other:
        used = ok(other, "%sandbox use own")
        assert f"--context {context[1]}" in used.notes
        assert other.run("%%sandbox\nwhere").ename == "NameError"
        ok(other, f"%sandbox use own --context {context[1]}")
        assert ok(other, "%%sandbox\nwhere").result == "'own'"
        refused = other.run("%sandbox use own --context ../x")
        assert refused.ename == "SandboxUsageError"
        refused = other.run("%sandbox stop own second")
        assert refused.status == "ok" or "is in use by another kernel" in refused.traceback
    ok(kernel, "%sandbox delete --yes second")


@pytest.fixture(scope="module")
def stranger(address: dict[str, str]) -> Iterator[Kernel]:
    """A kernel of another machine at the same endpoint: it has another name for itself, all else is real."""
    with Kernel(env={**address}) as made:
        ok(made, "from daytona_magics.sandboxes import identity\nidentity.host_id = lambda: 'f' * 12")
        yield made


class TestStrangers:
    """To another machine the same endpoint's sandboxes are other people's."""

    def test_the_first_creation_says_where(self, stranger: Kernel) -> None:
        notes = ok(stranger, "%sandbox create --name theirs").notes
        assert "self-hosted Daytona at 127.0.0.1" in notes, notes
        assert "DAYTONA_API_URL is set" in str(ok(stranger, "%sandbox").result)

    def test_nothing_of_theirs_is_stopped_reaped_or_matched(self, kernel: Kernel, stranger: Kernel) -> None:
        ok(stranger, "%sandbox create --name stranger-1")
        seen = str(ok(kernel, "%sandbox list").result)
        assert "stranger-1" in seen and "another machine" in seen
        for verb in ("stop", "pause", "archive", "resize --cpu 4"):
            refused = kernel.run(f"%sandbox {verb} stranger-1")
            assert "was not made by these magics on this machine" in refused.traceback, refused
            assert "--yes" in refused.traceback
        assert "no sandbox made here matches" in kernel.run("%%sandbox -s stranger-*\n1").traceback
        assert "no sandbox made here matches" in kernel.run("%sandbox stop stranger-*").traceback
        ok(kernel, "%sandbox reap --delete")
        ok(kernel, "%sandbox create -q -n 1 --name mine-to-delete")
        ok(kernel, "%sandbox delete --all --yes")
        left = str(ok(kernel, "%sandbox list").result)
        assert "stranger-1" in left and "theirs" in left and "mine-to-delete" not in left
        assert ok(stranger, "%%sandbox\n'alive'").result == "'alive'"
        # The positive control: by name, and meant, it works.
        ok(kernel, "%sandbox stop --yes stranger-1")
        assert "variables were lost" in ok(stranger, "%%sandbox\n'again'").notes

    def test_using_theirs_leaves_their_labels(self, kernel: Kernel, stranger: Kernel) -> None:
        ok(stranger, "%%sandbox\nsecret = 1")
        before = ok(stranger, "h = %sandbox info stranger-1\nsorted(h.labels.items())").result
        used = ok(kernel, "%sandbox use stranger-1")
        assert "a kernel of another machine owns" in used.notes
        assert kernel.run("%%sandbox\nsecret").ename == "NameError"
        assert ok(stranger, "h = %sandbox info stranger-1\nsorted(h.labels.items())").result == before
        ok(kernel, "%sandbox create --name own")


class TestKey:
    """A key is asked for once, masked, tried, and kept in memory only."""

    def answering(self, kernel: Kernel, code: str, key: str) -> tuple[Cell, list[dict[str, Any]]]:
        import queue

        cell = kernel.send(code)
        asked = []
        try:
            message = kernel.client.get_stdin_msg(timeout=30)
            asked.append(message["content"])
            kernel.client.input(key)
        except queue.Empty:
            pass
        return kernel.finish(cell, timeout=90), asked

    def test_it_is_asked_for_once_and_stored_nowhere(self, address: dict[str, str]) -> None:
        url, key = address["DAYTONA_API_URL"], address["DAYTONA_API_KEY"]
        with Kernel(env={"DAYTONA_API_URL": url}) as kernel:
            wrong, asked = self.answering(kernel, "%%sandbox\n1", "dtn_wrong_key_0123456789")
            assert wrong.ename == "EndpointError" and "refuses the API key" in wrong.traceback, wrong
            assert asked[0]["password"] and url in asked[0]["prompt"]
            right, asked = self.answering(kernel, "%%sandbox\n40 + 2", key)
            assert right.result == "42" and len(asked) == 1, right
            assert "kept in this kernel's memory only" in right.notes
            again = ok(kernel, "%%sandbox\n1")
            everything = "".join(map(str, (wrong, right, again, ok(kernel, "%sandbox config"))))
            assert key not in everything and "dtn_wrong" not in everything
            assert ok(kernel, "import os\n'DAYTONA_API_KEY' in os.environ").result == "False"
            found = ok(kernel, "%%sandbox bash\nenv | grep -c DAYTONA_API_KEY || true")
            assert found.stdout == "0\n"
            written = [
                str(path)
                for path in kernel.home.rglob("*")
                if path.is_file() and key.encode() in path.read_bytes()
            ]
            assert written == []
            ok(kernel, "%sandbox login --forget")
            ok(kernel, "import daytona_magics.sandboxes as s\ns.current().config.endpoint")

    def test_nobody_to_ask_is_an_error_and_nothing_runs_here(self, address: dict[str, str]) -> None:
        with Kernel(env={"DAYTONA_API_URL": address["DAYTONA_API_URL"]}) as kernel:
            cell = kernel.run("%%sandbox\nopen('ran-here', 'w')", allow_stdin=False)
            assert cell.ename == "EndpointError" and "%sandbox login" in cell.traceback
            assert not (kernel.home / "work" / "ran-here").exists()

    def test_a_file_is_taken_when_it_is_named(self, address: dict[str, str]) -> None:
        with Kernel() as kernel:
            env = kernel.home / "work" / ".env"
            env.write_text("".join(f"{name}='{value}'  \n" for name, value in address.items()))
            (kernel.home / "work" / "empty.env").write_text("A=1\n")
            refused = kernel.run("%sandbox login --env-file empty.env")
            assert refused.ename == "SandboxUsageError" and "no DAYTONA_API_KEY" in refused.traceback
            assert "No such file" in kernel.run("%sandbox login --env-file nothing").traceback
            assert "self-hosted" in ok(kernel, "%sandbox login --env-file .env").notes
            cell = ok(kernel, "%%sandbox\n1")
            assert "self-hosted Daytona" in cell.notes and address["DAYTONA_API_KEY"] not in str(cell)
            assert "given in this kernel" in str(ok(kernel, "%sandbox config endpoint").result)
            ok(kernel, "%sandbox login --forget")
            assert "No sandbox yet" in str(ok(kernel, "%sandbox").result)
            assert not Path(kernel.home / "work" / "daytona.json").exists()
