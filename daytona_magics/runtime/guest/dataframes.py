"""pandas as variables (see :mod:`.packing`): every index and column taken apart into arrays and texts.

So nothing of pandas is pickled, no other package is needed, and what comes out is what went in: dtypes,
indexes of every kind, names, frequencies and time zones. Constructors that check are used to put it together.
"""

from __future__ import annotations

import re
import sys

from . import arrays, arrow, packing, unpacking
from .packing import NA, NAN, NAT, NONE, CannotCarry, Malformed
from .unpacking import Missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .packing import Packer
    from .unpacking import Unpacker

_ZONE = re.compile(r"(?!dateutil)[A-Za-z0-9_+-]{1,40}(?:/[A-Za-z0-9_+-]{1,40}){0,3}")
_MASKED = {
    "Int8": "IntegerArray",
    "Int16": "IntegerArray",
    "Int32": "IntegerArray",
    "Int64": "IntegerArray",
    "UInt8": "IntegerArray",
    "UInt16": "IntegerArray",
    "UInt32": "IntegerArray",
    "UInt64": "IntegerArray",
    "Float32": "FloatingArray",
    "Float64": "FloatingArray",
    "boolean": "BooleanArray",
}


def write(packer: Packer, value: Any, where: str) -> Any:
    """The tree of an object of pandas; None for anything else."""
    pd = sys.modules.get("pandas")
    if pd is None or not hasattr(pd, "DataFrame"):
        return None
    if type(value) is pd.DataFrame:
        return _frame_node(packer, pd, value, where)
    if type(value) is pd.Series:
        return {
            "t": "pd.Series",
            "a": _array_node(packer, pd, value.array, where),
            "i": _index_node(packer, pd, value.index, "the index of " + where),
            "n": packer.node(value.name, "the name of " + where),
            **_more(packer, value, where),
        }
    if isinstance(value, pd.Index):
        return {"t": "pd.Index", "i": _index_node(packer, pd, value, where)}
    if isinstance(value, pd.api.extensions.ExtensionArray):
        return {"t": "pd.array", "a": _array_node(packer, pd, value, where)}
    if value is pd.NA:
        return {"t": "pd.NA"}
    if value is pd.NaT:
        return {"t": "pd.NaT"}
    if type(value) is pd.Timestamp:
        scalar = arrays.write(packer, value.asm8, where)
        return {"t": "pd.Timestamp", "v": scalar, "z": _zone_node(packer, value.tz, where)}
    if type(value) is pd.Timedelta:
        return {"t": "pd.Timedelta", "v": arrays.write(packer, value.asm8, where)}
    if type(value) is pd.Period:
        return {"t": "pd.Period", "v": value.ordinal, "f": value.freqstr}
    if type(value) is pd.Interval:
        ends = [packer.node(value.left, where), packer.node(value.right, where)]
        return {"t": "pd.Interval", "v": ends, "c": value.closed}
    return None


def _more(packer: Packer, value: Any, where: str) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if value.attrs:
        more["attrs"] = packer.node(dict(value.attrs), "the attrs of " + where)
    if not value.flags.allows_duplicate_labels:
        more["unique"] = True
    return more


def _frame_node(packer: Packer, pd: Any, value: Any, where: str) -> dict[str, Any]:
    import numpy as np

    node: dict[str, Any] = {
        "t": "pd.DataFrame",
        "i": _index_node(packer, pd, value.index, "the index of " + where),
        "c": _index_node(packer, pd, value.columns, "the columns of " + where),
        **_more(packer, value, where),
    }
    plain = len(value.columns) > 0 and all(
        isinstance(dtype, np.dtype) and dtype.kind in "biufcmM" for dtype in value.dtypes
    )
    if plain and getattr(getattr(value, "_mgr", None), "is_single_block", False):
        # One piece of memory, which stays one: no copy here, and none there.
        node["v"] = arrays.array_node(packer, value.to_numpy(copy=False), where)
        return node
    node["a"] = [
        _array_node(packer, pd, value.iloc[:, number].array, "%s[%r]" % (where, label))
        for number, label in enumerate(value.columns)
    ]
    return node


