"""What of the host a sandbox can see: decided in the engine, carried out by the zygote.

Read-only inside, at the same paths as outside: ``/usr`` (and ``/bin``, ``/lib`` … where those are not links
into it), a few files of ``/etc``, the Python prefix the engine runs from and the prefix below it, and the
folders of ``sys.path`` that hold installed packages. Inside the prefixes the configuration of Jupyter, pip
and conda is masked, because it may hold passwords. Nothing else of the host exists in a sandbox. With
``DAYTONA_MAGICS_HOST_PACKAGES=0`` the engine's own prefix and the package folders are left out, but for pip.
"""

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .. import address
from . import seccomp, venv

#: Arguments for a Python that imports what needs C libraries from outside its prefix, if anything does.
IMPORT_PROBE = ("-I", "-c", "import ssl, sqlite3, ctypes")

_ROOTS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
#: Of /etc only what programs need to start, to speak TLS and to know the time; never all of it.
#: Of R's folder what Debian's R cannot start without; what an administrator adds (*.site) may hold tokens.
_ETC = (
    "R/Makeconf",
    "R/Renviron",
    "R/ldpaths",
    "R/repositories",
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "debian_version",
    "fonts",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "os-release",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "protocols",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
)
#: What L3 writes anew for each sandbox, and below L3 is read where it is: who one is, where names are looked
#: up, and how a shell starts.
_ETC_BEYOND = (
    "bash.bashrc",
    "bashrc",
    "gai.conf",
    "group",
    "host.conf",
    "hostname",
    "hosts",
    "lsb-release",
    "nsswitch.conf",
    "passwd",
    "profile",
    "profile.d",
    "resolv.conf",
    "shells",
    "zsh",
)
#: Below each prefix: configuration of Jupyter, pip, npm, git and conda, which may hold passwords and channel
#: tokens, and the variables that are set when an environment is activated.
_MASKED = (
    ".condarc",
    ".condarc.d",
    ".mambarc",
    "conda-meta/state",
    "condarc",
    "condarc.d",
    "etc/conda",
    "etc/gitconfig",
    "etc/jupyter",
    "etc/npmrc",
    "etc/pip.conf",
    "pip.conf",
    "share/jupyter",
)


