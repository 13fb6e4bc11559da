"""What works in a cell besides Python: ``!command``, line magics and cell magics.

Each magic is a method of one of the classes here and in ``timing`` and ``looking``; a method ``magic_cd`` is
``%cd``, ``cell_time`` is ``%%time``. Those that make no sense in a sandbox get one clear sentence.
"""

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

from . import hooks, network, rich, shell, transform
from .looking import Looking
from .reloading import Reloader
from .timing import Timing
from .typist import Typist, at_a_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .worker import Session

_BRACES = re.compile(r"\{([^{}]*)\}")
_DOLLAR = re.compile(r"\$(\$|[A-Za-z_]\w*)")
#: Magics that take Python: nothing in their line is replaced.
_VERBATIM = frozenset(
    ("time", "timeit", "who", "who_ls", "whos", "matplotlib", "xmode", "precision", "tb", "reset_selective")
)
#: Why some magics do nothing here.
_ELSEWHERE = {
    "sandbox": "type it in a cell of its own, without %%sandbox",
    "pdb": "type %debug after an error, or call breakpoint() where it fails",
    "reset": "`%sandbox reset` starts with new workers",
}


class MagicError(Exception):
    """A magic used wrongly, or one that cannot do here what it does in a notebook."""


class UsageError(MagicError):
    """A magic that a sandbox cell does not have; named as IPython names it."""


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

    @property
    def l(self) -> list[str]:  # noqa: E743 - its name in notebooks
        """The lines as a plain list."""
        return list(self)


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
        if name == "$":
            return "$"
        if name in local or (name in namespace and not name.startswith("__")):
            return str(local.get(name, namespace.get(name)))
        return found.group(0)

    return _DOLLAR.sub(dollar, _BRACES.sub(braces, text))


