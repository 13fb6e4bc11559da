"""A bash cell: a fresh bash that starts from the state the previous one left behind.

``exit 3``, ``set -e`` and a killed shell end the cell, not the state: working directory, variables, arrays,
functions, options, aliases and exports are written to a file when the shell exits and read again by the next
one. The reading is done by ``BASH_ENV``, so the cell's text itself is what bash runs: line numbers, aliases
and ``$0`` (the cell's name) are right.
"""

from __future__ import annotations

import os
import re
import shlex

from . import cell_worker, processes, shell_variables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .execution import Execution
    from .keyboard import Keyboard
    from .loop import Loop

#: The longest text given as an argument; Linux allows 128 KiB for one.
MAX_ARGUMENT = 100_000
#: Characters that are read of the failed command's text, and of the working directory.
MAX_FAILED, MAX_PATH = 300, 4096

# Sourced before the cell. Everything of ours is called __dm_* and never saved.
_PRELUDE = r"""
unset BASH_ENV
__dm_save() {
  local __dm_name __dm_i __dm_names __dm_kept=()
  { shopt -p; alias -p; set +o; } >| "$__dm_state.options.new"
  printf %s "${__dm_cwd:-$PWD}" >| "$__dm_state.cwd"
  set +eux
  # Nothing here starts a process: that would take longer than all the rest.
  compgen -v >| "$__dm_state.new"
  mapfile -t __dm_names < "$__dm_state.new"
  {
    for __dm_name in "${__dm_names[@]}"; do
      case $__dm_name in
        __dm_*|BASH*|_|EUID|UID|PPID|SHELLOPTS|FUNCNAME|GROUPS|DIRSTACK|RANDOM|SRANDOM|SECONDS) continue;;
        LINENO|PIPESTATUS|HISTCMD|EPOCH*|COMP_*|SHLVL|PWD|MARK) continue;;
      esac
      for __dm_i in "${__dm_env[@]}"; do [[ $__dm_i == "$__dm_name" ]] && continue 2; done
      __dm_kept+=("$__dm_name")
    done
    [[ ${__dm_kept[0]-} ]] && declare -p "${__dm_kept[@]}"
    printf '%s\n' "${__dm_old[@]}"
    unset -f __dm_save __dm_exit trap
    declare -f
    declare -Fx
    umask -p
    printf 'cd -- %q\n' "${__dm_cwd:-$PWD}"
    printf ': complete\n'
  } >| "$__dm_state.new"
}
__dm_exit() {
  # A child that is interrupted between fork and exec would run this too.
  local __dm_code=$?
  [[ $BASHPID == "$$" ]] || return
  # The command that failed last is named only if its exit code is the cell's.
  [[ $__dm_failed == "$__dm_code "* ]] && printf '%s' "$__dm_failed" >| "$__dm_state.failed"
  declare -F __dm_give > /dev/null && __dm_give
  { builtin trap '' INT TERM; __dm_save; builtin trap - INT TERM; } 2>/dev/null
  eval "$__dm_user_exit"
}
trap() {
  builtin trap "$@" || return
  local __dm_t; __dm_t=$(builtin trap -p EXIT)
  [[ $__dm_t == *__dm_* ]] && return 0
  local -a __dm_a; [[ $__dm_t ]] && eval "__dm_a=($__dm_t)"
  __dm_user_exit=${__dm_a[2]-}
  builtin trap __dm_exit EXIT
}
""".replace("MARK", processes.MARK)


#: Its stderr is closed off for `set -x`, which would show it.
_ON_ERROR = """builtin trap '{ __dm_failed="$? $LINENO $BASH_COMMAND"; } 2>/dev/null' ERR"""


