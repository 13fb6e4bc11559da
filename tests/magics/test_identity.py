"""A kernel is itself across restarts, and nobody else."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daytona_magics.sandboxes import identity, labels, leaving


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    return tmp_path


def connection(path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(json.dumps({"key": key, "shell_port": 1}))
    module: Any = SimpleNamespace(get_connection_file=lambda: str(path))
    monkeypatch.setitem(sys.modules, "ipykernel.connect", module)


def test_the_same_connection_file_is_the_same_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection(tmp_path / "kernel-1.json", "key-1", monkeypatch)
    first = identity.identify(None)
    assert identity.identify(None) == first and len(first.kernel) == 16
    assert "key-1" not in repr(first)


def test_a_fixed_path_with_another_key_is_another_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "connection.json"
    connection(path, "key-1", monkeypatch)
    first = identity.identify(None).kernel
    connection(path, "key-2", monkeypatch)
    second = identity.identify(None).kernel
    connection(tmp_path / "other.json", "key-2", monkeypatch)
    assert len({first, second, identity.identify(None).kernel}) == 3


def test_without_a_kernel_every_process_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ipykernel.connect", raising=False)
    ours = identity.identify(None).kernel
    code = "from daytona_magics.sandboxes import identity; print(identity.identify(None).kernel)"
    theirs = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert len(theirs) == 16 and theirs != ours


def test_the_notebook_is_a_hint_with_a_readable_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert identity.identify(None).notebook == "" and identity.identify(None).title == "sandbox"
    monkeypatch.setenv("JPY_SESSION_NAME", "/home/me/My Analysis.ipynb")
    who = identity.identify(None)
    assert who.title == "My Analysis" and len(who.notebook) == 16
    assert labels.make_name(who.title).startswith("my-analysis-")
    assert labels.make_name("Übung №1 «x»").isascii()
    assert labels.make_name("a") != labels.make_name("a")


def test_nobody_at_the_notebook() -> None:
    shell = SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=False), user_ns={})
    assert identity.identify(shell).batch
    shell.user_ns["__session__"] = "/x/y.ipynb"
    assert not identity.identify(shell).batch
    assert not identity.identify(SimpleNamespace(user_ns={})).batch


def test_liveness_is_a_lock_of_the_process() -> None:
    code = (
        "import sys; from daytona_magics.sandboxes import identity\n"
        "identity.hold('abc123'); print('held', flush=True); sys.stdin.read()"
    )
    assert not identity.alive("abc123")
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        assert identity.alive("abc123")
        child.kill()
        child.wait()
    assert not identity.alive("abc123")


def test_a_forked_child_does_not_keep_its_dead_parent_alive() -> None:
    code = (
        "import os, sys, time; from daytona_magics.sandboxes import identity\n"
        "identity.hold('def456')\n"
        "if os.fork() == 0: time.sleep(30)\n"
        "print('held', flush=True); os._exit(0)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        child.wait(10)
        assert not identity.alive("def456")
    finally:
        os.killpg(child.pid, 9)
        child.stdout.close()


@pytest.mark.parametrize("name", ["", "../x", "a/b", "released "])
def test_a_hostile_label_is_no_living_kernel(name: str) -> None:
    assert not identity.alive(name)


def test_own_lock(request: pytest.FixtureRequest) -> None:
    request.addfinalizer(lambda: identity.release("aaa111"))
    identity.hold("aaa111")
    identity.hold("aaa111")
    assert identity.alive("aaa111")
    # The check of another process opens and closes the same file; that must not drop our lock.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(identity.alive, ("aaa111",))
    identity.release("aaa111")
    assert not identity.alive("aaa111")


class TestLeaving:
    @pytest.mark.parametrize(
        ("message", "expected"),
        [
            ({"content": {"restart": False}}, True),
            ({"content": {"restart": True}}, False),
            ({"content": {}}, False),
            (None, False),
            ("odd", False),
        ],
    )
    def test_a_restart_or_an_unknown_end_leaves_the_sandbox_running(
        self, message: object, expected: bool
    ) -> None:
        shell = SimpleNamespace(kernel=SimpleNamespace(_shutdown_message=message))
        assert leaving.shutting_down(shell) is expected

    def test_a_kernel_without_the_private_attribute(self) -> None:
        assert not leaving.shutting_down(SimpleNamespace(kernel=object()))
        # A terminal, and a plain program: neither of them is ever restarted.
        assert leaving.shutting_down(SimpleNamespace()) and leaving.shutting_down(None)

    def test_an_endpoint_that_does_not_answer_costs_two_seconds_at_most(self) -> None:
        import socket
        import time

        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            binding = SimpleNamespace(
                config=SimpleNamespace(on_exit="stop"),
                sandbox=SimpleNamespace(
                    id="x", labels={labels.KERNEL: "mine", labels.CREATED_BY: labels.CREATOR}
                ),
                made={"y", "z"},
                jobs=[],
                who=lambda: SimpleNamespace(kernel="mine"),
                endpoint=SimpleNamespace(
                    api_url=f"http://127.0.0.1:{listener.getsockname()[1]}/api", api_key="k", loopback=True
                ),
            )
            start = time.monotonic()
            assert "failed" in leaving.farewell(binding)
            assert time.monotonic() - start < leaving.BUDGET + 1
        binding.made = set()
        binding.sandbox.labels[labels.KERNEL] = "theirs"
        assert leaving.farewell(binding) == "it belongs to another kernel"
        binding.sandbox.labels = {labels.KERNEL: "k", labels.CREATED_BY: "somebody"}
        binding.who = lambda: SimpleNamespace(kernel="k")
        assert leaving.farewell(binding) == "another program made it"
        binding.config.on_exit = "keep"
        assert leaving.farewell(binding) == "nothing to do"
