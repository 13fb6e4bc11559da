"""Listings a page at a time: order, pages, links, names that are no text, folders that cannot be read."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from daytona_magics.runtime.guest import marking, scanning

from .harness import Client, alive


def scan(client: Client, path: Path | str, **fields: Any) -> dict[str, Any]:
    return client.request("scan", path=str(path), **fields)


def names(answer: dict[str, Any]) -> list[str]:
    assert answer["ok"], answer
    return [entry["name"] for entry in answer["entries"]]


def test_a_page_is_sorted_and_described(client: Client, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"12345")
    (tmp_path / "A.txt").write_bytes(b"")
    (tmp_path / "zoo").mkdir(mode=0o750)
    (tmp_path / ".dot").touch()
    (tmp_path / "to-zoo").symlink_to("zoo")
    (tmp_path / "to-nothing").symlink_to("nothing")
    os.mkfifo(tmp_path / "pipe")
    answer = scan(client, tmp_path)
    assert names(answer) == ["to-zoo", "zoo", "A.txt", "b.txt", "pipe", "to-nothing"]
    assert (answer["path"], answer["total"], answer["hidden"], answer["more"]) == (str(tmp_path), 6, 1, False)
    by_name = {entry["name"]: entry for entry in answer["entries"]}
    assert [by_name[name]["kind"] for name in ("zoo", "to-zoo", "b.txt", "to-nothing", "pipe")] == [
        *("dir", "dir", "file", "link", "special")
    ]
    assert by_name["b.txt"]["size"] == 5 and by_name["zoo"]["mode"] == 0o750
    assert by_name["b.txt"]["modified"] == int((tmp_path / "b.txt").stat().st_mtime)
    assert by_name["to-zoo"].get("target") == "zoo"
    assert ".dot" in names(scan(client, tmp_path, hidden=True))
    assert names(scan(client, tmp_path, match="TXT")) == ["A.txt", "b.txt"]
    assert names(scan(client, tmp_path, offset=1, limit=2)) == ["zoo", "A.txt"]
    assert names(scan(client, tmp_path, offset=99)) == []


def test_names_that_are_no_text_are_marked(client: Client, tmp_path: Path) -> None:
    for raw in (b"\xff\n\x1b[2J", "é".encode()):
        os.close(os.open(os.fsencode(tmp_path) + b"/" + raw, os.O_CREAT))
    answer = scan(client, tmp_path)
    assert names(answer) == ["é", "\ufffd\n\x1b[2J"] or names(answer) == ["\ufffd\n\x1b[2J", "é"]
    assert {entry["name"]: entry.get("odd", False) for entry in answer["entries"]} == {
        "é": False,
        "\ufffd\n\x1b[2J": True,
    }


def test_what_cannot_be_listed_says_why(client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "nothing", tmp_path / "file"):
        answer = scan(client, path)
        assert not answer["ok"] and answer["error"] == "not-found" and str(path) in answer["message"]
    assert scan(client, "/proc/1/root/nowhere")["ok"] is False
    assert names(scan(client, "~")) == []


@pytest.mark.parametrize(
    "fields", [{"limit": 100_000}, {"offset": -1}, {"limit": True}, {"match": 1}, {"path": "a\0b"}]
)
def test_nonsense_is_refused(client: Client, tmp_path: Path, fields: dict[str, Any]) -> None:
    answer = client.request("scan", **{"path": str(tmp_path), **fields})
    assert not answer["ok"] and answer["error"] == "bad-request"


def test_what_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file system that hangs cannot be made here; a page that never comes stands for it."""
    from daytona_magics.runtime.guest.loop import Loop

    monkeypatch.setattr(scanning, "WITHIN", 0.2)
    monkeypatch.setattr(scanning, "page", lambda **_: __import__("signal").pause())
    loop, answers, pids = Loop(), [], []
    fork = scanning.workers.fork
    monkeypatch.setattr(scanning.workers, "fork", lambda child: pids.append(fork(child)) or pids[-1])

    def answer(body: dict[str, Any]) -> None:
        answers.append(body)
        loop.stop()

    scanning.scan(loop, scanning.wanted({"path": str(tmp_path)}), answer)
    loop.run()
    assert [body["error"] for body in answers] == ["too-slow"]
    os.waitpid(pids[0], 0)
    assert not alive(pids[0])


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_what_git_says_of_a_folder(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "src" / "deep").mkdir(parents=True)
    (top / "plain").mkdir()
    for name in ("same.py", "old.py", "src/deep/x.py", "moved.py", "lost.py", "plain/kept"):
        (top / name).write_text(name)
    git(top, "init")
    git(top, "add", ".")
    assert marking.marks(str(top), 0)["git"]["same.py"] == "A"
    git(top, "commit", "-m", "first")
    (top / "old.py").write_text("other")
    (top / "src/deep/x.py").write_text("other")
    (top / "fresh é.py").touch()
    (top / "unknown").mkdir()
    (top / "unknown" / "inside").touch()
    git(top, "mv", "moved.py", "here.py")
    (top / "lost.py").unlink()
    said = marking.marks(str(top), 0)
    assert said["branch"] == "main" and said["changed"] == []
    assert said["git"] == {
        "old.py": "M",
        "src": ".",
        "fresh é.py": "?",
        "unknown": "?",
        "here.py": "R",
        "lost.py": "D",
    }
    # Folders inside: their own names only; all of one that git does not know.
    assert marking.marks(str(top / "src"), 0)["git"] == {"deep": "."}
    assert marking.marks(str(top / "src" / "deep"), 0)["git"] == {"x.py": "M"}
    assert marking.marks(str(top / "plain"), 0)["git"] == {}
    assert marking.marks(str(top / "unknown"), 0)["git"] == {"": "?"}
    # A repository in the repository speaks for itself.
    git(top / "unknown", "init", "-b", "other")
    assert marking.marks(str(top / "unknown"), 0) == {
        "branch": "other",
        "git": {"inside": "?"},
        "changed": [],
    }


