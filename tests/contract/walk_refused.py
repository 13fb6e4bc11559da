"""Scenarios of the families that the engine refuses: every method, with the sentence it answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from daytona import (
    CreateSandboxFromImageParams,
    CreateSecretParams,
    CreateSnapshotParams,
    Image,
    LspCompletionPosition,
    ScreenshotRegion,
    UpdateSecretParams,
)

from tests.contract.walk import Walk, walks

#: By attribute of ``sandbox.computer_use`` (an empty one is itself) and method.
DESKTOP: dict[str, dict[str, tuple[Any, ...]]] = {
    "": {
        "start": (),
        "stop": (),
        "get_status": (),
        "get_process_status": ("xvfb",),
        "restart_process": ("xvfb",),
        "get_process_logs": ("xvfb",),
        "get_process_errors": ("xvfb",),
    },
    "mouse": {
        "get_position": (),
        "move": (1, 2),
        "down": (),
        "up": (),
        "click": (1, 2),
        "drag": (1, 2, 3, 4),
        "scroll": (1, 2, "up"),
    },
    "keyboard": {"type": ("a",), "press": ("a",), "hotkey": ("ctrl+c",), "down": ("a",), "up": ("a",)},
    "screenshot": {
        "take_full_screen": (),
        "take_region": (ScreenshotRegion(x=0, y=0, width=9, height=9),),
        "take_compressed": (),
        "take_compressed_region": (ScreenshotRegion(x=0, y=0, width=9, height=9),),
    },
    "display": {"get_info": (), "get_windows": ()},
    "recording": {
        "start": (),
        "stop": ("id",),
        "list": (),
        "get": ("id",),
        "delete": ("id",),
    },
    "accessibility": {
        "get_tree": (),
        "find_nodes": (),
        "focus_node": ("id",),
        "invoke_node": ("id",),
        "set_node_value": ("id", "x"),
    },
}
_CLASSES = {
    "": "ComputerUse",
    "mouse": "Mouse",
    "keyboard": "Keyboard",
    "screenshot": "Screenshot",
    "display": "Display",
    "recording": "RecordingService",
    "accessibility": "Accessibility",
}


@walks(
    "RecordingService.download",
    *(f"{_CLASSES[part]}.{method}" for part, methods in DESKTOP.items() for method in methods),
)
async def desktop(w: Walk) -> None:
    """refused"""
    for part, methods in DESKTOP.items():
        service = getattr(w.box.computer_use, part) if part else w.box.computer_use
        for method, args in methods.items():
            await w.refused("desktop", getattr(service, method), *args)
    # The SDK does not read the body of this one's answer.
    await w.fails("501", w.box.computer_use.recording.download, "id", str(w.folder / "recording"))
    w.stands_for("RecordingService.download", "desktop")


@walks(
    "Sandbox.create_lsp_server",
    "LspServer.start",
    "LspServer.stop",
    "LspServer.did_open",
    "LspServer.did_close",
    "LspServer.document_symbols",
    "LspServer.workspace_symbols",
    "LspServer.sandbox_symbols",
    "LspServer.completions",
)
async def language_servers(w: Walk) -> None:
    """makes an object, and asks the engine nothing; each method of the object is refused"""
    server = await w(w.box.create_lsp_server, "python", "project")
    await w.refused("language servers", server.start)
    await w.refused("language servers", server.stop)
    for method in (server.did_open, server.did_close, server.document_symbols):
        await w.refused("language servers", method, "a.py")
    for method in (server.workspace_symbols, server.sandbox_symbols):
        await w.refused("language servers", method, "name")
    await w.refused("language servers", server.completions, "a.py", LspCompletionPosition(1, 1))


@walks(
    "SnapshotService.list",
    "SnapshotService.get",
    "SnapshotService.create",
    "SnapshotService.delete",
    "SnapshotService.activate",
    "Sandbox.create_snapshot",
)
async def snapshots(w: Walk) -> None:
    """refused"""
    service = w.client.snapshot
    await w.refused("snapshots", service.list)
    await w.refused("snapshots", service.get, "mine")
    await w.refused("snapshots", service.create, CreateSnapshotParams(name="mine", image="debian:12"))
    await w.refused("snapshots", service.delete, "mine")
    await w.refused("snapshots", service.delete, SimpleNamespace(id="mine"))
    await w.refused("snapshots", service.activate, "mine")
    await w.refused("snapshots", w.box.create_snapshot, "mine")


@walks(
    "SnapshotService.process_image_context", "ObjectStorage.upload", "ObjectStorage.compute_archive_base_path"
)
async def build_contexts(w: Walk) -> None:
    """cuts a path, and asks the engine nothing"""
    local = w.folder / "context"
    local.write_text("x")
    image = Image.base("debian:12").add_local_file(str(local), "/x")
    await w.fails(
        "no object storage",
        w.client.create,
        CreateSandboxFromImageParams(image=image),
    )
    service = type(w.client.snapshot)
    storage = w.client._object_storage_api
    if w.flavour == "sync":
        # It is static and translates no errors, like the asynchronous one below.
        await w.refused("object-storage push", service.process_image_context, storage, image)
    else:
        await w.refused("object-storage push", w.client.snapshot.process_image_context, storage, image)
    w.stands_for("ObjectStorage.upload", "object-storage push")
    from daytona._async.object_storage import AsyncObjectStorage
    from daytona._sync.object_storage import ObjectStorage

    kind: Any = ObjectStorage if w.flavour == "sync" else AsyncObjectStorage
    assert await w(kind.compute_archive_base_path, "/a//b/../c") == "a/c"


@walks("VolumeService.list", "VolumeService.get", "VolumeService.create", "VolumeService.delete")
async def volumes(w: Walk) -> None:
    """refused"""
    service = w.client.volume
    await w.refused("volumes", service.list)
    await w.refused("volumes", service.get, "mine")
    await w.refused("volumes", service.get, "mine", create=True)
    await w.refused("volumes", service.create, "mine")
    await w.refused("volumes", service.delete, SimpleNamespace(id="mine"))


@walks(
    "SecretService.list",
    "SecretService.get",
    "SecretService.create",
    "SecretService.update",
    "SecretService.delete",
    "Sandbox.update_secrets",
)
async def secrets(w: Walk) -> None:
    """refused"""
    service = w.client.secret
    await w.refused("secrets", service.list)
    await w.refused("secrets", service.get, "mine")
    await w.refused("secrets", service.create, CreateSecretParams(name="mine", value="x"))
    await w.refused("secrets", service.update, "mine", UpdateSecretParams(value="y"))
    await w.refused("secrets", service.delete, "mine")
    await w.refused("secrets", w.box.update_secrets, {"A": "mine"})


@walks("WarmPoolService.list", "WarmPoolService.create", "WarmPoolService.update", "WarmPoolService.delete")
async def warm_pools(w: Walk) -> None:
    """refused"""
    service = w.client.warm_pool
    await w.refused("warm pools", service.list)
    await w.refused("warm pools", service.create, "daytona-small", 2)
    await w.refused("warm pools", service.update, "mine", 3)
    await w.refused("warm pools", service.delete, "mine")


@walks("Sandbox.create_ssh_access", "Sandbox.revoke_ssh_access", "Sandbox.validate_ssh_access")
async def ssh(w: Walk) -> None:
    """refused"""
    await w.refused("SSH", w.box.create_ssh_access)
    await w.refused("SSH", w.box.revoke_ssh_access, "token")
    await w.refused("SSH", w.box.validate_ssh_access, "token")
