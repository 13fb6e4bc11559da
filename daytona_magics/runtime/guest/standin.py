"""``IPython.display`` where IPython is not installed: the classes and functions that cells import from there.

Modules ``IPython``, ``IPython.display`` and ``IPython.core.display`` are served by a finder at the *end* of
``sys.meta_path``, so an IPython that is installed, now or later, always wins; whatever else is wanted of
IPython is an ImportError, as it would be without it.
"""

from __future__ import annotations

import base64
import importlib
import importlib.machinery
import json
import os
import re

from . import rich

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from typing import Any

_HOME = "IPython.core.display"
_MODULES = ("IPython", "IPython.core", "IPython.core.display", "IPython.display")


class DisplayObject:
    """Something with data from a text, bytes, a file or an address (opened by the sandbox)."""

    binary = False

    def __init__(
        self, data: Any = None, url: Any = None, filename: Any = None, metadata: dict[str, Any] | None = None
    ) -> None:
        if isinstance(data, os.PathLike):
            filename, data = os.fspath(data), None
        if isinstance(data, str) and url is None and data.startswith(("http://", "https://", "file://")):
            url, data = data, None
        self.data, self.url, self.filename = data, url, filename
        self.metadata = metadata or {}
        self.reload()

    def __repr__(self) -> str:
        return (
            object.__repr__(self)
            if type(self).__module__ != _HOME
            else "<%s.%s object>"
            % (
                _HOME,
                type(self).__name__,
            )
        )

    def reload(self) -> None:
        """Read the data again from its file or address."""
        if self.filename is not None:
            with open(self.filename, "rb") as file:
                self._take(file.read())
        elif self.url is not None:
            from urllib.request import urlopen

            with urlopen(self.url) as answer:
                self._take(answer.read())

    def _take(self, content: bytes) -> None:
        self.data = content if self.binary else content.decode("utf-8")

    def _with_metadata(self) -> Any:
        return (self.data, dict(self.metadata)) if self.metadata else self.data


class TextDisplayObject(DisplayObject):
    """The same for text only."""

    def __init__(self, data: Any = None, *arguments: Any, **options: Any) -> None:
        if data is not None and not isinstance(data, (str, os.PathLike)):
            raise TypeError("%s expects text, not %r" % (type(self).__name__, data))
        super().__init__(data, *arguments, **options)


class Pretty(TextDisplayObject):
    """Text as it stands."""

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(self.data)


class HTML(TextDisplayObject):
    """HTML; the notebook shows it sanitised or framed."""

    def _repr_html_(self) -> Any:
        return self._with_metadata()

    def __html__(self) -> Any:
        return self._repr_html_()


class Markdown(TextDisplayObject):
    """Markdown."""

    def _repr_markdown_(self) -> Any:
        return self._with_metadata()


class Math(TextDisplayObject):
    """A formula without its dollar signs."""

    def _repr_latex_(self) -> Any:
        return "$\\displaystyle %s$" % self.data.strip("$")


class Latex(TextDisplayObject):
    """LaTeX with its dollar signs."""

    def _repr_latex_(self) -> Any:
        return self._with_metadata()


class SVG(TextDisplayObject):
    """A drawing; what stands around its <svg> element is left out."""

    def _repr_svg_(self) -> Any:
        from xml.dom import minidom

        found = minidom.parseString(self.data.encode("utf-8")).getElementsByTagName("svg")
        self.data = found[0].toxml() if found else self.data
        return self._with_metadata()


class JSON(DisplayObject):
    """A value as a tree that can be opened."""

    def __init__(
        self,
        data: Any = None,
        url: Any = None,
        filename: Any = None,
        expanded: bool = False,
        metadata: dict[str, Any] | None = None,
        root: str = "root",
        **more: Any,
    ) -> None:
        super().__init__(
            data, url, filename, {"expanded": expanded, "root": root, **(metadata or {}), **more}
        )
        if isinstance(self.data, str) and (url or filename or isinstance(data, str)):
            self.data = json.loads(self.data)

    def _repr_json_(self) -> Any:
        return self._with_metadata()


class GeoJSON(JSON):
    """A map."""

    def _ipython_display_(self) -> None:
        data = {"application/geo+json": self.data, "text/plain": "<IPython.display.GeoJSON object>"}
        rich.publish(data, {"application/geo+json": self.metadata})


class Javascript(TextDisplayObject):
    """A script for the page, which runs it only for a trusted sandbox."""

    def __init__(
        self, data: Any = None, *arguments: Any, lib: Any = None, css: Any = None, **options: Any
    ) -> None:
        self.lib, self.css = lib, css
        super().__init__(data, *arguments, **options)

    def _repr_javascript_(self) -> Any:
        return self.data


class ProgressBar(DisplayObject):
    """A bar of ``total`` steps; setting ``progress`` redraws it."""

    def __init__(self, total: int) -> None:
        self.total, self._progress = total, 0
        self.html_width, self.text_width = "60ex", 60
        self._display_id = os.urandom(8).hex()

    def __repr__(self) -> str:
        filled = int(self._progress / self.total * self.text_width)
        bar = "=" * filled + " " * (self.text_width - filled)
        return "[%s] %d/%d" % (bar, self._progress, self.total)

    def _repr_html_(self) -> str:
        return "<progress style='width:%s' max='%s' value='%s'></progress>" % (
            self.html_width,
            self.total,
            self._progress,
        )

    def display(self) -> None:
        """Show it."""
        rich.display(self, display_id=self._display_id)

    def update(self) -> None:
        """Show its new state."""
        rich.display(self, display_id=self._display_id, update=True)

    @property
    def progress(self) -> int:
        """Steps done."""
        return self._progress

    @progress.setter
    def progress(self, value: int) -> None:
        self._progress = value
        self.update()

    def __iter__(self) -> Any:
        self.display()
        for step in range(self.total):
            self.progress = step
            yield step
        self.progress = self.total


