"""Builds the layer that makes an overlay of the host's system writable; a program of its own.

``python -I -S skeleton.py``, a JSON object on standard input: ``target`` (folder to make), ``first`` (make
the quick layer too), ``etc`` (pairs of host path and name in /etc), ``python`` (interpreter for scripts),
``look`` (say "unlikely" and end where this user can have no mounts of his own).
A layer is made beside its place and renamed when it is complete, so one that exists is whole; a line on
standard output says so. One layer serves all sandboxes:

    usr        the folders of /usr again, empty      rest/etc   copies of what programs and package tools read
    dpkg       dpkg's database without ``info``      rest/var   the folders package tools expect
    rest/opt   nothing

A system may have tens of thousands of folders, which takes a second or more, once. The quick layer
(``TARGET-first``) has those that packages share, in a tenth of it, so that the very first sandbox need not
wait; in a folder that is not in the layer, nothing can be made.

Only what everybody on this machine may read is copied, because inside all of it belongs to the sandbox. apt's
sources lose user names and passwords in their addresses; its ``auth.conf`` and configuration, which may hold
a proxy's password, stay out.
"""

import json
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator

#: Of /etc what apt, dpkg and the scripts of packages read, beside what every sandbox sees of it.
ETC_FOR_PACKAGES = (
    "adduser.conf",
    "debconf.conf",
    "deluser.conf",
    "dpkg",
    "login.defs",
    "manpath.config",
    "perl",
    "python3",
    "skel",
    "ucf.conf",
    "xattr.conf",
)
_APT = ("keyrings", "preferences", "preferences.d", "trusted.gpg", "trusted.gpg.d")
_ETC_FOLDERS = (
    *(f"apt/{name}.d" for name in ("apt.conf", "preferences", "sources.list", "trusted.gpg")),
    *(f"rc{level}.d" for level in "0123456S"),
    *(f"{name}.d" for name in ("bash_completion", "cron", "init", "ld.so.conf", "logrotate", "profile")),
    *("cron.daily", "default", "opt", "sysctl.d", "systemd/system", "systemd/user", "tmpfiles.d", "xdg"),
)
_VAR_FOLDERS = (
    *("backups", "cache/apt/archives/partial", "cache/debconf", "cache/ldconfig", "cache/man", "lib/dpkg"),
    *(f"lib/apt/{name}" for name in ("lists/partial", "mirrors/partial", "periodic")),
    *("lib/misc", "lib/python", "lib/systemd", "lib/ucf", "local", "log/apt", "mail", "opt", "spool", "tmp"),
)
_DPKG_FOLDERS = ("alternatives", "info", "parts", "triggers", "updates")
_DPKG = "/var/lib/dpkg"
#: Below /usr, deeper than three levels: folders into which many packages install.
_MEETING_PLACES = ("/local/", "/share/icons/hicolor/", "/share/locale/", "/share/man/", "/share/perl5/")
_APT_CONFIG = """// A sandbox has one user: apt's own unprivileged one does not exist.
APT::Sandbox::User "root";
APT::Keep-Downloaded-Packages "false";
Acquire::Languages "none";
Dir::Cache::srcpkgcache "";
Dpkg::Use-Pty "false";
DPkg::Pre-Install-Pkgs { "/usr/lib/daytona-magics/own-files"; };
"""
#: No service is started by an installation: nobody in a sandbox runs services.
_POLICY = "#!/bin/sh\nexit 101\n"
_ACCOUNTS = (
    "root:x:0:0:root:/root:/bin/bash\n",
    "daytona:x:1000:1000:daytona:/home/daytona:/bin/bash\n",
    "_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n",
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
)
_GROUPS = ("root:x:0:\n", "daytona:x:1000:\n", "nogroup:x:65534:\n")
#: Seconds between the quick layer and the other, in which somebody's first cells run.
_PAUSE = 20.0
_PASSWORD = re.compile(rb"://[^/\s]*@")


def build(target: str, etc: Iterable[tuple[str, str]], python: str, *, whole: bool = True) -> None:
    """Make the layer at `target`, with all folders of /usr if `whole`. Raises OSError."""
    os.umask(0o022)
    new = target + ".new"
    shutil.rmtree(new, ignore_errors=True)
    for name in ("usr", "dpkg", "rest/etc", "rest/var", "rest/opt"):
        os.makedirs(f"{new}/{name}", 0o755)
    _etc(new + "/rest/etc", etc)
    _var(new + "/rest/var", new + "/dpkg")
    copy_folders("/usr", new + "/usr", whole=whole)
    _scripts(new + "/usr", python)
    os.rename(new, target)


def copy_folders(source: str, target: str, *, whole: bool) -> None:
    """Make every folder below `source` that everybody may enter and list again below `target`, empty.

    Unless `whole`, only those of the first three levels and those in which packages meet.
    """
    waiting = [""]
    while waiting:
        below = waiting.pop()
        for entry in _entries(source + below):
            path = f"{below}/{entry.name}"
            if not entry.is_dir(follow_symlinks=False) or not (whole or _shared(path)):
                continue
            mode = entry.stat(follow_symlinks=False).st_mode
            if mode & 0o005 == 0o005:
                os.mkdir(target + path, mode & 0o1777 | 0o700)
                waiting.append(path)


def _shared(path: str) -> bool:
    return (path.count("/") <= 3 and not path.startswith("/share/doc/")) or path.startswith(_MEETING_PLACES)


def _entries(folder: str) -> "Iterator[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as found:
            yield from found
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return


