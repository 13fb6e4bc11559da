"""numpy's arrays and scalars, and pictures, as variables (see :mod:`.packing`).

An array is its dtype, shape and order in the header, and its memory as a body. A dtype that comes in is built
from texts of a closed form; one that holds objects is refused on both sides.
"""

from __future__ import annotations

import re
import sys

from . import packing, unpacking
from .packing import CannotCarry, Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator

    from .packing import Packer
    from .unpacking import Unpacker

_DTYPE = re.compile(r"[<>|=]?(?:[biufc][0-9]{1,2}|[SUV][0-9]{1,9}|[mM]8(?:\[[0-9]{0,6}[A-Za-zμ]{1,7}\])?|\?)")
MAX_DIMENSIONS = 64
#: Most values of an array whose values have no bytes.
MAX_EMPTY = 1_000_000
#: Bytes of one piece of an array that has to be put in order first.
_CHUNK = 16 << 20


def write(packer: Packer, value: Any, where: str) -> Any:
    """The tree of an array, a scalar or a picture; None for anything else."""
    np = sys.modules.get("numpy")
    if np is not None and isinstance(value, np.ndarray):
        if type(value) not in (np.ndarray, np.memmap):
            raise packer.refuse(value, where, "is not carried; numpy.asarray makes an array of it")
        return array_node(packer, value, where)
    if np is not None and isinstance(value, np.generic):
        data = np.asarray(value)
        descr = dtype_node(packer, data.dtype, where)
        return {"t": "np.scalar", "d": descr, "b": packer.raw(data.tobytes())}
    if np is not None and isinstance(value, np.dtype):
        return {"t": "np.dtype", "d": dtype_node(packer, value, where)}
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(value, pil.Image):
        return _image_node(packer, value, where)
    return None


def dtype_node(packer: Packer, dtype: Any, where: str) -> Any:
    """A dtype as text, or as a list of fields."""
    import numpy as np

    if dtype.hasobject:
        raise CannotCarry(
            "%s has dtype object, which can hold anything; a list of its values is carried, value by value"
            % where
        )
    try:
        descr = np.lib.format.dtype_to_descr(dtype)
        exact = np.lib.format.descr_to_dtype(descr) == dtype
    except (TypeError, ValueError):
        exact = False
    if not exact or dtype.kind not in "biufcSUVmM":
        raise CannotCarry("%s has dtype %s, which is not carried" % (where, dtype))
    return descr


def dtype_of(descr: Any, depth: int = 0) -> Any:
    """The dtype of what :func:`dtype_node` made."""
    import numpy as np

    return np.lib.format.descr_to_dtype(_checked(descr, depth))


def _checked(descr: Any, depth: int = 0) -> Any:
    if isinstance(descr, str):
        if not _DTYPE.fullmatch(descr):
            raise Malformed("a dtype that is none")
        return descr
    if not isinstance(descr, list) or depth > 8 or len(descr) > 10_000:
        raise Malformed("a dtype that is none")
    fields: list[Any] = []
    for field in descr:
        name, inner, *shape = field
        if isinstance(name, list):
            title, name = name
            if not isinstance(title, str):
                raise Malformed("a field without a name")
            name = (title, name)
        if not isinstance(name if isinstance(name, str) else name[1], str) or len(shape) > 1:
            raise Malformed("a field without a name")
        fields.append((name, _checked(inner, depth + 1), *[shape_of(one) for one in shape]))
    return fields


def shape_of(shape: Any) -> tuple[int, ...]:
    """A shape that was checked."""
    good = isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS
    if not good or any(type(one) is not int or not 0 <= one < 2**50 for one in shape):
        raise Malformed("a shape that is none")
    return tuple(shape)


def array_node(packer: Packer, value: Any, where: str) -> dict[str, Any]:
    """The tree of an array."""
    import numpy as np

    descr = dtype_node(packer, value.dtype, where)
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    flat = value.T if order == "F" else value
    if not value.nbytes:
        number = packer.raw(b"")
    elif flat.flags.c_contiguous:
        number = packer.raw(np.asarray(flat).reshape(-1).view(np.uint8))
    else:
        number = packer.body(value.nbytes, lambda: _in_order(flat))
    return {"t": "np.array", "d": descr, "s": list(value.shape), "o": order, "b": number}


