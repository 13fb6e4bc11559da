"""The container of variables: what goes in comes out, exactly; what cannot is refused by name."""

from __future__ import annotations

import datetime as dt
import decimal
import fractions
import math
import pathlib
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import polars.testing
import pyarrow as pa
import pytest
from PIL import Image

from daytona_magics.runtime.variables import CannotCarry, Reader, pack


def carried(value: Any, piece: int = 1 << 20) -> Any:
    """A value after it was packed, cut into pieces and read."""
    data = pack({"x": value}).bytes()
    reader = Reader(["x"])
    for start in range(0, len(data), piece):
        reader.take(data[start : start + piece])
    return reader.values()["x"]


def same(a: Any, b: Any) -> bool:
    """Equal, of the same type, and so in depth; nan equals nan."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a), list(b)) and same(list(a.values()), list(b.values()))
    return bool(a == b)


PLAIN = [
    None,
    True,
    0,
    -1,
    2**53 - 1,
    2**53,
    2**53 + 1,
    -(2**64),
    3**5000,
    0.1,
    -0.0,
    5e-324,
    math.nan,
    math.inf,
    -math.inf,
    complex(math.nan, -0.0),
    "",
    "\x00 ü \U0001f600 \ud800 \u2028",
    b"",
    b"\x00\xff" * 70000,
    bytearray(b"x"),
    [],
    (),
    [1, (2, [3.0, (None,)])],
    {},
    {"a": {"b": {}}, "t": "int", "v": [1]},
    {1: "a", "1": "b", (1, 2): "c", None: "d", 2.5: "e", frozenset({1}): "g"},
    set(),
    {1, "a", (1,)},
    frozenset({2**70}),
    list(range(1000)),
    [2**63 - 1, -(2**63)] * 50,
    [2**63] * 100,
    [0.5, math.nan, -0.0] * 50,
    ["", "ü", "\ud800"] * 50,
    [True, 1] * 50,
    tuple("abc" * 50),
    range(10, 0, -2),
    slice(None, 3),
    ...,
    dt.date(1, 1, 1),
    dt.datetime(9999, 12, 31, 23, 59, 59, 999999),
    dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3, minutes=-30), "odd")),
    dt.time(1, 2, 3, 4),
    dt.timedelta(-1, 5, 7),
    decimal.Decimal("1.100"),
    decimal.Decimal("-0E-7"),
    decimal.Decimal("sNaN123"),
    fractions.Fraction(-(3**100), 7),
    uuid.UUID(int=7),
    pathlib.Path("/a/ü"),
    pathlib.PurePosixPath("a"),
    pathlib.PureWindowsPath("C:\\a"),
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: repr(value)[:40])
def test_plain_values_stay_what_they_are(value: Any) -> None:
    found = carried(value)
    if isinstance(value, decimal.Decimal):
        assert found.as_tuple() == value.as_tuple()
        return
    assert same(found, value), found
    if isinstance(value, dt.datetime):
        assert (found.fold, found.utcoffset(), found.tzname()) == (
            value.fold,
            value.utcoffset(),
            value.tzname(),
        )


@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_pieces_of_any_size_make_the_same(piece: int) -> None:
    value = {"a": list(range(100)), "b": b"xyz", "c": np.arange(5), "d": "ü"}
    found = carried(value, piece)
    assert found["a"] == value["a"] and found["b"] == b"xyz" and found["c"].tolist() == [0, 1, 2, 3, 4]


ARRAYS: list[Callable[[], Any]] = [
    lambda: np.arange(6).reshape(2, 3),
    lambda: np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    lambda: np.arange(24, dtype="u1").reshape(2, 3, 4)[:, ::2, ::-1],
    lambda: np.arange(24, dtype=">i2").reshape(2, 3, 4).transpose(1, 0, 2),
    lambda: np.array(5, dtype="f2"),
    lambda: np.zeros((0, 3), dtype="c8"),
    lambda: np.array([True, False]),
    lambda: np.array(["ü", "abc"]),
    lambda: np.array([b"a", b"bcd"]),
    lambda: np.array(["2024-01-01", "NaT"], dtype="M8[D]"),
    lambda: np.array([1, 2], dtype="m8[25us]"),
    lambda: np.array([(1, 2.5, [1, 2])], dtype=[("a", "<i4"), ("b", ">f8"), ("c", "u1", (2,))]),
    lambda: np.zeros(3, dtype=np.dtype({"names": ["a", "b"], "formats": ["i1", "f8"]}, align=True)),
    lambda: np.zeros(2, dtype=[("in", [("a", "i4"), ("b", "S3")])]),
    lambda: np.array([np.nan, np.inf, -0.0], dtype=np.longdouble),
    lambda: np.zeros(3, "V5"),
    lambda: np.broadcast_to(np.arange(3), (4, 3)),
    lambda: np.arange(6_000_000, dtype="f4").reshape(3, -1)[:, ::2],
    lambda: np.arange(4_000_000).reshape(2, 1000, 2000).transpose(2, 0, 1),
    lambda: np.zeros((2, 0), order="F"),
]


@pytest.mark.parametrize("number", range(len(ARRAYS)))
def test_arrays_keep_dtype_shape_order_and_bytes(number: int) -> None:
    value = ARRAYS[number]()
    found = carried(value)
    assert type(found) is np.ndarray and found.dtype == value.dtype and found.shape == value.shape
    assert found.flags.f_contiguous == value.flags.f_contiguous or not value.flags.c_contiguous
    assert found.flags.writeable
    if value.dtype.names:
        assert (found == value).all()  # what lies between fields is nothing
    else:
        assert np.ascontiguousarray(found).tobytes() == np.ascontiguousarray(value).tobytes()


def test_scalars_of_numpy_keep_their_type() -> None:
    record = np.array([(1, "a")], dtype=[("a", "i4"), ("b", "U3")])[0]
    for value in (
        np.float64(0.1),
        np.float32("nan"),
        np.int8(-3),
        np.bool_(True),
        np.str_("ü"),
        np.str_(""),
        np.bytes_(b"a"),
        np.datetime64("2024-01-01T00:00", "m"),
        np.timedelta64("NaT"),
        np.complex64(1 + 2j),
    ):
        found = carried(value)
        assert type(found) is type(value) and found.dtype == value.dtype and repr(found) == repr(value)
    assert carried(record) == record and carried(np.dtype(record.dtype)) == record.dtype
    assert type(carried([np.float64(1), 1.0])[0]) is np.float64


def test_an_array_is_written_without_a_copy() -> None:
    value = np.arange(1 << 20)
    pieces = [piece for piece in pack({"x": value}).pieces() if isinstance(piece, memoryview)]
    assert sum(len(piece) for piece in pieces) == value.nbytes
    value[0] = 42
    assert np.frombuffer(pieces[0], dtype=value.dtype)[0] == 42


TIMES = pd.date_range("2024-03-30", periods=4, freq="D", tz="Europe/Berlin")
FRAMES: list[Callable[[], Any]] = [
    lambda: pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [0.5, np.nan], "d": [True, False]}),
    lambda: pd.DataFrame(np.arange(12.0).reshape(3, 4), columns=list("abcd")),
    lambda: pd.DataFrame(np.asfortranarray(np.arange(6).reshape(3, 2)), index=[3, 1, 2], columns=[0, "b"]),
    lambda: pd.DataFrame(),
    lambda: pd.DataFrame(index=range(3)),
    lambda: pd.DataFrame(columns=["a", "b"]),
    lambda: pd.DataFrame({"a": [1]}, index=pd.Index([5], name="n"))[["a", "a"]],
    lambda: pd.DataFrame({"o": pd.Series(["a", "ü", None, np.nan, pd.NA, pd.NaT, ""], dtype=object)}),
    lambda: pd.DataFrame({"o": pd.Series([1, "a", (2, 3), None, 1.5, {"k": [1]}], dtype=object)}),
    lambda: pd.DataFrame(
        {
            "i": pd.array([1, None], dtype="Int64"),
            "u": pd.array([1, None], dtype="UInt8"),
            "f": pd.array([1.5, None], dtype="Float32"),
            "b": pd.array([True, None], dtype="boolean"),
            "s": pd.array(["a", None], dtype="string"),
            "p": pd.array(["a", None], dtype=pd.StringDtype("python")),
            "c": pd.Categorical(["b", "a"], categories=["b", "a", "z"], ordered=True),
            "n": pd.Categorical([1.5, None]),
        }
    ),
    lambda: pd.DataFrame({"v": range(4)}, index=TIMES),
    lambda: pd.DataFrame({"t": TIMES, "u": TIMES.tz_convert("UTC"), "n": TIMES.tz_localize(None)}),
    lambda: pd.DataFrame({"t": TIMES.as_unit("s"), "d": pd.to_timedelta([1, 2, None, 4], unit="s")}),
    lambda: pd.DataFrame(
        {
            "p": pd.period_range("2024-01", periods=2, freq="Q-JAN"),
            "i": pd.interval_range(0, 2, closed="left"),
        }
    ),
    lambda: pd.Series([1, 2], index=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["x", None])),
    lambda: pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_product([["a"], [1, 2]])),
    lambda: pd.Series([], dtype="float32", name=("a", 1)),
    lambda: pd.Series([1, 2], index=pd.RangeIndex(5, 1, -2, name="r"), name="s"),
    lambda: pd.Series(["a", "b"], dtype=object, index=pd.Index(["x", "y"], dtype=object)),
    lambda: pd.Series([1], index=pd.CategoricalIndex(["q"])),
    lambda: pd.Series([1.0], index=pd.IntervalIndex.from_tuples([(0.5, 1.5)])),
    lambda: pd.Series([1, 2], index=pd.timedelta_range("1h", periods=2, freq="30min")),
    lambda: pd.Series(pd.array([1, None], dtype=pd.ArrowDtype(pa.int8()))),
    lambda: pd.Series(["x" * 1000] * 20_000),
]


@pytest.mark.parametrize("number", range(len(FRAMES)))
def test_pandas_keeps_dtypes_and_indexes(number: int) -> None:
    value = FRAMES[number]()
    found = carried(value)
    check = (
        pd.testing.assert_frame_equal if isinstance(value, pd.DataFrame) else pd.testing.assert_series_equal
    )
    check(found, value, check_freq=True, check_flags=True, check_exact=True)
    assert type(found.index) is type(value.index) and found.index.dtype == value.index.dtype
    if isinstance(value, pd.DataFrame):
        assert type(found.columns) is type(value.columns) and found.columns.dtype == value.columns.dtype
        for left, right in zip(found.dtypes, value.dtypes, strict=True):
            assert left == right and repr(left) == repr(right)
        for column in range(value.shape[1]):
            ours, theirs = found.iloc[:, column], value.iloc[:, column]
            if theirs.dtype == object:
                assert [type(one) for one in ours] == [type(one) for one in theirs]


def test_pandas_scalars_indexes_and_more() -> None:
    stamp = pd.Timestamp("2024-10-27 01:30", tz="UTC").tz_convert("Europe/Berlin")
    for value in (
        pd.Timestamp("2024-01-01").as_unit("s"),
        stamp,
        pd.Timedelta("1s"),
        pd.Period("2024Q1"),
        pd.Interval(1, 2, closed="both"),
    ):
        found = carried(value)
        assert type(found) is type(value) and found == value and repr(found) == repr(value)
    assert carried(pd.Timestamp("2024-01-01").as_unit("s")).unit == "s"
    assert carried(pd.NA) is pd.NA and carried(pd.NaT) is pd.NaT
    pd.testing.assert_index_equal(carried(TIMES), TIMES, exact=True)
    pd.testing.assert_extension_array_equal(carried(pd.array([1, None])), pd.array([1, None]))
    frame = pd.DataFrame({"a": [1]})
    frame.attrs = {"unit": "m", "deep": (1, 2)}
    frame = frame.set_flags(allows_duplicate_labels=False)
    found = carried(frame)
    assert found.attrs == frame.attrs and not found.flags.allows_duplicate_labels


def test_a_frame_of_one_block_is_one_again_and_no_copy_is_made() -> None:
    value = pd.DataFrame(np.arange(400_000.0).reshape(1000, 400))
    packed = pack({"x": value})
    views = [piece for piece in packed.pieces() if isinstance(piece, memoryview)]
    assert np.shares_memory(np.frombuffer(views[0], dtype="f8"), value.to_numpy(copy=False))
    found = carried(value)
    assert len(found._mgr.blocks) == 1
    pd.testing.assert_frame_equal(found, value)


def test_polars_and_arrow_keep_their_types() -> None:
    frame = pl.DataFrame(
        {
            "i": [1, None],
            "s": ["ü", None],
            "c": pl.Series(["a", "b"], dtype=pl.Categorical),
            "e": pl.Series(["a", "b"], dtype=pl.Enum(["b", "a"])),
            "t": pl.Series([dt.datetime(2024, 1, 1), None], dtype=pl.Datetime("ms", "Asia/Tokyo")),
            "l": [[1, 2], []],
            "st": [{"a": 1}, {"a": None}],
            "d": pl.Series(["1.10", None]).cast(pl.Decimal(10, 2)),
            "b": [b"x", None],
            "n": [None, None],
        }
    )
    for value in (frame, frame.head(0), pl.DataFrame(), pl.DataFrame({"a": range(3_000_000)})):
        found = carried(value)
        polars.testing.assert_frame_equal(found, value)
        assert found.schema == value.schema
    polars.testing.assert_series_equal(carried(frame["l"]), frame["l"])

    table = pa.table(
        {
            "a": pa.array([1, None], pa.int16()),
            "d": pa.array(["x", "y"]).dictionary_encode(),
            "m": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int32())),
            "z": pa.array([0, 1], pa.timestamp("us", "UTC")),
        }
    ).replace_schema_metadata({"k": "v"})
    found = carried(table)
    assert found.equals(table, check_metadata=True)
    assert carried(pa.table({"a": range(3_000_000)})).num_rows == 3_000_000
    assert carried(pa.array([1, None])).equals(pa.array([1, None]))
    assert carried(pa.chunked_array([[1], [2]])).equals(pa.chunked_array([[1, 2]]))
    batch = table.to_batches()[0]
    assert carried(batch).equals(batch)


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"]
)
def test_pictures_keep_mode_and_pixels(mode: str) -> None:
    source = Image.fromarray(np.arange(13 * 7 * 3, dtype="u1").reshape(13, 7, 3))
    value = source.convert("I").convert(mode) if mode == "I;16" else source.convert(mode)
    value.info["dpi"] = (72, 72)
    found = carried(value)
    assert (found.mode, found.size, found.tobytes()) == (value.mode, value.size, value.tobytes())
    assert found.info["dpi"] == (72, 72)
    assert found.convert("RGB").tobytes() == value.convert("RGB").tobytes()


class Own:
    """A class of the notebook."""


class Named(tuple[int, ...]):
    """A tuple with a name."""


def test_what_cannot_be_carried_is_named_with_its_place() -> None:
    loop: list[Any] = []
    loop.append(loop)
    deep: list[Any] = []
    for _ in range(60):
        deep = [deep]
    for value, words in (
        (Own(), r"'x' is a .*\.Own, which cannot be carried safely"),
        ({"a": [1, Own()]}, r"'x'\['a'\]\[1\] is a .*\.Own"),
        ({Own(): 1}, r"a key of 'x' is a .*\.Own"),
        (Named((1,)), r"'x' is a .*\.Named"),
        (lambda: 0, "is a function"),
        (np, "is a module"),
        (np.array([Own()]), "dtype object, which can hold anything"),
        (np.array([(1, None)], dtype=[("a", "i4"), ("b", "O")]), "dtype object"),
        (np.ma.masked_array([1], [True]), "MaskedArray"),
        (pd.Series([1, Own()], dtype=object), r"'x', row 1, is a .*\.Own"),
        (pd.DataFrame({"a": [1], "b": [Own()]}), r"'x'\['b'\], row 0, is a .*\.Own"),
        (pd.arrays.SparseArray([1, 2]), "Sparse"),
        (pl.Series([Own()], dtype=pl.Object), "Object, which can hold anything"),
        (pl.LazyFrame({"a": [1]}), "LazyFrame"),
        (loop, "contains itself"),
        (deep, "nested deeper than 50"),
        (dt.datetime(2024, 1, 1, tzinfo=type("Z", (dt.tzinfo,), {})()), "the time zone of 'x'"),
    ):
        with pytest.raises(CannotCarry, match=words):
            pack({"x": value})


def test_a_variable_that_shrinks_while_it_is_read_is_no_half_variable() -> None:
    items = ["a" * 50] * 100
    package = pack({"x": items})
    items[:] = ["b"] * 100
    with pytest.raises(CannotCarry, match="changed while it was read"):
        package.bytes()
