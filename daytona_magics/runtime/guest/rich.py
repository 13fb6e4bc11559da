"""Rich output: ``display()``, the value of the last expression, mimebundles.

The ``_repr_*_`` protocol is IPython's; IPython itself need not be installed in the sandbox.
"""

from __future__ import annotations

import base64
import builtins
import contextlib
import os

from .pretty import pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .worker import Session

#: Method name and mimetype, as IPython's formatters call them.
METHODS = (
    ("_repr_html_", "text/html"),
    ("_repr_markdown_", "text/markdown"),
    ("_repr_svg_", "image/svg+xml"),
    ("_repr_png_", "image/png"),
    ("_repr_pdf_", "application/pdf"),
    ("_repr_jpeg_", "image/jpeg"),
    ("_repr_latex_", "text/latex"),
    ("_repr_json_", "application/json"),
    ("_repr_javascript_", "application/javascript"),
)
MAX_BUNDLE = 64 << 20
#: Types that have none of these methods, and never will.
_PLAIN = frozenset((int, float, complex, bool, str, bytes, list, tuple, dict, set, frozenset, range))
_CANARY = "_ipython_canary_method_should_not_exist_"

_session: Session | None = None
_kept: list[tuple[list[dict[str, Any]] | None]] = []  # where ``%%capture`` puts displays, the innermost last


def formatters() -> Any:
    """IPython's formatters, when somebody has asked for them; replaced by shell."""
    return None


def install(session: Session) -> None:
    """Make ``display`` available in every cell of this worker."""
    global _session
    _session = session
    builtins.display = display  # type: ignore[attr-defined]


def text_of(value: Any) -> str | None:
    """A value as text; None when its ``__repr__`` raises: the cell then fails with that error."""
    assert _session is not None
    try:
        return pretty(value, _session.precision)
    except Exception as error:
        _session.display_failed(error)
        return None


def _shows_itself(value: Any) -> bool:
    """Let a value with ``_ipython_display_`` show itself; False when it has none, or when that raises."""
    assert _session is not None
    show = _method(value, "_ipython_display_")
    theirs = formatters()
    if theirs is not None:
        try:
            printer = theirs.ipython_display_formatter.lookup(value)
            show = lambda: printer(value)  # noqa: E731
        except KeyError:
            pass
    if show is None:
        return False
    try:
        show()
    except Exception as error:
        _session.display_failed(error)
        return False
    return True


def _method(value: Any, name: str) -> Any:
    """A bound display method, or None; classes and objects that answer to every name have none."""
    if isinstance(value, type) or type(value) in _PLAIN:
        return None
    try:
        if callable(getattr(value, _CANARY, None)):
            return None
        found = getattr(value, name, None)
    except Exception:
        return None
    return found if callable(found) else None


def _call(value: Any, name: str, **arguments: Any) -> Any:
    method = _method(value, name)
    if method is None:
        return None
    try:
        return method(**arguments)
    except NotImplementedError:
        return None
    except Exception as error:
        # The other formats still work.
        assert _session is not None
        _session.display_failed(error)
        return None


def jsonable(data: dict[Any, Any]) -> dict[str, Any]:
    """A mimebundle that JSON can carry: binary values as base64 text."""
    out: dict[str, Any] = {}
    for mime, content in data.items():
        if isinstance(content, (bytes, bytearray, memoryview)):
            content = base64.b64encode(content).decode("ascii")
        if content is not None:
            out[str(mime)] = content
    return out


