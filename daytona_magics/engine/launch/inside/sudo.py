"""sudo, apt and apt-get of a sandbox: a root that has no rights and asks for none.

This file is copied into ``~/.venv/bin`` of every sandbox under these three names, behind two lines that start
it with the Python beside it, wherever the home is (`venv`).

A sandbox has one user and no way to another. Package tools only want to be told that they are root and that
files changed their owner. So before the command starts, a further system call filter is loaded: ``getuid``
and its kin answer 0, and calls that change an owner or the user, or make a device, answer "done" and do
nothing. Everything else is as before: a filter can only be added to, and this one allows nothing that the
sandbox's own refuses. It works where ``/usr`` is the sandbox's own (level L3); elsewhere the command just
runs as the user, and the notice says so.
"""

import ctypes
import os
import platform
import struct
import sys

# For each architecture: its number for the kernel, the calls that answer 0, and those that make a file and
# answer 0 only for a device, with the index of the argument that tells.
#   chown fchown lchown fchownat, set{,re,res,fs}{u,g}id, setgroups, capset, get{,e}{u,g}id
_CALLS = {
    "x86_64": (
        0xC000003E,
        (92, 93, 94, 260, 105, 106, 113, 114, 117, 119, 122, 123, 116, 126, 102, 104, 107, 108),
        ((133, 1), (259, 2)),
    ),
    "aarch64": (
        0xC00000B7,
        (55, 54, 146, 144, 145, 143, 147, 149, 151, 152, 159, 91, 174, 175, 176, 177),
        ((33, 2),),
    ),
}
#: Set in file modes of character and block devices, not in those of pipes, sockets and files.
_DEVICE = 0o020000
_LOAD, _EQUAL, _BITS, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _ANSWER_0 = 0x7FFF0000, 0x00050000
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38

_HELP = """usage: sudo [options] [NAME=VALUE ...] [command [argument ...]]
Runs the command as the sandbox's only user. Where the system is writable (level L3) it is told that it is
root, so that apt, dpkg and install scripts work. -u root and -i, -s, -E, -H, -n, -S, -k are understood.
"""


def filter_program() -> "bytes | None":
    """The filter as an array of struct sock_filter, or None on an unknown architecture."""
    known = _CALLS.get(platform.machine())
    if known is None:
        return None
    architecture, quiet, makers = known
    code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, 0)]
    for number in quiet:
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ANSWER_0)]
    for number, argument in makers:
        # What matches ends here, so the call's number is still loaded for the next comparison.
        code += [
            (_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, 16 + 8 * argument),
            (_BITS, 0, 1, _DEVICE),
            (_RETURN, 0, 0, _ANSWER_0),
            (_RETURN, 0, 0, _ALLOW),
        ]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", operation, yes, no, value) for operation, yes, no, value in code)


def pretend() -> bool:
    """Load the filter for this process and what it starts; False where that cannot be done."""
    program = filter_program()
    if program is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(program, len(program))
    request = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0:
        return False
    return int(libc.prctl(_PR_SET_SECCOMP, 2, request, 0, 0)) == 0


def parse(words: "list[str]") -> "tuple[dict[str, str], list[str] | None]":
    """(environment, command) of sudo's command line. Raises ValueError with a sentence."""
    words = list(words)
    shell = False
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word == "--":
            break
        if word in ("-h", "--help", "-V", "--version"):
            return {}, None
        if word in ("-u", "-g", "--user", "--group") or word.startswith(("--user=", "--group=")):
            name = word.partition("=")[2] or (words.pop(0) if words else "")
            if name not in ("root", "daytona", "#0"):
                raise ValueError(f"there is no other user than daytona in a sandbox, so not {name!r} either")
        elif word in ("-v", "-l", "-k", "-K", "--validate", "--list") and not words:
            return {}, []
        elif word in ("-i", "-s", "--login", "--shell"):
            shell = True
        elif word.startswith("--preserve-env") or not word.strip("-EHnSkKbA"):
            continue
        else:
            raise ValueError(f"option {word} is not understood; see sudo --help")
    variables: dict[str, str] = {}
    while words and "=" in words[0] and words[0].partition("=")[0].isidentifier():
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    if shell:
        words = [os.environ.get("SHELL", "/bin/sh"), *(["-c", " ".join(words)] if words else [])]
    if not words:
        raise ValueError("which command? See sudo --help")
    return variables, words


def real_program(name: str) -> "str | None":
    """The program called `name` on PATH that is not one of this file's copies."""
    here = os.path.dirname(os.path.realpath(sys.argv[0]))
    for folder in [*os.environ.get("PATH", "").split(":"), "/usr/local/sbin", "/usr/sbin", "/sbin"]:
        path = os.path.join(folder, name)
        if folder and os.path.realpath(folder) != here and os.access(path, os.X_OK):
            return path
    return None


def main() -> None:
    own_name = os.path.basename(sys.argv[0])
    if own_name == "sudo":
        try:
            variables, command = parse(sys.argv[1:])
        except ValueError as error:
            sys.exit(f"sudo: {error}")
        if command is None:
            print(_HELP, end="")
        if not command:
            sys.exit(0)
        if os.path.basename(command[0]) in ("apt", "apt-get") and "/" not in command[0]:
            command[0] = real_program(command[0]) or command[0]
    else:
        variables, command = {}, [own_name, *sys.argv[1:]]
        command[0] = real_program(own_name) or ""
        if not command[0]:
            sys.exit(f"{own_name}: this machine has no {own_name} to lend to its sandboxes")
    # Where nothing is isolated (L0) this may be the machine's root, which has no need to pretend.
    writable = os.getuid() != 0 and os.access("/usr", os.W_OK)
    pretended = writable and pretend()
    if own_name == "sudo":
        limits = "" if pretended else ", and the system is read-only"
        sys.stderr.write(f"sudo: this sandbox has one user and no root; running as daytona{limits}\n")
    elif not writable:
        sys.stderr.write(
            f"{own_name}: the system of this sandbox is read-only (it is writable at isolation level L3);"
            " pip and npm can install into the home\n"
        )
    if not os.isatty(0):
        os.environ.setdefault("DEBIAN_FRONTEND", "noninteractive")  # Nobody can answer questions.
    os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    os.environ.update(variables)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{own_name}: {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
