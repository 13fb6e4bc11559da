"""The verbs about servers in the sandbox, and what they serve."""

from __future__ import annotations

from daytona_magics.magics.grammar.terms import CWD, ENV, Argument, Command, Option

_EXPIRES = Option(
    ("--expires",),
    "seconds an address given to the browser is good for, 10 to 86400; it is renewed in time (default: 3600)",
    "SECONDS",
    "int",
)

VERBS: tuple[Command, ...] = (
    Command(
        "serve",
        "Run a server in the background and wait until its port gives any HTTP answer; the same one is not"
        " started twice.",
        "line_preview:serve",
        (
            Argument(
                "command",
                "the command, as typed to the end of the line, or in quotes (default: by the kind of project"
                " in the folder: package.json, Django, FastAPI, Flask, Streamlit, index.html; it is said)",
                "?",
            ),
        ),
        (
            Option(
                ("-p", "--port"),
                "the port it listens on; it gets it as PORT, too (default: what command or project say)",
                "PORT",
                "int",
            ),
            Option(("--name",), "a name to stop or find it by, beside its port", "NAME"),
            CWD,
            ENV,
            Option(
                ("--timeout",),
                "seconds it has to answer; it is not ended when they are over (default: 60)",
                "SECONDS",
                "seconds",
            ),
            Option(
                ("--keep",),
                "keep the sandbox up for SECONDS (or 30m, 2h) for it, without this kernel",
                "SECONDS",
                "seconds",
            ),
            Option(("--restart",), "end what is served there and start it anew"),
            Option(("--preview",), "show the page, not the card"),
            Option(("-l", "--list"), "list the servers"),
            Option(("--stop",), "end a server, by its name or port", "NAME|PORT"),
        ),
        raw=True,
        examples=(
            "%sandbox serve --port 3000 python -m http.server 3000",
            '%sandbox serve "npm run dev" --port 5173 --cwd ~/app',
            "%sandbox serve --cwd ~/app --preview",
            "%sandbox serve --stop 3000",
        ),
    ),
    Command(
        "preview",
        "Show what a port of the sandbox serves, in a frame that reloads when cells change it.",
        "line_preview:preview",
        (Argument("port", "where the server listens, or its name", "?"),),
        (
            Option(("--path",), "what to show first (default: /)", "PATH"),
            _EXPIRES,
            Option(("--static",), "only title, status and text of the page, without a frame"),
            Option(
                ("--pattern",), "only the address of any port, with {PORT} in it: for agents and programs"
            ),
        ),
        examples=("%sandbox preview 3000 --path /docs",),
    ),
)
