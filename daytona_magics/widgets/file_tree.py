"""The files of a sandbox as a tree: folders open when they are asked for, and only what is seen is fetched.

Pages of a folder come from the guest (:mod:`daytona_magics.runtime.listing`); changes go through the
platform's file API. Names and contents come from the sandbox: the page shows them as text, and an image as a
picture that cannot run anything.
"""

from __future__ import annotations

import asyncio
import html
import tempfile
import time
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxError
from daytona_magics.notebook.card import size
from daytona_magics.runtime import listing
from daytona_magics.runtime.loop import loop_thread
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import files
from daytona_magics.sandboxes.report import Reporter
from daytona_magics.widgets.live import CallError, LiveWidget
from daytona_magics.widgets.pieces import LIMIT, Pieces

if TYPE_CHECKING:
    from daytona_magics.sandboxes.binding import Binding

#: Bytes of a text and of a picture that are shown; seconds within which a file must show its beginning.
TEXT_LIMIT, PICTURE_LIMIT, LOOK_WITHIN = 256 << 10, 8 << 20, 60.0
#: Entries in the record that stays in the notebook.
RECORDED = 200
#: Seconds that a tree which nobody will open waits for its first page.
FIRST_WITHIN = 10.0
#: Seconds for which a page that was read for the display is what the folder holds.
FRESH = 3.0
PICTURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}


