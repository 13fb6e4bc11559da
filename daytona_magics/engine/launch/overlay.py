"""A system the sandbox can write to: /usr, /etc, /var and /opt as overlays.

    what is seen        /usr                                /etc, /var, /opt             /var/lib/dpkg
    written here        <state>/sandboxes/ID/system/usr     …/system/rest                …/system/dpkg
    then, read-only     top: whiteouts over masks           top: host name, hosts …
                        layer: empty folders                layer: what tools need       layer: folders …
                        the host's /usr                                                  the host's folder

`skeleton` makes the layer. Mounting an overlay costs a millisecond, so /etc, /var and /opt are parts of one.

Two things make this more than a mount. A sandbox has one user, and the host's folders belong to root: nobody
could make a file in them. So the layer has all folders of /usr again, empty and the sandbox's own; a root
engine, whose sandboxes have a uid each, maps the owner of the one layer to that uid (an idmapped mount). The
host's own files are *not* mapped: mapping root to the sandbox would let it read what only root may read.

And what is masked must not come back. Mounts on top are not part of a lower layer, and paths inside lead
where the sandbox's links point. So masks are found in the untouched tree, as before, and each becomes a
whiteout in the topmost lower layer, where no change of the sandbox can reach it.

Overlays use ``userxattr``, with which the kernel follows no redirection that an upper may hold. Everything
that is opened below a merged folder is opened step by step, following no link.
"""

import errno
import os
import stat
import struct
from collections.abc import Callable, Sequence

from .calls import (
    AT_FDCWD,
    MNT_DETACH,
    MS_NODEV,
    MS_NOSUID,
    MS_PRIVATE,
    attach,
    check,
    libc,
    mount,
)

#: The overlays, each a folder below ``system`` and in a layer; in the second are three folders of the root.
PARTS = ("usr", "rest", "dpkg")
REST = ("etc", "var", "opt")
DPKG = "/var/lib/dpkg"

_CLONE_NEWUSER = 0x10000000
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442
_OPEN_TREE_CLONE, _AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH, _AT_RECURSIVE = 1, 0x100, 0x1000, 0x8000
_MOVE_EMPTY_PATHS = 0x4 | 0x40
_ATTRIBUTES_IDMAP, _ATTRIBUTES_LAYER = 0x100000, 1 | 2 | 4
_PLAIN = MS_NOSUID | MS_NODEV
_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class System:
    """Detached mounts of one sandbox's written files and of the layers below them.

    `uppers` is the folder made by ``folders.make_system``, `layers` one made by ``skeleton``; `uid` is the
    host uid the sandbox will have, None if it is the engine's own.
    """

    def __init__(self, uppers: str, layers: str, uid: int | None) -> None:
        self._places = {"uppers": uppers, "layers": layers}
        self._uid = uid
        self._owner: _Owner | None = None
        self._taken: dict[str, int] = {}

    def prepare(self) -> None:
        """Begin what takes a while, before `take`. Raises OSError."""
        if self._uid is not None and self._owner is None:
            self._owner = _Owner(self._uid)

    def take(self) -> None:
        """Make the mounts, while the paths can be walked and, for a root engine, still as root.

        Raises OSError.
        """
        self.prepare()
        self._taken["uppers"] = _clone(self._places["uppers"])
        if os.path.isdir(DPKG):
            self._taken["dpkg"] = _clone(DPKG, read_only=True)
        owner, self._owner = self._owner, None
        namespace = None if owner is None else owner.namespace()
        try:
            self._taken["layers"] = _clone(self._places["layers"], read_only=True, owner=namespace)
        finally:
            if namespace is not None:
                os.close(namespace)

    def forget(self) -> None:
        """Close what was taken, to take it again later."""
        for fd in self._taken.values():
            os.close(fd)
        self._taken = {}

    def cover(
        self, root: str, inner: Sequence[str], masks: Sequence[str], write_etc: Callable[[str], None]
    ) -> None:
        """Put the overlays over the finished read-only tree at `root`.

        `inner` are mounts inside it that stay (paths as seen in the sandbox), `masks` the places below `root`
        that are covered, `write_etc` fills the folder it is given with the sandbox's own files of /etc.
        Raises OSError.
        """
        hidden = root + "/.system"
        os.mkdir(hidden, 0o700)
        mount("tmpfs", hidden, "tmpfs", _PLAIN, "size=8m,nr_inodes=16k,mode=0755")
        parts = sorted(self._taken)
        for name in parts:
            os.mkdir(f"{hidden}/{name}")
            attach(self._taken.pop(name), f"{hidden}/{name}")
        os.mkdir(hidden + "/top")
        # Nothing of the host's /etc, /var and /opt is in a lower layer, so there is nothing to hide.
        for place in masks:
            if place.startswith(root + "/usr/"):
                _hide(root, hidden + "/top", place[len(root) :])
        for folder in ("usr", "dpkg", "rest/etc"):
            os.makedirs(f"{hidden}/top/{folder}", exist_ok=True)
        write_etc(hidden + "/top/rest/etc")
        kept = [(path, _copy_of(root + path)) for path in inner if path.split("/")[1] in REST]
        _mount_overlay(hidden, "usr", [root + "/usr"], root + "/usr")
        merged = hidden + "/merged"
        os.mkdir(merged)
        _mount_overlay(hidden, "rest", [], merged)
        for name in REST:
            # Its mount point is in the untouched root, what is mounted below the sandbox's own folder.
            _attach_below(root, "/" + name, _copy_below(merged, name))
        for path, fd in kept:
            _attach_below(root, path, fd)
        if "dpkg" in parts:
            _mount_overlay(hidden, "dpkg", [hidden + "/dpkg"], merged)
            _attach_below(root, DPKG, _copy_of(merged))
        check(libc.umount2(os.fsencode(hidden), MNT_DETACH), "unmounting the layers")
        os.rmdir(hidden)


