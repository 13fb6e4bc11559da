"""The verbs about files and commands."""

from __future__ import annotations

from daytona_magics.magics.grammar.terms import (
    CWD,
    ENV,
    LOCAL_PATH,
    NO_RAISE,
    QUIET,
    REMOTE_PATH,
    Argument,
    Command,
    Option,
)

VERBS: tuple[Command, ...] = (
    Command(
        "exec",
        "Run one shell command in the sandbox, outside of any context: by zsh, else bash or sh.",
        "line_files:exec_",
        (Argument("command", "the command, taken as typed to the end of the line"),),
        (
            Option(("--timeout",), "stop the command after SECONDS (default: 600)", "SECONDS", "seconds"),
            CWD,
            ENV,
            NO_RAISE,
        ),
        raw=True,
        examples=("%sandbox exec --cwd /tmp ls -la | head -5",),
    ),
    Command(
        "install",
        "Install a program: run a command, again after 5 and 10 s if the network failed, and check.",
        "line_install:install",
        (Argument("command", "the command, as typed to the end of the line, or in quotes", "?"),),
        (
            Option(
                ("--verify",),
                "command that succeeds when the program is there (30 s); then nothing else is run",
                "COMMAND",
            ),
            Option(("--fallback",), "command for when that has not brought it", "COMMAND"),
            Option(("--timeout",), "stop one try after SECONDS (default: 300)", "SECONDS", "seconds"),
            CWD,
            ENV,
        ),
        raw=True,
        examples=(
            '%sandbox install --verify "deno --version" curl -fsSL https://deno.land/install.sh | sh',
            '%sandbox install "npm i -g tsx" --verify "tsx --version" --fallback "npx -y tsx --version"',
        ),
    ),
    Command(
        "run",
        "Run a file of this machine in the sandbox as a program; words after -- are its arguments.",
        "cell_files:run",
        (
            Argument(
                "file", "the file; its ending says what runs it (.py, .sh, .js, .ts, ...)", values=LOCAL_PATH
            ),
        ),
        (
            Option(("--remote",), "FILE is a file of the sandbox"),
            Option(("-i", "--interactive"), "Python: in the notebook's context, with its variables"),
            Option(
                ("--timeout",),
                "stop it after SECONDS (default: setting timeout; 0: no limit)",
                "SECONDS",
                "seconds",
            ),
            CWD,
            ENV,
            Option(("--stdin",), "ask for input also where it cannot be seen that a program waits for it"),
            Option(("--out",), "keep output, errors and result in VAR instead of showing them", "VAR"),
            NO_RAISE,
            QUIET,
        ),
        rest="argv",
        examples=("%sandbox run train.py -- --epochs 3", "%sandbox run --remote ~/app/setup.sh"),
    ),
    Command(
        "debug",
        "Look around, with Python's debugger, where the last error of a Python cell came from.",
        "cell_files:debug",
        options=(Option(("--context",), "of the context NAME (default: this kernel's)", "NAME"),),
    ),
    Command(
        "ls",
        "List a folder of the sandbox.",
        "line_files:ls",
        (
            Argument(
                "path", "folder or file (default: the home folder)", "?", values=REMOTE_PATH, default="~"
            ),
        ),
        (Option(("-a", "--all"), "also names that start with a dot"),),
    ),
    Command(
        "cat",
        "Show a text file of the sandbox.",
        "line_files:cat",
        (Argument("path", "file to show", values=REMOTE_PATH),),
        (Option(("-n", "--lines"), "show only the first LINES lines", "LINES", "int"),),
    ),
    Command(
        "upload",
        "Copy files and folders of this machine into the sandbox.",
        "line_files:upload",
        (
            Argument(
                "paths",
                "files and folders to copy; without --to the last of several is the destination",
                "+",
                values=LOCAL_PATH,
            ),
        ),
        (Option(("--to",), "file or folder/ in the sandbox", "PATH", values=REMOTE_PATH),),
        examples=(
            "%sandbox upload data.csv --to input/",
            "%sandbox upload data.csv input/data.csv",
            "%sandbox upload src/ app",
        ),
    ),
    Command(
        "download",
        "Copy files and folders of the sandbox to this machine.",
        "line_files:download",
        (
            Argument(
                "paths",
                "files and folders to copy; without --to the last of several is the destination",
                "+",
                values=REMOTE_PATH,
            ),
        ),
        (
            Option(
                ("--to",),
                "file or folder/ on this machine (default: same name, here)",
                "PATH",
                values=LOCAL_PATH,
            ),
            Option(("-f", "--force"), "overwrite a file that exists"),
        ),
        examples=("%sandbox download report.pdf", "%sandbox download results/ here"),
    ),
)