class FileTree(LiveWidget):
    """The files of the notebook's sandbox.

    Args:
        path: the folder at the top; ``~`` is the home.
        binding: whose sandbox; by default this kernel's.
        page: its first page, when that is known already, for the record.

    In:  FileTree("~/project")
    Out: a tree that opens, filters, previews, uploads, downloads, renames and deletes
    """

    kind = "file-tree"
    calls = ("list", "marks", "look", "make", "rename", "remove", "upload", "download", "piece", "abort")

    def __init__(
        self, path: str = "~", *, binding: Binding | None = None, page: listing.Page | None = None
    ) -> None:
        self.path = page.path if page is not None else path
        self._top = page
        #: Read for this very display: the first view need not wait for another look, if it comes at once.
        self._known, self._known_until = page, time.monotonic() + FRESH
        self._uploads: dict[str, _Upload] = {}
        self._downloads: dict[str, Pieces] = {}
        super().__init__(binding, view={"path": self.path})
        if page is None and not self._live:
            # No page will ask for it, and the record is all that is shown.
            with suppress(SandboxError, CallError, TimeoutError):
                self._top = loop_thread().run(self._first(), FIRST_WITHIN)
                self.path = self._top.path

    async def _first(self) -> listing.Page:
        return await listing.page(await self.channel(), self.path, limit=RECORDED)

    # -- what the page asks for ------------------------------------------------------------------------------

    async def call_list(self, given: dict[str, Any], _: list[bytes]) -> dict[str, Any]:
        """A page of a folder."""
        path, match = _text(given, "path", self.path), _text(given, "match", "")
        offset, limit = _number(given, "offset", 0), min(_number(given, "limit", 200), listing.MAX_PAGE)
        hidden, sort = given.get("hidden") is True, _text(given, "sort", "name")
        channel = await self.channel()
        plain = (path, offset, limit, match, hidden, sort) == (self.path, 0, RECORDED, "", False, "name")
        fresh = plain and time.monotonic() < self._known_until
        page, self._known = (self._known if fresh else None), None
        if page is None:
            page = await listing.page(
                channel, path, offset=offset, limit=limit, match=match, hidden=hidden, sort=sort
            )
        if path == self.path and offset == 0:
            self._top = page
        return {
            "path": page.path,
            "total": page.total,
            "hidden": page.hidden,
            "more": page.more,
            "offset": offset,
            "rows": [
                [e.name, e.kind, e.size, e.modified, e.permissions, e.target, e.whole] for e in page.entries
            ],
        }

    async def call_marks(self, given: dict[str, Any], _: list[bytes]) -> dict[str, Any]:
        """What git says of a folder's entries, and which of them the last cell changed."""
        found = await listing.marks(await self.channel(), _text(given, "path", self.path))
        return {"branch": found.branch, "git": found.git, "changed": list(found.changed)}

    async def call_look(self, given: dict[str, Any], _: list[bytes]) -> Any:
        """The beginning of a file, as text or as a picture."""
        path = _text(given, "path")
        sandbox = await self.sandbox()
        info = await files.info_of(sandbox, path)
        head = await asyncio.wait_for(_head(sandbox, path), LOOK_WITHIN)
        kind = _picture(head)
        total = max(int(info.size), len(head))
        if kind and len(head) <= PICTURE_LIMIT:
            return {"kind": "picture", "type": kind, "size": total}, [head]
        if b"\0" in head[:8192]:
            return {"kind": "binary", "size": total}
        text = head[:TEXT_LIMIT].decode("utf-8", "replace")
        return {"kind": "text", "text": text, "size": total, "cut": len(head) > TEXT_LIMIT}

    async def call_make(self, given: dict[str, Any], _: list[bytes]) -> None:
        """A new folder."""
        path = _text(given, "path")
        sandbox = await self.sandbox()
        await files.asked(path, sandbox.fs.create_folder(path, "755"))

    async def call_rename(self, given: dict[str, Any], _: list[bytes]) -> None:
        """Another name or place."""
        path, target = _text(given, "path"), _text(given, "to")
        sandbox = await self.sandbox()
        if await _exists(sandbox, target):
            raise CallError("refused", f"{target!r} exists already")
        await files.asked(path, sandbox.fs.move_files(path, target))

    async def call_remove(self, given: dict[str, Any], _: list[bytes]) -> None:
        """Delete a file, or a folder with everything in it."""
        path = _text(given, "path")
        sandbox = await self.sandbox()
        await files.asked(path, sandbox.fs.delete_file(path, recursive=given.get("folder") is True))

    async def call_upload(self, given: dict[str, Any], buffers: list[bytes]) -> dict[str, Any]:
        """A piece of a file that the page sends; the last one puts it in place."""
        path, key = _text(given, "path"), _text(given, "id")
        if len(self._uploads) > 8 and key not in self._uploads:
            raise CallError("refused", "too many uploads at once")
        upload = self._uploads.get(key)
        if upload is None:
            upload = self._uploads[key] = _Upload()
        upload.add(b"".join(buffers))
        if given.get("last") is not True:
            return {"got": upload.size}
        del self._uploads[key]
        try:
            sandbox = await self.sandbox()
            await files.asked(path, sandbox.fs.upload_file(upload.name, path))
        finally:
            upload.close()
        return {"got": upload.size, "done": True}

    async def call_download(self, given: dict[str, Any], _: list[bytes]) -> dict[str, Any]:
        """Begin to read a file; its pieces are asked for one by one."""
        path, key = _text(given, "path"), _text(given, "id")
        sandbox = await self.sandbox()
        info = await files.info_of(sandbox, path)
        if info.size > LIMIT:
            raise CallError(
                "refused",
                f"{size(int(info.size))} are more than a page can hold",
                f"%sandbox download {path}",
            )
        if len(self._downloads) > 8:
            raise CallError("refused", "too many downloads at once")
        self._downloads[key] = Pieces(files.content(sandbox, path, path), _grew)
        return {"size": int(info.size)}

    async def call_piece(self, given: dict[str, Any], _: list[bytes]) -> Any:
        """The next piece of a file that is read."""
        key = _text(given, "id")
        pieces = self._downloads.get(key)
        if pieces is None:
            raise CallError("refused", "this download has ended")
        data = await pieces.next()
        if not data:
            await self.call_abort(given, _)
        return {"last": not data}, [data]

    async def call_abort(self, given: dict[str, Any], _: list[bytes]) -> None:
        """Nobody wants the rest of an upload or a download."""
        key = _text(given, "id")
        if (pieces := self._downloads.pop(key, None)) is not None:
            await pieces.close()
        if (upload := self._uploads.pop(key, None)) is not None:
            upload.close()

    def cell_ended(self) -> None:
        self._known = None
        self.emit("cell")

    def released(self) -> None:
        for upload in self._uploads.values():
            upload.close()
        self._uploads.clear()
        for pieces in self._downloads.values():
            loop_thread().submit(pieces.close())
        self._downloads.clear()

    # -- what stays ------------------------------------------------------------------------------------------

    def record(self) -> tuple[str, str]:
        """The top folder as it was last seen."""
        page, name = self._top, self._name()
        if page is None:
            text = f"Files of sandbox {name}: {self.path}"
            return text, f"<p>{html.escape(text)}</p>"
        entries = page.entries[:RECORDED]
        names = [_printable(entry.name) + ("/" if entry.kind == "dir" else "") for entry in entries]
        sizes = [size(entry.size) if entry.kind == "file" else "" for entry in entries]
        left = page.total - len(names)
        more = [f"… {left:,} more"] if left > 0 else []
        head = f"Files of sandbox {name}: {page.path}"
        width = min(max(map(len, names), default=0), 60)
        lines = [f"  {one:{width}}  {bytes_}".rstrip() for one, bytes_ in zip(names, sizes, strict=True)]
        items = [
            f"<li><code>{html.escape(one)}</code> {bytes_}</li>"
            for one, bytes_ in zip(names, sizes, strict=True)
        ]
        items += [f"<li>{text}</li>" for text in more]
        return (
            "\n".join([head, *lines, *(f"  {one}" for one in more)]),
            f"<details open><summary>{html.escape(head)}</summary><ul>{''.join(items)}</ul></details>",
        )


