"""What to install or change where a way of isolating does not work.

What works is found by trying. Only then settings are read, to say which of them is likely in the way: what
is said here decides nothing.
"""

import os
from contextlib import suppress

_SETTINGS = "/proc/sys/"


def on(problem: str, launcher: str) -> str:
    """Half a sentence of advice on `problem`, met with `launcher`; empty when there is none to give."""
    if "namespaces" in problem or "No permissions to create" in problem:
        return _on_namespaces()
    if "mount" in problem.lower() or "root" in problem or "restricting" in problem:
        if "not implemented" in problem:
            return "it needs Linux 5.12"
        return _in_container("--security-opt apparmor=unconfined") or (
            "a security module refuses mounts; bubblewrap may be allowed them (package bubblewrap)"
            if launcher == "ctypes"
            else ""
        )
    return ""


def _on_namespaces() -> str:
    if not os.path.exists("/proc/self/ns/user"):
        return "this kernel is made without user namespaces"
    if _setting("kernel/unprivileged_userns_clone") == 0:
        return "sudo sysctl kernel.unprivileged_userns_clone=1 permits them"
    if _setting("user/max_user_namespaces") == 0:
        return "sudo sysctl user.max_user_namespaces=10000 permits them"
    if _setting("kernel/apparmor_restrict_unprivileged_userns") == 1:
        return (
            "AppArmor permits them to bubblewrap (package bubblewrap), or to all by"
            " sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        )
    return _in_container("--security-opt seccomp=unconfined")


def _in_container(option: str) -> str:
    if not _filtered():
        return ""
    return (
        f"a container's system call filter or security module refuses it: docker run {option},"
        " or podman, permits it"
    )


def _filtered() -> bool:
    """Is this a container, or at least under a filter?"""
    if any(os.path.exists(path) for path in ("/.dockerenv", "/run/.containerenv")):
        return True
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return True
    with suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return any(line.split() == ["Seccomp:", "2"] for line in file)
    return False


def _setting(name: str) -> int | None:
    """The number in a kernel setting; None where there is no such setting."""
    with suppress(OSError, ValueError), open(_SETTINGS + name, encoding="ascii") as file:
        return int(file.read())
    return None
