"""``%%sandbox LANGUAGE [options]``."""

from __future__ import annotations

from daytona_magics.magics.grammar.terms import (
    CWD,
    ENV,
    NO_RAISE,
    QUIET,
    REMOTE_PATH,
    SANDBOX,
    Argument,
    Command,
    Option,
)
from daytona_magics.magics.grammar.variables import INPUT, OUTPUT, UNSAFE_PICKLE

#: What runs a cell.
LANGUAGES = ("python", "bash", "sh", "node", "javascript", "js", "ts", "typescript", "ruby", "R", "perl")

CELL = Command(
    "%%sandbox",
    "Run this cell in the notebook's sandbox, never on this machine.",
    arguments=(
        Argument(
            "language",
            "python (default) and bash keep their state; any other one is a program for this cell alone",
            "?",
            LANGUAGES,
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
        Option(
            ("--context",),
            "another state of this name: variables of its own (default: this kernel's)",
            "NAME",
        ),
        Option(
            ("--bg",),
            "run as a job beside the notebook's cells, from where they are, and return its handle at once; "
            "with --out VAR the handle is kept there",
        ),
        Option(
            ("--keep",),
            "with --bg: keep the sandbox up for SECONDS (or 30m, 2h) without this kernel, while a job runs",
            "SECONDS",
            "seconds",
        ),
        Option(("--fresh",), "Python without earlier cells' variables; words after -- are sys.argv[1:]"),
        Option(
            ("--interpreter",),
            "run the cell with PROGRAM: it gets the cell as a file, in place of the word {} or at the end; "
            "as standard input if its last word is -",
            "PROGRAM",
        ),
        Option(("--stdin",), "ask for input also where it cannot be seen that a program waits for it"),
        Option(
            ("--retries",),
            "when the connection fails, try again up to N times, after 5, 10, then 20 seconds (default: 0)",
            "N",
            "int",
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
    rest="argv",
    examples=(
        "%%sandbox\n40 + 2",
        "%%sandbox bash -s agent-1,agent-2\nmake test",
        "%%sandbox bash --timeout 60\nmake test",
        "%%sandbox --fresh -- input.csv\nimport sys; print(sys.argv)",
        "%%sandbox --interpreter 'awk -f {} /etc/passwd'\nBEGIN { FS = \":\" } { print $1 }",
        "%%sandbox --bg --keep 2h --out training\nimport train; train.run()",
        "%%sandbox -i df -o summary\nsummary = df.describe()",
        "%%sandbox -e API_TOKEN --out answer\nprint('captured')",
    ),
)

WRITEFILE = Command(
    "%%sandbox writefile",
    "Save this cell as a file of the sandbox, byte for byte; nothing is run.",
    "cell_files:writefile",
    arguments=(Argument("path", "file in the sandbox; its folders are made", values=REMOTE_PATH),),
    options=(Option(("-a", "--append"), "add to the file instead of replacing it"), QUIET),
    examples=("%%sandbox writefile -a ~/notes.txt\\nanother line",),
)

#: First words of the line that make it another command than running the cell.
CELL_VERBS: dict[str, Command] = {command.name.split()[1]: command for command in (WRITEFILE,)}