@dataclass(frozen=True)
class Plan:
    """What sandboxes see of the host.

    ``binds``: (host path, path inside), parents first. ``links``: (path inside, target). ``masks``: paths
    inside at which a sandbox, when it starts, covers whatever is there. ``beyond``: host paths that only
    sandboxes below L3 read.
    """

    binds: tuple[tuple[str, str], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    masks: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()

    def message(self) -> dict[str, Any]:
        """The plan as part of the zygote's configuration."""
        return {"binds": self.binds, "links": self.links, "masks": self.masks, "beyond": self.beyond}

    def shows(self, path: str) -> bool:
        """Is host path `path` visible in a sandbox?"""
        places = [inside for _, inside in self.binds] + [inside for inside, _ in self.links]
        return any(path == place or path.startswith(place + "/") for place in places)

    def showing(self, folder: str) -> str | None:
        """The host folder shown in sandboxes in which `folder` (which may not exist yet) lies, or None.

        Folders are compared by identity, so links and second mounts of the same folder do not deceive.
        """
        shown: dict[tuple[int, int], str] = {}
        for source, _ in self.binds:
            with contextlib.suppress(OSError):
                info = os.stat(source)
                shown[info.st_dev, info.st_ino] = source
        path = os.path.realpath(folder)
        while True:
            with contextlib.suppress(OSError):
                info = os.stat(path)
                if (info.st_dev, info.st_ino) in shown:
                    return shown[info.st_dev, info.st_ino]
            if path == os.path.dirname(path):
                return None
            path = os.path.dirname(path)

    def with_libraries(self, paths: Iterable[str]) -> "Plan":
        """The same plan with the single files `paths` added."""
        return replace(
            self, binds=tuple(sorted({*self.binds, *((path, path) for path in paths)}, key=_inside))
        )


def _inside(bind: tuple[str, str]) -> str:
    return bind[1]


def obstacle() -> str | None:
    """Why this kind of machine cannot isolate at all (one sentence), or None if trying makes sense."""
    if (problem := address.obstacle()) is not None:
        return problem
    if not seccomp.supported():
        return f"there is no system call filter for this machine's architecture ({platform.machine()})"
    return None


def plan() -> Plan:
    """The plan for this host and this Python."""
    places = dict.fromkeys(_python_folders())
    binds: dict[str, str] = {}
    links: list[tuple[str, str]] = []
    for root in _ROOTS:
        if os.path.islink(root):
            links.append((root, os.readlink(root)))
        elif os.path.isdir(root):
            binds[root] = root
    for name in _ETC:
        source = os.path.realpath("/etc/" + name)
        if os.path.exists(source):
            binds["/etc/" + name] = source
    found = Plan(tuple((source, inside) for inside, source in binds.items()), tuple(links))
    for place in sorted(places):
        # A prefix reached through links is needed under both names.
        for inside in (place, os.path.realpath(place)):
            if not found.shows(inside):
                found = replace(found, binds=(*found.binds, (os.path.realpath(place), inside)))
    for hop in _interpreter_hops():
        if not found.shows(hop):
            found = replace(found, binds=(*found.binds, (os.path.realpath(hop), hop)))
    prefixes = {"/usr", "/usr/local", *places, *(os.path.realpath(place) for place in places)}
    masks = (os.path.join(prefix, name) for prefix in prefixes for name in _MASKED)
    masked = tuple(sorted(path for path in masks if found.shows(path)))
    beyond = tuple(path for name in _ETC_BEYOND if os.path.exists(path := "/etc/" + name))
    ordered = tuple(sorted(set(found.binds), key=_inside))
    return replace(found, binds=ordered, masks=masked, beyond=beyond)


def _python_folders() -> list[str]:
    """Folders this Python needs: its prefixes and its package folders, none that holds a whole home."""
    forbidden = {"/", "/home", "/root", "/tmp", "/var", "/etc", "/opt", "/srv", "/mnt"}
    home = os.path.realpath(os.path.expanduser("~"))
    wanted = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
    packages = [path for path in sys.path if path.endswith("-packages")]
    if venv.host_packages():
        wanted += packages
    else:
        wanted = [sys.base_prefix, sys.base_exec_prefix, *(f"{path}/pip" for path in packages)]
    found = []
    for path in wanted:
        real = os.path.realpath(path)
        if os.path.isdir(real) and real not in forbidden and not f"{home}/".startswith(f"{real}/"):
            found.append(path)
    return found


def _interpreter_hops() -> list[str]:
    """Every path on the chain of links from sys.executable to the real interpreter."""
    hops: list[str] = []
    path = sys.executable
    while path and len(hops) < 40:
        hops.append(path)
        if not os.path.islink(path):
            break
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    return hops


def host_libraries(shown: Plan) -> list[str]:
    """Shared libraries that the import probe loads on the host from places `shown` does not show.

    An interpreter built elsewhere may name library folders of its own; the memory map of a process that has
    imported the modules tells which files these are. Empty if the import fails on the host as well.
    """
    flags, option, code = IMPORT_PROBE
    code += "; print(open('/proc/self/maps').read())"
    try:
        done = subprocess.run(
            [sys.executable, flags, option, code], capture_output=True, timeout=30, check=True, env={}
        )
    except (OSError, subprocess.SubprocessError):
        return []
    columns = (line.split(None, 5) for line in done.stdout.decode("utf-8", "surrogateescape").splitlines())
    files = {column[5] for column in columns if len(column) == 6 and column[5].startswith("/")}
    return sorted(path for path in files if ".so" in path and not shown.shows(path))


def base_environment(id: str, home: str) -> Mapping[str, str]:
    """The environment everything in sandbox `id` with its home at `home` starts with.

    HOME and SHELL are added inside.
    """
    own = [f"{sys.prefix}/bin"] if venv.host_packages() else []
    folders = dict.fromkeys([*own, f"{sys.base_prefix}/bin", "/usr/local/bin", "/usr/bin", "/bin"])
    return {
        "DAYTONA_SANDBOX_ID": id,
        "LANG": "C.UTF-8",
        "LOGNAME": "daytona",
        # Where `npm install -g` may write; its programs are in ~/.local/bin then.
        "NPM_CONFIG_PREFIX": f"{home}/.local",
        **venv.environment(home, ":".join(folders)),
        "TMPDIR": "/tmp",
        "USER": "daytona",
    }
