"""Variables to and from the bound sandbox. Coroutines for the loop thread.

A small container travels in the cell's own request and in one message of its output. A large one is a file in
a private folder of the sandbox for the time of the transfer; the file API carries it in pieces, straight from
the memory the values are in and straight into the memory they will be in. From an engine on this machine it
comes out of a pipe in that folder, while the sandbox still writes it; when that does not work out, the
sandbox makes a file of it after a few seconds.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from daytona_magics.errors import SandboxError
from daytona_magics.runtime.events import Variables
from daytona_magics.runtime.variables import SMALL, CannotCarry, Package, Reader
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import files, transfers
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.meter import Meter
from daytona_magics.sandboxes.report import Reporter

#: Where the guest expects containers, below its folder.
FOLDER = ".daytona-magics/run/variables"


def is_small(package: Package) -> bool:
    """Whether a package goes in the request itself."""
    return package.size <= SMALL


def inline(package: Package) -> dict[str, str]:
    """A small package, as the request itself says it."""
    return {"data": base64.b64encode(package.bytes()).decode("ascii")}


async def send(binding: Binding, tell: Reporter, package: Package) -> dict[str, str]:
    """Bring packed variables to the sandbox; returns what the cell's request says of them.

    Raises:
        SandboxError: the upload failed, or a variable changed meanwhile; nothing is left there.
    """
    if is_small(package):
        return inline(package)
    sandbox = binding.bound()
    where = await files.remote_path(sandbox, f"~/{FOLDER}/{secrets.token_hex(16)}")
    meter = Meter(tell, _named("sending", package), package.size)

    shown = _named("sending", package)
    try:
        await transfers.send(sandbox, package.pieces, package.size, where, shown, meter)
    except BaseException as error:
        with suppress(Exception):
            await asyncio.shield(sandbox.fs.delete_file(where))
        if isinstance(error, CannotCarry):
            raise SandboxError(f"-i: {error}") from None
        raise
    return {"path": where}


async def send_all(bindings: Sequence[Binding], tell: Reporter, package: Package) -> list[dict[str, str]]:
    """Bring packed variables to several sandboxes, one after the other; either all of them get them or none.

    Returns:
        what the cell's request says of them in each.

    Raises:
        SandboxError: as of :func:`send`.
    """
    sent: list[dict[str, str]] = []
    try:
        for binding in bindings:
            sent.append(await send(binding, tell, package))
    except BaseException:
        for binding, inputs in zip(bindings, sent, strict=False):
            if "path" in inputs:
                with suppress(Exception):
                    await asyncio.shield(binding.bound().fs.delete_file(inputs["path"]))
        raise
    return sent


async def _written(sandbox: Any, path: str) -> None:
    """Wait until a pipe that nobody has read has become a file. Raises SandboxError."""
    deadline = asyncio.get_running_loop().time() + transfers.ANSWER
    while not str((await files.info_of(sandbox, path)).mode).startswith("-"):
        if asyncio.get_running_loop().time() > deadline:
            raise SandboxError("-o: the sandbox does not write the variables to a file")
        await asyncio.sleep(0.2)


def asked(
    sandbox: Any, inputs: Mapping[str, str] | None, outputs: list[Any], pickled: bool
) -> dict[str, Any]:
    """What a request says of the variables it carries.

    Args:
        inputs: what :func:`send` or :func:`inline` returned; None without.
        outputs: [name there, name here] pairs.
        pickled: take as a pickle what cannot be taken otherwise.
    """
    piped = bool(outputs) and transfers.can_pipe(sandbox)
    return {"inputs": inputs, "outputs": outputs, "pickled": pickled, "piped": piped}


def _named(what: str, package: Package) -> str:
    names = list(package.about)
    return f"{what} {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"


async def fetch(
    binding: Binding, tell: Reporter, event: Variables, names: Collection[str], *, pickled: bool = False
) -> dict[str, Any]:
    """The values a cell gave back.

    Args:
        event: what came with its output.
        names: the names that were asked for.
        pickled: unpickle what came as a pickle.

    Raises:
        SandboxError: they do not fit, need a package that is missing here, or the way broke.
        ProtocolError: they are not what our guest sends.
    """
    reader = Reader(names, pickled)
    if not event.path:
        reader.take(event.data)
        return await asyncio.to_thread(reader.values)
    sandbox, shown = binding.bound(), ", ".join(names)
    try:
        size = event.piped or (await files.info_of(sandbox, event.path)).size
        meter = Meter(tell, f"receiving {', '.join(list(names)[:3])}{' …' if len(names) > 3 else ''}", size)
        # Whatever was announced in the header is all that is taken.
        try:
            await transfers.receive(sandbox, event.path, shown, reader, meter, event.piped)
        except transfers.NoPipe:
            await _written(sandbox, event.path)
            await transfers.receive(sandbox, event.path, shown, reader, meter)
        return await asyncio.to_thread(reader.values)
    finally:
        with suppress(sdk.error_class()):
            await asyncio.shield(sandbox.fs.delete_file(event.path))
