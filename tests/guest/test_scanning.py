"""Listings a page at a time: order, pages, links, names that are no text, folders that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from daytona_magics.runtime.guest import aside, scanning

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

    monkeypatch.setattr(aside, "WITHIN", 0.2)
    monkeypatch.setattr(scanning, "page", lambda **_: __import__("signal").pause())
    loop, answers, pids = Loop(), [], []
    fork = aside.workers.fork
    monkeypatch.setattr(aside.workers, "fork", lambda child: pids.append(fork(child)) or pids[-1])

    def answer(body: dict[str, Any]) -> None:
        answers.append(body)
        loop.stop()

    scanning.scan(loop, scanning.wanted({"path": str(tmp_path)}), answer)
    loop.run()
    assert [body["error"] for body in answers] == ["too-slow"]
    os.waitpid(pids[0], 0)
    assert not alive(pids[0])
