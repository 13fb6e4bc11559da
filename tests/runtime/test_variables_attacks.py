"""Containers a hostile sandbox could send: each is refused, runs nothing and takes no memory to speak of."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from daytona_magics.errors import ProtocolError, SandboxError
from daytona_magics.runtime import decode, variables
from daytona_magics.runtime.guest import arrow, packing, unpacking
from daytona_magics.runtime.variables import Reader, pack


def container(node: Any, *bodies: tuple[bytes, str, int], said: int | None = None, name: str = "x") -> bytes:
    """A container with anything in it; ``said`` is the size of the first body its header tells."""
    specs = [[len(data), form, count] for data, form, count in bodies]
    if said is not None:
        specs[0][0] = said
    head = json.dumps({"vars": [[name, node]], "bodies": specs}).encode()
    joined = b"".join(data for data, _, _ in bodies)
    return packing.MAGIC + struct.pack("<I", len(head)) + head + joined


def raw(data: bytes) -> tuple[bytes, str, int]:
    return data, "raw", 0


def read(data: bytes, pickled: bool = False) -> Any:
    reader = Reader(["x"], pickled)
    reader.take(data)
    return reader.values()["x"]


def array(descr: Any, shape: list[Any], data: bytes = b"", order: str = "C") -> bytes:
    return container({"t": "np.array", "d": descr, "s": shape, "o": order, "b": 0}, raw(data))


def index(values: list[int]) -> dict[str, Any]:
    return {"x": "range", "v": values, "n": [None]}


HOSTILE = {
    "no container": b"PK\x03\x04" * 10,
    "nothing": b"",
    "a header of 4 GiB": packing.MAGIC + b"\xff\xff\xff\xff" + b"{" * 100,
    "no JSON": packing.MAGIC + struct.pack("<I", 4) + b"{{{{",
    "not ASCII": packing.MAGIC + struct.pack("<I", 4) + b"\xff\xff\xff\xff",
    "deep": packing.MAGIC + struct.pack("<I", 100_000) + b"[" * 100_000,
    "too many values": packing.MAGIC + struct.pack("<I", 10_000_001) + b"[" + b"0," * 5_000_000,
    "cut": container({"t": "bytes", "b": 0}, raw(b"abc"))[:-1],
    "more than announced": container({"t": "bytes", "b": 0}, raw(b"abc")) + b"x",
    "a negative size": container({"t": "bytes", "b": 0}, raw(b""), said=-1),
    "a size that is true": container({"t": "bytes", "b": 0}, raw(b"a"), said=True),
    "a size that is no number": container({"t": "bytes", "b": 0}, raw(b"a"), said=1.0),  # type: ignore[arg-type]
    "no such body": container({"t": "bytes", "b": 1}, raw(b"a")),
    "the last body from behind": container({"t": "bytes", "b": -1}, raw(b"a")),
    "a body used twice": container([{"t": "bytes", "b": 0}, {"t": "bytes", "b": 0}], raw(b"a")),
    "an unknown form": container(None, (b"abc", "zip", 0)),
    "an unknown kind": container({"t": "os.system", "v": "true"}),
    "a kind that is no text": container({"t": ["int"]}),
    "another name": container(1, name="get_ipython"),
    "a pickle": container({"t": "pickle", "b": 0}, raw(pickle.dumps(1))),
    "objects in an array": array("|O", [1], b"\0" * 8),
    "objects in a field": array([["a", "<i4"], ["b", "O"]], [1], b"\0" * 12),
    "a dtype with commas": array("i4,O", [1], b"\0" * 12),
    "a dtype by module": array("numpy.object_", [1], b"\0" * 8),
    "another length": array("<i8", [2], b"\0" * 8),
    "a negative shape": array("<i8", [-1], b"\0" * 8),
    "a shape that overflows": array("<i8", [2**32, 2**32], b""),
    "a shape of many dimensions": array("<i8", [1] * 100, b"\0" * 8),
    "no order": array("<i8", [1], b"\0" * 8, "K"),
    "many values without bytes": array("<U0", [2**45]),
    "a fraction without end": container({"t": "Fraction", "v": [{"t": "int", "v": hex(3**700_000)}] * 2}),
    "an int of digits": container({"t": "int", "v": "zz"}),
    "a float by name": container({"t": "float", "v": "infinity"}),
    "a date that is none": container({"t": "date", "v": [0, 0, 0]}),
    "a zone that is a path": container({"t": "ZoneInfo", "v": "../../../../etc/passwd"}),
    "a path of no kind": container({"t": "path", "v": ["__import__", "os"]}),
    "texts of another count": container(
        {"t": "strs", "b": [0]}, (struct.pack("<Ii", 1, 5) + b"ab", "strs", 1)
    ),
    "texts of many": container({"t": "strs", "b": [0]}, (struct.pack("<I", 2**31), "strs", 2**40)),
    "texts that are none": container({"t": "strs", "b": [0]}, (struct.pack("<Ii", 1, -3), "strs", 1)),
    "texts of no texts": container({"t": "strs", "b": [0]}, raw(b"abc")),
    "numbers as bytes": container({"t": "bytes", "b": 0}, (b"\0" * 8, "ints", 1)),
    "fewer numbers than bytes": container({"t": "ints", "b": 0}, (b"\0" * 80, "ints", 1)),
    "an unhashable key": container({"t": "dict", "v": [[[]], [1]]}),
    "keys without values": container({"t": "dict", "v": [[1, 2], [1]]}),
    "a picture of another size": container(
        {"t": "PIL", "m": "RGB", "s": [100_000, 100_000], "p": None, "i": {}, "b": 0}, raw(b"abc")
    ),
    "a picture of no mode": container(
        {"t": "PIL", "m": "EPS", "s": [1, 1], "p": None, "i": {}, "b": 0}, raw(b"abc")
    ),
    "codes beyond the categories": container(
        {
            "t": "pd.array",
            "a": {
                "k": "category",
                "v": {"t": "np.array", "d": "|i1", "s": [1], "o": "C", "b": 0},
                "c": index([0, 1, 1]),
                "o": False,
            },
        },
        raw(b"\x05"),
    ),
    "codes beyond the levels": container(
        {
            "t": "pd.Index",
            "i": {
                "x": "multi",
                "l": [index([0, 1, 1])],
                "v": [{"t": "np.array", "d": "|i1", "s": [1], "o": "C", "b": 0}],
                "n": [None],
            },
        },
        raw(b"\x05"),
    ),
    "a zone of dateutil": container(
        {
            "t": "pd.array",
            "a": {
                "k": "tz",
                "v": {"t": "np.array", "d": "<i8", "s": [1], "o": "C", "b": 0},
                "u": "ns",
                "z": {"pytz": "dateutil//etc/passwd"},
            },
        },
        raw(b"\0" * 8),
    ),
    "no Arrow": container({"t": "pa.Table", "b": 0}, raw(b"\xff" * 100)),
    "no polars": container({"t": "pl.DataFrame", "b": [0]}, (b"\xff" * 100, "polars", 0)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_containers_are_refused(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises((ProtocolError, SandboxError)):
            read(HOSTILE[name])
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_a_size_beyond_the_memory_is_refused_before_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    said = container({"t": "bytes", "b": 0}, raw(b"abc"), said=1 << 49)
    with pytest.raises(SandboxError, match="bytes are needed for the variables, and this kernel has about"):
        Reader(["x"]).take(said)
    texts = container({"t": "strs", "b": [0]}, (b"", "strs", 1 << 30), said=5 << 30)
    monkeypatch.setattr(variables, "free_memory", lambda: 20 << 30)
    with pytest.raises(SandboxError, match="bytes are needed"):
        Reader(["x"]).take(texts)  # the texts themselves would take 80 GiB


class Evil:
    """Runs something when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_runs_nothing_unless_it_was_asked_for(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    inside = pickle.dumps(Evil(marker))
    attacks = [
        container({"t": "pickle", "b": 0}, raw(inside)),
        container({"t": "bytes", "b": 0}, raw(inside)),
        array("|O", [len(inside) // 8], inside[: len(inside) // 8 * 8]),
    ]
    file = io.BytesIO()
    np.save(file, np.array([Evil(marker)], dtype=object), allow_pickle=True)
    attacks.append(container({"t": "bytes", "b": 0}, raw(file.getvalue())))
    for attack in attacks:
        try:
            assert isinstance(read(attack), bytes)
        except SandboxError:
            continue
    assert not marker.exists()
    # The control: asked for, it runs.
    read(attacks[0], pickled=True)
    assert marker.exists()


def _bomb() -> bytes:
    table = pa.table({"a": np.zeros(8_000_000)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def test_a_compressed_arrow_stream_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = _bomb()
    assert len(bomb) < 100_000
    as_table = container({"t": "pa.Table", "b": 0}, raw(bomb))
    as_polars = container({"t": "pl.DataFrame", "b": [0]}, (bomb, "polars", 0))
    for attack in (as_table, as_polars):
        with pytest.raises(ProtocolError, match="compressed Arrow data"):
            read(attack)
    # The control: without the look at the messages it unpacks to 640 times its size.
    monkeypatch.setattr(arrow, "check_stream", lambda view: None)
    assert read(as_table).nbytes == 64_000_000
    assert read(as_polars).height == 8_000_000


def test_arrow_streams_with_any_changed_bytes_are_refused_or_harmless() -> None:
    table = pa.table({"s": ["abc", "d", None] * 20, "i": range(60), "l": [[1], [], [2, 3]] * 20})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    good = bytes(sink.getvalue())
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(1500):
        bad = bytearray(good)
        for place in rng.integers(0, len(bad), 3):
            bad[place] = rng.integers(0, 256)
        try:
            read(container({"t": "pa.Table", "b": 0}, raw(bytes(bad)))).to_pylist()
        except SandboxError:
            refused += 1
        except ValueError:
            continue  # of a field's name that is no UTF-8, when it is looked at
    assert refused > 500
    assert read(container({"t": "pa.Table", "b": 0}, raw(good))).equals(table)


def test_offsets_that_lead_out_of_a_stream_are_refused() -> None:
    frame = pl.DataFrame({"s": ["abc", "d"], "l": [[1, 2], [3]]})
    file = io.BytesIO()
    frame.write_ipc_stream(file, compat_level=pl.CompatLevel.oldest())
    good = file.getvalue()
    offsets = struct.pack("<qqq", 0, 3, 4)
    assert offsets in good
    bad = good.replace(offsets, struct.pack("<qqq", 0, 3, 1 << 40))
    with pytest.raises(ProtocolError):
        read(container({"t": "pl.DataFrame", "b": [0]}, (bad, "polars", 0)))
    assert read(container({"t": "pl.DataFrame", "b": [0]}, (good, "polars", 0))).equals(frame)


def test_messages_with_variables_are_checked() -> None:
    good = decode.event(b'{"msg": "variables", "data": "YWJj"}')
    assert getattr(good, "data", None) == b"abc"
    piped = decode.event(b'{"msg": "variables", "path": "/x", "piped": 5}')
    assert getattr(piped, "piped", None) == 5
    for bad in (
        b'{"msg": "variables"}',
        b'{"msg": "variables", "data": "YWJj", "path": "/x"}',
        b'{"msg": "variables", "data": "Y#Jj"}',
        b'{"msg": "variables", "data": 7}',
        b'{"msg": "variables", "path": "a\\u0000b"}',
        b'{"msg": "variables", "path": ["a"]}',
        b'{"msg": "variables", "data": "YWJj", "piped": 5}',
        b'{"msg": "variables", "path": "/x", "piped": -1}',
        b'{"msg": "variables", "path": "/x", "piped": true}',
        b'{"msg": "variables", "path": "/x", "piped": 99999999999999999999}',
    ):
        with pytest.raises(ProtocolError):
            decode.event(bad)


def test_a_variable_that_was_asked_for_must_come() -> None:
    reader = Reader(["x", "y"])
    reader.take(pack({"x": 1}).bytes())
    with pytest.raises(ProtocolError, match="no variable y"):
        reader.values()


def test_the_guests_own_reader_says_what_its_sandbox_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pack({"x": np.arange(3)}).bytes()
    reader = unpacking.Unpacker("the sandbox")
    reader.take(data)
    monkeypatch.setitem(__import__("sys").modules, "numpy", None)
    with pytest.raises(packing.CannotCarry, match="the sandbox has no numpy, which a variable needs"):
        reader.values()
