"""Tracebacks in one form: the chain of exceptions, each with its message and the lines it shows as failing.

Left out on both sides are what the drawing adds: colours, the rule and the head (the last line repeats the
name), lines around the failing one, frames of the local kernel, and a frame that is the one above it once
more (a recursion, which a sandbox cell folds and counts). A SyntaxError, which the local kernel draws in
another way when it comes from ``exec``, is brought into the form of all others.

What the local kernel shows wrongly is not asked of the sandbox: the text of a line of the cell is the one the
cell has there; a frame without any source says nothing; of an exception that was caught on the way, the local
kernel names the line where it was *left*, so the cell's lines count for the last exception only.
"""

from __future__ import annotations

import re

_PLACE = re.compile(r"(?:Cell In|File )")
_ARROW = re.compile(r"-+> ?(\d+) ?(.*)")
_CONTEXT = re.compile(r"\s*\d+(?: |$)")
_LINKS = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
_MACHINERY = ("site-packages/ipykernel/", "site-packages/IPython/core/")
_NO_SOURCE = "'Could not get source, probably due dynamically evaluated source code.'"


def normal(text: str, cells: list[str], *, sandbox: bool) -> list[str]:
    """The lines of a traceback that count.

    Args:
        text: without colours, names of cells as ``Cell In[#]``.
        cells: the cells of the case, which start at line 2.
        sandbox: the lines are the sandbox's; else the local kernel's, which may be wrong about the text.
    """
    parts: list[list[str]] = [[]]
    links: list[str] = []
    for line in text.split("\n"):
        if line.strip() in _LINKS:
            links.append(line.strip())
            parts.append([])
        else:
            parts[-1].append(line)
    out: list[str] = []
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        out += [*_one(part, cells, sandbox=sandbox, last=last), *links[number : number + 1]]
    return out


def _one(lines: list[str], cells: list[str], *, sandbox: bool, last: bool) -> list[str]:
    frames: list[tuple[str, ...]] = []
    rest: list[str] = []
    for line in lines:
        bare = line.strip()
        if not bare or bare.startswith("(...)") or bare.startswith("[... skipping similar frames"):
            continue
        if set(bare) == {"-"} or bare.endswith("Traceback (most recent call last)"):
            continue
        if bare == "Traceback (most recent call last):":
            continue
        arrow = _ARROW.match(bare)
        if _PLACE.match(bare) and not rest:
            frames.append((re.sub(r"^(File [^:]+):(\d+)", r"\1, line \2", bare),))
        elif frames and not rest and arrow:
            frames[-1] += (f"-> {arrow.group(1)} {arrow.group(2).strip()}",)
        elif frames and not rest and line.startswith("    ") and not _CONTEXT.match(line):
            number = re.search(r"line (\d+)", frames[-1][0])
            drawn = bool(re.fullmatch(r"\^", bare)) or len(frames[-1]) > 1 or number is None
            frames[-1] += (line if drawn or number is None else f"-> {number.group(1)} {bare}",)
        elif rest or not _CONTEXT.match(line):
            rest.append(line.rstrip())
    shown: list[tuple[str, ...]] = []
    for frame in frames:
        if any(place in frame[0] for place in _MACHINERY) or _NO_SOURCE in frame[-1]:
            continue
        if not sandbox:
            frame = _as_written(frame, cells)
        if not last and frame[0].startswith("Cell In"):
            continue
        if not shown or frame != shown[-1]:
            shown.append(frame)
    return [line for frame in shown for line in frame] + rest


def _as_written(frame: tuple[str, ...], cells: list[str]) -> tuple[str, ...]:
    """A frame of a cell with its line as the cell has it, when there is but one cell it can be of."""
    arrow = _ARROW.match(frame[1]) if len(frame) > 1 and frame[0].startswith("Cell In") else None
    if arrow is None:
        return frame
    at = int(arrow.group(1)) - 2
    written = [cell.split("\n")[at].strip() for cell in cells if 0 <= at < len(cell.split("\n"))]
    if len(written) != 1 or arrow.group(2).strip() in written:
        return frame
    return (frame[0], f"-> {arrow.group(1)} {written[0]}", *frame[2:])
