"""The environment of programs that are started from now on. Part of the toolbox program.

It is that of the running sandbox: after a stop it is again the one the sandbox was created with.
"""

from typing import TYPE_CHECKING, Any

from .wire import Wire

if TYPE_CHECKING:
    from .agent import Handler, Inside


async def _environment(inside: "Inside", connection: Wire, request: dict[str, Any]) -> None:
    """op environment: {set, unset, unset_prefix} → {}."""
    new = {str(name): str(value) for name, value in request["set"].items()}
    for name in request["unset"]:
        inside.env.pop(str(name), None)
    if prefix := str(request.get("unset_prefix") or ""):
        for name in [name for name, value in inside.env.items() if value.startswith(prefix)]:
            if name not in new:
                del inside.env[name]
    inside.env.update(new)
    await connection.send_json({})


HANDLERS: "dict[str, Handler]" = {"environment": _environment}
