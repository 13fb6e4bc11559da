"""What a cell left behind that ran in several sandboxes: one outcome for each, by the sandbox's name."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any

from daytona_magics.errors import printable
from daytona_magics.notebook.card import Table
from daytona_magics.notebook.display import RemoteValue
from daytona_magics.notebook.outcome import CellOutput


class Results(Mapping[str, CellOutput]):
    """The outcomes by sandbox, in the order the sandboxes were named.

    In:  r = _
         r["a"].stdout, r["a"].result, r["b"].error, r.ok, r.failed, r.results
    """

    def __init__(self, outcomes: Mapping[str, CellOutput], *, shown: bool = False) -> None:
        self._outcomes = dict(outcomes)
        self._shown = shown

    def __getitem__(self, name: str) -> CellOutput:
        return self._outcomes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outcomes)

    def __len__(self) -> int:
        return len(self._outcomes)

    @property
    def ok(self) -> bool:
        """Whether the cell ended well everywhere."""
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """Names of the sandboxes in which it did not."""
        return [name for name, outcome in self.items() if not outcome.ok]

    @property
    def results(self) -> dict[str, RemoteValue | None]:
        """The last expression's value by sandbox."""
        return {name: outcome.result for name, outcome in self.items()}

    @property
    def errors(self) -> dict[str, BaseException]:
        """The exceptions by sandbox, of those that failed."""
        return {name: outcome.error for name, outcome in self.items() if outcome.error is not None}

    @property
    def stdout(self) -> dict[str, str]:
        """What was printed, by sandbox."""
        return {name: outcome.stdout for name, outcome in self.items()}

    def _table(self) -> Table:
        rows = [
            (name, "ok" if outcome.ok else "failed", f"{outcome.seconds:.2f} s", _line(outcome))
            for name, outcome in self.items()
        ]
        return Table(("sandbox", "check", "seconds", "outcome"), rows, list(self.values()))

    def __repr__(self) -> str:
        return repr(self._table())

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()

    def _ipython_display_(self) -> None:
        """As the cell's own value it has been shown already, section by section; later it shows its table."""
        if self._shown:
            self._shown = False
            return
        from IPython.display import publish_display_data

        publish_display_data({"text/plain": repr(self), "text/html": self._repr_html_()})


def _line(outcome: CellOutput, limit: int = 80) -> str:
    """How one ended, or its value, in one line."""
    if outcome.error is not None:
        text = summary(outcome.error)
    elif outcome.result is not None:
        text = repr(outcome.result)
    else:
        lines = [line.rpartition("\r")[2] for line in outcome.stdout.split("\n")]
        text = next((line for line in reversed(lines) if line.strip()), "")
    text = printable(text, line=True)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def summary(error: BaseException) -> str:
    """In: summary(ZeroDivisionError("division by zero"))  Out: 'ZeroDivisionError: division by zero'"""
    return printable(f"{type(error).__name__}: {error}".rstrip(": "), line=True)


class Heading:
    """The line above one sandbox's outputs."""

    def __init__(self, name: str, said: str, *, ok: bool) -> None:
        self._name, self._said, self._ok = printable(name, line=True), printable(said, line=True), ok

    def __repr__(self) -> str:
        return f"── {self._name} {'✓' if self._ok else '✗'} {self._said} ──"

    def _repr_html_(self) -> str:
        color = "--jp-success-color1,#2e7d32" if self._ok else "--jp-error-color1,#c62828"
        return (
            '<div style="border-top:1px solid var(--jp-border-color2,rgba(128,128,128,.35));margin-top:4px;'
            'padding:2px 0 2px var(--jp-code-padding,5px)">'
            f'<strong>{html.escape(self._name)}</strong> <span style="color:var({color})">'
            f"{'✓' if self._ok else '✗'}</span> "
            f'<span style="color:var(--jp-ui-font-color2,GrayText)">{html.escape(self._said)}</span></div>'
        )


def show(value: Any) -> None:
    """Display a heading or a value in the cell that runs."""
    from IPython.display import display

    display(value)
