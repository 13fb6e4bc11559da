"""``get_ipython()`` in a cell: enough of a shell for libraries that look for a notebook, and for magics.

Libraries recognise a notebook by the name of this class and of its module (rich, pandas, plotly ...). It is
not IPython's shell: what it does not have raises an AttributeError that says so. Where IPython is installed,
its formatters, its magics and its extensions work through it, and ``isinstance`` takes it for IPython's own.
"""

from __future__ import annotations

import builtins
import functools
import sys
import traceback

from . import rich, standin, tracebacks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .magics import Helper
    from .worker import Session

_EVENTS = ("pre_execute", "pre_run_cell", "post_execute", "post_run_cell")
_shell: ZMQInteractiveShell | None = None
_claimed: dict[Any, Any] = {}


class Events:
    """Functions to be called around cells: ``events.register("post_execute", function)``."""

    def __init__(self) -> None:
        self.callbacks: dict[str, list[Callable[..., Any]]] = {name: [] for name in _EVENTS}

    def register(self, event: str, function: Callable[..., Any]) -> None:
        """Call ``function`` at every ``event``."""
        if event not in self.callbacks:
            raise ValueError("there is no event %s; there are %s" % (event, ", ".join(_EVENTS)))
        if function not in self.callbacks[event]:
            self.callbacks[event].append(function)

    def unregister(self, event: str, function: Callable[..., Any]) -> None:
        """Call it no longer. Raises ValueError when it never was registered."""
        self.callbacks[event].remove(function)

    def trigger(self, event: str) -> None:
        """Call what is registered; what fails is reported and fails nothing else."""
        for function in self.callbacks[event][:]:
            try:
                code = getattr(function, "__code__", None)
                # Those around run_cell may take a description of the cell, which there is none of.
                takes = event.endswith("run_cell") and code is not None and code.co_argcount > 0
                function(*([None] if takes else []))
            except Exception:
                print("Error in callback %r (for %s):" % (function, event), file=sys.stderr)
                traceback.print_exc()


class DisplayPublisher:
    """``get_ipython().display_pub``."""

    def publish(self, data: dict[str, Any], metadata: dict[str, Any] | None = None, **options: Any) -> None:
        """Show a ready mimebundle."""
        rich.publish(data, metadata, **options)

    def clear_output(self, wait: bool = False) -> None:
        """Clear the cell's output."""
        rich.clear_output(wait)


class ZMQInteractiveShell:
    """The shell of a sandbox cell, under the name by which libraries know a notebook."""

    def __init__(self, session: Session, helper: Helper) -> None:
        self._session = session
        self._helper = helper
        self.user_ns = self.user_global_ns = session.namespace
        self.user_module = session.module
        self.colors = "neutral"
        # That there is one tells pandas that this is no terminal.
        self.kernel = None
        self.parent = None
        self.events = Events()
        self.display_pub = DisplayPublisher()
        self.active_eventloop = None

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """A subclass of IPython's own shell, where that is loaded."""
        module = sys.modules.get("IPython.core.interactiveshell")
        base = getattr(module, "InteractiveShell", None)
        if not isinstance(base, type):
            return ZMQInteractiveShell
        if base not in _claimed:
            _claimed[base] = type(base)("ZMQInteractiveShell", (base,), {"__module__": _MODULE})
        return _claimed[base]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError("the shell of a sandbox cell has no %s" % name)

    @property
    def config(self) -> Any:
        """No settings: those of the notebook's kernel are not known here."""
        if "_config" not in self.__dict__:
            try:
                from traitlets.config import Config
            except ImportError:
                Config = dict
            self._config = Config()
        return self._config

    @property
    def display_formatter(self) -> Any:
        """IPython's formatters: what is registered with them shows values in all cells."""
        if "_formatter" not in self.__dict__:
            try:
                from IPython.core.formatters import DisplayFormatter
            except ImportError:
                raise AttributeError("formatters need IPython, which this sandbox does not have") from None
            self._formatter = DisplayFormatter()
        return self._formatter

    @property
    def execution_count(self) -> int:
        """The running cell's number."""
        return self._session.number

    def _find_my_config(self, config: Any) -> Any:
        # Magics classes ask the shell, as their parent, for settings.
        return config

    # -- running things ------------------------------------------------------------------------------------

    def run_line_magic(self, magic_name: str, line: str, _stack_depth: int = 1) -> Any:
        """Run ``%magic_name line``."""
        return self._helper.run(magic_name, line, self.user_ns, self.user_ns)

    def run_cell_magic(self, magic_name: str, line: str, cell: str) -> Any:
        """Run ``%%magic_name line`` over a cell."""
        return self._helper.cell(magic_name, line, cell)

    def run_cell(self, raw_cell: str, *_: Any, **__: Any) -> None:
        """Run a text as a part of this cell."""
        self._session.run_text(raw_cell, line=1)

    def system(self, cmd: str) -> None:
        """Run a shell command; its output appears as it comes."""
        self._helper.shell(cmd)

    def getoutput(self, cmd: str, **_: Any) -> Any:
        """A shell command's output as a list of lines."""
        return self._helper.output(cmd)

    def ev(self, expr: str) -> Any:
        """The value of an expression."""
        return eval(expr, self.user_ns)

    def ex(self, cmd: str) -> None:
        """Execute statements."""
        exec(cmd, self.user_ns)

    def push(self, variables: dict[str, Any], interactive: bool = True) -> None:
        """Set names."""
        self.user_ns.update(variables)

    def showtraceback(self, *_: Any, **__: Any) -> None:
        """Show the error being handled; the cell goes on."""
        error = sys.exc_info()[1]
        if error is not None:
            self._session.send(tracebacks.full(error))

    def enable_gui(self, gui: str | None = None) -> None:
        """A sandbox has no windows: nothing to do."""

    # -- magics of the user and of extensions --------------------------------------------------------------

    def register_magic_function(
        self, func: Any, magic_kind: str = "line", magic_name: str | None = None
    ) -> None:
        """Make a function a magic: ``line``, ``cell`` or ``line_cell``."""
        name = magic_name or func.__name__
        for kind in magic_kind.split("_"):
            self._helper.registered[kind, name] = func

    def register_magics(self, *objects: Any) -> None:
        """Make the magics of IPython ``Magics`` classes, or of instances of them, known."""
        for one in objects:
            made = one(shell=self) if isinstance(one, type) else one
            for kind, table in made.magics.items():
                for name, method in table.items():
                    bound = getattr(made, method) if isinstance(method, str) else method
                    self._helper.registered[kind, name] = bound


_MODULE = "ipykernel.zmqshell"
ZMQInteractiveShell.__module__ = _MODULE


def get_ipython() -> Any:
    """The shell of this cell."""
    return _shell


def events(*names: str) -> None:
    """Tell those who registered for it what happens."""
    if _shell is not None:
        for name in names:
            _shell.events.trigger(name)


def listened(*names: str) -> bool:
    """Whether anybody has registered for one of these."""
    return _shell is not None and any(_shell.events.callbacks[name] for name in names)


def formatters() -> Any:
    """IPython's formatters if anybody has asked for them; else None."""
    return None if _shell is None else _shell.__dict__.get("_formatter")


def install(session: Session, helper: Helper) -> None:
    """Make ``get_ipython`` available in every cell."""
    global _shell
    _shell = ZMQInteractiveShell(session, helper)
    session.history.begins = functools.partial(events, "pre_execute", "pre_run_cell")
    rich.formatters = formatters
    sys.meta_path.append(standin.Finder(get_ipython))
    builtins.get_ipython = get_ipython  # type: ignore[attr-defined]
