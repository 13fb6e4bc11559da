"""What all widgets share: how the page and the kernel talk, and what is left when one of them is gone.

A widget has two comms. *Data* goes down on the widget's own; *control* goes up on that of a hidden model, on
which Python sends nothing but a short receipt from within its handler. Some kernels (ipykernel 7.4) serve a
message from the page on the thread that last published on its comm, so a comm that a background thread feeds
would wait for the running cell; control does not.

    page                                    kernel
    {"call": 7, "name": "list", ...}  -->   control: {"got": 7} at once, then the method runs on the loop
                                      <--   data: {"reply": 7, "value": ...} or {"reply": 7, "error": ...}
    {"hello": 12}                     -->   the view has seen events up to 12: the later ones are sent again
                                      <--   data: {"event": 13, "name": "log", ...}
    {"seen": true}                    -->   somebody looks at it (about once a minute)

Handlers run on whatever thread the kernel likes, so they touch nothing: they post to the loop. Events have
numbers and are kept within bounds, for views that come later (a reloaded page); a view that was away too long
is told that some are missing.

A widget is added so (the page's side is at the head of ``js/src/widgets/core.ts``):

    class Clock(LiveWidget):
        kind = "clock"                       # its name in core.ts
        calls = ("now",)                     # coroutine methods call_NAME(arguments, buffers)
        bundle = "clock.js"                  # only where its code is large: a bundle of its own

        def __init__(self, binding=None):
            super().__init__(binding, view={"zone": "UTC"})   # `view`: small state that survives a reload

        async def call_now(self, given, buffers):              # on the loop; CallError for what cannot be
            channel = await self.channel()                     # never creates or starts anything by itself
            return {"text": ...}, [b"bytes"]                   # a value, or a value and buffers

        def sandbox_changed(self, now): ...  # on the loop: a `watching.Standing`; the page is told anyway
        def cell_ended(self): ...            # on the loop: a cell of this notebook has ended in the sandbox
        def released(self): ...              # on the loop: nobody needs its resources any more
        def record(self): return text, html  # what stays in the notebook, escaped (`records` bounds it)

``emit`` sends an event to all views, ``renew_record`` updates what the notebook keeps. "start" is callable in
every widget: it makes the sandbox usable.
"""

from __future__ import annotations

import collections
import html
import json
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import anywidget
import traitlets

from daytona_magics.errors import SandboxError
from daytona_magics.notebook.status import in_kernel
from daytona_magics.runtime.loop import loop_thread
from daytona_magics.sandboxes.report import Silent
from daytona_magics.widgets import assets, display, records, watching
from daytona_magics.widgets.watching import Standing

if TYPE_CHECKING:
    from daytona_magics.runtime.channel import Channel
    from daytona_magics.sandboxes.binding import Binding

#: Widgets alive at once in a kernel; the oldest gives way. Events kept for views to come: number and bytes.
MOST_LIVE, KEPT_EVENTS, KEPT_BYTES = 50, 2000, 4 << 20
#: Bytes of one buffer that a page may send.
MOST_SENT = 4 << 20
VIEW = "application/vnd.jupyter.widget-view+json"

_living: collections.OrderedDict[str, LiveWidget] = collections.OrderedDict()
_living_lock = threading.Lock()


class _Quiet(anywidget.AnyWidget):
    """A widget whose messages are no cells.

    For each message the comm package has IPython do what it does after a cell, on any thread: then matplotlib
    shows the figures a running cell is still drawing, where nobody sees them, and closes them.
    """

    def open(self) -> None:
        super().open()
        if hasattr(self.comm, "handle_msg"):
            self.comm.handle_msg = self._handle_msg


class _Control(_Quiet):
    """The way up. It has no view."""

    _esm = "export default {}"