class BashWorker(cell_worker.CellWorker):
    """One bash process running one cell.

    Args:
        state: file of the saved state; ``state + ".new"`` is what the shell writes.
        late: where output goes that comes after the cell's end.
        keyboard: its standard input.

    Attributes:
        directory: where the next cell begins; "" while that is not known.
    """

    def __init__(
        self,
        loop: Loop,
        mark: str,
        state: str,
        execution: Execution,
        sink: Callable[[int, bytes], Any],
        late: Callable[[int, bytes], Any],
        keyboard: Keyboard,
    ) -> None:
        super().__init__(loop, mark, execution, sink, late)
        self._state, self.directory = state, ""
        self._outputs: list[list[str]] = (execution.request.variables or {}).get("outputs") or []
        request = execution.request
        # The prelude and a long cell are files of the context: bash reads them by name.
        with open(state + ".prelude", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(self._prelude(request.env, request.cwd))
        code = request.code
        if len(code.encode("utf-8", "surrogatepass")) > MAX_ARGUMENT:
            with open(state + ".cell", "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(code)
            code = "source %s" % shlex.quote(state + ".cell")
        environment = dict(self.environment({}), BASH_ENV=state + ".prelude")
        argv = ["bash", "-c", code, request.name, *request.argv]
        self.start(argv, environment, os.environ.get("HOME", "/"), keyboard)

    def _prelude(self, env: dict[str, str], cwd: str | None) -> str:
        lines = [_PRELUDE]
        if os.path.exists(self._state):
            lines.append("source %s 2>/dev/null" % shlex.quote(self._state))
        lines.append("__dm_state=%s" % shlex.quote(self._state))
        lines.append("__dm_env=(%s) __dm_old=() __dm_user_exit= __dm_cwd=" % " ".join(env))
        for name, value in env.items():
            lines.append('__dm_old+=("$(declare -p %s 2>/dev/null)")' % name)
            lines.append("export %s=%s" % (name, shlex.quote(value)))
        if cwd is not None:
            lines.append("__dm_cwd=$PWD")
            said = shlex.quote("--cwd %s: there is no such folder, or it cannot be entered" % cwd)
            folder = shlex.quote(os.path.expanduser(cwd))
            lines.append("cd -- %s 2>/dev/null || { echo %s >&2; builtin exit 1; }" % (folder, said))
        lines.append(shell_variables.prelude(self._outputs))
        lines.append("__dm_failed=; builtin trap __dm_exit EXIT")
        lines.append(_ON_ERROR)
        # Last, because `set -e` among the options would end the shell at the first failure above.
        if os.path.exists(self._state + ".options"):
            lines.append("source %s 2>/dev/null" % shlex.quote(self._state + ".options"))
        return "\n".join(lines) + "\n"

    def given(self) -> dict[str, Any] | None:
        return shell_variables.read(self._state + ".given", self._outputs) if self._outputs else None

    def _read_failed(self) -> None:
        """The command that failed and ended the cell with its exit code, as a sentence in ``failed``."""
        path = self._state + ".failed"
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                said = file.read(MAX_FAILED).split(" ", 2)
            os.unlink(path)
        except OSError:
            return
        if len(said) == 3 and said[1].isdigit():
            command = self._told(int(said[1]), said[2].partition("\n")[0])
            self.failed = "line %s: %s" % (said[1], command)

    def _told(self, number: int, command: str) -> str:
        """What failed on that line of the cell; of a function that was called, bash names what is in it."""
        lines = self.execution.request.code.split("\n")
        own = lines[number - 1].strip() if 0 < number <= len(lines) else ""
        bare, inside = (re.sub(r"\s", "", text) for text in (own, command))
        if not own[:1].isalpha() or inside in bare or bare in inside or len(own) > MAX_FAILED:
            return command
        return "%s (in it: %s)" % (own, command)

    def _read_directory(self) -> None:
        try:
            with open(self._state + ".cwd", errors="replace") as file:
                self.directory = file.read(MAX_PATH)
        except OSError:
            self.directory = ""

    def leave(self) -> None:
        """The shell is gone: keep the state it wrote, read what is left; background jobs may still write."""
        self._read_failed()
        new = self._state + ".new"
        if os.path.exists(new):
            with open(new, "rb") as file:
                file.seek(max(0, os.path.getsize(new) - 16))
                complete = file.read().endswith(b": complete\n")
            if complete:
                os.replace(self._state + ".options.new", self._state + ".options")
                os.replace(new, self._state)
                self._read_directory()
            else:
                # Killed while it wrote: the state from before the cell stays.
                os.unlink(new)
        super().leave()