def _in_order(value: Any) -> Iterator[memoryview]:
    """The memory of a strided array in C order, a few MiB at a time."""
    import numpy as np

    if value.ndim == 0 or value.nbytes <= _CHUNK:
        # Asked for flat first: a view of another itemsize needs its last axis in one piece.
        yield memoryview(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
        return
    row = value.nbytes // len(value)
    step = max(1, _CHUNK // max(1, row))
    for start in range(0, len(value), step):
        if row > _CHUNK:
            yield from _in_order(value[start])
        else:
            yield memoryview(np.ascontiguousarray(value[start : start + step]).reshape(-1).view(np.uint8))


def array_of(unpacker: Unpacker, node: dict[str, Any]) -> Any:
    """The array of a tree."""
    import numpy as np

    dtype, shape, order = dtype_of(node["d"]), shape_of(node["s"]), node["o"]
    buffer = unpacker.body(node)
    count = 1
    for length in shape:
        count *= length
    if count * dtype.itemsize != memoryview(buffer).nbytes or order not in ("C", "F"):
        raise Malformed("an array of another size")
    if not count:
        return np.zeros(shape, dtype, order=order)
    if not dtype.itemsize:
        if count > MAX_EMPTY:
            raise Malformed("an array of too many empty values")
        return np.ndarray(shape, dtype, order=order)
    found = np.frombuffer(buffer, np.uint8).view(dtype).reshape(shape, order=order)
    if isinstance(buffer, bytearray):
        # A small one gets memory of its own, which can be resized.
        return found.copy(order=order)
    return found


def _scalar_of(unpacker: Unpacker, node: dict[str, Any]) -> Any:
    import numpy as np

    dtype, data = dtype_of(node["d"]), bytes(unpacker.body(node))
    if len(data) != dtype.itemsize:
        raise Malformed("a scalar of another size")
    return (np.frombuffer(data, dtype, 1) if data else np.zeros(1, dtype))[0]


# -- pictures ------------------------------------------------------------------------------------------------

#: Bits of a pixel, by mode. The pixels travel as they are: whoever reads runs no decoder on them.
_BITS = {
    "L": 8,
    "P": 8,
    "LA": 16,
    "La": 16,
    "PA": 16,
    "RGB": 24,
    "RGBA": 32,
    "RGBa": 32,
    "RGBX": 32,
    "CMYK": 32,
    "YCbCr": 24,
    "LAB": 24,
    "HSV": 24,
    "I": 32,
    "F": 32,
    "I;16": 16,
    "I;16L": 16,
    "I;16B": 16,
}


def _bytes_of_picture(mode: str, width: int, height: int) -> int:
    if mode == "1":
        return (width + 7) // 8 * height
    if mode not in _BITS:
        raise Malformed("a picture of no known mode")
    return width * height * _BITS[mode] // 8


def _image_node(packer: Packer, value: Any, where: str) -> dict[str, Any]:
    if value.mode not in _BITS and value.mode != "1":
        raise packer.refuse(value, where, "has mode %r, which is not carried" % value.mode)
    info = {}
    for key, one in value.info.items():
        if isinstance(key, str) and type(one) in (str, int, float, bool, bytes, tuple):
            info[key] = packer.node(one, "%s.info[%r]" % (where, key))
    palette = None
    if value.mode in ("P", "PA") and value.palette is not None:
        value.load()
        mode = value.palette.mode
        palette = [mode, packer.raw(bytes(value.im.getpalette(mode, mode)))]
    return {
        "t": "PIL",
        "m": value.mode,
        "s": list(value.size),
        "p": palette,
        "i": info,
        "b": packer.raw(value.tobytes()),
    }


def _image_of(unpacker: Unpacker, node: dict[str, Any]) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise unpacker.missing("Pillow") from None

    mode, size = node["m"], shape_of(node["s"])
    data = unpacker.body(node)
    if not isinstance(mode, str) or len(size) != 2:
        raise Malformed("a picture of no size")
    if memoryview(data).nbytes != _bytes_of_picture(mode, *size):
        raise Malformed("a picture of another size")
    image = Image.frombytes(mode, size, bytes(data)) if 0 not in size else Image.new(mode, size)
    if node["p"] is not None:
        kind, number = node["p"]
        if kind not in ("RGB", "RGBA"):
            raise Malformed("a palette of no known mode")
        image.putpalette(bytes(unpacker.body({"b": number})), kind)
    image.info.update({str(key): unpacker.value(one) for key, one in node["i"].items()})
    return image


packing.WRITERS.append(write)
unpacking.READERS.update(
    {
        "np.array": array_of,
        "np.scalar": _scalar_of,
        "np.dtype": lambda unpacker, node: dtype_of(node["d"]),
        "PIL": _image_of,
    }
)