def test_without_git_or_a_repository_there_is_nothing_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert marking.marks(str(tmp_path), 0) == {"branch": "", "git": {}, "changed": []}
    git(tmp_path, "init")
    (tmp_path / "a").touch()
    assert marking.marks(str(tmp_path), 0)["git"] == {"a": "?"}
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert marking.marks(str(tmp_path), 0)["git"] == {}


def test_git_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nprintf '## main\\0?? a\\0?? cu'\nexec sleep 600\n")
    slow.chmod(0o755)
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr("shutil.which", lambda name: str(slow))
    monkeypatch.setattr(marking, "GIT_WITHIN", 0.3)
    # What it said in whole is taken.
    assert marking.marks(str(tmp_path), 0)["git"] == {"a": "?"}


def test_what_the_last_cell_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("kept", "deep/er/kept", "other/kept"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    since = time.time() + 0.5
    while time.time() < since:
        time.sleep(0.05)
    (tmp_path / "made").touch()
    # An old time of content does not hide what was just put there.
    os.utime(tmp_path / "made", (1, 1))
    (tmp_path / "deep/er/kept").write_text("changed")
    assert sorted(marking.marks(str(tmp_path), since)["changed"]) == ["deep", "made"]
    (tmp_path / "other/kept").unlink()
    assert "other" in marking.marks(str(tmp_path), since)["changed"]
    # Beyond the bound nothing is claimed.
    monkeypatch.setattr(marking, "LOOKED_AT", 5)
    assert "deep" not in marking.marks(str(tmp_path), since)["changed"]


def test_marks_over_the_line(client: Client, tmp_path: Path) -> None:
    answer = client.request("marks", path=str(tmp_path))
    assert answer["ok"] and answer["branch"] == "" and answer["changed"] == []
    assert client.request("marks", path=str(tmp_path / "none"))["error"] == "not-found"
    assert client.request("marks", path=7)["error"] == "bad-request"


def test_the_order_of_a_page(client: Client, tmp_path: Path) -> None:
    for at, name in enumerate(("b", "c", "a")):
        (tmp_path / name).write_bytes(b"x" * (10 - at))
        os.utime(tmp_path / name, (at, at))
    (tmp_path / "z").mkdir()
    assert names(scan(client, tmp_path, sort="modified")) == ["z", "a", "c", "b"]
    assert names(scan(client, tmp_path, sort="size")) == ["z", "b", "c", "a"]
    assert scan(client, tmp_path, sort="color")["error"] == "bad-request"