def copy_readable(source: str, target: str) -> None:
    """Copy file, link or folder `source` as far as everybody may read it; what is there already stays."""
    try:
        info = os.lstat(source)
    except OSError:
        return
    if stat.S_ISLNK(info.st_mode):
        if not os.path.lexists(target):
            os.symlink(os.readlink(source), target)
    elif stat.S_ISDIR(info.st_mode) and info.st_mode & 0o005 == 0o005:
        os.makedirs(target, 0o755, exist_ok=True)
        for entry in _entries(source):
            copy_readable(entry.path, f"{target}/{entry.name}")
    elif stat.S_ISREG(info.st_mode) and info.st_mode & 0o004:
        with open(source, "rb") as file:
            # What is open now is what counts, whatever the name leads to by now.
            now = os.fstat(file.fileno())
            if stat.S_ISREG(now.st_mode) and now.st_mode & 0o004:
                _write(target, file.read(), now.st_mode & 0o755)


def _write(path: str, content: bytes, mode: int = 0o644) -> None:
    if os.path.lexists(path):
        return
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, mode)
    with open(fd, "wb") as file:
        file.write(content)


def _etc(target: str, etc: Iterable[tuple[str, str]]) -> None:
    pythons = [entry.name for entry in _entries("/etc") if re.fullmatch(r"python3\.\d+", entry.name)]
    own = [("/etc/" + name, name) for name in (*ETC_FOR_PACKAGES, *pythons)]
    for source, name in (*etc, *own):
        os.makedirs(os.path.dirname(f"{target}/{name}"), 0o755, exist_ok=True)
        copy_readable(os.path.realpath(source), f"{target}/{name}")
    for name in _ETC_FOLDERS:
        os.makedirs(f"{target}/{name}", 0o755, exist_ok=True)
    for name in _APT:
        copy_readable(f"/etc/apt/{name}", f"{target}/apt/{name}")
    sources = [entry.path for entry in _entries("/etc/apt/sources.list.d")]
    for path in ["/etc/apt/sources.list", *(p for p in sources if p.endswith((".list", ".sources")))]:
        _copy_source(path, target + path.removeprefix("/etc"))
    _write(f"{target}/apt/apt.conf.d/90daytona-magics", _APT_CONFIG.encode())
    for name, own_lines in (("passwd", _ACCOUNTS), ("group", _GROUPS)):
        _write(
            f"{target}/{name}", "".join(_merge(f"/usr/share/base-passwd/{name}.master", own_lines)).encode()
        )
    _write(f"{target}/shadow", b"root:*:19000:0:99999:7:::\ndaytona:*:19000:0:99999:7:::\n", 0o640)
    _write(f"{target}/gshadow", b"root:*::\ndaytona:!::\n", 0o640)


def _copy_source(path: str, target: str) -> None:
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o004:
                _write(target, _PASSWORD.sub(b"://", file.read()))
    except OSError:
        return


def _merge(master: str, own: tuple[str, ...]) -> list[str]:
    """Debian's list of system accounts, which is the same everywhere, after our own."""
    try:
        with open(master, encoding="ascii", errors="replace") as file:
            others = [line.replace(":*:", ":x:", 1) for line in file if line.count(":") >= 3]
    except OSError:
        others = []
    names = {line.partition(":")[0] for line in own}
    return [*own, *(line for line in others if line.partition(":")[0] not in names)]


def _var(var: str, dpkg: str) -> None:
    for name in _VAR_FOLDERS:
        os.makedirs(f"{var}/{name}", 0o755, exist_ok=True)
    os.chmod(f"{var}/tmp", 0o1777)
    os.symlink("/run", f"{var}/run")
    os.symlink("/run", f"{var}/lock")
    copy_readable("/var/lib/apt/extended_states", f"{var}/lib/apt/extended_states")
    for name in _DPKG_FOLDERS:
        os.makedirs(f"{dpkg}/{name}", 0o755)
    for entry in _entries(_DPKG):
        # statoverride names accounts of this machine, which a sandbox has not.
        if entry.name not in ("info", "parts", "statoverride", "updates") and "-old" not in entry.name:
            copy_readable(entry.path, f"{dpkg}/{entry.name}")
    for name in ("lock", "lock-frontend", "triggers/Lock", "triggers/Unincorp", "status", "statoverride"):
        _write(f"{dpkg}/{name}", b"")


def _scripts(usr: str, python: str) -> None:
    inside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "inside")
    with open(f"{inside}/own_files.py", "rb") as file:
        _write(f"{usr}/lib/daytona-magics/own-files", os.fsencode(f"#!{python} -IS\n") + file.read(), 0o755)
    _write(f"{usr}/sbin/policy-rc.d", _POLICY.encode(), 0o755)


def mounts_are_likely() -> bool:
    """Whether a process of this user can have mounts of its own, found by trying in one."""
    import ctypes

    pid = os.fork()
    if pid == 0:
        libc = ctypes.CDLL(None)
        # CLONE_NEWUSER | CLONE_NEWNS, MS_REC | MS_PRIVATE
        made = libc.unshare(0x10020000) == 0 and libc.mount(b"none", b"/", None, 1 << 14 | 1 << 18, None) == 0
        os._exit(0 if made else 1)
    return os.waitpid(pid, 0)[1] == 0


def main() -> None:
    """Make what standard input asks for."""
    wanted = json.load(sys.stdin)
    if wanted["look"] and not mounts_are_likely():
        print("unlikely", flush=True)
        return
    etc = [(pair[0], pair[1]) for pair in wanted["etc"]]
    if wanted["first"]:
        build(wanted["target"] + "-first", etc, wanted["python"], whole=False)
        print("first", flush=True)
        # Nobody waits for the rest, and making thousands of folders keeps the disk from others.
        time.sleep(_PAUSE)
    os.nice(19)
    build(wanted["target"], etc, wanted["python"])
    print("whole", flush=True)


if __name__ == "__main__":
    main()
