"""``%sandbox asyncio``."""

from __future__ import annotations

from typing import Any

from daytona_magics.errors import SandboxError
from daytona_magics.magics import nested
from daytona_magics.notebook.status import note


def asyncio(shell: Any, options: Any) -> None:
    """``%sandbox asyncio [on|off]``

    Raises:
        SandboxError: something else has changed asyncio already, or the package for it is missing.
    """
    if options.switch == "on":
        try:
            nested.apply()
        except ImportError:
            raise SandboxError(
                "%sandbox asyncio on needs the package nest-asyncio2", hint="%pip install nest-asyncio2"
            ) from None
        except RuntimeError:
            raise SandboxError(
                "the older nest_asyncio is active in this kernel, and loses messages of the notebook",
                hint="Restart the kernel, and leave out the line that applies nest_asyncio.",
            ) from None
        note("`asyncio.run(…)` works in cells of this machine; `%sandbox asyncio off` ends this")
    elif options.switch == "off":
        nested.undo()
        other = "; something else still changes it" if nested.active() else ""
        note(f"asyncio is as it was: write `await main()` in cells of this machine{other}")
    else:
        state = "on" if nested.ours() else "applied by something else" if nested.active() else "off"
        note(f"`asyncio.run(…)` in cells of this machine: {state}. In sandbox cells it always works.")
