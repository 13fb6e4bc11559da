"""``%sandbox doctor``: walk the way to the sandbox step by step, then say what this machine offers.

Each step is tried for real and named with its error when it fails; the steps after it are then left out. What
the embedded engine knows comes from the engine, or, when it cannot start, from looking at the machine. Where
cells run elsewhere the engine is not started, and its parts are said to be unused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from daytona_magics import sandboxes
from daytona_magics.engine import doctor as reports
from daytona_magics.errors import SandboxError
from daytona_magics.notebook.card import counted
from daytona_magics.notebook.diagnosis import Diagnosis, Facts
from daytona_magics.notebook.status import wait
from daytona_magics.sandboxes import attaching
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.endpoint import Choice, choose, connect


def doctor(shell: Any, options: Any) -> Diagnosis | Facts:
    """``%sandbox doctor [--json] [--offline]``"""
    made = examine(sandboxes.current(), offline=options.offline)
    return made.report if options.json else made


def examine(binding: Binding, *, offline: bool = False) -> Diagnosis:
    """Check every part of the way to this binding's sandbox.

    Args:
        binding: whose settings count and whose sandbox is looked at; none is created.
        offline: contact no endpoint but the embedded engine.
    """
    choice = choose(binding.config)
    embedded = choice.kind == "embedded"
    way = reports.Section("Where cells run")
    _Walk(way, binding, choice, reach=embedded or not offline).run()
    report = reports.collect(start=embedded)
    checks = [{"part": label, "state": sign, "finding": text} for sign, label, text in way.lines]
    report["ok"] = not any(check["state"] == reports.WRONG for check in checks) and (
        report["ok"] or not embedded
    )
    report["endpoint"] = {
        "kind": choice.kind,
        "because": choice.reason,
        "url": choice.url or report["url"],
        "offer": choice.offer,
        "min_isolation": binding.config.min_isolation,
    }
    report["checks"] = checks
    found = reports.sections(report)
    if not embedded:
        unused = reports.Section("Embedded engine")
        unused.add(
            reports.FACT,
            "engine",
            "not used: cells run elsewhere. `python -m daytona_magics.engine doctor` looks at it anyway",
        )
        found = [unused, *(section for section in found if section.title == "Versions")]
    return Diagnosis(report, [way, *found])


class _Walk:
    """The steps from the settings to the sandbox's guest, each a line of ``section``."""

    def __init__(self, section: reports.Section, binding: Binding, choice: Choice, *, reach: bool) -> None:
        self._section, self._binding, self._choice, self._reach = section, binding, choice, reach

    def run(self) -> None:
        """Take the steps until one fails."""
        choice, section = self._choice, self._section
        where = {"embedded": "the embedded engine on this machine", "cloud": "the Daytona cloud"}
        section.add(
            reports.FACT, "endpoint", f"{where.get(choice.kind, choice.url)}, because: {choice.reason}"
        )
        section.add(reports.NOTE, "offer", choice.offer)
        if not self._reach:
            section.add(reports.FACT, "not asked", "--offline: nothing was sent to the endpoint")
            return
        reached = self._check("reached", self._found, "finding the endpoint")
        if not reached or not self._check("answers", self._answers, "asking the endpoint"):
            return
        if self._binding.sandbox is None:
            section.add(reports.FACT, "sandbox", "none yet; the first %%sandbox cell creates one")
        else:
            self._check("sandbox", self._cell, "connecting")

    def _check(self, label: str, probe: Callable[[Any], Any], doing: str) -> bool:
        start = time.monotonic()
        try:
            said = wait(probe, doing)
        except SandboxError as error:
            self._section.add(reports.WRONG, label, f"{error} {error.hint}".strip())
            return False
        self._section.add(reports.OK, label, f"{said} ({(time.monotonic() - start) * 1000:.0f} ms)")
        return True

    async def _found(self, tell: Any) -> str:
        return (await asyncio.to_thread(connect, self._binding.config)).title

    async def _answers(self, tell: Any) -> str:
        boxes = await attaching.find(await self._binding.connect(tell), {}, tell)
        return f"the API answers, {counted(len(boxes), 'sandbox')}"

    async def _cell(self, tell: Any) -> str:
        channel = await self._binding.ready(tell)
        info = channel.info
        assert info is not None
        contexts = (await channel.status()).get("contexts", ())
        return (
            f"{self._binding.bound().name}: Python {info.python}, guest {info.version}, "
            f"{counted(len(contexts), 'context')}"
        )