class Helper(Timing, Looking):
    """Called by transformed lines, under the name ``transform.HELPER`` in builtins."""

    error = MagicError

    def __init__(self, session: Session) -> None:
        self._session = session
        self._previous = ""
        self.at = 1  # line of the cell that a line magic stands in
        self.reloader: Reloader | None = None
        self.registered: dict[tuple[str, str], Any] = {}  # magics of the user: kind and name -> function

    # -- commands ------------------------------------------------------------------------------------------

    def _command(self, text: str) -> list[str]:
        program = shutil.which("bash") or shutil.which("sh")
        if program is None:
            raise MagicError("there is no shell in this sandbox")
        return [program, "-c", text]

    def system(self, command: str) -> None:
        """Run a command; its output appears as it comes, its exit code is ``_exit_code``."""
        frame = sys._getframe(1)
        self.shell(_expand(command, frame.f_globals, dict(frame.f_locals)))

    def shell(self, command: str) -> None:
        """Run a command as it stands."""
        why = network.refused(network.words_of(command))
        if why:
            done = network.without_index(self._command(command))
            self._session.namespace["_exit_code"] = 0 if done else 1
            sys.stderr.write("" if done else why + "\n")
            return
        self._run(self._command(command), together=True)

    def _run(self, arguments: list[str], text: str | None = None, *, together: bool = False) -> int:
        # As at a terminal: one stream, so that the order of what a command says is kept.
        err = subprocess.STDOUT if together else None
        # Output that goes into a text of the cell's (%%capture, redirect_stdout) takes the command's along.
        kept = together and sys.stdout is not sys.__stdout__
        out = subprocess.PIPE if kept else None
        if text is not None:
            child = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=out, stderr=err)
            code = self._end(child, text, kept)
        else:
            with Typist(self._session.asker) as typist:
                child = subprocess.Popen(
                    arguments, stdin=typist.stdin, stdout=out, stderr=err, env=at_a_terminal()
                )
                typist.attend(child.pid)
                code = self._end(child, None, kept)
        self._session.namespace["_exit_code"] = code if code >= 0 else 128 - code
        if code == -signal.SIGINT:
            raise KeyboardInterrupt
        refresh_site()
        return code

    @staticmethod
    def _end(child: subprocess.Popen[bytes], text: str | None, kept: bool) -> int:
        """Wait for a command's end; returns its exit code."""
        try:
            if text is not None or kept:
                said, _ = child.communicate(None if text is None else text.encode("utf-8", "surrogateescape"))
                sys.stdout.write((said or b"").decode("utf-8", "replace"))
            return child.wait()
        except KeyboardInterrupt:
            # It had the SIGINT as well; it may need a moment, and one that ignores it is ended.
            try:
                child.wait(0.3)
            except subprocess.TimeoutExpired:
                child.terminate()
            raise

    def capture(self, command: str) -> Lines:
        """Run a command and return its output (stderr too) as a list of lines."""
        frame = sys._getframe(1)
        return self.output(_expand(command, frame.f_globals, dict(frame.f_locals)))

    def output(self, command: str) -> Lines:
        """The same for a command as it stands."""
        done = subprocess.run(
            self._command(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        self._session.namespace["_exit_code"] = done.returncode
        return Lines(done.stdout.decode("utf-8", "replace").splitlines())

    # -- finding them --------------------------------------------------------------------------------------

    def magic(self, name: str, line: str) -> Any:
        """Run one line magic."""
        frame = sys._getframe(1)
        self.at = frame.f_lineno
        return self.run(name, line, frame.f_globals, frame.f_locals)

    def run(self, name: str, line: str, namespace: dict[str, Any], local: Any) -> Any:
        """Run a line magic with these names in sight."""
        method = self._find("magic_", name, "%")
        if name not in _VERBATIM:
            line = _expand(line, namespace, dict(local))
        return method(line)

    def cell(self, name: str, line: str, body: str) -> Any:
        """Run a cell magic."""
        return self._find("cell_", name, "%%")(line, body)

    def _find(self, prefix: str, name: str, sign: str) -> Any:
        kind = "line" if prefix == "magic_" else "cell"
        method = self.registered.get((kind, name)) or getattr(self, prefix + name, None)
        if method is not None:
            return method
        if name in _ELSEWHERE:
            raise MagicError("%s%s does not work inside a sandbox cell: %s" % (sign, name, _ELSEWHERE[name]))
        other = "cell_" if prefix == "magic_" else "magic_"
        if hasattr(self, other + name):
            raise MagicError("%s is written %s%s" % (name, "%" if sign == "%%" else "%%", name))
        here = sorted(sign + n[len(prefix) :] for n in dir(self) if n.startswith(prefix))
        what = "Line magic function" if sign == "%" else "Cell magic"
        raise UsageError(
            "%s `%s%s` not found. What works inside a sandbox cell: %s" % (what, sign, name, ", ".join(here))
        )

    def misplaced(self, name: str) -> None:
        """A cell magic that is not the first line."""
        raise MagicError("%s must be the cell's first line" % name)

    # -- line magics ---------------------------------------------------------------------------------------

    def magic_cd(self, line: str) -> None:
        """``%cd [-q] DIR``: change the working directory for this and later cells; ``-`` goes back."""
        words = shlex.split(line)
        quiet = words[:1] == ["-q"]
        target = " ".join(words[1:] if quiet else words) or "~"
        if target == "-":
            if not self._previous:
                raise MagicError("%cd -: there is no previous directory")
            target = self._previous
        here = os.getcwd()
        os.chdir(os.path.expanduser(target))
        self._previous = here
        if not quiet:
            print(os.getcwd())

    def magic_pwd(self, line: str) -> str:
        """``%pwd``: the working directory."""
        return os.getcwd()

    def magic_ls(self, line: str) -> None:
        """``%ls``: list files."""
        self._run(["/bin/sh", "-c", "ls -F " + line])

    def magic_sx(self, line: str) -> Lines:
        """``%sx COMMAND``: run it and return its lines."""
        return self.output(line)

    def magic_pip(self, line: str) -> None:
        """``%pip ...``: pip of this worker's Python."""
        arguments = shlex.split(line)
        if arguments[:1] == ["uninstall"] and not {"-y", "--yes"} & set(arguments):
            arguments.append("-y")  # it asks at its own terminal, where nobody is
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
        why = network.refused(arguments)
        if why:
            if not network.without_index(command):
                raise MagicError(why)
            return
        code = self._run(command)
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

    def magic_set_env(self, line: str) -> None:
        """``%set_env NAME VALUE``."""
        if not re.match(r"[A-Za-z_]\w*[\s=]", line):
            raise MagicError("usage: %set_env NAME VALUE")
        self.magic_env(line)

    def magic_run(self, line: str) -> None:
        """``%run FILE [arguments]``: run a Python file as ``__main__`` and keep its names."""
        import runpy

        words = shlex.split(line)
        if not words:
            raise MagicError("usage: %run FILE [arguments]")
        path = os.path.expanduser(words[0])
        if not os.path.exists(path):
            path += ".py"
        before, path0 = sys.argv, sys.path[:]
        sys.argv = [path, *words[1:]]
        try:
            names = runpy.run_path(path, run_name="__main__")
        finally:
            sys.argv, sys.path[:] = before, path0
            sys.modules["__main__"] = self._session.module
        kept = {k: v for k, v in names.items() if not (k.startswith("__") and k.endswith("__"))}
        self._session.namespace.update(kept)

    def magic_matplotlib(self, line: str) -> None:
        """``%matplotlib inline``: figures are shown at the end of a cell, as they always are here."""
        wanted = line.strip().strip("\"'")
        if wanted not in ("", "inline", "agg", "auto"):
            raise MagicError("a sandbox has no window to draw in: only %matplotlib inline works here")
        hooks.use_inline()

    def magic_config(self, line: str) -> None:
        """``%config InlineBackend.NAME = VALUE``: how figures are drawn."""
        found = re.match(r"InlineBackend\.(\w+)\s*=\s*(.+)$", line.strip())
        if not found:
            raise MagicError("of %config only InlineBackend works here")
        value = eval(found.group(2), self._session.namespace)
        hooks.configure(found.group(1), value, rich)

    def magic_load_ext(self, line: str) -> None:
        """``%load_ext autoreload``; of other extensions those that need no notebook."""
        if line == "autoreload":
            self._reloading()
            return
        module = importlib.import_module(line)
        load = getattr(module, "load_ipython_extension", None)
        if load is not None:
            refused = "the extension %s needs the notebook's own kernel; import what you need of it" % line
            if line == "daytona_magics":
                raise MagicError(refused)
            try:
                load(shell.get_ipython())
            except AttributeError as error:
                raise MagicError("%s (%s)" % (refused, error)) from error
            return
        print("The %s module is not an IPython extension." % line)

    magic_reload_ext = magic_load_ext

    def _reloading(self) -> Reloader:
        if self.reloader is None:
            self.reloader = Reloader()
            self.reloader.look(force=True)
        return self.reloader

    def magic_autoreload(self, line: str) -> None:
        """``%autoreload [0|1|2|off|explicit|all|now]``: load changed modules again before each cell."""
        word = {"off": "0", "explicit": "1", "all": "2", "": "now"}.get(line.lower(), line.lower())
        if word not in ("0", "1", "2", "now"):
            raise MagicError("usage: %autoreload [0|1|2|off|explicit|all|now]")
        reloader = self._reloading()
        if word == "now":
            reloader.look(force=True)
        else:
            reloader.mode = word

    def magic_aimport(self, line: str) -> None:
        """``%aimport NAME, -NAME``: modules for ``%autoreload 1``, and those it must leave alone."""
        reloader = self._reloading()
        for word in line.replace(",", " ").split():
            if word.startswith("-"):
                reloader.excluded.add(word[1:])
                continue
            reloader.wanted.add(word)
            importlib.import_module(word)
            top = word.partition(".")[0]
            self._session.namespace[top] = sys.modules[top]
        reloader.look()

    # -- cell magics ---------------------------------------------------------------------------------------

    def _script(self, program: str, line: str, body: str) -> None:
        code = self._run([*shlex.split(program), *shlex.split(line)], body)
        if code:
            raise subprocess.CalledProcessError(code, program)

    def cell_bash(self, line: str, body: str) -> None:
        """``%%bash``: the cell is a script for bash."""
        self._script("bash", line, body)

    def cell_sh(self, line: str, body: str) -> None:
        """``%%sh``: the cell is a script for sh."""
        self._script("sh", line, body)

    def cell_script(self, line: str, body: str) -> None:
        """``%%script PROGRAM [arguments]``: the cell is the program's input."""
        self._script(line, "", body)

    def cell_writefile(self, line: str, body: str) -> None:
        """``%%writefile [-a] PATH``: write the cell to a file."""
        words = shlex.split(line)
        add = words[:1] in (["-a"], ["--append"])
        names = words[1:] if add else words
        if len(names) != 1:
            raise MagicError("usage: %%writefile [-a] PATH")
        path = os.path.expanduser(names[0])
        word = "Appending to" if add else "Overwriting" if os.path.exists(path) else "Writing"
        print("%s %s" % (word, path))
        with open(path, "a" if add else "w", encoding="utf-8") as file:
            file.write(body)

    cell_file = cell_writefile

    def cell_system(self, line: str, body: str) -> Lines:
        """``%%system``: run the cell in a shell and return its lines."""
        return self.output(body)

    cell_sx = cell_system


def install(session: Session) -> Helper:
    """Make the helper reachable from transformed lines; returns it."""
    helper = Helper(session)
    setattr(builtins, transform.HELPER, helper)
    return helper
