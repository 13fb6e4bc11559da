"""polars frames and Arrow tables as variables (see :mod:`.packing`), as uncompressed Arrow streams.

A stream that comes in is walked first: one with compressed buffers could unpack to any size, and is refused.
Tables are then checked in full by pyarrow; polars checks what it reads.
"""

from __future__ import annotations

import io
import struct
import sys

from . import packing, unpacking
from .packing import CannotCarry, Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator

    from .packing import Packer
    from .unpacking import Unpacker

#: About the bytes of one batch.
_BATCH = 16 << 20
_SCHEMA, _DICTIONARY, _RECORDS = 1, 2, 3


def write(packer: Packer, value: Any, where: str) -> Any:
    """The tree of a polars or Arrow object; None for anything else."""
    pl, pa = sys.modules.get("polars"), sys.modules.get("pyarrow")
    if pl is not None and type(value) in (getattr(pl, "DataFrame", None), getattr(pl, "Series", None)):
        return _polars_node(packer, pl, value, where)
    if pa is not None and hasattr(pa, "Table"):
        if type(value) is pa.Table:
            return table_node(packer, value, "pa.Table", where)
        if type(value) is pa.RecordBatch:
            return table_node(packer, pa.Table.from_batches([value]), "pa.RecordBatch", where)
        if isinstance(value, pa.ChunkedArray):
            return table_node(packer, pa.table({"": value}), "pa.ChunkedArray", where)
        if isinstance(value, pa.Array):
            return table_node(packer, pa.table({"": value}), "pa.Array", where)
    return None


# -- Arrow ---------------------------------------------------------------------------------------------------


def table_node(packer: Packer, table: Any, kind: str, where: str) -> dict[str, Any]:
    """The tree of an Arrow table, under another name if it stands for something else."""
    import pyarrow as pa

    for field in table.schema:
        if isinstance(field.type, pa.BaseExtensionType):
            raise CannotCarry(
                "%s has a column of the extension type %s, which is not carried" % (where, field.type)
            )
    rows = max(1, min(1 << 20, int(_BATCH / max(1, table.nbytes / max(1, table.num_rows)))))
    sizes = pa.MockOutputStream()
    with pa.ipc.new_stream(sizes, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=rows):
            writer.write_batch(batch)

    def pieces() -> Iterator[Any]:
        parts = _Parts()
        with pa.ipc.new_stream(pa.PythonFile(parts, mode="w"), table.schema) as writer:
            yield from parts.give()
            for batch in table.to_batches(max_chunksize=rows):
                writer.write_batch(batch)
                yield from parts.give()
        yield from parts.give()

    return {"t": kind, "b": packer.body(sizes.size(), pieces)}