async def first_page(binding: Binding, tell: Reporter, path: str) -> listing.Page:
    """The first page of a folder, in a sandbox that is made or started if need be."""
    return await listing.page(await binding.ready(tell), path, limit=RECORDED)


class _Upload:
    """What the page has sent of a file so far, on the disk."""

    def __init__(self) -> None:
        with tempfile.NamedTemporaryFile(prefix="daytona-magics-", delete=False) as file:
            self.name = file.name
        self.size = 0

    def add(self, data: bytes) -> None:
        with Path(self.name).open("ab") as file:
            file.write(data)
        self.size += len(data)

    def close(self) -> None:
        Path(self.name).unlink(missing_ok=True)


def _grew() -> SandboxError:
    return SandboxError("the file grew while it was read, to more than a page can hold")


async def _head(sandbox: Any, path: str) -> bytes:
    """The beginning of a file, one byte more than is shown when there is more."""
    head = bytearray()
    async with aclosing(files.content(sandbox, path, path)) as pieces:
        async for piece in pieces:
            head += piece
            if len(head) > (PICTURE_LIMIT if _picture(bytes(head[:16])) else TEXT_LIMIT):
                break
    return bytes(head)


async def _exists(sandbox: Any, path: str) -> bool:
    try:
        await sandbox.fs.get_file_info(path)
    except sdk.error_class() as error:
        if sdk.not_found(error):
            return False
        raise sdk.translate(error, path) from None
    return True


def _picture(head: bytes) -> str:
    return next((kind for magic, kind in PICTURES.items() if head.startswith(magic)), "")


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in name)


def _text(given: dict[str, Any], key: str, default: str | None = None) -> str:
    value = given.get(key, default)
    if not isinstance(value, str) or len(value) > 8192 or "\0" in value:
        raise CallError("refused", f"{key} is missing")
    return value


def _number(given: dict[str, Any], key: str, default: int) -> int:
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 10_000_000:
        raise CallError("refused", f"{key} is not a number")
    return value
