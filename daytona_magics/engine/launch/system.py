"""The engine's side of writable systems: the layers, whether they work here, and a sandbox's folders.

The layers (``skeleton``) lie in ``<state>/layers``, named after what they were made from: when packages are
installed on this machine, another is made in the background. Which one a sandbox gets is decided when it
starts: the newest that is complete; if there is none yet, in the first second of a state folder, the start
waits for the quick one. That is made while the launcher still tries how to isolate, where it looks as if
there were a use for it. Before the first use since the machine was started a trial sandbox writes to its
system; what it says, or why no layer could be made, is kept as the reason why systems are read-only here.

    In : layers = SystemLayers(launcher, Path("/state"), etc_pairs); layers.begin(); await layers.current()
    Out: PosixPath('/state/layers/5f0c3d0a9b1e7c42')
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from daytona_magics import __version__

from ..toolbox import trees
from ..toolbox.client import ToolboxError
from . import folders, visible
from .launcher import PROBE_UID, Launcher, LaunchError, SandboxSpec
from .overlay import DPKG
from .skeleton import ETC_FOR_PACKAGES

_log = logging.getLogger(__name__)

#: Changes whenever layers are built differently.
_FORMAT = 1
#: Seconds a start waits for the first layer; it usually takes a fraction of one.
PATIENCE = 10.0
#: What decides that a layer is out of date, beside the files copied from /etc.
_WATCHED = (f"{DPKG}/status", "/etc/apt/sources.list", "/etc/apt/sources.list.d", "/usr", "/usr/local")
#: Says, in a trial sandbox, which folder cannot be written to.
_TRIAL = (
    "for f in /usr /usr/lib /etc /var/lib /opt; do"
    " { : >$f/.dm-trial && rm $f/.dm-trial; } 2>&1 || exit 1; done"
)


class SystemLayers:
    """The layers of one engine.

    Parameters: `launcher`, whose level decides (only L3 has overlays); the state folder.

    Attribute ``reason``: why the system of sandboxes is read-only here (a sentence), "" where it is not.
    """

    def __init__(self, launcher: Launcher, state: Path) -> None:
        self._launcher = launcher
        self._folder = state / "layers"
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._current: Path | None = None
        self._problem = ""

    @property
    def reason(self) -> str:
        if self._launcher.level != "L3":
            level = self._launcher.level or "no level"
            return f"/usr, /etc and /var can be written to at isolation level L3 only, and this is {level}"
        return self._problem

    def begin(self) -> None:
        """Start looking for layers and making them, in the background; the launcher may be starting still."""
        over = self._task is not None and self._task.done() and not (self._current or self._problem)
        if self._task is None or over:
            self._task = asyncio.ensure_future(self._prepare())

    async def current(self) -> Path | None:
        """The layer for a sandbox that starts now; None where the system is read-only (see ``reason``)."""
        if self._launcher.level != "L3":
            return None
        self.begin()
        if not self._ready.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._ready.wait(), PATIENCE)
        return self._current

    @property
    def newest(self) -> Path | None:
        """The layer for a sandbox that starts now, as far as that is known."""
        return self._current if self._launcher.level == "L3" else None

    async def whole(self) -> None:
        """Return when nothing is being made any more."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def close(self) -> None:
        """Stop making layers."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _prepare(self) -> None:
        try:
            etc = [(source, inside[5:]) for source, inside in visible.plan().binds if inside[:5] == "/etc/"]
            name = await asyncio.to_thread(_fingerprint, etc)
            found = await asyncio.to_thread(self._tidy, name)
            if found is None:
                await self._build(name, etc, first=True)
            elif await self._wanted():
                await self._use(found)
                if found.name != name:
                    await self._build(name, etc, first=False)
        except OSError as error:
            self._problem = f"the layer for a writable system could not be made: {error}"
        finally:
            self._ready.set()
            if self._problem:
                _log.warning("%s", self._problem)

    async def _wanted(self) -> bool:
        """Whether there is a use for layers, as soon as that is known."""
        await self._launcher.settled.wait()
        return self._launcher.level == "L3"

    def _tidy(self, name: str) -> Path | None:
        """Remove all layers but the best one, which is returned. No sandbox runs yet."""
        folders.make_root(self._folder)
        whole = [entry for entry in self._folder.iterdir() if entry.is_dir() and "." not in entry.name]
        whole = [entry for entry in whole if not entry.name.endswith("-first")]
        best = next((entry for entry in whole if entry.name == name), None)
        if best is None and whole:
            best = max(whole, key=lambda entry: entry.stat().st_mtime)
        for entry in self._folder.iterdir():
            if entry != best:
                trees.remove_tree(entry)
        return best

    async def _build(self, name: str, etc: Iterable[tuple[str, str]], *, first: bool) -> None:
        """Run the program that makes layers; it stops when there turns out to be no use for them.

        Raises OSError.
        """
        program = Path(__file__).with_name("skeleton.py")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(program)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={},
            cwd="/",
            start_new_session=True,
        )
        target = self._folder / name
        wanted = {"target": str(target), "first": first, "etc": list(etc), "python": sys.executable}
        # Not known yet whether sandboxes have mounts: the program has a quick look itself.
        wanted["look"] = not self._launcher.settled.is_set()
        assert process.stdin and process.stdout and process.stderr
        try:
            process.stdin.write(json.dumps(wanted).encode())
            process.stdin.close()
            async for line in process.stdout:
                if not await self._wanted():
                    return
                if line.strip() == b"unlikely":
                    await self._build(name, etc, first=first)
                    return
                await self._use(target if line.strip() == b"whole" else target.with_name(name + "-first"))
            errors = await process.stderr.read()
            if await process.wait():
                raise OSError(errors.decode("utf-8", "replace").strip().rpartition("\n")[2][-300:])
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _use(self, layer: Path) -> None:
        """Make `layer` the one for sandboxes that start from now on, if it works."""
        tried, facts = layer / "works", _circumstances(self._launcher.launcher)
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if tried.read_text() == facts:
                self._problem, self._current = "", layer
                self._ready.set()
                return
        self._problem = await self._try(layer)
        if not self._problem:
            with contextlib.suppress(OSError):
                tried.write_text(facts)
        self._current = None if self._problem else layer
        self._ready.set()

    async def _try(self, layer: Path) -> str:
        """Why a sandbox with this layer cannot write to its system; "" if it can."""
        trial = self._folder / ".trial"
        uid = PROBE_UID if os.geteuid() == 0 else None
        try:
            await asyncio.to_thread(trees.remove_tree, trial)
            folders.make_root(trial)
            folders.make_private(trial / "home", uid)
            folders.make_system(trial / "system", uid)
            spec = SandboxSpec(
                "system-trial", trial / "home", uid, "trial", system=trial / "system", layers=layer
            )
            box = await self._launcher.spawn(spec)
            try:
                result = await box.toolbox.run_program(["/bin/sh", "-c", _TRIAL], timeout=30)
            finally:
                await box.kill()
        except (OSError, LaunchError, ToolboxError) as error:
            return f"a trial sandbox could not have a writable system: {getattr(error, 'message', error)}"
        finally:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(trees.remove_tree, trial)
        if result.exit_code:
            said = result.output.decode("utf-8", "replace").strip()[-300:]
            return f"a trial sandbox could not write to its system: {said}"
        return ""


def _circumstances(launcher: str) -> str:
    """What a trial depends on beside the layer; another text asks for another trial."""
    facts = [__version__, launcher, str(os.geteuid())]
    with contextlib.suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        facts.append(os.readlink("/proc/self/ns/mnt"))
    return " ".join(facts)


def _fingerprint(etc: Iterable[tuple[str, str]]) -> str:
    """A name that changes with the packages of this machine and with what is copied from its /etc."""
    paths = [*_WATCHED, *(source for source, _ in etc), *(f"/etc/{name}" for name in ETC_FOR_PACKAGES)]
    facts: list[object] = [_FORMAT, sys.executable, os.geteuid()]
    for path in paths:
        try:
            info = os.stat(path)
            facts.append((path, info.st_mtime_ns, info.st_size))
        except OSError:
            facts.append((path, None))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
