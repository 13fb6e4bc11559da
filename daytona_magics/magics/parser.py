"""From a typed line to values: our own front on argparse and shlex.

argparse alone would print to stderr and exit, accept abbreviations, keep quotes and swallow trailing
comments as arguments. Here a line is cut by the rules of a POSIX shell, parsed strictly, and every mistake
is a :class:`SandboxUsageError` with the nearest word that exists.
"""

from __future__ import annotations

import argparse
import io
import re
import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import Any, NoReturn

from daytona_magics.errors import SandboxUsageError
from daytona_magics.magics import grammar
from daytona_magics.magics.grammar import Command, Option

#: Longest line whose parsing is remembered, characters.
REMEMBERED = 200


class HelpWanted(Exception):
    """``--help`` was typed; carries the command to explain."""

    def __init__(self, command: Command) -> None:
        super().__init__(command.name)
        self.command = command


def spelled(command: Command) -> str:
    """The command as a person types it: ``%%sandbox``, ``%sandbox VERB`` or ``%sandbox_git VERB``."""
    return command.name if command.name.startswith("%") else f"%{command.magic} {command.name}"


class _Parser(argparse.ArgumentParser):
    def __init__(self, command: Command) -> None:
        super().__init__(prog=spelled(command), add_help=False, allow_abbrev=False)
        self.command = command

    def error(self, message: str) -> NoReturn:
        raise SandboxUsageError(
            _readable(message, self.command), hint=f"usage: {usage(self.command)}   ({self.prog} --help)"
        )


def _readable(message: str, command: Command) -> str:
    unknown = re.match(r"unrecognized arguments: (.*)", message)
    if unknown:
        word = unknown.group(1).split()[0]
        below = "; code begins on the next line" if command is grammar.CELL else ""
        return f"{spelled(command)} takes no further argument: {word}{below}"
    choice = re.match(r"argument (\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)", message)
    if choice:
        name, word, known = choice.groups()
        words = [w.strip(" '") for w in known.split(",")]
        if command is grammar.CELL and not word.isalnum():
            return f"{name} can be {' or '.join(words)}; code begins on the next line, not with {word!r}"
        return f"{name} can be {' or '.join(words)}, not {word!r}{did_you_mean(word, words)}"
    return message[:1].upper() + message[1:] if message.startswith("the following") else message


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """In: did_you_mean("--tiemout", ["--timeout"]) Out: "; did you mean --timeout?" """
    close = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def flags(command: Command) -> list[str]:
    """Every spelling of every option of a command, with ``--help``."""
    return [flag for option in command.options for flag in option.flags] + ["--help"]


