"""multiprocessing where a sandbox has neither /dev/shm nor unix sockets, as below isolation level L3.

The C library keeps named semaphores and shared memory in /dev/shm and nowhere else; without it there is no
``Pool``, no ``Lock`` and no ``SharedMemory``. So both are kept in files of a folder of ours: a semaphore is
one of the C library's, made in a page of such a file, and the interpreter's own ``SemLock`` works on it.
Where unix sockets are refused, ``Manager`` listens on 127.0.0.1 if the sandbox has that to itself; else it
and ``forkserver`` say why they cannot work.

Whatever is imported decides: nothing is touched until a program imports multiprocessing, and each original is
tried first. `install` does this in one interpreter; `spread` leaves a copy of this very file where every
Python of the sandbox imports it when it starts, for programs and for children that are not forked. It
imports nothing of ours.
"""

from __future__ import annotations

import errno
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

#: Where a copy looks; set by `spread`.
FOLDER = ""
COPY = "_sandbox_multi"

_REFUSED = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOSYS, errno.EROFS)
NO_SOCKETS = (
    "%s needs unix sockets, which this sandbox does not have (isolation below L3); "
    "Pool, Process, Queue, Lock, SharedMemory and concurrent.futures work"
)


def needed() -> bool:
    """Whether there is no /dev/shm for us."""
    try:
        os.close(os.open("/dev/shm", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600))
    except OSError as error:
        return error.errno in _REFUSED
    return False


def install(folder: str) -> None:
    """Have the modules of multiprocessing changed when this interpreter imports them; again does nothing."""
    if any(getattr(finder, "is_for", "") == COPY for finder in sys.meta_path):
        return
    os.makedirs(folder, mode=0o700, exist_ok=True)
    sys.meta_path.insert(
        0,
        _Finder(
            {
                "_multiprocessing": lambda module: _semaphores(module, folder),
                "_posixshmem": lambda module: _memory(module, folder),
                "multiprocessing.connection": _connection,
                "multiprocessing.context": _context,
                "multiprocessing.forkserver": lambda module: _explain(
                    module.ForkServer, "ensure_running", "forkserver"
                ),
                "multiprocessing.heap": _heap,
                "multiprocessing.managers": lambda module: _explain(
                    module.BaseManager, "start", "multiprocessing.Manager"
                ),
            }
        ),
    )


def spread(home: str, folder: str) -> None:
    """Have every Python like this one do the same when it starts: by a copy in its packages, if in ``home``.

    Raises OSError.
    """
    import site

    packages = site.getsitepackages() if sys.prefix != sys.base_prefix else [site.getusersitepackages()]
    inside = [path for path in packages if os.path.realpath(path).startswith(os.path.realpath(home) + "/")]
    source = __loader__.get_source(__name__)  # type: ignore[name-defined]
    if not inside or source is None:
        return
    os.makedirs(inside[0], exist_ok=True)
    _replace(os.path.join(inside[0], COPY + ".py"), source.replace('FOLDER = ""', "FOLDER = %r" % folder, 1))
    _replace(os.path.join(inside[0], COPY + ".pth"), "import %s\n" % COPY)


def _replace(path: str, text: str) -> None:
    """Write a file unless it holds that already."""
    data = text.encode("utf-8", "surrogateescape")
    if os.path.exists(path):
        with open(path, "rb") as file:
            if file.read() == data:
                return
    new = "%s.%d" % (path, os.getpid())  # The .pth file must not be read half written.
    with open(new, "wb") as file:
        file.write(data)
    os.replace(new, path)


