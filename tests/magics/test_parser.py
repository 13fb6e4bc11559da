"""The typed line: words, options, mistakes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

import daytona_magics
from daytona_magics.errors import SandboxUsageError
from daytona_magics.magics import grammar, helptext, secrets
from daytona_magics.magics.parser import HelpWanted, parse, split_raw, strip_comment, verb

CELL = grammar.CELL
EXEC = grammar.BY_NAME["exec"]


def strings(folder: Path) -> Iterator[tuple[str, str]]:
    """Every string in the sources below a folder that can be shown: (where, text)."""
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            # A string that stands alone is documentation.
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in statements:
                yield f"{path.relative_to(folder)}:{node.lineno}", node.value


def test_every_verb_that_is_named_anywhere_exists() -> None:
    prose = {"has", "VERB"}  # "%sandbox has no verb ...", "%sandbox VERB --help"
    named = [
        (where, word)
        for where, text in strings(Path(daytona_magics.__file__).parent)
        for word in re.findall(r"(?<!%)%sandbox +([A-Za-z]\w*)", text)
    ]
    assert len(named) > 30
    assert [found for found in named if found[1] not in {*grammar.BY_NAME, *prose}] == []
    ours = [
        (where, word)
        for where, text in strings(Path(daytona_magics.__file__).parent)
        for word in re.findall(r"%sandbox_git +([A-Za-z]\w*)", text)
    ]
    prose |= {"works", "reads", "takes"}
    assert len(ours) > 20
    assert [found for found in ours if found[1] not in {*grammar.FAMILIES["sandbox_git"], *prose}] == []


@pytest.mark.parametrize("size", ["0", "-1", "1.5", "x", "\u0663"])
def test_a_size_is_a_whole_number_above_zero(size: str) -> None:
    for name in ("create", "resize"):
        with pytest.raises(SandboxUsageError, match="is not a whole number above 0"):
            parse(grammar.BY_NAME[name], f"--cpu={size}")
        assert parse(grammar.BY_NAME[name], "--cpu 2").cpu == 2


def test_a_line_is_remembered_but_not_shared() -> None:
    first = parse(CELL, "-e A=1")
    first.env.append("B=2")
    first.quiet = True
    again = parse(CELL, "-e A=1")
    assert again.env == ["A=1"] and again.quiet is False


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {"language": None, "timeout": None, "env": None, "out": None, "quiet": False}),
        ("bash", {"language": "bash"}),
        ("--fresh -- --a 'b c' -q", {"argv": ["--a", "b c", "-q"], "fresh": True, "quiet": False}),
        ("bash --timeout 5m", {"language": "bash", "timeout": 300.0}),
        ("--timeout 1.5 python", {"language": "python", "timeout": 1.5}),
        ("--timeout=0", {"timeout": 0.0}),
        ("-e 'A=b c' -e D", {"env": ["A=b c", "D"]}),
        ("--env A=b\\ c", {"env": ["A=b c"]}),
        ('--cwd "/a dir/b"', {"cwd": "/a dir/b"}),
        ("--out x --no-raise -q", {"out": "x", "no_raise": True, "quiet": True}),
        ("bash # a note about 'quotes", {"language": "bash"}),
        ("-e A=1#2", {"env": ["A=1#2"]}),
    ],
)
def test_cell_lines(line: str, expected: dict[str, object]) -> None:
    options = vars(parse(CELL, line))
    assert {name: options[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--tiemout 3", ["no option --tiemout", "did you mean --timeout?"]),
        ("--timeout 1 --timeout=2", ["--timeout was given twice"]),
        ("print(1)", ["code begins on the next line, not with 'print(1)'"]),
        ("python print(1)", ["no further argument: print(1); code begins on the next line"]),
        ("--time 3", ["no option --time", "--timeout"]),
        ("--quite", ["no option --quite", "--quiet"]),
        ("cobol", ["python or bash", "'cobol'"]),
        ("pyhton", ["did you mean python?"]),
        ("bash extra", ["takes no further argument: extra"]),
        ("--timeout soon", ["'soon' is not a time"]),
        ("--timeout", ["expected one argument"]),
        ("--out", ["expected one argument"]),
        ("-e 'open", ["no closing quotation"]),
    ],
)
def test_mistakes_name_the_nearest_thing(line: str, words: list[str]) -> None:
    with pytest.raises(SandboxUsageError) as caught:
        parse(CELL, line)
    for word in words:
        assert word in str(caught.value)
    assert "\n".join(caught.value._render_traceback_()).count("SandboxUsageError") == 1


def test_abbreviations_are_refused() -> None:
    with pytest.raises(SandboxUsageError):
        parse(grammar.BY_NAME["create"], "--auto-s 5")


@pytest.mark.parametrize(
    "command",
    [CELL, *grammar.VERBS, *grammar.GIT_VERBS],
    ids=lambda command: f"{command.magic} {command.name}",
)
def test_help_names_every_option_and_wins_over_mistakes(command: grammar.Command) -> None:
    with pytest.raises(HelpWanted) as wanted:
        parse(command, "--help")
    text = helptext.of(wanted.value.command)
    for option in command.options:
        assert option.flags[-1] in text and option.help in text
    for argument in command.arguments:
        assert argument.help in text
    assert command.summary in helptext.overview() + helptext.git_overview()
    assert text in helptext.markdown()


def test_verbs() -> None:
    assert verb("")[0] is grammar.STATUS
    assert verb("  # note")[0] is grammar.STATUS
    assert verb("ls  /tmp") == (grammar.BY_NAME["ls"], " /tmp")
    assert verb("--help")[0] is grammar.BY_NAME["help"]
    status = grammar.FAMILIES["sandbox_git"]["status"]
    assert verb("", "sandbox_git")[0] is status and verb("status -C x", "sandbox_git") == (status, "-C x")
    with pytest.raises(SandboxUsageError, match="%sandbox_git has no verb 'stauts'; did you mean status"):
        verb("stauts", "sandbox_git")
    with pytest.raises(SandboxUsageError, match="no verb 'lst'; did you mean list"):
        verb("lst")
    with pytest.raises(SandboxUsageError) as caught:
        verb("print('x')")
    assert "%%sandbox" in caught.value.hint


def test_every_verb_has_its_function() -> None:
    from importlib import import_module

    for command in (grammar.STATUS, *grammar.VERBS, *grammar.GIT_VERBS):
        module, _, function = command.run.partition(":")
        assert callable(getattr(import_module(f"daytona_magics.magics.{module}"), function)), command.name


@pytest.mark.parametrize(
    ("line", "options", "rest"),
    [
        ("ls -la | head -2", "", "ls -la | head -2"),
        ("--cwd /tmp ls --help", "--cwd /tmp", "ls --help"),
        ("--cwd '/a b' -e X=1 echo \"it's\"", "--cwd '/a b' -e X=1", 'echo "it\'s"'),
        ("--no-raise -- --odd name", "--no-raise", "--odd name"),
        ("echo 'unclosed", "", "echo 'unclosed"),
        ("echo a # b", "", "echo a # b"),
        ("", "", ""),
    ],
)
def test_commands_are_passed_on_verbatim(line: str, options: str, rest: str) -> None:
    front, verbatim = split_raw(EXEC, line)
    assert (front.strip(), verbatim) == (options, rest)
    if rest:
        assert parse(EXEC, line).command == rest


def test_exec_without_a_command_says_so() -> None:
    with pytest.raises(SandboxUsageError, match="command"):
        parse(EXEC, "--cwd /tmp")


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("a # b", "a "),
        ("'a # b' c", "'a # b' c"),
        ('"a \\" # b" # c', '"a \\" # b" '),
        ("a\\ # b", "a\\ # b"),
        ("#x", ""),
        ("a#b", "a#b"),
    ],
)
def test_comments_end_a_line_as_in_a_shell(line: str, left: str) -> None:
    assert strip_comment(line) == left


class TestEnvironment:
    HOST: ClassVar[dict[str, str]] = {"HOME": "/root", "API_TOKEN": "s3cr3t-value-of-the-host"}

    def test_literal_and_copied(self) -> None:
        made = secrets.environment(["MODE=debug", "API_TOKEN", "EMPTY="], self.HOST)
        assert made == {"MODE": "debug", "API_TOKEN": "s3cr3t-value-of-the-host", "EMPTY": ""}

    def test_unknown_variable_suggests_without_values(self) -> None:
        with pytest.raises(SandboxUsageError, match=r"did you mean API_TOKEN\?") as caught:
            secrets.environment(["API_TOKN"], self.HOST)
        assert "s3cr3t" not in str(caught.value)

    def test_bad_name(self) -> None:
        with pytest.raises(SandboxUsageError, match="not a variable name"):
            secrets.environment(["1X=2"], self.HOST)

    @pytest.mark.parametrize(
        "item",
        [
            "X=ghp_0123456789abcdefghijABCDEFGHIJ",
            "DAYTONA_API_KEY=dtn_5f0c1e8f6d7a",
            "OPENAI=sk-proj-abcdefghijklmnop",
            "AWS=AKIAIOSFODNN7EXAMPLE",
            "MY_PASSWORD=Xy7!pQ29zz-Lk04m",
            "BLOB=fJ3kd92LskdjF8234kjsdfKJH238dkfjh234kjhD",
        ],
    )
    def test_secret_literals_are_refused_without_being_repeated(self, item: str) -> None:
        with pytest.raises(SandboxUsageError, match="looks like a key or token") as caught:
            secrets.environment([item], self.HOST)
        name, _, value = item.partition("=")
        shown = "\n".join(caught.value._render_traceback_())
        assert value not in shown and f"-e {name}" in shown

    @pytest.mark.parametrize(
        "item",
        [
            "PATH_LIKE=/usr/local/lib/python3.11/site-packages",
            "KEY=on",
            "AUTH_MODE=basic",
            "N=12345678901234567890",
            "S=a b c",
        ],
    )
    def test_ordinary_values_pass(self, item: str) -> None:
        assert secrets.environment([item], self.HOST)
