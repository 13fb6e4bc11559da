"""``get_ipython()`` in a cell: enough of a shell for libraries that look for a notebook, and for magics.

Libraries recognise a notebook by the name of this class (rich, pandas, tqdm ...). It is no IPython: what it
does not have raises an AttributeError that says so.
"""

from __future__ import annotations

import builtins
import importlib.machinery

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .magics import Helper
    from .worker import Session


class SandboxZMQShell:
    """The shell of a sandbox cell."""

    def __init__(self, session: Session, helper: Helper) -> None:
        self._session = session
        self._helper = helper
        self.user_ns = self.user_global_ns = session.namespace
        self.config: dict[str, Any] = {}
        # That there is one tells pandas that this is no terminal.
        self.kernel = None

    def __getattr__(self, name: str) -> Any:
        raise AttributeError("the shell of a sandbox cell has no %s" % name)

    @property
    def execution_count(self) -> int:
        """The running cell's number."""
        return self._session.number

    def run_line_magic(self, magic_name: str, line: str, _stack_depth: int = 1) -> Any:
        """Run ``%magic_name line``."""
        return self._helper.run(magic_name, line, self.user_ns, self.user_ns)

    def run_cell_magic(self, magic_name: str, line: str, cell: str) -> Any:
        """Run ``%%magic_name line`` over a cell."""
        return self._helper.cell(magic_name, line, cell)

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


class ZMQInteractiveShell(SandboxZMQShell):
    """Where IPython is installed: then libraries that know this name can display through it."""


def install(session: Session, helper: Helper) -> None:
    """Make ``get_ipython`` available in every cell."""
    made: list[SandboxZMQShell] = []

    def get_ipython() -> Any:
        """The shell of this cell."""
        if not made:
            found = importlib.machinery.PathFinder.find_spec("IPython")
            made.append((SandboxZMQShell if found is None else ZMQInteractiveShell)(session, helper))
        return made[0]

    builtins.get_ipython = get_ipython  # type: ignore[attr-defined]
