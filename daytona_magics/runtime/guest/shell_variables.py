"""Variables of a bash cell: written by the shell as it ends, read when it has ended.

A scalar becomes a text, an array a list of texts, an associative array a dict of texts.
"""

from __future__ import annotations

import os

from . import variables
from .variables import TransferError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Bytes of all variables of one cell.
MAX_GIVEN = 8 << 20
# Removes itself before the shell saves its functions. Each record: name, kind, count, and so many texts.
_GIVE = r"""
__dm_give() {
  unset -f __dm_give
  (
    set +eux
    for __dm_n in NAMES; do
      __dm_d=$(declare -p "$__dm_n") || continue
      read -r _ __dm_d _ <<< "$__dm_d"
      declare -n __dm_r=$__dm_n
      case $__dm_d in
        *A*) printf '%s\0' "$__dm_n" dict $((2 * ${#__dm_r[@]}))
             for __dm_k in "${!__dm_r[@]}"; do printf '%s\0' "$__dm_k" "${__dm_r[$__dm_k]}"; done;;
        *a*) printf '%s\0' "$__dm_n" list ${#__dm_r[@]}
             (( ${#__dm_r[@]} )) && printf '%s\0' "${__dm_r[@]}";;
        *) [[ -n ${__dm_r+x} ]] && printf '%s\0' "$__dm_n" text 1 "$__dm_r";;
      esac
      unset -n __dm_r
    done > "$__dm_state.given"
  ) 2>/dev/null
}
"""


def prelude(outputs: list[list[str]]) -> str:
    """What a shell reads before the cell to write these variables at its end; "" when there are none."""
    names = " ".join(source for source, _ in outputs if source.isascii())
    return _GIVE.replace("NAMES", names) if outputs else ""


def read(path: str, outputs: list[list[str]]) -> dict[str, Any]:
    """The message with the variables asked for, from the file the shell wrote. Raises TransferError."""
    try:
        with open(path, "rb") as file:
            parts = file.read(MAX_GIVEN + 1).split(b"\0")
        os.unlink(path)
    except FileNotFoundError:
        raise TransferError("-o: the shell did not end by itself, so its variables are unknown") from None
    if sum(map(len, parts)) + len(parts) > MAX_GIVEN:
        raise TransferError("-o: more than %d MiB; write a file, and download it" % (MAX_GIVEN >> 20))
    found: dict[str, Any] = {}
    while len(parts) > 3:
        name, kind, count = parts[0].decode(), parts[1], int(parts[2])
        texts, parts = [_text(name, part) for part in parts[3 : 3 + count]], parts[3 + count :]
        if kind == b"text":
            found[name] = texts[0]
        else:
            found[name] = texts if kind == b"list" else dict(zip(texts[::2], texts[1::2]))  # noqa: B905
    values = {}
    for source, target in outputs:
        if source not in found:
            raise TransferError("-o %s: the shell has no variable %s" % (source, source))
        values[target] = found[source]
    return variables.message(values)


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise TransferError("-o %s: its bytes are no text; write a file, and download it" % name) from None
