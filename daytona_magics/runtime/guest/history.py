"""``_``, ``__``, ``___``, ``_5``, ``Out``, and ``In``, ``_i``, ``_i5``: what earlier cells were and gave."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

#: Values kept in ``Out``; the oldest go first.
CACHE = 1000


class History:
    """Keeps the names of a namespace up to date. Names the user has set are left alone."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace
        self.begins: Callable[[], None] = lambda: None  # called when a cell begins
        self.inputs: list[str] = [""]
        self.outputs: dict[int, Any] = {}
        namespace.update(In=self.inputs, Out=self.outputs, _ih=self.inputs, _oh=self.outputs)
        self._set = dict.fromkeys(("_", "__", "___", "_i", "_ii", "_iii"), "")
        namespace.update(self._set)

    def cell(self, code: str, number: int) -> None:
        """A cell with this number in the notebook begins."""
        if number:
            self.inputs.extend([""] * (number - len(self.inputs)))
            del self.inputs[number:]
            self._namespace["_i%d" % number] = code
        self.inputs.append(code)
        self._shift(("_i", "_ii", "_iii"), self.inputs[-2])
        self.begins()

    def value(self, value: Any, number: int) -> None:
        """The running cell's last expression has this value."""
        if value is self.outputs:
            return
        self._shift(("_", "__", "___"), value)
        if number:
            self.outputs[number] = value
            self._namespace["_%d" % number] = value
            if len(self.outputs) > CACHE:
                oldest = next(iter(self.outputs))
                self.outputs.pop(oldest)
                self._namespace.pop("_%d" % oldest, None)

    def _shift(self, names: tuple[str, ...], value: Any) -> None:
        kept = [self._set[name] for name in names]
        for at, name in enumerate(names):
            new = kept[at - 1] if at else value
            if self._namespace.get(name, self._set[name]) is self._set[name]:
                self._namespace[name] = new
            self._set[name] = new
