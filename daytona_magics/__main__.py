"""``python -m daytona_magics doctor [--json] [--offline]``: the doctor for shells and image builds.

It reads the same settings as a notebook: those of IPython's default profile.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 when cells can run, 1 when they cannot (the report says why).
    """
    parser = argparse.ArgumentParser(prog="python -m daytona_magics")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("doctor", help="check every part of the way to a sandbox")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument(
        "--offline", action="store_true", help="ask nothing of an endpoint that is not on this machine"
    )
    arguments = parser.parse_args(argv)

    from IPython.terminal.ipapp import load_default_config

    from daytona_magics.config import SandboxConfig
    from daytona_magics.magics.line_doctor import examine
    from daytona_magics.runtime.loop import loop_thread
    from daytona_magics.sandboxes.binding import Binding
    from daytona_magics.sandboxes.identity import identify

    binding = Binding(SandboxConfig(config=load_default_config()), lambda: identify(None))
    found = examine(binding, offline=arguments.offline)
    loop_thread().run(binding.disconnect())
    print(found.report if arguments.json else found)
    return 0 if found.ok else 1


if __name__ == "__main__":
    sys.exit(main())
