"""What ``%sandbox doctor`` returns: the report as a dictionary, drawn as sections of lines.

The lines come from :mod:`daytona_magics.engine.doctor`, which the engine's own command line prints too, so a
notebook and a terminal never tell two stories. Paths and reasons may be long and the page narrow: the labels
keep their width, the texts wrap.
"""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Sequence
from typing import Any

from daytona_magics.engine import doctor
from daytona_magics.errors import printable
from daytona_magics.notebook.card import BORDER, SOFT, escape, state_sign

_LABEL = f"text-align:left;padding:1px 12px 1px 0;vertical-align:top;white-space:nowrap;min-width:8em;{SOFT}"
_TEXT = "text-align:left;padding:1px 0;vertical-align:top;overflow-wrap:anywhere;max-width:70em"
_ROW = '<tr style="background:none"><td style="{}">{}{}</td><td style="{}">{}</td></tr>'


class Facts(dict[str, Any]):
    """A report that shows itself as JSON."""

    def __repr__(self) -> str:
        return json.dumps(self, indent=2)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))


class Diagnosis:
    """The report for people, and for programs as :attr:`report`.

    Attributes:
        report: the same as ``--json`` shows.
        sections: headings with lines.
    """

    def __init__(self, report: dict[str, Any], sections: Sequence[doctor.Section]) -> None:
        self.report, self.sections = Facts(report), list(sections)

    @property
    def ok(self) -> bool:
        """Whether cells can run."""
        return bool(self.report["ok"])

    def __repr__(self) -> str:
        width = shutil.get_terminal_size((100, 24)).columns
        return printable(doctor.text(self.sections, width))

    def _repr_html_(self) -> str:
        parts = []
        for section in self.sections:
            rows = "".join(
                _ROW.format(_LABEL, state_sign(sign), html.escape(label), _TEXT, escape(text))
                for sign, label, text in section.lines
            )
            parts.append(
                f'<div style="margin-top:6px"><strong>{html.escape(section.title)}</strong></div>'
                f'<table style="border:none;margin:2px 0 0 0;table-layout:auto">{rows}</table>'
            )
        return (
            f'<div style="border:{BORDER};border-radius:4px;padding:2px 12px 8px;margin:4px 0;'
            f'display:inline-block;max-width:100%;box-sizing:border-box">{"".join(parts)}</div>'
        )
