"""Libraries that expect a notebook: matplotlib, IPython and pdb, told about us when they are imported.

Nothing is imported up front. A finder in ``sys.meta_path`` waits for the names it knows, lets the import
happen as usual and then adjusts the module.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import sys
import types

from . import debugger, shell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

#: Name of the matplotlib backend, as in every notebook; in a worker it is ours.
PACKAGE = "matplotlib_inline"
BACKEND = PACKAGE + ".backend_inline"


class _After:
    """A finder that calls a function with a module right after its first import.

    Not a subclass of the abstract one: importing ``importlib.abc`` costs 11 ms at every start of a daemon.
    """

    def __init__(self, actions: dict[str, Callable[[Any], None]], backend: _BackendLoader) -> None:
        self._actions = actions
        self._backend = backend
        self._busy: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The usual spec with a loader that runs the action too; None for every other name."""
        if name == BACKEND:
            return importlib.machinery.ModuleSpec(name, self._backend)  # type: ignore[arg-type]
        if name in self._busy or name not in (PACKAGE, *self._actions):
            return None
        self._busy.add(name)
        from importlib.util import find_spec

        try:
            spec = find_spec(name)
        except (ImportError, ValueError):
            spec = None
        finally:
            self._busy.discard(name)
        if name == PACKAGE:
            missing = importlib.machinery.ModuleSpec(name, self._backend, is_package=True)  # type: ignore[arg-type]
            return spec or missing
        if spec is None or spec.loader is None or not hasattr(spec.loader, "exec_module"):
            return None
        action, execute = self._actions[name], spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            action(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install(rich: types.ModuleType) -> None:
    """Wait for matplotlib and IPython; ``rich`` is our display module."""

    def ipython(module: Any) -> None:
        for name in ("display", "update_display", "clear_output"):
            if hasattr(module, name):
                setattr(module, name, getattr(rich, name))
        if hasattr(module, "publish_display_data"):
            module.publish_display_data = rich.publish
        if hasattr(module, "DisplayHandle"):
            module.DisplayHandle = rich.DisplayHandle

    def getipython(module: Any) -> None:
        module.get_ipython = shell.get_ipython

    def interactiveshell(module: Any) -> None:
        # There is one shell, and it is ours: nobody makes another.
        module.InteractiveShell.initialized = staticmethod(lambda: True)
        module.InteractiveShell.instance = staticmethod(lambda *_, **__: shell.get_ipython())

    def notebook(module: Any) -> None:
        # Its bars are widgets, which a sandbox cannot show.
        class Bar(module.tqdm_notebook.__base__):  # type: ignore[misc]
            def __init__(self, *arguments: Any, display: bool = True, **options: Any) -> None:
                super().__init__(*arguments, **options)

        module.tqdm = module.tqdm_notebook = Bar
        module.trange = module.tnrange = lambda *numbers, **options: Bar(range(*numbers), **options)

    def matplotlib(module: Any) -> None:
        if not os.environ.get("MPLBACKEND"):
            module.rcParams["backend"] = "module://" + BACKEND

    def pdb(module: Any) -> None:
        # `continue` would take SIGINT away from the cells that follow.
        module.Pdb.__init__ = _with_default(module.Pdb.__init__, nosigint=True)
        module.set_trace = debugger.set_trace

    sys.meta_path.insert(
        0,
        _After(
            {
                "IPython.core.display_functions": ipython,  # IPython >= 7.23
                "IPython.core.display": ipython,  # older ones define the functions here
                "IPython.core.getipython": getipython,
                "IPython.core.interactiveshell": interactiveshell,
                "matplotlib": matplotlib,
                "tqdm.notebook": notebook,
                "pdb": pdb,
            },
            _BackendLoader(rich),
        ),
    )


def _with_default(function: Any, **defaults: Any) -> Any:
    import functools

    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        return function(*arguments, **dict(defaults, **options))

    return wrapped


class _BackendLoader:
    """Makes the backend module when matplotlib asks for it: the Agg classes with a ``show`` of ours."""

    def __init__(self, rich: types.ModuleType) -> None:
        self._rich = rich

    def create_module(self, spec: Any) -> None:
        """An ordinary module will do."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Fill the module."""
        if module.__name__ == PACKAGE:
            return
        agg = importlib.import_module("matplotlib.backends.backend_agg")
        bases = importlib.import_module("matplotlib.backend_bases")
        rich = self._rich
        module.__dict__.update(
            FigureCanvas=agg.FigureCanvasAgg,
            FigureManager=bases.FigureManagerBase,
            new_figure_manager=agg._BackendAgg.new_figure_manager,
            new_figure_manager_given_figure=agg._BackendAgg.new_figure_manager_given_figure,
            show=lambda *_, **__: show_figures(rich),
            flush_figures=lambda: cell_ended(rich),
            set_matplotlib_formats=lambda *formats, **_: configure("figure_formats", formats, rich),
            set_matplotlib_close=lambda close=True: None,
        )


def show_figures(rich: Any) -> None:
    """Show every open pyplot figure as PNG and close it."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    for number in pyplot.get_fignums():
        figure = pyplot.figure(number)
        data: dict[str, Any] = {"text/plain": repr(figure)}
        metadata: dict[str, Any] = {}
        rich.figure(figure, data, metadata)
        rich.publish(data, metadata)
    pyplot.close("all")


def expected() -> bool:
    """Whether :func:`cell_ended` may have something to do."""
    return "matplotlib.pyplot" in sys.modules or shell.listened("post_execute", "post_run_cell")


def cell_ended(rich: Any) -> None:
    """Call what waits for the end of cells; show figures left open, when our backend is the one in use."""
    shell.events("post_execute", "post_run_cell")
    matplotlib = sys.modules.get("matplotlib")
    if matplotlib is None or "matplotlib.pyplot" not in sys.modules:
        return
    if str(matplotlib.get_backend()).lower() in ("inline", "module://" + BACKEND):
        show_figures(rich)


def use_inline() -> None:
    """``%matplotlib inline``: our backend, by the short name that matplotlib 3.9 has for it."""
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError:
        return
    try:
        matplotlib.rcParams["backend"] = "inline"
    except ValueError:
        matplotlib.rcParams["backend"] = "module://" + BACKEND


def configure(name: str, value: Any, rich: Any) -> None:
    """Set an option of the inline backend: ``figure_format`` or ``figure_formats``."""
    formats = ("png", "retina", "png2x", "svg")
    chosen = value if isinstance(value, str) else next(iter(value), "")
    if name not in ("figure_format", "figure_formats") or chosen not in formats:
        raise ValueError("of InlineBackend only figure_format works here: %s" % ", ".join(formats))
    rich.figure_format = chosen
