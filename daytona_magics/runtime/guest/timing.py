"""``%time``, ``%timeit``, ``%%time``, ``%%timeit`` and ``%%capture``."""

from __future__ import annotations

import io
import itertools
import math
import os
import re
import sys
import time
import timeit

from . import rich

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .worker import Session

_OPTION = re.compile(r"\s*-(?:([nrp])\s*(\d+)|([tcqo]))(?=\s|$)")
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "μs"), (1e-9, "ns"))


def duration(seconds: float, digits: int = 3) -> str:
    """A time in the unit that suits it, with so many significant digits.

    In:  duration(0.00123)
    Out: '1.23 ms'
    """
    if seconds >= 60:
        parts: list[str] = []
        for name, long in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
            count, seconds = divmod(seconds, long)
            if count or parts:
                parts.append("%d%s" % (count, name))
        return " ".join(parts)
    size, name = next((u for u in _UNITS if seconds >= u[0]), _UNITS[-1])
    return "%.*g %s" % (digits, seconds / size if seconds > 0 else 0, name)


class Result:
    """What ``%timeit -o`` returns.

    Attributes: loops, repeat (counts), all_runs (seconds of each run), timings (seconds of one loop), best,
    worst, average, stdev.
    """

    def __init__(self, loops: int, runs: list[float], digits: int) -> None:
        self.loops, self.repeat, self.all_runs, self._digits = loops, len(runs), runs, digits
        self.timings = [run / loops for run in runs]
        self.best, self.worst = min(self.timings), max(self.timings)
        self.average = math.fsum(self.timings) / len(runs)
        self.stdev = math.sqrt(math.fsum((t - self.average) ** 2 for t in self.timings) / len(runs))

    def __str__(self) -> str:
        return "%s ± %s per loop (mean ± std. dev. of %d run%s, %s loop%s each)" % (
            duration(self.average, self._digits),
            duration(self.stdev, self._digits),
            self.repeat,
            "s" * (self.repeat != 1),
            format(self.loops, ","),
            "s" * (self.loops != 1),
        )

    def __repr__(self) -> str:
        return "<TimeitResult : %s>" % self


class Captured:
    """What ``%%capture NAME`` keeps.

    Attributes: stdout, stderr (texts), outputs (mimebundles).
    """

    def __init__(self) -> None:
        self.stdout = self.stderr = ""
        self.outputs: list[dict[str, Any]] = []

    def __str__(self) -> str:
        return self.stdout

    def show(self) -> None:
        """Print and display it."""
        sys.stdout.write(self.stdout)
        sys.stderr.write(self.stderr)
        for one in self.outputs:
            rich.publish(one["data"], one.get("metadata"))


class Timing:
    """The magics."""

    _session: Session
    error: type[Exception]
    at: int

    def _timed(self, text: str, at: int | None = None) -> Any:
        """Run statements, the last of which may have a value; say how long it took."""
        session = self._session
        tree, last = session.parse(text, at)
        codes = [session.compile(tree, "exec")] if tree.body else []
        if last is not None:
            codes.append(session.compile(last, "eval"))
        value = None
        before, started = os.times(), time.perf_counter()
        try:
            for code in codes:
                value = session.evaluate(code)
        finally:
            wall, after = time.perf_counter() - started, os.times()
            user, system = after.user - before.user, after.system - before.system
            times = tuple(map(duration, (user, system, user + system)))
            print("CPU times: user %s, sys: %s, total: %s\nWall time: %s" % (*times, duration(wall)))
        return value if last is not None else None

    def magic_time(self, line: str) -> Any:
        """``%time STATEMENT``: run it, say how long it took, return an expression's value."""
        return self._timed(line, self.at)

    def cell_time(self, line: str, body: str) -> Any:
        """``%%time``: run the cell and say how long it took."""
        return self._timed(line + "\n" + body if line else body)

    def magic_timeit(self, line: str, body: str | None = None) -> Any:
        """``%timeit [-n N] [-r R] [-q] [-o] STATEMENT``: how long a statement takes, on average."""
        options: dict[str, int] = {"r": 7, "n": 0, "p": 3}
        flags = set()
        while True:
            found = _OPTION.match(line)
            if not found:
                break
            if found.group(3):
                flags.add(found.group(3))
            else:
                options[found.group(1)] = int(found.group(2))
            line = line[found.end() :]
        setup, statement = ("pass", line.strip()) if body is None else (line.strip() or "pass", body)
        if not statement.strip():
            return None
        timer = timeit.Timer(statement, setup, globals=self._session.namespace)
        loops = options["n"] or next(
            n for n in (10**e for e in itertools.count()) if timer.timeit(n) >= 0.2 or n >= 10**9
        )
        result = Result(loops, timer.repeat(max(1, options["r"]), loops), options["p"])
        if "q" not in flags:
            worst, best = result.worst, result.best
            if best > 0 and worst > 4 * best and worst > 1e-6:
                print(
                    "The slowest run took %.2f times longer than the fastest. "
                    "This could mean that an intermediate result is being cached." % (worst / best)
                )
            print(result)
        return result if "o" in flags else None

    def cell_timeit(self, line: str, body: str) -> Any:
        """``%%timeit [options] [SETUP]``: how long the cell takes, on average."""
        return self.magic_timeit(line, body)

    def cell_capture(self, line: str, body: str) -> None:
        """``%%capture [--no-stdout] [--no-stderr] [--no-display] [NAME]``: keep the output in NAME."""
        words = line.split()
        name = next((w for w in words if not w.startswith("-")), "")
        if name and not name.isidentifier():
            raise self.error("%%%%capture: %s is not a variable name" % name)
        kept, before = Captured(), (sys.stdout, sys.stderr)
        out, err = io.StringIO(), io.StringIO()
        displays = None if "--no-display" in words else kept.outputs
        try:
            if "--no-stdout" not in words:
                sys.stdout = out
            if "--no-stderr" not in words:
                sys.stderr = err
            with rich.captured(displays):
                self._session.run_text(body)
        finally:
            sys.stdout, sys.stderr = before
            kept.stdout, kept.stderr = out.getvalue(), err.getvalue()
            if name:
                self._session.namespace[name] = kept
