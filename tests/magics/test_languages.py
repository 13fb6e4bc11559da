"""What the words of a ``%%sandbox`` line choose, and what is tried again."""

from __future__ import annotations

from typing import Any

import pytest

from daytona_magics.errors import EndpointError, RemoteError, SandboxUnreachable, SandboxUsageError
from daytona_magics.magics import cell_files, grammar, languages
from daytona_magics.magics.parser import parse


def settled(line: str, body: str = "x\n") -> tuple[str | None, str, list[str], list[str]]:
    options = parse(grammar.CELL, line)
    code = languages.prepare(options, body)
    return code, options.language, list(options.interpreter), list(options.argv)


@pytest.mark.parametrize(
    ("line", "language", "argv"),
    [
        ("", "python", []),
        ("sh -- a", "bash", ["a"]),
        ("javascript", "node", []),
        ("typescript -- --x 'a b'", "ts", ["--x", "a b"]),
        ("--fresh", "fresh", [""]),
        ("python --fresh -- -q", "fresh", ["", "-q"]),
    ],
)
def test_languages_and_words(line: str, language: str, argv: list[str]) -> None:
    assert settled(line) == ("x\n", language, [], argv)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("#!/usr/bin/perl -w -T", ["/usr/bin/perl", "-w -T"]),
        ("#!/usr/bin/env ruby", ["ruby"]),
        ("#! /usr/bin/env -S deno run -A", ["deno", "run", "-A"]),
        ("#!/bin/sh", ["/bin/sh"]),
    ],
)
def test_a_first_line_chooses_the_program_and_keeps_its_place(first: str, words: list[str]) -> None:
    assert settled("", f"{first}\nbody\n") == ("\nbody\n", "program", words, [])
    # A language that was named has the word: to it the line is a comment.
    assert settled("bash", f"{first}\nbody\n")[1] == "bash"


def test_an_interpreter_is_cut_like_a_shell_does() -> None:
    assert settled("--interpreter 'awk -F \": \" -f {}' -- file")[1:] == (
        "program",
        ["awk", "-F", ": ", "-f", "{}"],
        ["file"],
    )


@pytest.mark.parametrize(
    "line",
    [
        "--interpreter ''",
        "--interpreter '\"'",
        "node --interpreter x",
        "--fresh bash",
        "--retries -1",
        "--retries 101",
        "--context ''",
        "-- words",
        f"--context {'x' * 129}",
    ],
)
def test_words_that_contradict_each_other_are_refused(line: str) -> None:
    with pytest.raises(SandboxUsageError):
        settled(line)
    with pytest.raises(SandboxUsageError):
        settled("", "#!\n")


def test_only_a_connection_that_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "PAUSES", (0.01, 0.02))
    options = parse(grammar.CELL, "-q --retries 2")

    def run(*errors: BaseException) -> tuple[Any, int]:
        left, calls = list(errors), [0]

        def once() -> str:
            calls[0] += 1
            if left:
                raise left.pop(0)
            return "done"

        try:
            return languages.tried(options, once), calls[0]
        except (SandboxUnreachable, EndpointError, RemoteError, SandboxUsageError) as error:
            return type(error).__name__, calls[0]

    cut = SandboxUnreachable("cut")
    assert run() == ("done", 1)
    assert run(cut, cut) == ("done", 3)
    assert run(cut, cut, cut) == ("SandboxUnreachable", 3)
    for final in (EndpointError("the key is refused"), RemoteError("x"), SandboxUsageError("x")):
        assert run(final) == (type(final).__name__, 1)
    options.retries = None
    assert run(cut) == ("SandboxUnreachable", 1)


def test_the_first_word_of_the_line_may_be_a_command() -> None:
    assert cell_files.is_verb("writefile a") and cell_files.is_verb("  writefile")
    assert not cell_files.is_verb("") and not cell_files.is_verb("--out writefile")
