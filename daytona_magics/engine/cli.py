"""The command line of the embedded engine: ``python -m daytona_magics.engine COMMAND``.

``serve --detach`` forks before anything heavy is imported; the child becomes a session of its own, and the
parent waits until the child says that it answers (exit 0) or why it cannot (exit 1, one sentence on stderr).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from daytona_magics.engine import address, loopback, places

_EPILOG = """\
environment:
  DAYTONA_MAGICS_HOME          state folder (database and files of the sandboxes)
  DAYTONA_MAGICS_ISOLATION     run sandboxes at exactly this level: L3, L2, L1 or L0.5; or L0, without
                               isolation, which is never chosen by itself (default: the best that works)
  DAYTONA_MAGICS_HOST_PACKAGES 0: new sandboxes get a bare Python, without the packages installed
                               beside the engine (default 1: they can be imported, read-only)
  DAYTONA_MAGICS_SPARE         0: no sandbox is kept ready for the next notebook
  DAYTONA_MAGICS_IDLE_SECONDS  end after so long without use (default 600)
  XDG_RUNTIME_DIR              where the lock and the record of the running engine are kept

example:
  eval "$(python -m daytona_magics.engine env)"    # then use any Daytona client
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m daytona_magics.engine",
        description="The embedded engine of daytona-magics: a Daytona-compatible server on this machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="run the engine in the foreground")
    serve.add_argument(
        "--detach", action="store_true", help="run it in the background; return when it answers"
    )
    commands.add_parser("env", help="start it if needed and print the variables a Daytona client needs")
    for name, text in (
        ("status", "show the running engine and its sandboxes"),
        ("doctor", "show what the engine found out about this machine (starts it if needed)"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--json", action="store_true", help="print JSON")
    _add_logs(commands.add_parser("logs", help="show the engine's log, also when no engine is running"))
    bundle = commands.add_parser(
        "support-bundle", help="write an archive for somebody who helps: log, doctor, versions; no secrets"
    )
    bundle.add_argument(
        "--output", metavar="FILE", help="the archive (default: daytona-magics-support-TIME.tar.gz here)"
    )
    commands.add_parser("stop", help="stop all sandboxes (files are kept) and end the engine")
    return parser


def _add_logs(command: argparse.ArgumentParser) -> None:
    command.description = "Print the engine's log (JSON lines, UTC, at most 5 files of 2 MB), oldest first."
    command.add_argument("-f", "--follow", action="store_true", help="go on with lines as they are written")
    command.add_argument(
        "--sandbox",
        metavar="ID",
        default="",
        help="only lines about this sandbox (id or name), and its stderr",
    )
    command.add_argument(
        "--level",
        default="debug",
        choices=("debug", "info", "warning", "error", "critical"),
        help="only lines of this level or above (default: all)",
    )
    command.add_argument(
        "-n", "--lines", type=int, default=200, metavar="N", help="the last N lines; 0: all (default: 200)"
    )
    command.add_argument("--json", action="store_true", help="print the lines as they are, as JSON")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 on success, 1 on failure (with one sentence on stderr), 3 when ``status`` finds no engine.
    """
    arguments = _parser().parse_args(argv)
    if (problem := address.obstacle()) is not None:
        print(problem, file=sys.stderr)
        return 1
    try:
        match arguments.command:
            case "serve":
                return _detach() if arguments.detach else _serve(lambda: None)
            case "env":
                return _env()
            case "status":
                return _status(arguments.json)
            case "doctor":
                return _doctor(arguments.json)
            case "logs":
                return _logs(arguments)
            case "support-bundle":
                from daytona_magics.engine import support

                return support.run(arguments.output)
            case _:
                return _stop()
    except address.EngineStartError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"the embedded engine cannot run here: {error}", file=sys.stderr)
    return 1


def _serve(ready: Any) -> int:
    # What the clients of the libraries import; the engine needs their servers only, and a third less time.
    for name in ("requests", "tornado", "websocket"):
        sys.modules[name] = None  # type: ignore[assignment]
    from daytona_magics.engine import daemon

    try:
        daemon.serve(ready)
    except daemon.AlreadyRunning as error:
        # Another starter was faster; wait until its engine answers, that is as good.
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            if address.find() is not None:
                ready()
                return 0
            time.sleep(0.02)
        print(f"{error}, but it does not answer", file=sys.stderr)
        return 1
    return 0


def _detach() -> int:
    told, tell = os.pipe()
    child = os.fork()
    if child:
        os.close(tell)
        with os.fdopen(told, "rb") as pipe:
            said = pipe.read()
        if said.startswith(b"ready"):
            return 0
        # It said why on stderr, which is still shared, and has gone.
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            print(f"the embedded engine was killed by signal {os.WTERMSIG(status)}", file=sys.stderr)
        return 1
    os.close(told)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)

    def ready() -> None:
        # From now on there is a log; nobody holds our stderr any more.
        os.write(tell, b"ready")
        os.close(tell)
        os.dup2(null, 2)
        os.close(null)

    return _serve(ready)


def _env() -> int:
    engine = address.ensure()
    environ = dict(os.environ)
    loopback.add_no_proxy(environ)
    variables = {
        "DAYTONA_API_URL": engine.api_url,
        "DAYTONA_API_KEY": engine.api_key,
        "DAYTONA_TARGET": "local",
        "NO_PROXY": environ["NO_PROXY"],
        "no_proxy": environ["no_proxy"],
    }
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def _ask(method: str, path: str) -> dict[str, Any] | None:
    record = places.live_record()
    return places.call(record, method, path) if record else None


def _status(as_json: bool) -> int:
    status = _ask("GET", "/api/engine/status")
    if as_json:
        print(json.dumps({"running": status is not None, **(status or {})}, indent=2))
    elif status is None:
        print("no embedded engine is running")
    else:
        sandboxes = status["sandboxes"]
        print(f"embedded engine {status['version']}, pid {status['pid']}, {status['url']}")
        print(f"isolation {status['isolation']}, state in {status['state_folder']}")
        for sandbox in sandboxes:
            print(f"  {sandbox['state']:<10} {sandbox['name']}")
        if not sandboxes:
            print("  no sandboxes")
    return 3 if status is None else 0


def _doctor(as_json: bool) -> int:
    from daytona_magics.engine import doctor

    report = doctor.collect()
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        print(doctor.text(doctor.sections(report), shutil.get_terminal_size((100, 24)).columns))
    return 0 if report["ok"] else 1


def _logs(arguments: argparse.Namespace) -> int:
    from daytona_magics.engine import logs

    sandboxes = logs.names_of(arguments.sandbox) if arguments.sandbox else ()
    wanted = logs.Wanted(arguments.level, sandboxes)
    try:
        return logs.run(
            wanted,
            arguments.sandbox,
            max(0, arguments.lines),
            follow_it=arguments.follow,
            as_json=arguments.json,
        )
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # A pager that was left; nothing more can be written, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def _stop() -> int:
    record = places.live_record()
    if record is None:
        print("no embedded engine is running")
        return 0
    if places.call(record, "POST", "/api/engine/stop") is None:
        raise address.EngineStartError(f"the engine (pid {record['pid']}) does not answer")
    # Longer than the engine waits for a sandbox that does not end.
    deadline = time.monotonic() + 40.0
    while places.process_start_time(record["pid"]) == record["start_time"]:
        if time.monotonic() > deadline:
            raise address.EngineStartError(f"the engine (pid {record['pid']}) is taking long to stop")
        time.sleep(0.02)
    print("the embedded engine has stopped; files of sandboxes are kept")
    return 0
