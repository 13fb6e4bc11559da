"""``%%sandbox LANGUAGE [options]``."""

from __future__ import annotations

from daytona_magics.magics.grammar.terms import CWD, ENV, NO_RAISE, QUIET, SANDBOX, Argument, Command, Option
from daytona_magics.magics.grammar.variables import INPUT, OUTPUT, UNSAFE_PICKLE

CELL = Command(
    "%%sandbox",
    "Run this cell in the notebook's sandbox, never on this machine.",
    arguments=(
        Argument(
            "language",
            "python (default; variables live on) or bash",
            "?",
            ("python", "bash"),
            default="python",
        ),
    ),
    options=(
        Option(
            ("-s", "--sandbox"),
            "run in another sandbox, or in several at once: names with commas between, patterns like "
            "'agent-*', labels KEY=VALUE",
            "NAME[,NAME...]",
            values=SANDBOX,
        ),
        Option(
            ("--timeout",),
            "stop the cell after SECONDS (default: setting timeout; 0: no limit)",
            "SECONDS",
            "seconds",
        ),
        CWD,
        ENV,
        INPUT,
        OUTPUT,
        UNSAFE_PICKLE,
        Option(("--out",), "keep output, errors and result in VAR instead of showing them", "VAR"),
        NO_RAISE,
        QUIET,
    ),
    examples=(
        "%%sandbox\n40 + 2",
        "%%sandbox bash -s agent-1,agent-2\nmake test",
        "%%sandbox bash --timeout 60\nmake test",
        "%%sandbox -i df -o summary\nsummary = df.describe()",
        "%%sandbox -e API_TOKEN --out answer\nprint('captured')",
    ),
)
