"""Help texts, written from the same grammar that is parsed and completed."""

from __future__ import annotations

from daytona_magics.magics import grammar
from daytona_magics.magics.grammar import Command
from daytona_magics.magics.grammar.cell import CELL_VERBS
from daytona_magics.magics.parser import spelled, usage


def of(command: Command) -> str:
    """The help of one command.

    In:  of(grammar.BY_NAME["stop"]).splitlines()[0]
    Out: '%sandbox stop [--force] [-q]'
    """
    lines = [usage(command), "", f"  {command.summary}"]
    rows = [(argument.name.upper(), argument.help) for argument in command.arguments]
    rows += [
        (", ".join(option.flags) + (f" {option.metavar}" if option.metavar else ""), option.help)
        for option in command.options
    ]
    rows.append(("-h, --help", "show this"))
    width = max(len(name) for name, _ in rows)
    lines += ["", *(f"  {name:<{width}}  {help_}" for name, help_ in rows)]
    if command.examples:
        lines += ["", "  Examples"]
        for example in command.examples:
            lines += [*(f"    {line}" for line in example.splitlines()), ""]
    return "\n".join(lines).rstrip()


def overview() -> str:
    """The list of everything that can be typed."""
    width = max(len(command.name) for command in grammar.VERBS)
    lines = [
        usage(grammar.CELL),
        f"  {grammar.CELL.summary}",
        "",
        *(line for one in CELL_VERBS.values() for line in (usage(one), f"  {one.summary}", "")),
        "%sandbox",
        f"  {grammar.STATUS.summary}",
        "",
        "%sandbox VERB",
    ]
    lines += [f"  {command.name:<{width}}  {command.summary}" for command in grammar.VERBS]
    lines += ["", "%sandbox_git VERB", "  git in the sandbox: %sandbox_git help"]
    lines += ["", "  Every command explains itself:  %sandbox VERB --help   ·   %%sandbox --help"]
    return "\n".join(lines)


def git_overview() -> str:
    """The list of the verbs of ``%sandbox_git``."""
    width = max(len(command.name) for command in grammar.GIT_VERBS)
    lines = ["%sandbox_git VERB"]
    lines += [f"  {command.name:<{width}}  {command.summary}" for command in grammar.GIT_VERBS]
    return "\n".join([*lines, "", "  Every verb explains itself:  %sandbox_git VERB --help"])


def markdown() -> str:
    """The whole help as Markdown, for language models and documentation."""
    parts = ["# daytona-magics", "", "```", overview(), "```"]
    for command in (grammar.CELL, *CELL_VERBS.values(), *grammar.VERBS, *grammar.GIT_VERBS):
        parts += ["", f"## {spelled(command)}", "", "```", of(command), "```"]
    return "\n".join(parts)
