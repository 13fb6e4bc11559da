"""The guest as one file, made to start fast: bytecode in front, a zip archive of the sources behind.

    length of the loader ⏎ · loader (Python source) · bytecode for attach · the other bytecode · zip archive

``python3 -c RUN FILE daemon`` reads the loader from the file and runs it. Where the sandbox has the same
Python as the one that built the file, modules come from the bytecode, which takes a third of the time that
importing from a zip archive takes; any other Python finds a foreign magic number and compiles the sources in
the archive. (``python3 FILE daemon`` works as well: an archive is found by its end.) Same sources and same
Python give the same bytes, so the file's name (version and hash) says whether a sandbox already has it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import marshal
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

from daytona_magics import __version__

GUEST_FOLDER = Path(__file__).with_name("guest")
MAIN = "import sys\nfrom guest.__main__ import main\n\nsys.exit(main(sys.argv[1:]))\n"

_BEGIN = "import sys; sys.path[:] = [p for p in sys.path if p]; "
_LOAD = 'o = open(sys.argv[1], "rb"); exec(o.read(int(o.readline()))); from guest.__main__ import main; '
#: What a Python runs (``-c``) to be the guest: the words after the file are the guest's. The current folder,
#: whose files could hide standard modules, is kept off the path.
RUN = f"{_BEGIN}{_LOAD}sys.exit(main(sys.argv[2:]))"


def run_soon(ahead: str) -> str:
    """Like ``RUN`` for a file that is on its way, whose size comes before the guest's words.

    Args:
        ahead: modules of the standard library to import meanwhile, separated by commas.
    """
    return (
        f"{_BEGIN}import os, time, {ahead}; f = sys.argv[1]; "
        "any(os.path.exists(f) and os.path.getsize(f) == int(sys.argv[2]) or time.sleep(0.002)"
        f" for _ in range(5000)); {_LOAD}sys.exit(main(sys.argv[3:]))"
    )


#: Modules that ``attach`` needs.
_NEAR = ("guest", "guest.__main__", "guest.attach", "guest.doors", "guest.paths")
_LOADER = """\
import _frozen_importlib_external, sys
if _frozen_importlib_external.MAGIC_NUMBER == {magic!r}:
    import _frozen_importlib, marshal, zlib
    class Guest:
        path_of_guest = o.name
        def __init__(self, near, rest):
            self.codes, self.rest = marshal.loads(zlib.decompress(near)), rest
        def find_spec(self, name, path=None, target=None):
            if name != "guest" and name[:6] != "guest.":
                return None
            if name not in self.codes and self.rest:
                self.codes.update(marshal.loads(zlib.decompress(self.rest)))
                self.rest = b""
            if name not in self.codes:
                return None
            return _frozen_importlib.ModuleSpec(name, self, is_package=name == "guest")
        def create_module(self, spec):
            return None
        def exec_module(self, module):
            exec(marshal.loads(self.codes[module.__name__]), module.__dict__)
        def get_source(self, name):
            import zipimport
            folder = self.path_of_guest + "/guest" * ("." in name)
            return zipimport.zipimporter(folder).get_source(name)
    sys.meta_path.insert(0, Guest(o.read({near}), o.read({rest})))
else:
    sys.path.insert(0, o.name)
"""


@dataclass(frozen=True)
class Bundle:
    """The guest's file.

    Attributes:
        name: file name in the sandbox, e.g. ``guest-0.1.0-1f2e3d4c.pyz``.
        data: its bytes.
    """

    name: str
    data: bytes


@functools.cache
def bundle() -> Bundle:
    """Build the guest's file; once for each process, about 15 ms when Python has its bytecode cached.

    In:  bundle().name.startswith("guest-")
    Out: True
    """
    sources: dict[str, bytes] = {"__main__.py": MAIN.encode()}
    codes: dict[str, bytes] = {}
    for path in sorted(GUEST_FOLDER.glob("*.py")):
        member = f"guest/{path.name}"
        module = "guest" if path.stem == "__init__" else f"guest.{path.stem}"
        loader = SourceFileLoader(f"{__package__}.{module}", str(path))
        sources[member] = path.read_bytes()
        code = loader.get_code(loader.name)
        assert code is not None
        codes[module] = _dumped(_named(code, member))
    near, rest = _packed(codes, _NEAR), _packed(codes, [name for name in sorted(codes) if name not in _NEAR])
    text = _LOADER.format(magic=importlib.util.MAGIC_NUMBER, near=len(near), rest=len(rest)).encode()
    data = b"%d\n%s%s%s%s" % (len(text), text, near, rest, _archive(sources))
    return Bundle(f"guest-{__version__}-{hashlib.sha256(data).hexdigest()[:8]}.pyz", data)


def _packed(codes: Mapping[str, bytes], names: Iterable[str]) -> bytes:
    return zlib.compress(marshal.dumps({name: codes[name] for name in names}, 2), 1)


def _archive(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, members[name])
    return buffer.getvalue()


def _named(code: CodeType, name: str) -> CodeType:
    """The code with this file name throughout: nothing of this machine's paths goes into a sandbox."""
    constants = tuple(_named(c, name) if isinstance(c, CodeType) else c for c in code.co_consts)
    return code.replace(co_filename=name, co_consts=constants)


def _dumped(code: CodeType) -> bytes:
    try:
        # Format 2 has no back references, which depend on what else the process has interned.
        return marshal.dumps(code, 2)
    except ValueError:  # Python 3.14 on: a constant slice needs format 5
        return marshal.dumps(code)
