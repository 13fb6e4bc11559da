"""What a hostile guest may send, and what becomes of it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from daytona_magics.errors import ProtocolError
from daytona_magics.runtime import decode
from daytona_magics.runtime.events import Clear, Display, Done, Error, Notice, Result


def encoded(**message: Any) -> bytes:
    return json.dumps(message).encode()


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ({"msg": "started"}, None),
        ({"msg": "something-newer", "x": [1]}, None),
        (
            {"msg": "display", "data": {"text/plain": "a"}, "transient": {"display_id": "d", "x": 1}},
            Display({"text/plain": "a"}, {}, {"display_id": "d"}, False),
        ),
        (
            {"msg": "display", "data": {"application/json": {"a": 1}}, "metadata": {"k": 1}, "update": True},
            Display({"application/json": {"a": 1}}, {"k": 1}, {}, True),
        ),
        ({"msg": "result", "data": {"text/plain": "4"}, "count": 3}, Result({"text/plain": "4"})),
        (
            {"msg": "error", "ename": "E", "evalue": "v", "traceback": ["a", "b"]},
            Error("E", "v", ("a", "b")),
        ),
        ({"msg": "notice", "text": "n"}, Notice("n")),
        ({"msg": "clear", "wait": True}, Clear(True)),
        (
            {"msg": "done", "status": "died", "signal": 11, "exit_code": None, "seconds": 1, "worker": "new"},
            Done("died", None, 11, 1.0, "new", ""),
        ),
    ],
)
def test_messages(message: dict[str, Any], event: object) -> None:
    assert decode.event(encoded(**message)) == event


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        b'{"msg": 1}',
        b'{"msg": "notice", "text": "\xed\xa0\x80"}',
        b"\xff\xfe" + '{"msg": "clear"}'.encode("utf-16-le"),
        b'{"msg": "done", "status": "fine"}',
        b'{"msg": "done", "status": ["ok"]}',
        b'{"msg": "done", "status": "ok", "seconds": NaN}',
        b'{"msg": "done", "status": "ok", "seconds": "1"}',
        b'{"msg": "done", "status": "ok", "exit_code": 1.5}',
        b'{"msg": "done", "status": "ok", "exit_code": 99999999999}',
        b'{"msg": "display", "data": []}',
        b'{"msg": "display", "data": {"text/html": {"a": 1}}}',
        b'{"msg": "display", "data": {"text/\\u001b[0m": "x"}}',
        b'{"msg": "display", "data": {}, "transient": {"display_id": 7}}',
        b'{"msg": "display", "data": {}, "update": 1}',
        b'{"msg": "error", "ename": "E", "evalue": "v", "traceback": "text"}',
        b'{"msg": "error", "ename": "E", "evalue": "v", "traceback": [1]}',
        b'{"msg": "error", "ename": null, "evalue": "v"}',
        encoded(msg="display", data={f"x/{n}": "" for n in range(101)}),
        encoded(msg="notice", text="x" * (decode.MAX_TEXT + 1)),
        b'{"msg": "notice", "text": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_our_guest_would_not_send_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode.event(payload)


def test_hello() -> None:
    words = {"op": "hello", "protocol": 1, "version": "0.1.0", "python": "3.12.1", "boot": "b", "pid": 9}
    info = decode.hello(words, True)
    assert (info.version, info.python, info.boot, info.pid, info.started) == ("0.1.0", "3.12.1", "b", 9, True)
    with pytest.raises(ProtocolError, match="protocol 2"):
        decode.hello({**words, "protocol": 2}, True)
    with pytest.raises(ProtocolError):
        decode.hello({**words, "pid": True}, True)


def test_status_is_plain_records() -> None:
    good = {"ok": True, "contexts": [{"name": "a", "busy": True, "worker_pid": None}], "executions": []}
    assert decode.status(good) == {"contexts": good["contexts"], "executions": []}
    for bad in ({"contexts": {}}, {"contexts": [1]}, {"executions": [{"a": {"b": 1}}]}):
        with pytest.raises(ProtocolError):
            decode.status(bad)


LOOK = {
    "id": "3f9a",
    "context": "main",
    "language": "python",
    "name": "Cell In[3]",
    "state": "done",
    "job": True,
    "started": 1.5,
    "seconds": 2,
    "printed": 3,
    "kept": 4,
    "lost": 0,
    "dropped": False,
    "status": "ok",
    "exit_code": None,
}


def test_what_a_guest_says_of_an_execution() -> None:
    look = decode.look({**LOOK, "tail": "end", "tail_bytes": 3})
    assert (look.id, look.state, look.seconds, look.tail, look.tail_bytes) == ("3f9a", "done", 2.0, "end", 3)
    assert decode.look(LOOK).tail == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "a;b"},
        {"id": ""},
        {"id": "x" * 65},
        {"state": "ok"},
        {"status": "running"},
        {"started": True},
        {"started": 1e999},
        {"seconds": "1"},
        {"seconds": float("nan")},
        {"printed": -1},
        {"kept": 2**60},
        {"lost": None},
        {"exit_code": 2**40},
        {"job": 1},
        {"name": "x" * 1001},
        {"tail": "x" * ((1 << 20) + 1)},
        {"tail_bytes": -1},
    ],
)
def test_what_no_guest_of_ours_says_of_an_execution(wrong: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        decode.look({**LOOK, **wrong})


def test_halves_of_surrogate_pairs_are_replaced_and_pairs_kept() -> None:
    halves = (
        rb'{"msg": "display", "data": {"text/plain": "a\ud800b", "application/json": {"\uDC00": ["\udfff"]}}}'
    )
    shown = decode.event(halves)
    assert isinstance(shown, Display)
    assert shown.data == {"text/plain": "a\ufffdb", "application/json": {"\ufffd": ["\ufffd"]}}
    json.dumps(shown.data, ensure_ascii=False).encode()
    assert decode.event(encoded(msg="notice", text="😀")) == Notice("😀")
    error = decode.event(rb'{"msg": "error", "ename": "E", "evalue": "\ud83d", "traceback": ["\ud83d"]}')
    assert error == Error("E", "\ufffd", ("\ufffd",))


@pytest.mark.parametrize(
    "value",
    [
        b"[" * 100_000,
        b"[" * 300 + b"]" * 300,
        b"[" + b"[]," * decode.MAX_VALUES + b"[]]",
        b"[" + b"1," * decode.MAX_VALUES + b"1]",
        b"[" + b'"",' * decode.MAX_VALUES + b'""]',
        b"{" + b'"\\"[":{},' * decode.MAX_VALUES + b'"":0}',
    ],
    ids=["endless", "deep", "lists", "numbers", "texts", "objects"],
)
def test_what_would_take_too_much_memory_is_not_parsed(value: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*_: Any) -> None:
        raise AssertionError("was parsed")

    monkeypatch.setattr(decode.json, "loads", parse)
    shown = decode.event(b'{"msg": "display", "data": {"application/json": ' + value + b"}}")
    assert isinstance(shown, Notice) and "not shown" in shown.text
    with pytest.raises(ProtocolError, match="more values"):
        decode.json_object(b'{"op": ' + value + b"}", "a control message")


def test_long_texts_full_of_marks_are_parsed() -> None:
    text = '[{"a\\": 1}, ' * 400_000
    assert decode.event(encoded(msg="result", data={"text/plain": text})) == Result({"text/plain": text})
    began = time.monotonic()
    decode.too_much(b'"' + b"\\" * (1 << 20) + b'"' * (1 << 20))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "forged",
    [
        b'{"msg": "input"}',
        b'{"msg": "input", "number": 0}',
        b'{"msg": "input", "number": true}',
        b'{"msg": "input", "number": 1e400}',
        b'{"msg": "input", "number": 1, "prompt": 5}',
        b'{"msg": "input", "number": 1, "password": "yes"}',
        b'{"msg": "input", "number": 1, "prompt": "' + b"x" * (decode.MAX_PROMPT + 1) + b'"}',
        b'{"msg": "page"}',
        b'{"msg": "page", "text": "' + b"x" * (decode.MAX_TEXT + 1) + b'"}',
    ],
    ids=lambda payload: payload[:60].decode(),
)
def test_forged_questions_and_pages_are_refused(forged: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode.event(forged)


def test_questions_and_pages_of_our_guest_are_taken() -> None:
    asked = decode.event(b'{"msg": "input", "number": 3, "prompt": "? ", "password": true}')
    assert (asked.number, asked.prompt, asked.password) == (3, "? ", True)
    assert decode.event(b'{"msg": "page", "text": "help"}').text == "help"