class CallError(Exception):
    """A call of the page that failed; the page shows the text, and may offer what ``code`` calls for.

    Args:
        code: "refused", "failed", or the sandbox's state where that is the cause ("none", "stopped", ...).
    """

    def __init__(self, code: str, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.code, self.hint = code, hint


class LiveWidget(_Quiet):
    """Base of the widgets. Subclasses name the methods that the page may call.

    Attributes:
        kind: which part of the bundle draws it.
        bundle: the file with its code, when that is not the one of all widgets.
        calls: names of coroutine methods ``call_NAME(arguments, buffers)``.
        prompt: those of them that are answered soon in any case: the answer is the receipt.
        binding: whose sandbox it shows.
        seen_at: when somebody last looked at it, by the monotonic clock.
    """

    kind: ClassVar[str] = ""
    bundle: ClassVar[str] = "core.js"
    calls: ClassVar[tuple[str, ...]] = ()
    prompt: ClassVar[tuple[str, ...]] = ()

    _kind = traitlets.Unicode().tag(sync=True)
    _assets = traitlets.Unicode().tag(sync=True)
    _control = traitlets.Unicode().tag(sync=True)
    _self = traitlets.Unicode().tag(sync=True)
    #: How the sandbox stands (`watching.Standing`), and why the widget ended, with its record.
    _sandbox = traitlets.Dict().tag(sync=True)
    _ended = traitlets.Dict().tag(sync=True)
    #: Small state that a view needs at once and that survives a reload of the page.
    view = traitlets.Dict().tag(sync=True)

    # Also there when the widget could not be made, and is closed by the garbage collector.
    _key = ""
    _cell: tuple[str, str] | None = None
    _up: _Control | None = None
    _live = False

    def __init__(self, binding: Binding | None = None, **traits: Any) -> None:
        from daytona_magics import sandboxes

        self.binding = binding or sandboxes.current()
        self._live = display.is_live(self.binding)
        self._events: collections.deque[tuple[int, dict[str, Any], int]] = collections.deque()
        self._last_event, self._kept_bytes = 0, 0
        self._recorded: tuple[str, str] | None = None
        self.seen_at = float("-inf")
        self._ran = self.binding.ran
        if not self._live:
            super().__init__(**traits)
            return
        self._up, own = _Control(), uuid.uuid4().hex
        super().__init__(
            model_id=own,
            _self=f"IPY_MODEL_{own}",
            _esm=assets.bundle("loader.js"),
            _kind=self.kind,
            _assets=assets.reference(self.bundle),
            _control=f"IPY_MODEL_{self._up.model_id}",
            _sandbox=watching.standing(self.binding).wire(),
            **traits,
        )
        self._up.on_msg(self._heard)
        self._key, self._cell = self.model_id, _running_cell()
        _keep(self)
        loop_thread().submit(watching.begin(_alive))

    def open(self) -> None:
        """Open the comm, where there is a page at its other end."""
        if self._live:
            super().open()

    def close(self) -> None:
        """End the widget; what is left of it in the notebook is its record. Idempotent."""
        self._release()
        super().close()

    def give_way(self, why: str) -> None:
        """End the widget, but leave its views standing with its record and the reason."""
        self._ended = {"why": why, "text": self.cleaned_record()[0]}
        self._release()

    def _release(self) -> None:
        with _living_lock:
            known = _living.pop(self._key, None) is not None
        up, self._up = self._up, None
        if up is not None:
            up.close()
        if known:
            loop_thread().submit(_run(self.released))

    def released(self) -> None:
        """Let go of what the widget holds; called once, on the loop."""

    # -- the page speaks -----------------------------------------------------------------------------------

    def _heard(self, _: Any, content: Any, buffers: Sequence[memoryview]) -> None:
        """A message of the page, on any thread."""
        if not isinstance(content, dict):
            return
        self.seen_at = time.monotonic()
        if isinstance(content.get("hello"), int):
            loop_thread().submit(self._greet(content["hello"]))
            return
        number, name = content.get("call"), content.get("name")
        if isinstance(number, str) and len(number) <= 64 and isinstance(name, str):
            if self._up is None:
                return
            if name not in self.prompt:
                self._up.send({"got": number})
            arguments = content.get("with")
            given = arguments if isinstance(arguments, dict) else {}
            loop_thread().submit(self._serve(number, name, given, [bytes(one) for one in buffers]))

    async def _serve(self, number: str, name: str, arguments: dict[str, Any], buffers: list[bytes]) -> None:
        reply: dict[str, Any] = {"reply": number}
        answer: list[bytes] = []
        try:
            if name not in self.calls and name != "start":
                raise CallError("refused", f"this widget cannot {name!r}")
            if sum(map(len, buffers)) > MOST_SENT:
                raise CallError("refused", f"more than {MOST_SENT >> 20} MiB in one message")
            method: Callable[..., Any] = getattr(self, f"call_{name}")
            value = await method(arguments, buffers)
            if isinstance(value, tuple):
                value, answer = value
            reply["value"] = value
        except CallError as error:
            reply["error"] = {"code": error.code, "text": str(error), "hint": error.hint}
        except SandboxError as error:
            reply["error"] = {"code": "failed", "text": str(error), "hint": getattr(error, "hint", "") or ""}
        except Exception as error:  # noqa: BLE001 - the page must hear of it whatever it is
            reply["error"] = {"code": "failed", "text": f"{type(error).__name__}: {error}", "hint": ""}
        if self.comm is not None:
            self.send(reply, buffers=answer)

    async def _greet(self, seen: int) -> None:
        """A view is there: send it the events it has not seen."""
        if self.comm is None:
            return
        first = self._events[0][0] if self._events else self._last_event + 1
        if seen + 1 < first:
            self.send({"missed": first - 1 - seen, "until": first - 1})
        for number, event, _ in list(self._events):
            if number > seen:
                self.send({"event": number, **event})

    # -- the kernel speaks ---------------------------------------------------------------------------------

    def emit(self, name: str, **fields: Any) -> None:
        """Tell all views of an event, those that come later included. On the loop thread."""
        event = {"name": name, **fields}
        size = len(json.dumps(event))
        self._last_event += 1
        self._events.append((self._last_event, event, size))
        self._kept_bytes += size
        while len(self._events) > KEPT_EVENTS or (self._kept_bytes > KEPT_BYTES and len(self._events) > 1):
            self._kept_bytes -= self._events.popleft()[2]
        if self.comm is not None:
            self.send({"event": self._last_event, **event})

    # -- the sandbox -----------------------------------------------------------------------------------------

    def stand(self, now: Standing) -> None:
        """Take note of how the sandbox stands. On the loop thread."""
        told = now.wire()
        if told != self._sandbox:
            self._sandbox = told
            self.sandbox_changed(now)

    def sandbox_changed(self, now: Standing) -> None:
        """The sandbox stands differently from before. On the loop thread; the page knows already."""

    def note_cells(self, ran: int) -> None:
        """So many cells have ended in the sandbox. On the loop thread."""
        if ran != self._ran:
            self._ran = ran
            self.cell_ended()

    def cell_ended(self) -> None:
        """A cell of this notebook has ended in the sandbox, or several have. On the loop thread."""

    async def channel(self) -> Channel:
        """The channel to the sandbox, without creating or starting one: nobody asked for that by looking.

        Raises:
            CallError: there is none that runs; the page offers what helps.
        """
        channel = self.binding.open_channel()
        if channel is not None:
            return channel
        now = await watching.asked(self.binding)
        self.stand(now)
        if now.state != "started":
            raise CallError(now.state, now.text)
        return await self.binding.ready(Silent())

    async def sandbox(self) -> Any:
        """The SDK's sandbox, started; raises as :meth:`channel` does."""
        await self.channel()
        return self.binding.bound()

    async def call_start(self, given: dict[str, Any], _: list[bytes]) -> None:
        """Make the sandbox usable: start it, or make one."""
        await watching.start(self.binding)
        self.stand(watching.standing(self.binding))

    # -- what stays ------------------------------------------------------------------------------------------

    def record(self) -> tuple[str, str]:
        """The widget as it stands, for notebooks without a kernel: as text, and as HTML."""
        text = f"{type(self).__name__} of sandbox {self._name()}"
        return text, f"<p>{html.escape(text)}</p>"

    def cleaned_record(self) -> tuple[str, str]:
        """The record within its bounds and without secrets."""
        return records.cleaned(self.record(), self.binding)

    def _name(self) -> str:
        sandbox = self.binding.sandbox
        return str(sandbox.name or sandbox.id) if sandbox is not None else "(none yet)"

    @property
    def _ipython_display_(self) -> Callable[[], None] | None:
        # None where one output, the mimebundle, is all that is to be shown.
        return self._show if in_kernel() is not None and self._up is not None else None

    def _show(self) -> None:
        assert self._up is not None
        bundle: Any = super()._repr_mimebundle_()
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        view = {kind: value for kind, value in data.items() if kind == VIEW}
        self._recorded = self.cleaned_record()
        records.publish(in_kernel().display_pub, self._recorded, view, self._up.model_id)

    def renew_record(self) -> None:
        """Let the notebook keep the record as it is now, where the widget was shown."""
        shell, now = in_kernel(), self.cleaned_record()
        if shell is not None and self._up is not None and self._recorded not in (None, now):
            self._recorded = now
            records.renew(shell.display_pub, now, self._up.model_id)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        text, markup = self.cleaned_record()
        record = {"text/plain": text, "text/html": markup}
        if not self._live or self.comm is None:
            return record, {}
        bundle = super()._repr_mimebundle_(**options)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**(data or {}), **record}, metadata

    def __repr__(self) -> str:
        return self.cleaned_record()[0]


async def _run(function: Callable[[], None]) -> None:
    function()


def _alive() -> list[LiveWidget]:
    with _living_lock:
        return list(_living.values())


def _running_cell() -> tuple[str, str] | None:
    """Which cell of the notebook runs, and which run of it this is; None where the page does not say."""
    shell = in_kernel()
    parent = shell.get_parent() if shell is not None else {}
    cell = parent.get("metadata", {}).get("cellId")
    return (str(cell), str(parent.get("header", {}).get("msg_id"))) if cell else None


def _keep(widget: LiveWidget) -> None:
    """A new widget lives. Those of the cell's earlier run end, nobody sees them; of too many, the oldest."""
    with _living_lock:
        cell = widget._cell
        before = [
            one
            for one in _living.values()
            if cell and one._cell and one._cell[0] == cell[0] and one._cell != cell
        ]
        _living[widget._key] = widget
        left = [one for one in _living.values() if one not in before]
    for one in before:
        one.close()
    for one in left[: max(0, len(left) - MOST_LIVE)]:
        one.give_way(
            f"Only {MOST_LIVE} widgets are alive at once, and this was the oldest. Run its cell again."
        )
