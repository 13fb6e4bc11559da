"""Labels and variables of a sandbox. What the magics and the SDK keep in labels is theirs alone to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from daytona_magics.errors import SandboxUsageError
from daytona_magics.sandboxes import actions, labels, states
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.report import Reporter

if TYPE_CHECKING:
    from daytona import AsyncSandbox


def reserved(key: str) -> bool:
    """Whether a label tells the magics or the SDK what a sandbox is."""
    return key == labels.CREATED_BY or key.startswith((f"{labels.CREATOR}/", "code-toolbox-"))


async def relabel(
    binding: Binding,
    tell: Reporter,
    name: str | None,
    add: Mapping[str, str],
    *,
    remove: Sequence[str] = (),
    replace: bool = False,
    sure: bool = False,
) -> AsyncSandbox:
    """Change labels; without a change only the sandbox with its labels of now is returned.

    Args:
        name: of the sandbox; None for the bound one.
        add: labels to set.
        remove: labels to take off.
        replace: take off all others but the reserved ones.

    Raises:
        SandboxUsageError: one is reserved, or one to be taken off is not there.
    """
    for key in (*add, *remove):
        if reserved(key):
            raise SandboxUsageError(
                f"the label {key} tells whose the sandbox is; it cannot be changed",
                hint="`%sandbox use` and `%sandbox create` change it.",
            )
    async with binding.locked():
        changes = bool(add or remove or replace)
        names = [] if name is None else [name]
        (box,) = await states.chosen(binding, tell, names, sure=sure or not changes, doing="labels")
        if not changes:
            return box
        missing = [key for key in remove if key not in box.labels]
        if missing:
            raise SandboxUsageError(
                f"{box.name} has no label {', '.join(missing)}", hint="%sandbox labels  shows them."
            )
        kept = {
            key: value
            for key, value in box.labels.items()
            if key not in remove and (not replace or reserved(key))
        }
        await sdk.asked(box.set_labels({**kept, **add}), "changing labels")
        await sdk.asked(box.refresh_data(), "asking for the labels")
        return box


async def change_env(
    binding: Binding, tell: Reporter, new: Mapping[str, str], unset: Sequence[str]
) -> dict[str, str]:
    """Variables for all later cells of this kernel, and for what the sandbox starts from now on.

    Returns:
        the variables cells get, the sandbox's own among them.
    """
    async with binding.locked():
        await binding.rediscover(tell)
        if new or unset:
            if binding.sandbox is not None and not binding.gone:
                bound = await actions.refresh(binding, tell)
                await binding.awake(tell)
                await sdk.asked(bound.update_env(dict(new), unset=list(unset)), "changing variables")
            for name in unset:
                binding.env.pop(name, None)
            binding.env.update(new)
        box = await actions.refresh(binding, tell) if binding.sandbox is not None else None
        made = dict(getattr(box, "env", None) or {}) if box is not None else {}
        return {**made, **binding.env}