def mimebundle(value: Any, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Data and metadata of an object; empty when none of its methods works."""
    data: dict[Any, Any] = {"text/plain": text_of(value)}
    metadata: dict[str, Any] = {}
    for name, mime in METHODS:
        _add(data, metadata, mime, _call(value, name))
    if type(value).__name__ == "Figure" and type(value).__module__ == "matplotlib.figure":
        figure(value, data, metadata)
    bundle = _call(value, "_repr_mimebundle_", include=include, exclude=exclude)
    theirs = formatters()
    if theirs is not None:
        bundle = _by_formatters(theirs, value, data, metadata) or bundle
    if isinstance(bundle, tuple) and len(bundle) == 2:
        bundle, extra = bundle
        metadata.update(extra or {})
    if isinstance(bundle, dict):
        data.update(bundle)
    if include:
        data = {k: v for k, v in data.items() if k in include}
    if exclude:
        data = {k: v for k, v in data.items() if k not in exclude}
    return jsonable(data), metadata


def _by_formatters(theirs: Any, value: Any, data: dict[Any, Any], metadata: dict[str, Any]) -> Any:
    """Put in what functions registered for a value's type make of it; returns a mimebundle made so."""
    assert _session is not None
    bundle = None
    for mime, one in [*theirs.formatters.items(), (None, theirs.mimebundle_formatter)]:
        if mime == "text/plain":
            if _printers(one):
                data[mime] = one(value)
            continue
        try:
            printer = one.lookup(value)
        except KeyError:
            continue
        if not one.enabled:
            continue
        try:
            made = printer(value)
        except Exception as error:
            _session.display_failed(error)
            continue
        if mime is None:
            bundle = made
        else:
            data.pop(mime, None)
            _add(data, metadata, mime, made)
    return bundle


def _printers(plain: Any) -> bool:
    """Whether a type was registered for text; IPython's own printers write what ours write."""
    from IPython.lib import pretty as usual

    return bool(
        plain.type_printers != usual._type_pprinters
        or plain.deferred_printers != usual._deferred_type_pprinters
    )


def _add(data: dict[Any, Any], metadata: dict[str, Any], mime: str, content: Any) -> None:
    if isinstance(content, tuple) and len(content) == 2:
        content, metadata[mime] = content
    if content is not None:
        data[mime] = content


#: How matplotlib figures are drawn; ``%config InlineBackend.figure_format`` changes it.
figure_format = "png"


def figure(drawn: Any, data: dict[Any, Any], metadata: dict[str, Any]) -> None:
    """Add a matplotlib figure's picture, cut to its content like the notebook's inline backend does."""
    import io

    file = io.BytesIO()
    retina = figure_format in ("retina", "png2x")
    kind = "svg" if figure_format == "svg" else "png"
    dpi = drawn.dpi * (2 if retina else 1)
    colours = {"facecolor": drawn.get_facecolor(), "edgecolor": drawn.get_edgecolor()}
    drawn.canvas.print_figure(file, format=kind, bbox_inches="tight", dpi=dpi, **colours)
    if kind == "svg":
        data["image/svg+xml"] = file.getvalue().decode("utf-8")
        return
    data["image/png"] = content = file.getvalue()
    if retina:
        width, height = (int.from_bytes(content[at : at + 4], "big") // 2 for at in (16, 20))
        metadata["image/png"] = {"width": width, "height": height}


@contextlib.contextmanager
def captured(kept: list[dict[str, Any]] | None) -> Iterator[None]:
    """Displays go into a list for a while; None lets them through."""
    _kept.append((kept,))
    try:
        yield
    finally:
        _kept.pop()


def emit(message: dict[str, Any], last: bool = False) -> None:
    """Send a display or a result; one that is too large is only named.

    ``last``: nothing of the cell comes after it.
    """
    assert _session is not None
    if _kept and _kept[-1][0] is not None:
        _kept[-1][0].append(message)
        return
    size = sum(len(v) for v in message["data"].values() if isinstance(v, str))
    if size > MAX_BUNDLE:
        text = "an output of %.0f MiB is not shown: the limit is %d MiB" % (size / 2**20, MAX_BUNDLE >> 20)
        # In its place, so that it is said also where notices are not shown.
        message = dict(message, data={"text/plain": "(%s)" % text}, metadata={})
    try:
        send = _session.send_last if last else _session.send
        send(message)
    except OSError:
        # A forked child has no line to the notebook but its streams.
        print(message["data"].get("text/plain", ""))


def publish(
    data: dict[Any, Any],
    metadata: dict[str, Any] | None = None,
    source: Any = None,
    *,
    transient: dict[str, Any] | None = None,
    update: bool = False,
    **_: Any,
) -> None:
    """Show a ready mimebundle (IPython's ``publish_display_data``)."""
    emit(
        {
            "msg": "display",
            "data": jsonable(data),
            "metadata": metadata or {},
            "transient": transient or {},
            "update": update,
        }
    )


class DisplayHandle:
    """Returned by ``display(..., display_id=...)``; ``update`` replaces what was shown."""

    def __init__(self, display_id: str | None = None) -> None:
        self.display_id = display_id or os.urandom(16).hex()

    def __repr__(self) -> str:
        return "<DisplayHandle display_id=%s>" % self.display_id

    def display(self, obj: Any, **options: Any) -> None:
        """Show another object under this id."""
        display(obj, display_id=self.display_id, **options)

    def update(self, obj: Any, **options: Any) -> None:
        """Replace what is shown under this id."""
        display(obj, display_id=self.display_id, update=True, **options)


def display(
    *objects: Any,
    include: Any = None,
    exclude: Any = None,
    metadata: dict[str, Any] | None = None,
    transient: dict[str, Any] | None = None,
    display_id: Any = None,
    raw: bool = False,
    clear: bool = False,
    update: bool = False,
    **options: Any,
) -> DisplayHandle | None:
    """Show objects in their richest form.

    Args:
        display_id: True or a name: the output can be replaced later; a DisplayHandle is returned.
        raw: the objects are mimebundles already.
        clear: clear the cell's output first.
        update: replace the output shown under ``display_id``.
    """
    if clear:
        clear_output(wait=True)
    handle = None
    transient = dict(transient or {})
    if display_id is not None and display_id is not False:
        handle = DisplayHandle(None if display_id is True else str(display_id))
        transient["display_id"] = handle.display_id
    elif update:
        raise TypeError("display_id required for update=True")
    for one in objects:
        if raw:
            publish(one, metadata, transient=transient, update=update)
        elif not _shows_itself(one):
            data, found = mimebundle(one, include, exclude)
            if data:
                publish(data, dict(found, **(metadata or {})), transient=transient, update=update)
    return handle


def update_display(obj: Any, *, display_id: Any, **options: Any) -> None:
    """Replace the output shown under ``display_id``."""
    display(obj, display_id=display_id, update=True, **options)


def clear_output(wait: bool = False) -> None:
    """Clear the cell's output, with ``wait`` when the next output comes."""
    assert _session is not None
    if not _kept:
        _session.send({"msg": "clear", "wait": bool(wait)})


def result(value: Any, number: int, last: bool = False) -> None:
    """Show the value of a cell's last expression and keep it as ``_``, ``_<number>`` and ``Out[number]``.

    ``last``: nothing of the cell comes after it.
    """
    if value is None:
        return
    assert _session is not None
    earlier = _session.display_error
    if not _shows_itself(value):
        data, metadata = mimebundle(value)
        message = {"msg": "result", "data": data, "metadata": metadata, "count": number}
        if _session.display_error is not earlier and not _kept:
            _session.behind_error += [message] if data else []
        elif data:
            emit(message, last)
    _session.remember(value, number)


def displayhook(value: Any) -> None:
    """``sys.displayhook``: for code that calls it."""
    result(value, 0)