def seconds(text: str) -> float:
    """Parse a number of seconds; also ``90s``, ``5m``, ``2h``, ``1d``.

    In:  seconds("1.5"), seconds("5m")
    Out: (1.5, 300.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*([smhd]?)", text.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write seconds (30), or 5m, 2h, 1d")
    return float(found.group(1)) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found.group(2)]


def _minutes(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of minutes")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:9]) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


_KINDS: dict[str, Any] = {"str": str, "seconds": seconds, "minutes": _minutes, "int": _int, "count": _count}


@cache
def _parser(command: Command) -> _Parser:
    parser = _Parser(command)
    for option in command.options:
        if not option.metavar:
            parser.add_argument(*option.flags, dest=option.dest, action="store_true")
        else:
            parser.add_argument(
                *option.flags,
                dest=option.dest,
                metavar=option.metavar,
                type=_KINDS[option.kind],
                choices=option.choices or None,
                action="append" if option.repeat else "store",
                default=None,
            )
    for argument in command.arguments:
        more: dict[str, Any] = {"nargs": argument.nargs} if argument.nargs else {}
        if argument.nargs != "+":
            more["default"] = argument.default if argument.nargs != "*" else []
        parser.add_argument(argument.name, choices=argument.choices or None, **more)
    return parser


def parse(command: Command, line: str) -> argparse.Namespace:
    """Parse the text after a command's name.

    Args:
        command: what was typed, from :mod:`.grammar`.
        line: the rest of the line.

    Raises:
        HelpWanted: the line asks for help.
        SandboxUsageError: the line breaks the grammar; the message names the nearest thing that exists.

    In:  parse(grammar.CELL, "bash --timeout 5m -e A='b c'  # a note")
    Out: Namespace(language='bash', timeout=300.0, env=['A=b c'], ...)
    """
    if len(line) > REMEMBERED:
        return _parse(command, line)
    # A notebook repeats a handful of lines; the copy keeps callers from changing what is remembered. Values
    # are texts, numbers, and lists of these.
    known = vars(_parsed(command, line))
    return argparse.Namespace(**{k: v[:] if isinstance(v, list) else v for k, v in known.items()})


def _parse(command: Command, line: str) -> argparse.Namespace:
    rest = None
    if command.raw:
        line, rest = split_raw(command, line)
        words = split(line, command)
    else:
        words = split(strip_comment(line), command)
    after: list[str] = []
    if command.rest and "--" in words:
        at = words.index("--")
        words, after = words[:at], words[at + 1 :]
    if any(word in ("-h", "--help") for word in words):
        raise HelpWanted(command)
    _refuse_unknown(command, words)
    if rest:
        words += ["--", rest]
    found = _parser(command).parse_args(words)
    if command.rest:
        setattr(found, command.rest, after)
    return found


_parsed = lru_cache(maxsize=64)(_parse)


def _refuse_unknown(command: Command, words: list[str]) -> None:
    """argparse would complain about the value of an unknown option first, and take the last of two."""
    by_flag = {flag: option for option in command.options for flag in option.flags}
    expected, given = False, set()
    for word in words:
        if expected or not word.startswith("-") or word == "-":
            expected = False
            continue
        if word == "--":
            return
        name, equals, _ = word.partition("=")
        option = by_flag.get(name) or by_flag.get(word[:2])
        if option is None or (name not in by_flag and not option.metavar):
            raise SandboxUsageError(
                f"{spelled(command)} has no option {name}{did_you_mean(name, flags(command))}",
                hint=f"usage: {usage(command)}   ({spelled(command)} --help)",
            )
        if option.metavar and not option.repeat:
            if option.dest in given:
                raise SandboxUsageError(f"{spelled(command)}: {name} was given twice")
            given.add(option.dest)
        expected = bool(option.metavar) and name in by_flag and not equals


def split(line: str, command: Command) -> list[str]:
    """Cut a line into words as a POSIX shell would."""
    try:
        return shlex.split(line, comments=False, posix=True)
    except ValueError as error:
        raise SandboxUsageError(
            f"{spelled(command)}: {str(error).lower()}",
            hint="Quote like in a shell: 'two words' or two\\ words.",
        ) from None


def strip_comment(line: str) -> str:
    """Cut off a trailing ``# note``: an unquoted ``#`` at the start of a word.

    In:  strip_comment("ls 'a #b' c#d # note")
    Out: "ls 'a #b' c#d "
    """
    quote, previous, escaped = "", " ", False
    for index, char in enumerate(line):
        if escaped:
            escaped, char = False, "\\"
        elif quote:
            if char == "\\" and quote == '"':
                escaped = True
            elif char == quote:
                quote = ""
        elif char == "\\":
            escaped = True
        elif char in "'\"":
            quote = char
        elif char == "#" and previous.isspace():
            return line[:index]
        previous = char
    return line


def split_raw(command: Command, line: str) -> tuple[str, str]:
    """Part the options at the front from the text that must be passed on verbatim.

    In:  split_raw(EXEC, "--cwd /tmp ls -la | head")
    Out: ("--cwd /tmp ", "ls -la | head")
    """
    by_flag = {flag: option for option in command.options for flag in option.flags}
    stream = io.StringIO(line)
    lexer = shlex.shlex(stream, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    start = 0
    try:
        while True:
            word = lexer.get_token()
            if word is None or not word.startswith("-"):
                break
            if word == "--":
                start = stream.tell()
                return line[: line.rindex("--", 0, start)], line[start:].strip()
            option = by_flag.get(word)
            if option is not None and option.metavar:
                lexer.get_token()
            start = stream.tell()
    except ValueError:
        # An open quote belongs to the verbatim part: the sandbox's own shell will judge it.
        return line[:start], line[start:].strip()
    return line[:start], line[start:].strip()


def verb(line: str, magic: str = "sandbox") -> tuple[Command, str]:
    """Find the verb at the start of a line; an empty line means the status.

    In:  verb("ls /tmp")
    Out: (Command(name='ls', ...), "/tmp")
    """
    stripped, known = line.strip(), grammar.FAMILIES[magic]
    if not stripped or stripped.startswith("#"):
        return grammar.STATUS if magic == "sandbox" else known["status"], ""
    if stripped.startswith("?") and magic == "sandbox":
        source = "--source " if stripped.startswith("??") else ""
        return known["inspect"], source + stripped.strip("? ")
    name, _, rest = stripped.partition(" ")
    if name in ("-h", "--help"):
        return known["help"], rest
    command = known.get(name)
    if command is None:
        more = " To run code: %%sandbox on the first line of a cell." if magic == "sandbox" else ""
        raise SandboxUsageError(
            f"%{magic} has no verb {name!r}{did_you_mean(name, list(known))}",
            hint=f"%{magic} help lists them all.{more}",
        )
    return command, rest


def usage(command: Command) -> str:
    """One line of usage.

    In:  usage(grammar.BY_NAME["cat"])
    Out: "%sandbox cat [-n LINES] PATH"
    """
    parts = [spelled(command)]
    for argument in command.arguments if command is grammar.CELL else ():
        parts.append(_argument_usage(argument))
    parts += [_option_usage(option) for option in command.options]
    for argument in () if command is grammar.CELL else command.arguments:
        parts.append(_argument_usage(argument))
    return " ".join(parts)


def _argument_usage(argument: grammar.Argument) -> str:
    name = "|".join(argument.choices) if argument.choices else argument.name.upper()
    return {"": name, "?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} [...]"}[argument.nargs]


def _option_usage(option: Option) -> str:
    text = option.flags[0] + (f" {option.metavar}" if option.metavar else "")
    return f"[{text}]"
