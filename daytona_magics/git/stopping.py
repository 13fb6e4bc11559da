"""Ending git in the sandbox when somebody here interrupts the line that waits for it.

A call of the git API that has begun goes on when its caller hangs up. Where the platform does it with the
sandbox's own git, that is a process the sandbox's user can end: git then takes back what is half done. Where
it is no process there is nothing to end, and the page says that it goes on.

git's processes are known by what /proc says of them: the command of git that runs (its first word that is no
option), and the repository, by working folder or by name. A person's git in a terminal is left alone.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from daytona_magics.sandboxes import client as sdk

STOPPED = "cancelled; git in the sandbox was told to stop"
GOES_ON = "stopped waiting; the sandbox goes on with it, and `%sandbox_git status` shows what comes of it"
#: Seconds that telling it may take.
WITHIN = 10

#: $0: the folder of a repository; the rest: commands of git. Prints how many processes were told.
_END = r"""
told=0
real=$(cd -- "$0" 2>/dev/null && pwd -P) || real=$0
command_of() {
  read -r word || return
  while read -r word; do
    case $word in
      -c|-C|--git-dir|--work-tree|--namespace|--config-env) read -r word ;;
      -*) ;;
      *) printf '%s\n' "$word"; return ;;
    esac
  done
}
for one in /proc/[0-9]*; do
  read -r _ name _ _ _ _ terminal _ 2>/dev/null <"$one/stat" && [ "$name" = "(git)" ] || continue
  [ "$terminal" = 0 ] || continue
  words=$(tr '\n\0' ' \n' 2>/dev/null <"$one/cmdline")
  case "
$words
" in *"
$0
"*) ;; *) [ "$(readlink "$one/cwd")" = "$real" ] || continue ;; esac
  now=$(printf '%s\n' "$words" | command_of)
  for verb in "$@"; do
    [ "$now" = "$verb" ] && kill -TERM "${one#/proc/}" 2>/dev/null && told=$((told + 1))
  done
done
echo $told
"""


@asynccontextmanager
async def ended(sandbox: Any, folder: str, *verbs: str) -> AsyncIterator[None]:
    """While inside, an interrupt ends git's ``verbs`` ("push", "fetch") in a repository, or a clone to it.

    Raises:
        asyncio.CancelledError: the interrupt; its text says what became of git.
    """
    try:
        yield
    except asyncio.CancelledError:
        told = await asyncio.shield(asyncio.ensure_future(_end(sandbox, folder, verbs)))
        raise asyncio.CancelledError(STOPPED if told else GOES_ON) from None


async def _end(sandbox: Any, folder: str, verbs: tuple[str, ...]) -> int:
    command = shlex.join(["sh", "-c", _END, folder, *verbs])
    try:
        answer = await sandbox.process.exec(command, timeout=WITHIN)
    except sdk.error_class():
        return 0
    said = str(answer.result or "").strip()
    return int(said) if said.isdigit() and len(said) < 6 else 0
