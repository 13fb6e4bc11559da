"""What works in a cell besides Python: ``!command``, ``%cd``, ``%pip``, ``%env`` and a few more."""

from __future__ import annotations

import builtins
import importlib
import os
import re
import shlex
import shutil
import signal
import site
import subprocess
import sys
import time

from . import transform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .worker import Session

WORKING = "!command, x = !command, %cd, %pwd, %ls, %env, %pip, %time, %who"
_BRACES = re.compile(r"\{([^{}]*)\}")
_DOLLAR = re.compile(r"\$(\$|[A-Za-z_]\w*)")


class MagicError(Exception):
    """A magic that a sandbox cell does not have, or one used wrongly."""


class Lines(list):  # type: ignore[type-arg]
    """Output of ``x = !command``: a list of lines; ``.s`` and ``.n`` join them by spaces and newlines."""

    @property
    def s(self) -> str:
        """The lines joined by spaces."""
        return " ".join(self)

    @property
    def n(self) -> str:
        """The lines joined by newlines."""
        return "\n".join(self)


def refresh_site() -> None:
    """Make packages visible that were installed while this process lives."""
    importlib.invalidate_caches()
    try:
        folder = site.getusersitepackages() if site.ENABLE_USER_SITE else None
    except (AttributeError, OSError):
        folder = None
    if folder and os.path.isdir(folder) and folder not in sys.path:
        site.addsitedir(folder)


def _expand(text: str, namespace: dict[str, Any], local: dict[str, Any]) -> str:
    """Put Python values into a command: ``{expression}`` and ``$name``; what is no Python stays as it is."""

    def braces(found: re.Match[str]) -> str:
        try:
            return str(eval(found.group(1), namespace, local))
        except Exception:
            return found.group(0)

    def dollar(found: re.Match[str]) -> str:
        name = found.group(1)
        if name in local or (name in namespace and not name.startswith("__")):
            return str(local.get(name, namespace.get(name)))
        return found.group(0)

    return _DOLLAR.sub(dollar, _BRACES.sub(braces, text))


class Helper:
    """Called by transformed lines, under the name ``transform.HELPER`` in builtins."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._previous = ""

    def _command(self, command: str, depth: int = 2) -> list[str]:
        frame = sys._getframe(depth)
        text = _expand(command, frame.f_globals, dict(frame.f_locals))
        shell = shutil.which("bash") or shutil.which("sh")
        if shell is None:
            raise MagicError("there is no shell in this sandbox")
        return [shell, "-c", text]

    def system(self, command: str) -> None:
        """Run a command; its output appears as it comes, its exit code is ``_exit_code``."""
        self._run(self._command(command))

    def _run(self, arguments: list[str]) -> int:
        child = subprocess.Popen(arguments)
        try:
            code = child.wait()
        except KeyboardInterrupt:
            # It had the SIGINT as well; it may need a moment, and one that ignores it is ended.
            try:
                child.wait(0.3)
            except subprocess.TimeoutExpired:
                child.terminate()
            raise
        self._session.namespace["_exit_code"] = code if code >= 0 else 128 - code
        if code == -signal.SIGINT:
            raise KeyboardInterrupt
        refresh_site()
        return code

    def capture(self, command: str) -> Lines:
        """Run a command and return its output (stderr too) as a list of lines."""
        done = subprocess.run(
            self._command(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        self._session.namespace["_exit_code"] = done.returncode
        return Lines(done.stdout.decode("utf-8", "replace").splitlines())

    def cell_magic(self, name: str) -> None:
        """There are none inside a sandbox."""
        raise MagicError("%s does not work inside a sandbox cell. What works: %s" % (name, WORKING))

    def inspect(self, name: str) -> None:
        """``name?``: type, signature and documentation."""
        import inspect

        frame = sys._getframe(1)
        try:
            value = eval(name, frame.f_globals, frame.f_locals)
        except Exception:
            raise MagicError("nothing called %s is known here" % name) from None
        try:
            signature = str(inspect.signature(value)) if callable(value) else ""
        except (TypeError, ValueError):
            signature = ""
        print("%s%s  (%s)" % (name, signature, type(value).__name__))
        print(inspect.getdoc(value) or "no documentation")

    def magic(self, name: str, line: str) -> Any:
        """Run one line magic."""
        method = getattr(self, "magic_" + name, None)
        if method is None:
            raise MagicError("%%%s does not work inside a sandbox cell. What works: %s" % (name, WORKING))
        frame = sys._getframe(1)
        return method(_expand(line, frame.f_globals, dict(frame.f_locals)) if name != "time" else line)

    def magic_cd(self, line: str) -> None:
        """``%cd DIR``: change the working directory for this and later cells; ``-`` goes back."""
        target = " ".join(shlex.split(line)) or "~"
        if target == "-":
            if not self._previous:
                raise MagicError("%cd -: there is no previous directory")
            target = self._previous
        here = os.getcwd()
        os.chdir(os.path.expanduser(target))
        self._previous = here
        print(os.getcwd())

    def magic_pwd(self, line: str) -> str:
        """``%pwd``: the working directory."""
        return os.getcwd()

    def magic_ls(self, line: str) -> None:
        """``%ls``: list files."""
        self._run(["/bin/sh", "-c", "ls " + line])

    def magic_pip(self, line: str) -> None:
        """``%pip ...``: pip of this worker's Python."""
        arguments = shlex.split(line)
        if arguments[:1] == ["uninstall"] and not {"-y", "--yes"} & set(arguments):
            arguments.append("-y")  # there is nobody to answer
        code = self._run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments])
        if code:
            raise MagicError("pip ended with code %d" % code)

    def magic_env(self, line: str) -> Any:
        """``%env``, ``%env NAME``, ``%env NAME=VALUE`` (or ``NAME VALUE``)."""
        if not line:
            return dict(os.environ)
        found = re.match(r"([A-Za-z_]\w*)(?:\s*=\s*|\s+)(.*)$", line, re.S)
        if found is None:
            if line not in os.environ:
                raise MagicError("there is no environment variable %s" % line)
            return os.environ[line]
        os.environ[found.group(1)] = found.group(2)
        print("env: %s=%s" % found.groups())
        return None

    def magic_time(self, line: str) -> Any:
        """``%time STATEMENT``: run it, say how long it took, return an expression's value."""
        frame = sys._getframe(2)
        started, busy = time.perf_counter(), time.process_time()
        try:
            code = compile(line, "<%time>", "eval")
        except SyntaxError:
            code = compile(line, "<%time>", "exec")
        value = eval(code, frame.f_globals, frame.f_locals)
        wall, busy = time.perf_counter() - started, time.process_time() - busy
        print("CPU time: %.3f s\nWall time: %.3f s" % (busy, wall))
        return value

    def magic_who(self, line: str) -> None:
        """``%who``: names this context's cells have defined."""
        names = [n for n in self._session.namespace if not n.startswith("_")]
        print("  ".join(sorted(names)) or "no names are defined")


def install(session: Session) -> None:
    """Make the helper reachable from transformed lines."""
    setattr(builtins, transform.HELPER, Helper(session))
