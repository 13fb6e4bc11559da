"""What the kernel tells a panel, made up: typical, empty, huge, failed and hostile."""

from __future__ import annotations

import time
from typing import Any

#: A text that is a script to whoever parses it, and one that hides what it is.
SCRIPT, HIDDEN = "<img src=x onerror=alert(1)>", "lab\u202egnp.exe"

OPENS = ["FileTree", "LogStream", "Terminal", "Preview"]


def box(**fields: Any) -> dict[str, Any]:
    now = time.time()
    return {
        "id": "4f2a77c01b9e",
        "name": "analysis-3f9c2a",
        "state": "started",
        "words": "Running.",
        "where": "embedded engine, isolation L3",
        "embedded": True,
        "context": "kernel-8f08f5d6",
        "size": "2 CPU, 4 GiB memory, 10 GiB disk",
        "times": [
            {"what": "stops", "at": now + 700.4, "text": "15 min without activity", "about": False},
            {"what": "archived", "at": None, "text": "7 days after it stopped", "about": True},
            {"what": "deleted", "at": None, "text": "7 days after it stopped", "about": True},
            {"what": "ends", "at": now + 200_000, "text": "deleted then, whatever it does", "about": False},
        ],
        "can": ["stop", "pause", "reset", "keep", "delete"],
        "labels": [["project", "mvp"], ["team", "vision"]],
        **fields,
    }


def view(**fields: Any) -> dict[str, Any]:
    return {
        "phase": "bound",
        "box": box(),
        "mode": {"there": True, "on": False, "tagged": False},
        "line": True,
        "problem": {},
        "doing": "",
        "opens": OPENS,
        "lists": False,
        **fields,
    }


def resources() -> dict[str, Any]:
    samples = [[at, (at * 37) % 90 + 5, 20 + at / 4, 8 + at / 40] for at in range(100)]
    totals = {"cpu": "42 %", "memory": "1.8 GiB of 4.0 GiB", "disk": "1.1 GiB of 10.0 GiB"}
    return {"samples": samples, "totals": totals}


def run(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"{number:032x}",
        "name": f"Cell In[{number}]",
        "job": number % 3 == 0,
        "language": "python",
        "context": "kernel-8f08f5d6",
        "state": "ok",
        "started": time.time() - 60 * number,
        "seconds": 1.5 * number,
        "printed": 1000 * number,
        "kept": True,
        **fields,
    }


def inside(**fields: Any) -> dict[str, Any]:
    context = {"language": "python", "alive": True, "busy": "", "queued": 0, "mine": False}
    return {
        "contexts": [
            {**context, "name": "kernel-8f08f5d6", "mine": True, "busy": "cell", "queued": 1},
            {**context, "name": "kernel-77aa0000"},
            {**context, "name": "kernel-8f08f5d6", "language": "bash", "mine": True},
        ],
        "runs": [run(1, state="running", job=True, name="train.py"), run(2, state="failed"), run(3)],
        "sessions": [{"id": "serve-8000", "commands": [["flask run", None]]}],
        "terminals": [
            {"id": "shell-1", "running": True, "folder": "/home/daytona", "ofCells": False},
            {"id": "daytona-magics-00", "running": True, "folder": "/home/daytona", "ofCells": True},
        ],
        "ports": [8000, 8080],
        **fields,
    }


def row(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"id{number:010d}",
        "name": f"box-{number:03d}",
        "state": ("started", "stopped", "archived", "error")[number % 4],
        "owner": ("another kernel", "earlier kernel", "another program")[number % 3],
        "orphan": number % 3 == 1,
        "foreign": "was not made by these magics on this machine" if number % 3 == 2 else "",
        "bound": False,
        "created": time.time() - 3600 * number,
        "labels": [["project", f"p{number % 7}"]],
        "can": [("stop", "start", "start", "recover")[number % 4], "delete"],
        **fields,
    }


def others(count: int) -> dict[str, Any]:
    own = row(0, name="analysis-3f9c2a", owner="this kernel", bound=True, state="started", orphan=False)
    return {"loaded": True, "rows": [{**own, "can": ["stop", "delete"]}, *(row(n) for n in range(1, count))]}


def cases() -> dict[str, dict[str, Any]]:
    """The panel as people meet it: typical, empty, huge and failing."""
    words = "Stopped: variables are lost, files kept."
    stopped = box(state="stopped", words=words, can=["start", "archive", "keep", "delete"])
    standing = {"name": "box", "text": "The sandbox is stopped.", "offer": "Start it", "state": "stopped"}
    none = {"name": "", "text": "There is no sandbox yet.", "offer": "Create a sandbox", "state": "none"}
    failed = {"code": "unreachable", "text": "the endpoint does not answer", "hint": "%sandbox doctor"}
    nothing = {"resources": {}, "inside": {}, "others": {}}
    full = {"view": view(), "resources": resources(), "inside": inside(), "others": others(7)}
    many = inside(runs=[run(number) for number in range(1, 90)])
    return {
        "empty": {"view": view(phase="none", box=None), "_sandbox": none, **nothing},
        "typical": full,
        "huge": {**full, "others": others(200), "inside": many},
        "error": {**full, "view": view(problem=failed, box=stopped), "_sandbox": standing},
    }


def hostile() -> dict[str, Any]:
    """Everything that comes from a sandbox or an endpoint, as somebody who means harm would write it."""
    evil = box(
        name=SCRIPT, words=SCRIPT, where=HIDDEN, context=SCRIPT, size=SCRIPT, labels=[[SCRIPT, HIDDEN]]
    )
    problem = {"code": "failed", "text": SCRIPT, "hint": HIDDEN}
    bad = inside(
        ports=[8000],
        contexts=[
            {"name": SCRIPT, "language": SCRIPT, "alive": True, "busy": SCRIPT, "queued": 0, "mine": False}
        ],
        runs=[run(1, name=SCRIPT, context=SCRIPT, state="running")],
        sessions=[{"id": SCRIPT, "commands": [[SCRIPT, 1]]}],
        terminals=[{"id": HIDDEN, "running": True, "folder": SCRIPT, "ofCells": False}],
    )
    rows = [row(1, name=SCRIPT, owner=SCRIPT, labels=[[SCRIPT, HIDDEN]], foreign=SCRIPT)]
    return {
        "view": view(box=evil, problem=problem),
        "inside": bad,
        "others": {"loaded": True, "rows": rows},
        "told": {"text": SCRIPT, "error": False},
    }