class _Parts:
    """A file that keeps what is written until it is taken."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""

    def give(self) -> list[bytes]:
        parts, self._parts = self._parts, []
        return parts


def table_of(unpacker: Unpacker, node: dict[str, Any]) -> Any:
    """The Arrow table of a tree."""
    import pyarrow as pa

    buffer = unpacker.body(node)
    check_stream(memoryview(buffer).cast("B"))
    with pa.ipc.open_stream(pa.py_buffer(buffer)) as reader:
        table = reader.read_all()
    table.validate(full=True)
    return table


def _part_of(unpacker: Unpacker, node: dict[str, Any]) -> Any:
    import pyarrow as pa

    table = table_of(unpacker, node)
    if node["t"] == "pa.RecordBatch":
        batches = table.combine_chunks().to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
    column = table.column(0)
    if node["t"] == "pa.ChunkedArray":
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def check_stream(view: memoryview) -> None:
    """Walk the messages of an Arrow stream; raises Malformed at a compressed one and at none of its form."""
    at = 0
    try:
        while at + 8 <= len(view):
            mark, size = struct.unpack_from("<Ii", view, at)
            if mark != 0xFFFFFFFF or size < 0:
                raise Malformed("no Arrow message where one belongs")
            if size == 0:
                return
            meta = view[at + 8 : at + 8 + size]
            if len(meta) != size:
                raise Malformed("a cut Arrow message")
            at += 8 + size + _check_message(meta)
    except struct.error:
        raise Malformed("an Arrow message that cannot be read") from None


def _field(meta: memoryview, table: int, number: int) -> int:
    """Where a field of a flatbuffers table lies, 0 when it is not set."""
    (back,) = struct.unpack_from("<i", meta, table)
    vtable = table - back
    if vtable < 0:
        raise Malformed("a flatbuffers table that is none")
    (length,) = struct.unpack_from("<H", meta, vtable)
    if 4 + 2 * number >= length:
        return 0
    (offset,) = struct.unpack_from("<H", meta, vtable + 4 + 2 * number)
    return table + int(offset) if offset else 0


def _table(meta: memoryview, at: int) -> int:
    (offset,) = struct.unpack_from("<I", meta, at)
    return at + int(offset)


def _check_message(meta: memoryview) -> int:
    """Returns the length of the message's body."""
    message = _table(meta, 0)
    kind, header, length = (_field(meta, message, number) for number in (1, 2, 3))
    body = struct.unpack_from("<q", meta, length)[0] if length else 0
    if body < 0 or not kind or not header:
        raise Malformed("an Arrow message without a header")
    inner = _table(meta, header)
    if meta[kind] == _DICTIONARY:
        data = _field(meta, inner, 1)
        if not data:
            raise Malformed("a dictionary without data")
        inner = _table(meta, data)
    if meta[kind] in (_DICTIONARY, _RECORDS):
        if _field(meta, inner, 3):
            raise Malformed("compressed Arrow data, which our writer never makes")
    elif meta[kind] != _SCHEMA:
        raise Malformed("an Arrow message of no known kind")
    return int(body)


# -- polars --------------------------------------------------------------------------------------------------


def _polars_node(packer: Packer, pl: Any, value: Any, where: str) -> dict[str, Any]:
    series = type(value) is pl.Series
    frame = value.to_frame() if series else value
    for name, dtype in frame.schema.items():
        if _holds_objects(pl, dtype):
            raise CannotCarry("%s: column %r has the type %s, which can hold anything" % (where, name, dtype))
    per_row = frame.estimated_size() / max(1, frame.height)
    rows = max(1, int(_BATCH / max(1.0, per_row)))
    numbers = []
    for start in range(0, max(1, frame.height), rows):

        def pieces(start: int = start) -> Iterator[Any]:
            yield _stream(frame, start, rows)

        numbers.append(packer.body(len(_stream(frame, start, rows)), pieces, "polars"))
    return {"t": "pl.Series" if series else "pl.DataFrame", "b": numbers}


def _holds_objects(pl: Any, dtype: Any) -> bool:
    if dtype == pl.Object:
        return True
    inner = [getattr(dtype, "inner", None), *[field.dtype for field in getattr(dtype, "fields", None) or ()]]
    return any(_holds_objects(pl, one) for one in inner if one is not None)


def _stream(frame: Any, start: int, rows: int) -> memoryview:
    file = io.BytesIO()
    frame.slice(start, rows).write_ipc_stream(file, compression="uncompressed")
    return file.getbuffer()


def _polars_part(unpacker: Unpacker, buffer: Any) -> Any:
    import polars as pl

    check_stream(memoryview(buffer).cast("B"))
    try:
        return pl.read_ipc_stream(io.BytesIO(buffer))
    except BaseException as error:
        # What the library panics with is no Exception.
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise Malformed("polars cannot read it: %.200s" % error) from None


def _polars_of(unpacker: Unpacker, node: dict[str, Any]) -> Any:
    import polars as pl

    parts = [unpacker.body({"b": number}, pl.DataFrame) for number in node["b"]]
    frame = parts[0] if len(parts) == 1 else pl.concat(parts, rechunk=False)
    return frame.to_series() if node["t"] == "pl.Series" else frame


packing.WRITERS.append(write)
unpacking.EARLY["polars"] = _polars_part
unpacking.READERS.update(
    {
        "pa.Table": table_of,
        "pa.RecordBatch": _part_of,
        "pa.ChunkedArray": _part_of,
        "pa.Array": _part_of,
        "pl.DataFrame": _polars_of,
        "pl.Series": _polars_of,
    }
)
