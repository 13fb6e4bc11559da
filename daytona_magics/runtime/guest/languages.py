"""What runs a cell in another language: each cell a program of its own that knows nothing of earlier ones.

The program gets the cell as a file, except where a program given as text (``-e``) finds the packages of the
current folder and a file elsewhere would not (node). Line numbers in its messages are those of the cell in
the notebook, because the first line is always an empty one, in place of the magic's own.
"""

from __future__ import annotations

import os
import re

from .cell_worker import CellWorker, Missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .execution import Execution
    from .keyboard import Keyboard
    from .loop import Loop

#: The longest text given as an argument; Linux allows 128 KiB for one.
MAX_ARGUMENT = 100_000
#: language -> (program, ending of the file, package of Debian)
_BY_FILE = {
    "ruby": ("ruby", ".rb", "ruby"),
    "R": ("Rscript", ".R", "r-base-core"),
    "perl": ("perl", ".pl", "perl"),
}
#: Where a word of ``--interpreter`` is to be the cell's file, and where the cell is standard input.
_FILE, _STDIN = "{}", "-"
_MODULE = re.compile(r"^(import\s*[\w*{'\"]|export\s|(.*=\s*)?await\s)", re.MULTILINE)


class ProgramWorker(CellWorker):
    """One program running one cell.

    Args:
        folder: where the cell's file may be written.
        keyboard: makes its standard input.

    Raises:
        Missing: there is no such program.
        OSError: it cannot be started.
    """

    def __init__(
        self,
        loop: Loop,
        mark: str,
        folder: str,
        execution: Execution,
        sink: Callable[[int, bytes], Any],
        late: Callable[[int, bytes], Any],
        keyboard: Callable[[], Keyboard],
    ) -> None:
        super().__init__(loop, mark, execution, sink, late)
        request = execution.request
        self._scratch = os.path.join(folder, "%s.cell" % request.id)
        self._file = ""
        self._path = {**os.environ, **request.env}.get("PATH", os.defpath)
        self._directory = os.path.expanduser(request.cwd or "~")
        if not os.path.isdir(self._directory):
            raise Missing("there is no folder %s in this sandbox" % request.cwd)
        argv, body = self._command(request.language, request.interpreter, request.code)
        environment = self.environment({**request.env, "PWD": self._directory})
        try:
            if body:
                self.start(argv, environment, self._directory, None, os.open(body, os.O_RDONLY))
            else:
                self.start([*argv, *request.argv], environment, self._directory, keyboard())
        except OSError:
            self._clean()
            raise

    def _command(self, language: str, interpreter: list[str], code: str) -> tuple[list[str], str]:
        """The program and its words, and the file that is its standard input ("" for a keyboard)."""
        if language == "program":
            return self._given(interpreter, code)
        if language in ("node", "ts"):
            return (self._node(code) if language == "node" else self._typescript(code)), ""
        program, ending, package = _BY_FILE[language]
        self._need(program, "apt-get install %s" % package)
        return [program, self._write(code, ending)], ""

    def _given(self, interpreter: list[str], code: str) -> tuple[list[str], str]:
        self._need(interpreter[0], "")
        argv = self.execution.request.argv
        if interpreter[-1] == _STDIN:
            return [*interpreter, *argv], self._write(code, "")
        file = self._write(code, "")
        if _FILE in interpreter:
            return [file if word == _FILE else word for word in interpreter], ""
        return [*interpreter, file], ""

    def _node(self, code: str) -> list[str]:
        self._need("node", "apt-get install nodejs")
        if len(code.encode("utf-8", "surrogatepass")) > MAX_ARGUMENT:
            return ["node", self._write_here(code, ".mjs" if _MODULE.search(code) else ".cjs")]
        kind = ["--input-type=module"] if _MODULE.search(code) else []
        # process.argv[1] is a script's name.
        return ["node", *kind, "-e", code, "--", self.execution.request.name]

    def _typescript(self, code: str) -> list[str]:
        """tsx, deno or bun where there is one; else node, when it can strip types."""
        import shutil

        local = os.path.join(self._directory, "node_modules", ".bin", "tsx")
        for program, words in ((local, []), ("tsx", []), ("deno", ["run", "-A"]), ("bun", ["run"])):
            if shutil.which(program, path=self._path):
                return [program, *words, self._write_here(code, ".mts")]
        if shutil.which("node", path=self._path):
            version = self._node_version()
            if version >= (22, 6):
                more = ["--experimental-strip-types"] if version < (22, 18) else []
                silent = ["--disable-warning=ExperimentalWarning"]
                return ["node", *more, *silent, self._write_here(code, ".mts")]
        raise Missing(
            "TypeScript needs tsx, deno, bun, or node 22.6 or newer, and none of them is in this sandbox; "
            "`%%sandbox bash` with `npm install tsx` installs one in the current folder"
        )

    def _node_version(self) -> tuple[int, ...]:
        import subprocess

        try:
            said = subprocess.run(
                ["node", "--version"],
                stdout=subprocess.PIPE,
                timeout=5,
                env={"PATH": self._path},
                check=False,
            ).stdout.decode("ascii", "replace")
        except (OSError, subprocess.TimeoutExpired):
            return ()
        return tuple(int(number) for number in re.findall(r"\d+", said)[:2])

    def _need(self, program: str, how: str) -> None:
        import shutil

        if "/" in program:
            found = os.access(os.path.join(self._directory, os.path.expanduser(program)), os.X_OK)
        else:
            found = shutil.which(program, path=self._path) is not None
        if not found:
            hint = "; `%s` installs it on Debian, a snapshot that has it saves that" % how if how else ""
            raise Missing("there is no %s in this sandbox%s" % (program, hint))

    def _write(self, code: str, ending: str) -> str:
        """The cell as a file that has its name."""
        os.makedirs(self._scratch, mode=0o700)
        name = re.sub(r"[/\0]", "_", self.execution.request.name)[:80] + ending
        return self._fill(os.path.join(self._scratch, name), code)

    def _write_here(self, code: str, ending: str) -> str:
        """The cell as a file of the current folder, where the packages are; elsewhere if it must."""
        name = ".cell-%s%s" % (self.execution.id[:12], ending)
        try:
            return self._fill(os.path.join(self._directory, name), code)
        except OSError:
            return self._write(code, ending)

    def _fill(self, path: str, code: str) -> str:
        with open(path, "x", encoding="utf-8", errors="surrogateescape", newline="") as file:
            self._file = path
            file.write(code)
        return path

    def _clean(self) -> None:
        for remove, path in ((os.unlink, self._file), (os.rmdir, self._scratch)):
            try:
                remove(path)
            except OSError:
                continue  # there is none, or the cell has removed it

    def leave(self) -> None:
        self._clean()
        super().leave()
