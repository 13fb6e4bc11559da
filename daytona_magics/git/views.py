"""How a repository is shown: status, commits, branches. Text for terminals, HTML for notebooks.

Names and messages come from the sandbox: escaped, control characters replaced, and only so many of them. A
colour is always beside a letter or a word that says the same.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from daytona_magics.errors import printable
from daytona_magics.notebook.card import BORDER, SOFT, Table, counted

#: Files of one group of a status that are shown, and characters of one name.
SHOWN, LONGEST = 100, 300
GREEN = "var(--jp-success-color1,#2e7d32)"
RED = "var(--jp-error-color1,#c62828)"
AMBER = "var(--jp-warn-color1,#b26a00)"
_MONO = "font-family:var(--jp-code-font-family,monospace);font-size:var(--jp-code-font-size,13px)"
_LETTERS = {
    "Modified": "M",
    "Added": "A",
    "Deleted": "D",
    "Renamed": "R",
    "Copied": "C",
    "Updated but unmerged": "U",
    "Untracked": "?",
}
_COLORS = {"M": AMBER, "A": GREEN, "D": RED, "R": AMBER, "C": GREEN, "U": RED, "?": "inherit"}


def line_of(text: object, most: int = LONGEST) -> str:
    """Text as one line that can be shown, cut where it is too long."""
    shown = printable(text, line=True)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


@dataclass(frozen=True)
class File:
    """A file that is not as committed.

    Attributes:
        name: its path in the repository.
        staging: what is staged of it: "Modified", "Added", "Deleted", "Renamed", ... or "Unmodified".
        worktree: the same of what is not staged.
        old: its earlier name, when it was renamed.
    """

    name: str
    staging: str
    worktree: str
    old: str = ""


@dataclass
class Status:
    """The state of a repository; a sequence of its :class:`File` entries.

    Attributes:
        path: the repository's top folder.
        branch: the current one; "HEAD" when detached.
        detached: HEAD is on no branch.
        unborn: nothing is committed yet.
        head: the current commit, short.
        upstream: the branch it follows, such as "origin/main"; "" for none.
        ahead, behind: commits that are only here, only there.
        files: what is not as committed.
        under_way: "a merge" and the like, when one was begun and is not finished.
    """

    path: str
    branch: str
    detached: bool = False
    unborn: bool = False
    head: str = ""
    upstream: str = ""
    ahead: int = 0
    behind: int = 0
    files: Sequence[File] = field(default_factory=list)
    under_way: str = ""

    @property
    def clean(self) -> bool:
        """Nothing is there that is not committed."""
        return not self.files

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[File]:
        return iter(self.files)

    def groups(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """(title, (letter, name) of each file), conflicts first; empty groups are left out."""
        conflicts, staged, changed, untracked = [], [], [], []
        for one in self.files:
            name = f"{one.old} → {one.name}" if one.old else one.name
            if "Updated but unmerged" in (one.staging, one.worktree):
                conflicts.append(("U", name))
                continue
            if one.staging not in ("Unmodified", "Untracked", ""):
                staged.append((_LETTERS.get(one.staging, "M"), name))
            if one.worktree == "Untracked":
                untracked.append(("?", one.name))
            elif one.worktree not in ("Unmodified", ""):
                changed.append((_LETTERS.get(one.worktree, "M"), one.name))
        titled = (
            ("Conflicts", conflicts),
            ("Staged", staged),
            ("Changed, not staged", changed),
            ("Not tracked", untracked),
        )
        return [(title, rows) for title, rows in titled if rows]

    def headline(self) -> str:
        """One sentence: where HEAD is, and how that is to what it follows."""
        if self.detached:
            said = f"HEAD is detached at {line_of(self.head)}"
        else:
            said = f"On {line_of(self.branch)}" + (", no commits yet" if self.unborn else "")
        if self.upstream:
            steps = [f"{self.ahead} to push"] * bool(self.ahead) + [f"{self.behind} to pull"] * bool(
                self.behind
            )
            said += f", following {line_of(self.upstream)}: {' and '.join(steps) or 'in step'}"
        elif not self.detached:
            said += ", following no remote branch"
        return said

    def _foot(self) -> list[str]:
        foot = []
        if self.under_way:
            foot.append(
                f"{self.under_way} is under way: solve the conflicts, `%sandbox_git add`, then commit"
            )
        if self.detached:
            foot.append("Commits made here belong to no branch: `%sandbox_git branch NAME` gives them one")
        return foot

    def __repr__(self) -> str:
        lines = [f"{self.headline()}   ({line_of(self.path)})"]
        for title, rows in self.groups():
            lines.append(f"{title} ({len(rows):,})")
            lines += [f"  {letter}  {line_of(name)}" for letter, name in rows[:SHOWN]]
            if len(rows) > SHOWN:
                lines.append(f"  …  and {len(rows) - SHOWN:,} more")
        if self.clean:
            lines.append("Nothing to commit: everything is as committed")
        return "\n".join([*lines, *(line.replace("`", "") for line in self._foot())])

    def _repr_html_(self) -> str:
        from daytona_magics.notebook.card import escape

        parts = [
            f"<div><strong>{html.escape(self.headline())}</strong></div>"
            f'<div style="{SOFT};{_MONO}">{html.escape(line_of(self.path))}</div>'
        ]
        for title, rows in self.groups():
            shown = "".join(
                '<div style="white-space:pre-wrap;overflow-wrap:anywhere;padding-left:2.6em;'
                'text-indent:-1.6em">'
                f'<span style="color:{_COLORS[letter]};display:inline-block;width:1.6em;text-indent:0;'
                f'font-weight:600">{letter}</span>{html.escape(line_of(name))}</div>'
                for letter, name in rows[:SHOWN]
            )
            more = f'<div style="{SOFT};padding-left:2.6em">and {len(rows) - SHOWN:,} more</div>'
            parts.append(
                f'<details open style="margin-top:6px"><summary style="cursor:pointer">{title} '
                f'<span style="{SOFT}">({len(rows):,})</span></summary>'
                f'<div style="{_MONO}">{shown}{more if len(rows) > SHOWN else ""}</div></details>'
            )
        if self.clean:
            parts.append(
                f'<div style="margin-top:6px;{SOFT}">Nothing to commit: everything is as committed</div>'
            )
        parts += [f'<div style="color:{AMBER};margin-top:6px">{escape(line)}</div>' for line in self._foot()]
        return (
            f'<div style="border:{BORDER};border-radius:4px;padding:8px 12px;margin:4px 0;'
            f'display:inline-block;min-width:22em;max-width:100%;box-sizing:border-box">{"".join(parts)}</div>'
        )


@dataclass(frozen=True)
class Commit:
    """One commit of a log.

    Attributes:
        sha, short: its hash, whole and short.
        author, email: who wrote it.
        date: when, ISO 8601.
        refs: branches and tags that are at it.
        subject: the first line of its message.
    """

    sha: str
    short: str
    author: str
    email: str
    date: str
    refs: str
    subject: str


def commits(found: Sequence[Commit], empty: str) -> Table:
    """Commits as a table."""
    rows = [
        (
            line_of(one.short, 40),
            line_of(one.date[:16].replace("T", " "), 40),
            line_of(one.author, 40),
            line_of((f"[{one.refs}] " if one.refs else "") + one.subject, 200),
        )
        for one in found
    ]
    return Table(("commit", "when", "author", "subject"), rows, list(found), empty=empty)


@dataclass(frozen=True)
class Branch:
    """A branch.

    Attributes:
        name: of a remote one with the remote's, "origin/main".
        current: HEAD is on it.
        head: its commit, short.
        upstream: what it follows; "" for nothing.
        track: "ahead 1, behind 2", "gone" or "".
        date: of its last commit, ISO 8601.
        subject: of its last commit.
    """

    name: str
    current: bool
    head: str
    upstream: str
    track: str
    date: str
    subject: str


def branches(found: Sequence[Branch], empty: str) -> Table:
    """Branches as a table."""
    rows = [
        (
            ("→ " if one.current else "") + line_of(one.name, 100),
            line_of(one.upstream, 100),
            line_of(one.track, 40),
            line_of(one.date[:16].replace("T", " "), 40),
            line_of(one.subject, 120),
        )
        for one in found
    ]
    head = ("branch", "follows", "difference", "last commit", "subject")
    return Table(head, rows, list(found), empty=empty, foot=counted(len(found), "branch"))
