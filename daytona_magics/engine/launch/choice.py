"""Which ways of isolating are tried, in which order, and what is said of those that do not work.

Each is tried with a sandbox, by the real calls, because no file of settings tells what a container's filter,
a security module or a kernel really allows. The first that works is the one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from . import advice
from .levels import LEVELS

LAUNCHERS = ("ctypes", "outer-bwrap", "bwrap")


@dataclass(frozen=True)
class Candidate:
    """A level and the program that makes it."""

    level: str
    launcher: str = "ctypes"


@dataclass(frozen=True)
class Attempt:
    """A way that was tried and did not work: ``problem`` is one sentence."""

    level: str
    launcher: str
    problem: str


#: From the best to the least.
ORDER = (
    Candidate("L3", "ctypes"),
    Candidate("L3", "outer-bwrap"),
    Candidate("L3", "bwrap"),
    Candidate("L2"),
    Candidate("L1"),
    Candidate("L0.5"),
)


def candidates(level: str | None, launcher: str | None) -> tuple[Candidate, ...]:
    """What to try when `level` and `launcher` are asked for (None: whatever works).

    Raises ValueError saying what can be asked for.
    """
    if level is not None and level not in LEVELS:
        raise ValueError(f"isolation {level!r} is not offered; it is one of {', '.join(LEVELS)}")
    if launcher is not None and launcher not in LAUNCHERS:
        raise ValueError(f"launcher {launcher!r} is not offered; it is one of {', '.join(LAUNCHERS)}")
    if level == "L0":
        return (Candidate("L0"),)
    return tuple(
        candidate
        for candidate in ORDER
        if level in (None, candidate.level) and launcher in (None, candidate.launcher)
    )


def failed(candidate: Candidate, problem: str) -> Attempt:
    """The record of a candidate that did not work, with what can be done about it."""
    hint = advice.on(problem, candidate.launcher)
    return Attempt(candidate.level, candidate.launcher, f"{problem} ({hint})" if hint else problem)


def reason(attempts: Sequence[Attempt]) -> str:
    """Why it is not a higher level: what did not work, each thing once; empty if nothing was in the way."""
    said: list[str] = []
    for attempt in attempts:
        # The outer bubblewrap only matters where it works, or where nothing else was tried.
        if attempt.launcher == "outer-bwrap" and len(attempts) > 1:
            continue
        problem = attempt.problem
        problem, _, hint = problem.removesuffix(")").partition(" (")
        if hint and not any(hint in other for other in said):
            problem = f"{problem} ({hint})"
        way = " by bubblewrap" if attempt.launcher == "bwrap" else ""
        said.append(f"{attempt.level}{way}: {problem}")
    return "; ".join(said)