def _mount_overlay(hidden: str, name: str, below: Sequence[str], place: str) -> None:
    lowers = ":".join([f"{hidden}/top/{name}", f"{hidden}/layers/{name}", *below])
    upper = f"{hidden}/uppers/{name}"
    options = f"lowerdir={lowers},upperdir={upper}/upper,workdir={upper}/work,userxattr"
    mount("overlay", place, "overlay", _PLAIN, options)


def _hide(root: str, top: str, path: str) -> None:
    """Put a whiteout for `path` into the top layer, in folders with the modes they have in the tree."""
    steps = path.strip("/").split("/")
    for depth in range(1, len(steps)):
        folder = "/".join(steps[:depth])
        if not os.path.isdir(f"{top}/{folder}"):
            os.mkdir(f"{top}/{folder}")
            os.chmod(f"{top}/{folder}", stat.S_IMODE(os.lstat(f"{root}/{folder}").st_mode))
    os.mknod(top + path, stat.S_IFCHR, 0)


def _attach_below(root: str, path: str, fd: int) -> None:
    """Attach the detached mount `fd` at `path` in the merged tree at `root`, and close it.

    What the sandbox has put in the way (a link, say) is removed: it is the sandbox's own overlay. Nothing is
    followed.
    """
    folder = stat.S_ISDIR(os.fstat(fd).st_mode)
    steps = path.strip("/").split("/")
    place = os.open(root, _STEP)
    try:
        for number, name in enumerate(steps):
            last = number == len(steps) - 1
            following = _step(place, name, folder=folder or not last)
            os.close(place)
            place = following
        result = libc.syscall(_SYS_MOVE_MOUNT, fd, b"", place, b"", _MOVE_EMPTY_PATHS)
        check(result, f"attaching {path}")
    finally:
        os.close(place)
        os.close(fd)


def _step(parent: int, name: str, *, folder: bool) -> int:
    """Open entry `name` of folder `parent` (O_PATH), made anew if it is not a folder, or not a file."""
    flags = _STEP if folder else os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=parent)
        if folder or stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return _make(parent, name, flags)
    except NotADirectoryError:
        os.unlink(name, dir_fd=parent)
    except IsADirectoryError:
        raise OSError(errno.EISDIR, f"a folder is where a file of the host belongs: {name}") from None
    return _make(parent, name, flags)


def _make(parent: int, name: str, flags: int) -> int:
    if flags & os.O_DIRECTORY:
        os.mkdir(name, 0o755, dir_fd=parent)
    else:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=parent))
    return os.open(name, flags, dir_fd=parent)


def _copy_below(merged: str, name: str) -> int:
    """A detached mount of folder `name` in the overlay at `merged`, which is made if it is gone."""
    parent = os.open(merged, _STEP)
    try:
        folder = _step(parent, name, folder=True)
    finally:
        os.close(parent)
    try:
        flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH
        return check(libc.syscall(_SYS_OPEN_TREE, folder, b"", flags), f"opening /{name}")
    finally:
        os.close(folder)


def _copy_of(path: str) -> int:
    """A detached copy of the mount at `path` with everything mounted in it, as it is."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE
    return check(libc.syscall(_SYS_OPEN_TREE, AT_FDCWD, os.fsencode(path), flags), f"opening {path}")


def _clone(path: str, *, read_only: bool = False, owner: int | None = None) -> int:
    """`calls.clone_tree` that follows no last link and can map owners by the user namespace `owner`."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_SYMLINK_NOFOLLOW
    fd = check(libc.syscall(_SYS_OPEN_TREE, AT_FDCWD, os.fsencode(path), flags), f"opening {path}")
    attributes = (_ATTRIBUTES_LAYER if read_only else _ATTRIBUTES_LAYER & ~1) | (
        0 if owner is None else _ATTRIBUTES_IDMAP
    )
    request = struct.pack("QQQQ", attributes, 0, MS_PRIVATE, 0 if owner is None else owner)
    try:
        result = libc.syscall(_SYS_MOUNT_SETATTR, fd, b"", _AT_EMPTY_PATH, request, len(request))
        check(result, f"preparing {path}" if owner is None else f"mapping the owner of {path}")
    except OSError:
        os.close(fd)
        raise
    return fd


class _Owner:
    """A user namespace in which uid and gid 0 are `uid` outside, made by a process of its own. Needs root."""

    def __init__(self, uid: int) -> None:
        self._uid = uid
        made, made_write = os.pipe()
        end_read, end = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(end)
            os.write(made_write, b"1" if libc.unshare(_CLONE_NEWUSER) == 0 else b"0")
            os.read(end_read, 1)
            os._exit(0)
        os.close(made_write)
        os.close(end_read)
        self._pipes = (made, end)

    def namespace(self) -> int:
        """The namespace as a descriptor; the process ends. Raises OSError. To be called once."""
        try:
            if os.read(self._pipes[0], 1) != b"1":
                raise OSError(errno.EPERM, "making a user namespace for the owner of the layers")
            for name in ("uid_map", "gid_map"):
                fd = os.open(f"/proc/{self._pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(fd, f"0 {self._uid} 1".encode())
                finally:
                    os.close(fd)
            return os.open(f"/proc/{self._pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            for fd in self._pipes:
                os.close(fd)
            os.waitpid(self._pid, 0)


def mounts_below(path: str) -> list[str]:
    """Mounts in the tree at `path`, `path` itself not counted: an overlay would show what they cover."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split(" ")[4] for line in file]
    return [point for point in points if point.startswith(path + "/")]
