"""``%%sandbox writefile`` saves the cell as a file; ``%sandbox run`` runs a file as a cell."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from daytona_magics import sandboxes
from daytona_magics.errors import SandboxUsageError
from daytona_magics.magics import grammar, helptext, languages
from daytona_magics.magics.grammar import cell as cell_grammar
from daytona_magics.magics.parser import HelpWanted, parse

_MAGIC = re.compile(r"\s*%%sandbox\b")
#: The largest file ``run`` sends as a cell, bytes.
RUN_LIMIT = 4 << 20


def is_verb(line: str) -> bool:
    """Whether a ``%%sandbox`` line is for a command of its own. In: is_verb("writefile a.txt") Out: True"""
    return line.split(maxsplit=1)[:1] != [] and line.split(maxsplit=1)[0] in cell_grammar.CELL_VERBS


def run_verb(shell: Any, line: str, body: str | None) -> Any:
    """Run the command that the line's first word names, on the cell's body."""
    from daytona_magics.notebook.card import Help

    name, _, rest = line.strip().partition(" ")
    command = cell_grammar.CELL_VERBS[name]
    try:
        options = parse(command, rest)
    except HelpWanted as wanted:
        return Help(helptext.of(wanted.command))
    module, _, function = command.run.partition(":")
    return getattr(import_module(f"daytona_magics.magics.{module}"), function)(shell, options, body)


def writefile(shell: Any, options: Any, body: str | None) -> None:
    """``%%sandbox writefile [-a] PATH``"""
    from daytona_magics.notebook.card import size
    from daytona_magics.notebook.status import note, wait
    from daytona_magics.sandboxes import writing

    data = _typed(shell, body or "").encode("utf-8", "surrogatepass")
    binding = sandboxes.current()
    where = wait(
        lambda tell: writing.write(binding, tell, options.path, data, append=options.append),
        f"writing {options.path}",
        quiet=options.quiet,
        cancelled="cancelled; the file is written whole or not at all",
    )
    if not options.quiet:
        note(f"{size(len(data))} {'added to' if options.append else '→'} {where}")


def _typed(shell: Any, body: str) -> str:
    """The body as it stands in the notebook: comments above the magic have become empty lines of it."""
    history = getattr(getattr(shell, "history_manager", None), "input_hist_raw", None) or [""]
    for number, line in enumerate(str(history[-1]).splitlines()):
        if _MAGIC.match(line):
            return body[number:] if body.startswith("\n" * number) else body
    return body


def run(shell: Any, options: Any) -> Any:
    """``%sandbox run FILE [-- WORDS]``"""
    from daytona_magics.magics import cell

    language = languages.BY_ENDING.get(PurePosixPath(options.file).suffix)
    if language is None:
        known = ", ".join(languages.BY_ENDING)
        raise SandboxUsageError(
            f"{options.file}: what runs it is told by the ending of its name, one of {known}",
            hint="%sandbox exec COMMAND  runs anything.",
        )
    if options.interactive and language != "fresh":
        raise SandboxUsageError("-i is for Python files")
    code, name = _remote(options.file) if options.remote else _local(options.file)
    typed = parse(grammar.CELL, "")
    for field in ("timeout", "cwd", "env", "out", "no_raise", "quiet", "stdin"):
        setattr(typed, field, getattr(options, field))
    typed.language, typed.interpreter = language, []
    words = [options.file if options.remote else name, *options.argv]
    typed.argv = words if language == "fresh" else words[1:]
    if options.interactive:
        typed.language, typed.argv = "python", []
    return cell.run_prepared(shell, typed, code, name)


def debug(shell: Any, options: Any) -> Any:
    """``%sandbox debug``"""
    from daytona_magics.magics import cell

    typed = parse(grammar.CELL, "python")
    typed.context = options.context
    languages.prepare(typed, None)
    return cell.run_prepared(shell, typed, "%debug", f"Cell In[{cell.cell_number(shell)}]")


def _local(file: str) -> tuple[str, str]:
    path = Path(file).expanduser()
    if not path.is_file():
        raise SandboxUsageError(
            f"there is no file {file!r} on this machine", hint="--remote runs a file of the sandbox."
        )
    if path.stat().st_size > RUN_LIMIT:
        raise SandboxUsageError(
            f"{file!r} has more than {RUN_LIMIT >> 20} MiB", hint="%sandbox upload it, then run it --remote."
        )
    return _decoded(path.read_bytes(), file), path.name


def _remote(file: str) -> tuple[str, str]:
    from daytona_magics.notebook.status import wait
    from daytona_magics.sandboxes import files

    binding = sandboxes.current()
    data = wait(lambda tell: files.read(binding, tell, file, limit=RUN_LIMIT), f"reading {file}")
    return _decoded(data, file), PurePosixPath(file).name


def _decoded(data: bytes, file: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SandboxUsageError(f"{file!r} is not text in UTF-8 (byte {error.start})") from None
