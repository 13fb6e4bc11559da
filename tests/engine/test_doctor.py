"""What the doctor says: the same facts everywhere, also without an engine, and never a password."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from daytona import Daytona

from daytona_magics.engine import doctor, machine
from daytona_magics.notebook.diagnosis import Diagnosis
from tests.engine_process import IsolatedEngine, isolated_engine

ROOT = Path(__file__).resolve().parents[2]
FACTS = (
    *(
        "ok",
        "problem",
        "isolation",
        "launcher",
        "landlock_abi",
        "why_not_higher",
        "attempts",
        "open",
        "notes",
        "advice",
    ),
    *("limits", "network", "system", "desktop", "language_servers", "tools", "shells", "versions", "kernel"),
    *("kernel_landlock_abi", "cpus", "memory_bytes", "state_folder", "state_folder_from", "disk_free_bytes"),
    *("runtime_folder", "url", "port", "pid"),
)


def front_door(engine: IsolatedEngine, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """``python -m daytona_magics doctor``, which is ``%sandbox doctor`` for shells."""
    return subprocess.run(
        [sys.executable, "-m", "daytona_magics", "doctor", *words],
        env={**engine.environ, **more},
        cwd=engine.base,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_line_and_the_magic_tell_the_same_facts(isolated_engine: IsolatedEngine) -> None:
    engine = isolated_engine
    own = json.loads(engine.command("doctor", "--json").stdout)
    assert set(FACTS) <= set(own)
    done = front_door(engine, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    magic = json.loads(done.stdout)
    changing = {"disk_free_bytes"}
    assert {name: magic[name] for name in own if name not in changing} == {
        name: value for name, value in own.items() if name not in changing
    }
    assert magic["endpoint"]["kind"] == "embedded" and magic["endpoint"]["min_isolation"] == "L1"
    assert [check["state"] for check in magic["checks"]] == ["", "ok", "ok", ""]
    assert (own["isolation"], own["launcher"], own["open"], own["advice"]) == ("L3", "ctypes", [], [])
    assert own["limits"]["memory"]["state"] in ("enforced", "approximated")
    assert own["state_folder_from"] == "asked for by DAYTONA_MAGICS_HOME"
    text = front_door(engine).stdout
    for heading in ("Where cells run", "Isolation", "Limits of a sandbox", "Network of a sandbox", "Folders"):
        assert heading in text.splitlines()


def test_passwords_of_proxies_and_indexes_are_not_told() -> None:
    secrets = {"proxy-word", "index-word", "path-word"}
    with isolated_engine(
        https_proxy="http://person:proxy-word@proxy.example:3128",
        PIP_INDEX_URL="https://person:index-word@packages.example/path-word/simple",
    ) as engine:
        said = [engine.command("doctor", *words).stdout for words in ((), ("--json",))]
        said.append(front_door(engine, "--json").stdout)
        network = json.loads(said[1])["network"]
        assert network["host_proxy"] == "proxy.example:3128"
        assert "packages.example:443" in network["indexes"] and "PIP_INDEX_URL" in network["variables"]
        assert not [word for word in secrets for text in said if word in text]
        assert engine.key not in "".join(said)


def test_an_engine_that_cannot_start_is_the_first_finding(isolated_engine: IsolatedEngine) -> None:
    """Its runtime folder can be written to by others, so no engine may use it."""
    engine = isolated_engine
    folder = engine.runtime / "daytona-magics"
    folder.mkdir()
    folder.chmod(0o777)
    try:
        done = engine.command("doctor", "--json")
        report = json.loads(done.stdout)
        assert done.returncode == 1 and not report["ok"] and "by others" in report["problem"]
        assert report["engine"] is None and report["kernel"] and report["state_folder"] == str(engine.state)
        text = front_door(engine)
        assert text.returncode == 1 and "✗ reached" in text.stdout and "✗ problem" in text.stdout
    finally:
        folder.chmod(0o700)


def test_an_engine_told_to_isolate_less_says_what_is_open_and_how_to_undo_it() -> None:
    with isolated_engine(DAYTONA_MAGICS_ISOLATION="L1") as engine:
        report = json.loads(engine.command("doctor", "--json").stdout)
        assert report["isolation"] == "L1" and report["ok"]
        assert "asked for by name" in report["why_not_higher"]
        assert any("processes" in phrase for phrase in report["open"])
        assert "take that out of the environment" in report["advice"][0]
        assert report["system"]["writable"] is False and "L3 only" in report["system"]["reason"]
        text = engine.command("doctor").stdout
        assert "! isolation" in text and text.count("! open") == len(report["open"])
        assert text.count("! to know") == len(report["notes"])
        # What is said of ports is so.
        assert "16 ports" in report["notes"][0] and "PORT" in report["notes"][0]
        sandbox = Daytona(engine.config()).create()
        listen = "python3 -IS -c 'import os, socket; socket.create_server((\"\", int(%s)))'"
        assert sandbox.process.exec(listen % 'os.environ["PORT"]').exit_code == 0
        assert "Permission denied" in sandbox.process.exec(listen % "8000").result


def test_cells_elsewhere_leave_the_engine_alone(isolated_engine: IsolatedEngine) -> None:
    engine = isolated_engine
    done = front_door(engine, "--offline", DAYTONA_API_KEY="dtn_never_shown")
    assert done.returncode == 0 and "the Daytona cloud" in done.stdout, done.stdout + done.stderr
    assert "not used" in done.stdout and "nothing was sent" in done.stdout and "Isolation" not in done.stdout
    assert "dtn_never_shown" not in done.stdout + done.stderr
    assert engine.command("status").returncode == 3, "an engine was started"


@pytest.mark.parametrize(("system", "name"), [("darwin", "macOS"), ("win32", "Windows")])
def test_on_other_systems_it_says_where_to_go(
    monkeypatch: pytest.MonkeyPatch, system: str, name: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    for missing in ("geteuid", "sched_getaffinity", "sysconf"):
        monkeypatch.delattr(os, missing)
    report = doctor.collect()
    assert not report["ok"] and f"this is {name}" in report["problem"] and "Docker" in report["problem"]
    assert "this is" in doctor.text(doctor.sections(report))


def test_an_engine_of_an_earlier_version_tells_less(monkeypatch: pytest.MonkeyPatch) -> None:
    old = {
        "version": "0.0.1",
        "pid": 1,
        "port": 2,
        "isolation": "L3",
        "limits": {},
        "network": {"way_out": "x"},
    }
    monkeypatch.setattr(doctor, "_status", lambda start: (old, ""))
    report = doctor.collect()
    assert report["ok"] and report["launcher"] is None
    assert "0.0.1" in doctor.text(doctor.sections(report))


def test_advice_follows_from_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.advice("L3") == []
    monkeypatch.setattr(machine, "landlock_abi", lambda: 4)
    monkeypatch.setattr(machine.shutil, "which", lambda *_, **__: None)
    told = " ".join(machine.advice("L0.5"))
    assert "bubblewrap" in told and "6.12" in told and "engine stop" in told
    monkeypatch.setattr(machine, "landlock_abi", lambda: 0)
    assert "lsm=landlock" in " ".join(machine.advice("none"))


def test_resources_are_those_of_the_cgroup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``nproc`` and ``free`` show the whole machine in a container; the doctor does not."""
    for name, text in {"cpu.max": "50000 100000", "memory.max": str(256 << 20)}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "_cgroups", lambda: iter([tmp_path]))
    assert machine.resources() == {"cpus": 0.5, "memory_bytes": 256 << 20}
    (tmp_path / "cpu.max").write_text("max 100000")
    (tmp_path / "memory.max").write_text("max")
    assert machine.resources()["cpus"] >= 1


def test_the_report_as_html_and_as_text() -> None:
    section = doctor.Section("A & B")
    section.add(doctor.OK, "fine", "x" * 200)
    section.add(doctor.WRONG, "broken", "<script>\x1b[2J `code`")
    section.add(doctor.FACT, "empty", "")
    made = Diagnosis({"ok": False}, [section])
    page = made._repr_html_()
    assert (
        "A &amp; B" in page and "<script>" not in page and "<code>code</code>" in page and "empty" not in page
    )
    assert "\x1b" not in page + repr(made)
    assert made.report == {"ok": False} and not made.ok and json.loads(repr(made.report)) == {"ok": False}
    lines = doctor.text([section], 80).splitlines()
    assert max(map(len, lines)) <= 80 and lines[0] == "A & B" and lines[1].startswith("  ✓ fine")