class Image(DisplayObject):
    """A picture: PNG, JPEG, GIF or WebP."""

    binary = True
    _KINDS = ((b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"), (b"RIFF", "webp"))

    def __init__(
        self,
        data: Any = None,
        url: Any = None,
        filename: Any = None,
        format: str | None = None,
        embed: bool | None = None,
        width: Any = None,
        height: Any = None,
        metadata: dict[str, Any] | None = None,
        alt: str | None = None,
        **_: Any,
    ) -> None:
        if isinstance(data, str) and not data.startswith(("http://", "https://")):
            filename, data = data, None
        super().__init__(data, url, filename, metadata)
        sizes = {"width": width, "height": height, "alt": alt}
        self.metadata.update({name: value for name, value in sizes.items() if value is not None})
        found = next((kind for start, kind in self._KINDS if (self.data or b"").startswith(start)), "png")
        self.format = format.lower().replace("jpg", "jpeg") if format else found

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        if self.data is None:
            return {}
        mime = "image/" + self.format
        content = base64.b64encode(self.data).decode("ascii")
        return {mime: content}, {mime: self.metadata} if self.metadata else {}


class _Media(DisplayObject):
    binary = True
    tag, usual = "video", "video/mp4"

    def __init__(
        self, data: Any = None, filename: Any = None, url: Any = None, mimetype: Any = None, **_: Any
    ) -> None:
        if isinstance(data, str) and os.path.exists(data):
            filename, data = data, None
        super().__init__(data, url, filename)
        import mimetypes

        self.mimetype = mimetype or mimetypes.guess_type(str(filename or url or ""))[0] or self.usual

    def _repr_html_(self) -> str:
        content = base64.b64encode(self.data or b"").decode("ascii")
        return '<%s controls src="data:%s;base64,%s"></%s>' % (self.tag, self.mimetype, content, self.tag)


class Video(_Media):
    """A film, embedded."""


class Audio(_Media):
    """Sound, embedded: a file's bytes."""

    tag, usual = "audio", "audio/wav"


class Code(TextDisplayObject):
    """The text of a program."""

    def __init__(self, data: Any = None, *arguments: Any, language: Any = None, **options: Any) -> None:
        self.language = language
        super().__init__(data, *arguments, **options)

    def __repr__(self) -> str:
        return str(self.data)

    def _repr_html_(self) -> str:
        import html

        return "<pre><code>%s</code></pre>" % html.escape(self.data)


class IFrame:
    """A page in a frame."""

    def __init__(self, src: str, width: Any, height: Any, extras: Any = None, **parameters: Any) -> None:
        from urllib.parse import urlencode

        query = "?" + urlencode(parameters) if parameters else ""
        self.src, self.width, self.height = src + query, width, height

    def _repr_html_(self) -> str:
        import html

        address = html.escape(str(self.src), quote=True)
        return '<iframe width="%s" height="%s" src="%s" frameborder="0" allowfullscreen></iframe>' % (
            self.width,
            self.height,
            address,
        )


def _display_as(mime: str) -> Any:
    def show(*objects: Any, raw: bool = False, metadata: Any = None) -> None:
        """Show objects in this form only."""
        for one in objects:
            if raw:
                rich.publish({mime: one}, {mime: metadata} if metadata else None)
            else:
                rich.display(one, include=["text/plain", mime], metadata=metadata)

    return show


def _names() -> dict[str, Any]:
    """What ``IPython.display`` has."""
    classes = (DisplayObject, TextDisplayObject, Pretty, HTML, Markdown, Math, Latex, SVG, JSON, GeoJSON)
    more = (Javascript, ProgressBar, Image, Video, Audio, Code, IFrame)
    names: dict[str, Any] = {one.__name__: one for one in (*classes, *more)}
    for one in names.values():
        one.__module__ = "IPython.lib.display" if one in (Audio, Code, IFrame) else _HOME
    functions = (rich.display, rich.update_display, rich.clear_output, rich.DisplayHandle)
    names.update({one.__name__: one for one in functions})
    names["publish_display_data"] = rich.publish
    for method, mime in rich.METHODS:
        name = re.sub("^_repr_(.*)_$", r"display_\1", method)
        names[name] = _display_as(mime)
    names["display_pretty"] = _display_as("text/plain")
    return names


class Finder:
    """Serves the modules when nobody else has them."""

    def __init__(self, get_ipython: Any) -> None:
        self._get_ipython = get_ipython
        self._names: dict[str, Any] = {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """A spec for one of the modules; None for every other name."""
        if name not in _MODULES:
            return None
        package = name in ("IPython", "IPython.core")
        return importlib.machinery.ModuleSpec(name, self, is_package=package)  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> None:
        """An ordinary module will do."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Fill the module."""
        module.__doc__ = "A stand-in of the sandbox cell; IPython is not installed here."
        if module.__name__ == "IPython":
            module.__dict__.update(
                get_ipython=self._get_ipython, version_info=(9, 0, 0, ""), __version__="9.0.0"
            )
            importlib.import_module("IPython.display")
        elif module.__name__ != "IPython.core":
            if not self._names:
                self._names.update(_names())
            module.__dict__.update(self._names)
