"""A short and always the same run of the fuzzer; ``python -m tests.fuzz`` is the long one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import find

from tests.engine_process import isolated_engine, wait_until
from tests.fuzz.__main__ import NAMES, run
from tests.fuzz.requests import requests
from tests.fuzz.surface import operations
from tests.fuzz.target import Target, Wrong

EXAMPLES = 400


def test_the_surface_is_the_engines_and_known_to_the_sdk(tmp_path: Path) -> None:
    found = operations(tmp_path)
    assert len(found) > 80
    execute = next(one for one in found if one.path.endswith("/process/execute"))
    assert {"command", "timeout"} <= set(execute.body["properties"] or execute.body["$defs"])
    listed = next(one for one in found if one.path == "/toolbox/{sandbox}/files" and one.method == "GET")
    assert "path" in listed.query and not listed.body


@pytest.mark.timeout(180)
def test_no_request_makes_the_engine_fail_hang_or_leak(tmp_path: Path) -> None:
    with isolated_engine() as engine:
        target = Target(engine)
        before = target.descriptors()
        wrong = run(target, operations(tmp_path), 1, EXAMPLES)
        assert not wrong, "\n".join(wrong.values())
        target.clear()
        wait_until(lambda: target.descriptors() <= before, "descriptors are closed")
        assert target.memory() < 300
        assert not target.unexpected()


def test_the_judge_sees_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: answers that must not be are called wrong."""
    request = find(requests(operations(tmp_path), "x" * 20, NAMES), lambda one: one.operation.method == "GET")
    target = Target.__new__(Target)
    target.count, target.pid = 0, 1
    body = {"statusCode": 500, "message": "m", "code": "", "source": "", "timestamp": "", "path": ""}
    good = json.dumps({**body, "method": ""}).encode()
    for status, headers, body in (
        (500, {"X-Request-Id": "1"}, good),
        (400, {}, good.replace(b"500", b"400")),
        (400, {"X-Request-Id": "1"}, b"no"),
        (404, {"X-Request-Id": "1"}, good),
    ):
        monkeypatch.setattr(target, "_exchange", lambda _, s=status, h=headers, b=body: (s, h, b))
        with pytest.raises(Wrong):
            target.send(request)