# -- columns -------------------------------------------------------------------------------------------------


class _Texts:
    """The values of an extension array of texts, a slice at a time."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, part: slice) -> list[Any]:
        return list(self._values[part].to_numpy(dtype=object))


def _code(pd: Any, value: Any) -> int | None:
    """Which code stands for a value that is no text; None for a value that none stands for."""
    if value is None:
        return NONE
    if value is pd.NA:
        return NA
    if value is pd.NaT:
        return NAT
    return NAN if type(value) is float and value != value else None


def _array_node(packer: Packer, pd: Any, values: Any, where: str) -> dict[str, Any]:
    """The tree of a column's or an index's values."""
    import numpy as np

    if type(values.dtype).__name__ in ("NumpyEADtype", "PandasDtype"):
        values = np.asarray(values)
    dtype = values.dtype
    if isinstance(dtype, np.dtype):
        data = np.asarray(values)
        if dtype.kind != "O":
            return {"k": "np", "v": arrays.array_node(packer, data, where)}
        items = data.tolist()
        if all(type(item) is str or _code(pd, item) is not None for item in items):
            return {"k": "texts", "b": packer.texts(items, lambda item: _code(pd, item))}
        return {
            "k": "objects",
            "v": [packer.node(item, "%s, row %d," % (where, row)) for row, item in enumerate(items)],
        }
    if isinstance(dtype, pd.StringDtype):
        texts = packer.texts(_Texts(values), lambda item: NA)
        storage, missing = dtype.storage, getattr(dtype, "na_value", pd.NA)
        return {"k": "string", "b": texts, "s": storage, "m": "NA" if missing is pd.NA else "nan"}
    if isinstance(dtype, pd.CategoricalDtype):
        return {
            "k": "category",
            "v": arrays.array_node(packer, np.asarray(values.codes), where),
            "c": _index_node(packer, pd, values.categories, "the categories of " + where),
            "o": bool(values.ordered),
        }
    if isinstance(dtype, pd.DatetimeTZDtype):
        numbers = arrays.array_node(packer, np.asarray(values.asi8), where)
        return {"k": "tz", "v": numbers, "u": dtype.unit, "z": _zone_node(packer, dtype.tz, where)}
    if isinstance(dtype, pd.PeriodDtype):
        numbers = arrays.array_node(packer, np.asarray(values.asi8), where)
        return {"k": "period", "v": numbers, "f": values.freqstr}
    if isinstance(dtype, pd.IntervalDtype):
        ends = [_index_node(packer, pd, pd.Index(end), where) for end in (values.left, values.right)]
        return {"k": "interval", "v": ends, "c": dtype.closed}
    if dtype.name in _MASKED and type(values).__name__ == _MASKED[dtype.name]:
        parts = [arrays.array_node(packer, part, where) for part in (values._data, values._mask)]
        return {"k": "masked", "v": parts, "d": dtype.name}
    if type(dtype).__name__ == "ArrowDtype":
        import pyarrow as pa

        table = pa.table({"": values.__arrow_array__()})
        return {"k": "arrow", "v": arrow.table_node(packer, table, "pa.ChunkedArray", where)}
    raise CannotCarry("%s has dtype %s, which is not carried" % (where, dtype))


def _array_of(unpacker: Unpacker, node: dict[str, Any]) -> Any:
    """The values of a tree: an array of numpy or of pandas."""
    import numpy as np
    import pandas as pd

    kind = node["k"]
    if kind == "np":
        return arrays.array_of(unpacker, node["v"])
    if kind in ("texts", "objects"):
        texts = kind == "texts"
        items = unpacking.texts(unpacker, node) if texts else [unpacker.value(one) for one in node["v"]]
        found: Any = np.empty(len(items), dtype=object)
        missing = {NAN: np.nan, NA: pd.NA, NAT: pd.NaT}
        for row, item in enumerate(items):
            found[row] = missing[item.code] if texts and type(item) is Missing else item
        return found
    if kind == "string":
        items = unpacking.texts(unpacker, node)
        return pd.array(
            [None if type(one) is Missing else one for one in items], dtype=_string_dtype(pd, node)
        )
    if kind == "category":
        codes = arrays.array_of(unpacker, node["v"])
        return pd.Categorical.from_codes(codes, _index_of(unpacker, node["c"]), ordered=node["o"] is True)
    if kind == "tz":
        numbers = arrays.array_of(unpacker, node["v"])
        if numbers.dtype != np.int64 or node["u"] not in ("s", "ms", "us", "ns"):
            raise Malformed("times that are none")
        times = pd.DatetimeIndex(numbers.view("M8[%s]" % node["u"]))
        return times.tz_localize("UTC").tz_convert(_zone_of(unpacker, node["z"])).array
    if kind == "period":
        ordinals = arrays.array_of(unpacker, node["v"])
        return pd.arrays.PeriodArray(ordinals, dtype=pd.PeriodDtype(_frequency(node["f"])))
    if kind == "interval":
        left, right = (_index_of(unpacker, end) for end in node["v"])
        return pd.arrays.IntervalArray.from_arrays(left, right, closed=node["c"])
    if kind == "masked":
        data, mask = (arrays.array_of(unpacker, part) for part in node["v"])
        name = node["d"]
        if name not in _MASKED or data.dtype.name.lower().replace("bool", "boolean") != name.lower():
            raise Malformed("a nullable column of another dtype")
        return getattr(pd.arrays, _MASKED[name])(data, mask)
    if kind == "arrow":
        return pd.arrays.ArrowExtensionArray(unpacker.value(node["v"]))
    raise Malformed("a column of no known kind")


def _string_dtype(pd: Any, node: dict[str, Any]) -> Any:
    import numpy as np

    storage = node["s"]
    if storage not in ("python", "pyarrow"):
        raise Malformed("texts of no known storage")
    if storage == "pyarrow" and "pyarrow" not in sys.modules:
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            # The same texts, kept in another way.
            storage = "python"
    if node["m"] == "nan":
        return pd.StringDtype(storage, na_value=np.nan)
    return pd.StringDtype(storage)


def _zone_node(packer: Packer, zone: Any, where: str) -> Any:
    name = getattr(zone, "zone", None)
    if zone is not None and type(zone).__module__.partition(".")[0] == "pytz" and isinstance(name, str):
        return {"pytz": name}
    return packing.zone(packer, zone, where)


def _zone_of(unpacker: Unpacker, node: Any) -> Any:
    if isinstance(node, dict) and "pytz" in node:
        import pytz

        if not isinstance(node["pytz"], str) or not _ZONE.fullmatch(node["pytz"]):
            raise Malformed("a time zone that is none")
        return pytz.timezone(node["pytz"])
    return unpacker.value(node)


def _frequency(text: Any) -> str:
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9-]{1,40}", text):
        raise Malformed("a frequency that is none")
    return text


# -- indexes -------------------------------------------------------------------------------------------------


def _index_node(packer: Packer, pd: Any, index: Any, where: str) -> dict[str, Any]:
    name = type(index).__name__
    if getattr(pd, name, None) is not type(index):
        raise packer.refuse(index, where, "is not carried")
    names = [packer.node(one, "a name of " + where) for one in index.names]
    if isinstance(index, pd.RangeIndex):
        return {"x": "range", "v": [index.start, index.stop, index.step], "n": names}
    if isinstance(index, pd.MultiIndex):
        return {
            "x": "multi",
            "l": [_index_node(packer, pd, level, "a level of " + where) for level in index.levels],
            "v": [arrays.array_node(packer, _plain(codes), where) for codes in index.codes],
            "n": names,
        }
    node = {"x": "index", "a": _array_node(packer, pd, index.array, where), "n": names}
    freq = getattr(index, "freq", None)
    if name in ("DatetimeIndex", "TimedeltaIndex") and freq is not None:
        node.update(x=name, f=freq.freqstr)
    return node


def _plain(codes: Any) -> Any:
    import numpy as np

    return np.asarray(codes)


def _index_of(unpacker: Unpacker, node: dict[str, Any]) -> Any:
    import pandas as pd

    kind, names = node["x"], [unpacker.value(name) for name in node["n"]]
    if kind == "multi":
        levels = [_index_of(unpacker, level) for level in node["l"]]
        codes = [arrays.array_of(unpacker, part) for part in node["v"]]
        return pd.MultiIndex(levels=levels, codes=codes, names=names, verify_integrity=True)
    if kind == "range":
        numbers = unpacking.whole_numbers(node)
        return pd.RangeIndex(*numbers, name=names[0])
    values = _array_of(unpacker, node["a"])
    if kind in ("DatetimeIndex", "TimedeltaIndex"):
        return getattr(pd, kind)(values, freq=_frequency(node["f"]), name=names[0])
    return pd.Index(values, dtype=values.dtype, name=names[0], copy=False)


# -- whole objects -------------------------------------------------------------------------------------------


def _with_more(unpacker: Unpacker, found: Any, node: dict[str, Any]) -> Any:
    if "attrs" in node:
        found.attrs = unpacker.value(node["attrs"])
    return found.set_flags(allows_duplicate_labels=False) if node.get("unique") is True else found


def _frame_of(unpacker: Unpacker, node: dict[str, Any]) -> Any:
    import pandas as pd

    index, columns = _index_of(unpacker, node["i"]), _index_of(unpacker, node["c"])
    if "v" in node:
        values = arrays.array_of(unpacker, node["v"])
        return _with_more(unpacker, pd.DataFrame(values, index=index, columns=columns, copy=False), node)
    found = [_array_of(unpacker, one) for one in node["a"]]
    if len(found) != len(columns):
        raise Malformed("a frame with other columns")
    data = {
        number: pd.Series(values, index=index, dtype=values.dtype, copy=False)
        for number, values in enumerate(found)
    }
    frame = pd.DataFrame(data, index=index, copy=False)
    frame.columns = columns
    return _with_more(unpacker, frame, node)


def _series_of(unpacker: Unpacker, node: dict[str, Any]) -> Any:
    import pandas as pd

    values, index = _array_of(unpacker, node["a"]), _index_of(unpacker, node["i"])
    found = pd.Series(values, index=index, dtype=values.dtype, name=unpacker.value(node["n"]), copy=False)
    return _with_more(unpacker, found, node)


def _scalar_of(unpacker: Unpacker, node: dict[str, Any]) -> Any:
    import pandas as pd

    kind = node["t"]
    if kind in ("pd.NA", "pd.NaT"):
        return pd.NA if kind == "pd.NA" else pd.NaT
    if kind == "pd.Timestamp":
        stamp, zone = pd.Timestamp(unpacker.value(node["v"])), _zone_of(unpacker, node["z"])
        return stamp if zone is None else stamp.tz_localize("UTC").tz_convert(zone)
    if kind == "pd.Timedelta":
        return pd.Timedelta(unpacker.value(node["v"]))
    if kind == "pd.Period":
        ordinal = node["v"]
        if type(ordinal) is not int:
            raise Malformed("a period that is none")
        return pd.Period(ordinal=ordinal, freq=_frequency(node["f"]))
    left, right = (unpacker.value(end) for end in node["v"])
    return pd.Interval(left, right, closed=node["c"])


packing.WRITERS.append(write)
unpacking.READERS.update(
    {
        "pd.DataFrame": _frame_of,
        "pd.Series": _series_of,
        "pd.Index": lambda unpacker, node: _index_of(unpacker, node["i"]),
        "pd.array": lambda unpacker, node: _array_of(unpacker, node["a"]),
        **dict.fromkeys(
            ("pd.NA", "pd.NaT", "pd.Timestamp", "pd.Timedelta", "pd.Period", "pd.Interval"), _scalar_of
        ),
    }
)
