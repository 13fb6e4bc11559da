"""The guest as one file: a zip archive Python runs by itself (``python3 guest.pyz daemon``).

The archive holds the guest's sources and, beside them, the bytecode of the Python building it: where the
sandbox has the same Python the guest starts without compiling; any other Python finds a foreign magic number,
ignores the bytecode and compiles the source. Same sources and same Python give the same bytes, so the file's
name (version and hash) says whether a sandbox already has it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import marshal
import zipfile
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

from daytona_magics import __version__

GUEST_FOLDER = Path(__file__).with_name("guest")
MAIN = "import sys\nfrom guest.__main__ import main\n\nsys.exit(main(sys.argv[1:]))\n"


@dataclass(frozen=True)
class Bundle:
    """The guest's archive.

    Attributes:
        name: file name in the sandbox, e.g. ``guest-0.1.0-1f2e3d4c.pyz``.
        data: the archive's bytes.
    """

    name: str
    data: bytes


@functools.cache
def bundle() -> Bundle:
    """Build the guest's archive; once for each process, about 15 ms when Python has its bytecode cached.

    In:  bundle().name.startswith("guest-")
    Out: True
    """
    members: dict[str, bytes] = {}
    _add(members, "__main__.py", MAIN.encode(), compile(MAIN, "__main__.py", "exec", dont_inherit=True))
    for path in sorted(GUEST_FOLDER.glob("*.py")):
        loader = SourceFileLoader(f"{__package__}.guest.{path.stem}", str(path))
        _add(members, f"guest/{path.name}", path.read_bytes(), loader.get_code(loader.name))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, members[name])
    data = buffer.getvalue()
    return Bundle(f"guest-{__version__}-{hashlib.sha256(data).hexdigest()[:8]}.pyz", data)


def _add(members: dict[str, bytes], name: str, source: bytes, code: CodeType | None) -> None:
    members[name] = source
    if code is not None:
        members[f"{name}c"] = _bytecode(_named(code, name), source)


def _named(code: CodeType, name: str) -> CodeType:
    """The code with this file name throughout: nothing of this machine's paths goes into a sandbox."""
    constants = tuple(_named(c, name) if isinstance(c, CodeType) else c for c in code.co_consts)
    return code.replace(co_filename=name, co_consts=constants)


def _bytecode(code: CodeType, source: bytes) -> bytes:
    """A .pyc file (PEP 552) that is valid without looking at the source's time, which a zip keeps badly."""
    try:
        # Format 2 has no back references, which depend on what else the process has interned.
        body = marshal.dumps(code, 2)
    except ValueError:  # Python 3.14 on: a constant slice needs format 5
        body = marshal.dumps(code)
    unchecked_hash = (1).to_bytes(4, "little")
    return importlib.util.MAGIC_NUMBER + unchecked_hash + importlib.util.source_hash(source) + body
