"""The verbs about what runs, or ran, in the sandbox."""

from __future__ import annotations

from dataclasses import replace

from daytona_magics.magics.grammar.terms import JOB, LOCAL_PATH, RUNNING, Argument, Command, Option

_ID = Argument("id", "the job or cell, by the first characters of its id (`%sandbox jobs`)", values=RUNNING)
_ID_OPTIONAL = Argument(
    "id",
    "a job or cell, by the first characters of its id (default: what runs, the cell first)",
    "?",
    values=RUNNING,
)

VERBS: tuple[Command, ...] = (
    Command(
        "jobs",
        "List background jobs, cells that run or wait, and cells whose output is kept.",
        "line_jobs:listed",
        options=(Option(("-a", "--all"), "also those of other kernels and contexts"),),
    ),
    Command(
        "logs",
        "Follow logs of jobs, cells, sessions and files; as text, or in a notebook as a view with search.",
        "line_logs:logs",
        (
            Argument(
                "sources",
                "jobs or cells, by the first characters of their ids; files, by paths with a slash or ~;"
                " session:NAME; entrypoint (default: what runs, else what was printed between cells)",
                "*",
                values=JOB,
            ),
        ),
        (
            Option(("--plain",), "show text, also where a view could be shown; so do the options below"),
            Option(
                ("-f", "--follow"),
                "show what is still to come, too; without an id of what runs. An interrupt ends only that",
            ),
            Option(("-n", "--lines"), "show the last LINES lines (between cells: 200)", "LINES", "int"),
            Option(("--all",), "also what is more than the setting show_limit"),
            Option(
                ("--to",), "write the text, byte for byte, to FILE on this machine", "FILE", values=LOCAL_PATH
            ),
            Option(("--force",), "with --to: overwrite a file that exists"),
            Option(("--forget",), "let the sandbox delete the output of what has ended"),
        ),
        examples=(
            "%sandbox logs 3f9a ~/server.log",
            "%sandbox logs -n 20",
            "%sandbox logs --follow",
            "%sandbox logs 3f9a --to output.txt",
        ),
    ),
    Command(
        "wait",
        "Wait for a job's end and return its value; an interrupt ends only the waiting.",
        "line_jobs:wait_",
        (replace(_ID_OPTIONAL, values=JOB),),
        (
            Option(
                ("--timeout",),
                "stop waiting after SECONDS; the job runs on (default: never)",
                "SECONDS",
                "seconds",
            ),
        ),
    ),
    Command(
        "cancel",
        "End a job or a cell and what it started: Ctrl-C first, after 2 s harder.",
        "line_jobs:cancel",
        (_ID,),
    ),
    Command(
        "interrupt",
        "Send Ctrl-C to what runs in the sandbox, for instance to a cell of the kernel before a restart.",
        "line_jobs:interrupt",
        (_ID_OPTIONAL,),
    ),
)
