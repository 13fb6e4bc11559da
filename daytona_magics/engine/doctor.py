"""What ``doctor`` says: one report, and the same report as sections of lines for people.

The report is flat JSON. The engine's part of it comes from ``GET /api/engine/status``, the rest from looking
at this machine (:mod:`.machine`), so there is a report also when no engine can be started; then ``problem``
says why. The command line of the engine, the ``%sandbox doctor`` magic and ``--json`` all show this report.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daytona_magics.engine import address, machine, places

#: Signs of a line: fine; worth knowing; wrong; a plain fact.
OK, NOTE, WRONG, FACT = "ok", "note", "failed", ""

#: What the engine tells about itself; without an engine each is None.
ENGINE_FACTS = (
    *("isolation", "launcher", "landlock_abi", "why_not_higher", "attempts", "open", "notes", "asked_for"),
    *("limits", "network", "system", "shell", "uids", "journal"),
    *("engine", "api_version", "schema", "url", "port", "pid"),
)


@dataclass
class Section:
    """A heading with lines ``(sign, label, text)``; sign is one of OK, NOTE, WRONG, FACT."""

    title: str
    lines: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, sign: str, label: str, text: object) -> None:
        """Add a line, unless there is nothing to say."""
        if text not in ("", None):
            self.lines.append((sign, label, str(text)))


def collect(*, start: bool = True) -> dict[str, Any]:
    """The report. Blocks up to 20 s when an engine has to be started; never raises for what it reports on.

    Args:
        start: start the engine when none is running; else only a running one is asked.

    In:  collect()["isolation"]
    Out: "L3"
    """
    status, problem = _status(start)
    status = dict(status or {})
    block = status.pop("uid_block", None)
    if block:
        status["uids"] = f"{block[0]}-{block[0] + block[1] - 1}, one per sandbox"
    elif status:
        status["uids"] = "one for all sandboxes"
    status["engine"] = status.pop("version", None)
    unavailable = str(status.get("unavailable") or "")
    report: dict[str, Any] = {"ok": not (problem or unavailable), "problem": problem or unavailable}
    report |= {name: status.get(name) for name in ENGINE_FACTS}
    report |= machine.facts()
    if status.get("state_folder"):
        report["state_folder"] = status["state_folder"]
        report |= machine.disk(Path(status["state_folder"]))
    report["state_folder_message"] = status.get("state_folder_message") or ""
    if report["state_folder_message"]:
        report["state_folder_from"] = "the fallback"
    report["runtime_folder"] = _runtime_folder()
    level = report["isolation"] or ("none" if problem else "L3")
    if report["engine"] and not report["why_not_higher"]:
        missing = (
            "it was asked for by name" if report["asked_for"] and level != "L3" else "nothing is missing"
        )
        report["why_not_higher"] = unavailable or missing
    report["advice"] = machine.advice(level, str(report["asked_for"] or ""))
    return report


def _status(start: bool) -> tuple[dict[str, Any] | None, str]:
    """(the engine's status, why there is none)."""
    if (obstacle := address.obstacle()) is not None:
        return None, obstacle
    try:
        if start:
            address.ensure()
        record = places.live_record()
    except address.EngineStartError as error:
        return None, str(error)
    except OSError as error:
        return None, f"the embedded engine cannot run here: {error}"
    status = places.call(record, "GET", "/api/engine/status") if record else None
    if status is None and (start or record):
        return None, "the embedded engine does not answer"
    return status, ""


def _runtime_folder() -> str | None:
    if address.obstacle() is not None:
        return None
    try:
        return str(places.runtime_dir())
    except address.EngineStartError as error:
        return f"none: {error}"


# -- for people


def sections(report: Mapping[str, Any]) -> list[Section]:
    """The report in the order in which one looks for a fault."""
    made = [
        _engine(report),
        _isolation(report),
        _limits(report),
        _network(report),
        _system(report),
        _parts(report),
        _versions(report),
        _places(report),
    ]
    return [section for section in made if section.lines]


def _engine(report: Mapping[str, Any]) -> Section:
    section = Section("Embedded engine")
    if report["problem"]:
        section.add(WRONG, "problem", report["problem"])
    elif report["engine"]:
        section.add(OK, "engine", f"{report['engine']}, pid {report['pid']}, port {report['port']}")
    else:
        section.add(FACT, "engine", "not running; the first cell starts it")
    return section


def _isolation(report: Mapping[str, Any]) -> Section:
    section, level = Section("Isolation"), report["isolation"]
    if level:
        below = level not in ("L3", "none")
        how = f", launched by {report['launcher']}" if report["launcher"] else ""
        if report["landlock_abi"]:
            how += f", Landlock ABI {report['landlock_abi']}"
        section.add(WRONG if level == "none" else NOTE if below else OK, "isolation", level + how)
        tried = [attempt for attempt in report["attempts"] or () if attempt["problem"]]
        # The sentence puts together what each attempt says.
        if not all(attempt["problem"] in report["why_not_higher"] for attempt in tried) or not tried:
            section.add(FACT, "why not higher", report["why_not_higher"])
        for attempt in tried:
            how = f"{attempt['launcher']}: " if attempt["launcher"] else ""
            section.add(FACT, f"why not {attempt['level']}", how + attempt["problem"])
    for phrase in report["open"] or ():
        section.add(NOTE, "open", phrase)
    for sentence in report["notes"] or ():
        section.add(NOTE, "to know", sentence)
    for sentence in report["advice"]:
        section.add(NOTE, "to do", sentence)
    return section


def _limits(report: Mapping[str, Any]) -> Section:
    section = Section("Limits of a sandbox")
    limits = report["limits"] or {}
    for name, fact in limits.items():
        if not isinstance(fact, Mapping) or "state" not in fact:
            continue
        why = f" ({fact['why']})" if fact.get("why") else ""
        sign = OK if fact["state"] == "enforced" else NOTE
        section.add(sign, name.replace("_", " "), f"{fact['state']}: {fact.get('how', '')}{why}")
    usual = limits.get("default")
    if isinstance(usual, Mapping):
        section.add(
            FACT, "without asking", "{cpu:g} CPU, {memory:g} GiB memory, {disk:g} GiB disk".format(**usual)
        )
    cpus, memory = report["cpus"], report["memory_bytes"]
    section.add(FACT, "this machine", f"{cpus:g} CPU" + (f", {size(memory)} memory" if memory else ""))
    return section


def _network(report: Mapping[str, Any]) -> Section:
    section, network = Section("Network of a sandbox"), report["network"]
    # An engine of an earlier version tells less.
    if network:
        section.add(FACT, "way out", network.get("way_out"))
        section.add(FACT, "host proxy", network.get("host_proxy") or "none; connections are made directly")
        section.add(WRONG, "host proxy", network.get("host_proxy_problem"))
        section.add(FACT, "no proxy for", ", ".join(network.get("no_proxy", ())))
        section.add(FACT, "package indexes", ", ".join(network.get("indexes", ())) or "those of pip and npm")
        section.add(FACT, "passed on", ", ".join(network.get("variables", ())))
    return section


def _system(report: Mapping[str, Any]) -> Section:
    section, system = Section("Installing inside"), report["system"]
    if system:
        section.add(FACT, "pip, npm", "install into the sandbox's home")
        if system.get("writable"):
            section.add(
                OK, "apt", "/usr, /etc and /var can be written to; this machine's own are not touched"
            )
        else:
            section.add(NOTE, "apt", f"not here: {system.get('reason')}")
    return section


def _parts(report: Mapping[str, Any]) -> Section:
    section = Section("Programs a sandbox finds here")
    tools, shells = report["tools"], report["shells"]
    section.add(FACT, "shell", report["shell"] or next(filter(None, shells.values()), "none"))
    for label, found, known in (
        ("tools", tools, machine.TOOLS),
        # The engine of this version starts neither; its routes say so.
        ("desktop (not used yet)", report["desktop"], machine.DESKTOP),
        ("language servers (not used yet)", report["language_servers"], machine.LANGUAGE_SERVERS),
    ):
        there = [name for name, path in found.items() if path]
        absent = [f"{name} (`{known[name]}`)" for name, path in found.items() if not path]
        text = ", ".join(there) or "none"
        section.add(FACT, label, text + (f"; not here: {', '.join(absent)}" if absent else ""))
    return section


def _versions(report: Mapping[str, Any]) -> Section:
    section = Section("Versions")
    known = [f"{name} {text}" for name, text in report["versions"].items() if text]
    missing = [name for name, text in report["versions"].items() if not text]
    section.add(
        FACT, "packages", ", ".join(known) + (f"; not installed: {', '.join(missing)}" if missing else "")
    )
    abi = report["kernel_landlock_abi"]
    box = f", in a container or virtual system ({report['container']})" if report["container"] else ""
    section.add(
        FACT,
        "kernel",
        f"{report['kernel']} {report['architecture']}, "
        + (f"Landlock ABI {abi}" if abi else "no Landlock")
        + box,
    )
    return section


def _places(report: Mapping[str, Any]) -> Section:
    section = Section("Folders")
    if report["state_folder"]:
        section.add(FACT, "state folder", f"{report['state_folder']} ({report['state_folder_from']})")
    section.add(NOTE, "instead of", report["state_folder_message"])
    if report["disk_free_bytes"] is not None:
        free, total = report["disk_free_bytes"], report["disk_total_bytes"]
        section.add(NOTE if free < 1 << 30 else FACT, "disk free", f"{size(free)} of {size(total)}")
    section.add(FACT, "runtime folder", report["runtime_folder"])
    section.add(FACT, "user ids", report["uids"])
    return section


def size(count: float) -> str:
    """In: size(1536 << 20)  Out: "1.5 GiB" """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


_SIGNS = {OK: "✓", NOTE: "!", WRONG: "✗", FACT: " "}


def text(found: list[Section], width: int = 100) -> str:
    """Sections for a terminal; long lines are wrapped below where their text begins.

    Args:
        width: columns of the terminal.
    """
    labels = max((len(label) for section in found for _, label, _ in section.lines), default=0)
    indent = " " * (labels + 6)
    room = max(width - len(indent), 30)
    lines: list[str] = []
    for section in found:
        lines += ["", section.title] if lines else [section.title]
        for sign, label, said in section.lines:
            parts = [
                part
                for line in said.splitlines() or [""]
                for part in textwrap.wrap(line, room, break_on_hyphens=False) or [""]
            ]
            lines.append(f"  {_SIGNS[sign]} {label:<{labels}}  {parts[0]}".rstrip())
            lines += [indent + part for part in parts[1:]]
    return "\n".join(lines)