class _Finder:
    """Calls a function with a module right after its first import."""

    is_for = COPY

    def __init__(self, actions: dict[str, Callable[[Any], Any]]) -> None:
        self._actions = actions

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The usual spec with a loader that runs the action too; None for every other name."""
        action = self._actions.get(name)
        if action is None:
            return None
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target) if finder is not self else None
            if spec is not None:
                spec.loader = _Loader(spec.loader, action)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """A loader that stands for another one."""

    def __init__(self, loader: Any, action: Callable[[Any], Any]) -> None:
        self._loader = loader
        self._action = action

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        """As the other does it."""
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        """As the other does it; then the action."""
        self._loader.exec_module(module)
        self._action(module)


def _gnu() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (OSError, ValueError):
        return False


def _semaphores(module: Any, folder: str) -> None:
    if not _gnu():
        return  # another C library may not bear that its semaphores are closed as if they had a name
    native, native_unlink = module.SemLock, module.sem_unlink

    class SemLock:
        """The interpreter's SemLock; on a semaphore in a file where /dev/shm is refused.

        Not a subclass: before Python 3.10 the interpreter makes objects of those too small.
        """

        SEM_VALUE_MAX = native.SEM_VALUE_MAX
        _native: Any
        _page: Any
        name: str | None

        def __new__(cls, kind: int, value: int, maxvalue: int, name: str, unlink: bool) -> Any:
            try:
                return native(kind, value, maxvalue, name, unlink)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
            path = _path(folder, name)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            # One that is unlinked at once has no name.
            made = cls._on(fd, kind, maxvalue, None if unlink else name, value)
            if unlink:
                os.unlink(path)
            return made

        @classmethod
        def _rebuild(cls, handle: int, kind: int, maxvalue: int, name: str | None) -> Any:
            try:
                fd = os.open(_path(folder, name or ""), os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                return native._rebuild(handle, kind, maxvalue, name)
            return cls._on(fd, kind, maxvalue, name, None)

        @classmethod
        def _on(cls, fd: int, kind: int, maxvalue: int, name: str | None, value: int | None) -> Any:
            made = object.__new__(cls)
            made._page, address = _semaphore(fd, value)
            # Without a name it takes the address as it is.
            made._native = native._rebuild(address, kind, maxvalue, None)
            made.name = name
            return made

        # Who keeps one of these keeps the page too.
        def acquire(self, *arguments: Any, **named: Any) -> Any:
            """As the interpreter's."""
            return self._native.acquire(*arguments, **named)

        def release(self) -> None:
            """As the interpreter's."""
            self._native.release()

        def __getattr__(self, name: str) -> Any:
            if name == "_native":
                raise AttributeError(name)
            return getattr(self._native, name)

    def sem_unlink(name: str) -> None:
        try:
            os.unlink(_path(folder, name))
        except FileNotFoundError:
            native_unlink(name)

    module.SemLock, module.sem_unlink = SemLock, sem_unlink


def _semaphore(fd: int, value: int | None) -> tuple[Any, int]:
    """The semaphore in the file ``fd`` (closed here), made there first if ``value`` is given.

    Returns its page and its address in there.
    """
    import ctypes
    import mmap

    try:
        if value is not None:
            os.ftruncate(fd, mmap.PAGESIZE)
        page = mmap.mmap(fd, mmap.PAGESIZE)
    finally:
        os.close(fd)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    between_processes = 1
    if value is not None and ctypes.CDLL(None).sem_init(ctypes.c_void_p(address), between_processes, value):
        raise OSError(errno.ENOSYS, "this C library has no semaphores between processes")
    return page, address


def _memory(module: Any, folder: str) -> None:
    native, native_unlink = module.shm_open, module.shm_unlink

    def shm_open(path: str, flags: int, mode: int = 0o777) -> int:
        try:
            return int(native(path, flags, mode=mode))
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
        return os.open(_path(folder, path), flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode)

    def shm_unlink(path: str) -> None:
        try:
            os.unlink(_path(folder, path))
        except FileNotFoundError:
            native_unlink(path)

    module.shm_open, module.shm_unlink = shm_open, shm_unlink


def _path(folder: str, name: str) -> str:
    """The file of a name such as ``/mp-abc``; raises FileNotFoundError for what is no name."""
    plain = name[1:] if name[:1] == "/" else name
    if not plain or "/" in plain or plain in (".", ".."):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    return os.path.join(folder, plain)


def _listens(family: str) -> bool:
    """Whether this sandbox can listen: on a unix socket, or on 127.0.0.1 at any port."""
    import socket

    try:
        with socket.socket(getattr(socket, family)) as one:
            if family == "AF_INET":
                one.bind(("127.0.0.1", 0))
    except (OSError, AttributeError):
        return False
    return True


def _connection(module: Any) -> None:
    if _listens("AF_UNIX"):
        return
    if _listens("AF_INET"):
        module.default_family = "AF_INET"
    arbitrary = module.arbitrary_address

    def arbitrary_address(family: str) -> Any:
        return ("127.0.0.1", 0) if family == "AF_INET" else arbitrary(family)

    module.arbitrary_address = arbitrary_address
    _explain(module.SocketListener, "__init__", "multiprocessing's Listener")


def _context(module: Any) -> None:
    """Where forkserver is what one gets without asking (Python 3.14), one gets what is most like it."""
    default = module._default_context
    chosen = getattr(default, "_default_context", None)
    if chosen is module._concrete_contexts.get("forkserver") and not _listens("AF_UNIX"):
        default._default_context = module._concrete_contexts["spawn"]


def _heap(module: Any) -> None:
    """Memory for ``Value`` and ``Array`` comes from files as well, then from those for temporary ones."""
    module.Arena._dir_candidates = []


def _explain(owner: Any, method: str, what: str) -> None:
    """Have a method say what is missing, when it is refused for want of sockets."""
    original = getattr(owner, method)

    def explained(self: Any, *arguments: Any, **named: Any) -> Any:
        if what == "multiprocessing.Manager" and not (_listens("AF_UNIX") or _listens("AF_INET")):
            raise PermissionError(NO_SOCKETS % what)
        try:
            return original(self, *arguments, **named)
        except PermissionError as error:
            if _listens("AF_UNIX"):
                raise
            raise PermissionError(NO_SOCKETS % what) from error

    setattr(owner, method, explained)


if __name__ == COPY and FOLDER and needed():
    install(FOLDER)
