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

Handlers run on whatever thread the kernel likes, so they touch nothing: they post to the loop. Events have
numbers and are kept within bounds, for views that come later (a reloaded page); a view that was away too long
is told that some are missing. What a notebook keeps without a kernel is the record: plain text and HTML.
"""

from __future__ import annotations

import collections
import html
import json
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import anywidget
import traitlets

from daytona_magics.errors import SandboxError
from daytona_magics.runtime.loop import loop_thread
from daytona_magics.widgets import assets

if TYPE_CHECKING:
    from daytona_magics.sandboxes.binding import Binding

#: Widgets alive at once in a kernel; the oldest gives way. Events kept for views to come: number and bytes.
MOST_LIVE, KEPT_EVENTS, KEPT_BYTES = 50, 2000, 4 << 20
#: Bytes of one buffer that a page may send.
MOST_SENT = 4 << 20

_living: collections.OrderedDict[str, LiveWidget] = collections.OrderedDict()
_living_lock = threading.Lock()


class _Control(anywidget.AnyWidget):
    """The way up. It has no view."""

    _esm = "export default {}"


class CallError(Exception):
    """A call of the page that failed; the page shows the text, and may offer what ``code`` calls for.

    Args:
        code: "none" (no sandbox), "stopped", "refused", "failed".
    """

    def __init__(self, code: str, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.code, self.hint = code, hint


class LiveWidget(anywidget.AnyWidget):
    """Base of the widgets. Subclasses name the methods that the page may call.

    Attributes:
        kind: which part of the bundle draws it.
        bundle: the file with its code, when that is not the one of all widgets.
        calls: names of coroutine methods ``call_NAME(arguments, buffers)``.
    """

    kind: ClassVar[str] = ""
    bundle: ClassVar[str] = "core.js"
    calls: ClassVar[tuple[str, ...]] = ()

    _kind = traitlets.Unicode().tag(sync=True)
    _assets = traitlets.Unicode().tag(sync=True)
    _control = traitlets.Unicode().tag(sync=True)
    #: Small state that a view needs at once and that survives a reload of the page.
    view = traitlets.Dict().tag(sync=True)

    # Also there when the widget could not be made, and is closed by the garbage collector.
    _key = ""
    _up: _Control | None = None

    def __init__(self, binding: Binding | None = None, **traits: Any) -> None:
        from daytona_magics import sandboxes

        self._binding = binding or sandboxes.current()
        self._events: collections.deque[tuple[int, dict[str, Any], int]] = collections.deque()
        self._last_event, self._kept_bytes = 0, 0
        self._up = _Control()
        super().__init__(
            _esm=assets.bundle("loader.js"),
            _kind=self.kind,
            _assets=assets.reference(self.bundle),
            _control=f"IPY_MODEL_{self._up.model_id}",
            **traits,
        )
        self._up.on_msg(self._heard)
        self._key = self.model_id
        _keep(self)

    def close(self) -> None:
        """End the widget; what is left of it in the notebook is its record. Idempotent."""
        with _living_lock:
            _living.pop(self._key, None)
        if self._up is not None:
            self._up.close()
        super().close()

    # -- the page speaks -----------------------------------------------------------------------------------

    def _heard(self, _: Any, content: Any, buffers: Sequence[memoryview]) -> None:
        """A message of the page, on any thread."""
        if not isinstance(content, dict):
            return
        if isinstance(content.get("hello"), int):
            loop_thread().submit(self._greet(content["hello"]))
            return
        number, name = content.get("call"), content.get("name")
        if isinstance(number, str) and len(number) <= 64 and isinstance(name, str):
            assert self._up is not None
            self._up.send({"got": number})
            arguments = content.get("with")
            given = arguments if isinstance(arguments, dict) else {}
            loop_thread().submit(self._serve(number, name, given, [bytes(one) for one in buffers]))

    async def _serve(self, number: str, name: str, arguments: dict[str, Any], buffers: list[bytes]) -> None:
        reply: dict[str, Any] = {"reply": number}
        answer: list[bytes] = []
        try:
            if name not in self.calls:
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

    # -- what stays ----------------------------------------------------------------------------------------

    def record(self) -> tuple[str, str]:
        """The widget as it stands, for notebooks without a kernel: as text, and as HTML."""
        text = f"{type(self).__name__} of sandbox {self._name()}"
        return text, f"<p>{html.escape(text)}</p>"

    def _name(self) -> str:
        sandbox = self._binding.sandbox
        return str(sandbox.name or sandbox.id) if sandbox is not None else "(none yet)"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = super()._repr_mimebundle_(**options)
        text, markup = self.record()
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**(data or {}), "text/plain": text, "text/html": markup}, metadata

    def __repr__(self) -> str:
        return self.record()[0]


def _keep(widget: LiveWidget) -> None:
    """A new widget lives; of too many the oldest ends."""
    with _living_lock:
        _living[widget._key] = widget
        ended = [_living.popitem(last=False)[1] for _ in range(len(_living) - MOST_LIVE)]
    for one in ended:
        one.close()
