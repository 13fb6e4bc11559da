"""``python3 guest.pyz daemon|attach|attach-soon|version``."""

from __future__ import annotations

import sys

USAGE = "usage: guest daemon | attach | attach-soon | version"


def main(arguments: list[str]) -> int:
    """Run one subcommand; returns the exit code. Each imports only what it needs: start time counts."""
    command = arguments[0] if len(arguments) == 1 else ""
    if command in ("attach", "attach-soon"):
        from . import attach

        return attach.main(attach.SOON if command == "attach-soon" else 0.0)
    if command == "daemon":
        from . import daemon

        return daemon.main()
    if command == "version":
        from . import VERSION

        sys.stdout.write(VERSION + "\n")
        return 0
    sys.stderr.write(USAGE + "\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
