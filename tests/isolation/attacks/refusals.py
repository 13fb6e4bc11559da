"""KERNEL attacks that a plain process may be refused too: why, and what shows that this is so here.

An attack is refused at L0 exactly when one of its reasons holds; nothing else may fail there.
"""

import ctypes
import errno
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)


def _missing(path: str) -> Callable[[], bool]:
    return lambda: not Path(path).exists()


def _setting(path: str, refuses: Callable[[int], bool]) -> Callable[[], bool]:
    """Whether the setting exists and is one that refuses an ordinary user."""
    return lambda: os.geteuid() != 0 and Path(path).exists() and refuses(int(Path(path).read_text()))


def _no_family(name: str) -> Callable[[], bool]:
    def absent() -> bool:
        family: int = getattr(socket, name)
        try:
            socket.socket(family, socket.SOCK_SEQPACKET if name == "AF_ALG" else socket.SOCK_STREAM).close()
        except OSError as error:
            return error.errno == 97  # EAFNOSUPPORT: nothing to attack
        return False

    return absent


def _only_loopback() -> bool:
    return [name for _, name in socket.if_nameindex()] == ["lo"]


def _no_route() -> bool:
    """No route that leads anywhere but to this machine."""
    return len(Path("/proc/net/route").read_text().splitlines()) <= 1


def _older_bpf() -> bool:
    version = tuple(int(part) for part in os.uname().release.split(".")[:2])
    return (
        version < (6, 5) and _setting("/proc/sys/kernel/unprivileged_bpf_disabled", lambda value: value > 0)()
    )


def _user() -> bool:
    return os.geteuid() != 0


def _no_call(number: int) -> Callable[[], bool]:
    """Whether the kernel does not know the system call, asked with arguments that change nothing."""
    return lambda: _libc.syscall(number, 0, 0, 0) < 0 and ctypes.get_errno() == errno.ENOSYS


def _no_echo() -> bool:
    """Whether this process's groups may not send echo requests."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ping_group_range").read_text().split())
    return not any(low <= group <= high for group in (os.getegid(), *os.getgroups()))


def _no_nameless() -> bool:
    try:
        os.close(os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR))
    except OSError as error:
        return error.errno == errno.EOPNOTSUPP
    return False


def _cgroups_read_only() -> bool:
    root = Path("/sys/fs/cgroup")
    return not any(os.access(folder, os.W_OK) for folder in (root, *root.glob("*/")))


def _no_release_agent() -> bool:
    return not any(os.access(path, os.W_OK) for path in Path("/sys/fs/cgroup").glob("*/release_agent"))


def _no_multipath() -> bool:
    setting = Path("/proc/sys/net/mptcp/enabled")
    return not setting.exists() or setting.read_text().strip() == "0"


def _no_fast_open() -> bool:
    return not int(Path("/proc/sys/net/ipv4/tcp_fastopen").read_text()) & 1


def _may_raise_limits() -> bool:
    """CAP_SYS_RESOURCE: what the engine sets for a sandbox then is a floor."""
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:")[2].split()[0], 16) & 1 << 24)


#: KERNEL attacks that a plain process may be refused too: why, and what shows that this is so here. An attack
#: is refused at L0 exactly when one of its reasons holds; nothing else may fail there.
KERNEL_REFUSES: dict[str, list[tuple[str, Callable[[], bool]]]] = {
    "read the memory of another process": [
        ("Yama", _setting("/proc/sys/kernel/yama/ptrace_scope", lambda value: value > 0))
    ],
    "ptrace a host process": [
        ("Yama", _setting("/proc/sys/kernel/yama/ptrace_scope", lambda value: value > 0))
    ],
    "process_vm_readv a host process": [
        ("Yama", _setting("/proc/sys/kernel/yama/ptrace_scope", lambda value: value > 0))
    ],
    "a file without a name in the host's home": [("a file system without such files", _no_nameless)],
    "make a control group": [("control groups that nobody may make", _cgroups_read_only)],
    "a program the kernel runs when a control group is empty": [
        ("control groups without such a program", _no_release_agent)
    ],
    "be spared as long as the engine when memory runs out": [
        ("the engine has CAP_SYS_RESOURCE, and its order is a floor", _may_raise_limits)
    ],
    "a way out of the machine": [("no route out of this network namespace", _no_route)],
    "a TCP connection out of the machine": [("no route out of this network namespace", _no_route)],
    "a service on the host's loopback by multipath TCP": [("a kernel without MPTCP", _no_multipath)],
    "a service on the host's loopback by fast open": [("switched off", _no_fast_open)],
    "an echo request": [("the setting ping_group_range", _no_echo)],
    "other families of sockets": [("for root only", _user)],
    "system calls of the x32 table": [("a kernel without the x32 table", _no_call(0x40000000 | 39))],
    "input and output ports": [
        ("a kernel without such calls", _no_call(173)),
        ("for root only", _user),
    ],
    "network interfaces": [("no interface but lo in this network namespace", _only_loopback)],
    "a vsock socket": [("a kernel without vsock", _no_family("AF_VSOCK"))],
    "a kernel crypto socket": [("a kernel without AF_ALG", _no_family("AF_ALG"))],
    "an audit netlink socket": [("a kernel without audit", _missing("/proc/self/loginuid"))],
    "type into a terminal by TIOCSTI": [
        ("TIOCSTI is switched off", _setting("/proc/sys/dev/tty/legacy_tiocsti", lambda value: value == 0))
    ],
    # Newer kernels decide by what is asked for, so that the call itself can be reached.
    "bpf": [("for root only", _older_bpf)],
    "perf_event_open": [
        ("for root only", _setting("/proc/sys/kernel/perf_event_paranoid", lambda value: value > 2))
    ],
    "io_uring": [
        ("switched off", _setting("/proc/sys/kernel/io_uring_disabled", lambda value: value > 0)),
        ("a kernel without io_uring", _missing("/proc/sys/kernel/io_uring_disabled")),
    ],
    "load a module": [("a kernel without modules", _missing("/proc/modules")), ("for root only", _user)],
    "kexec": [
        ("a kernel without kexec", _missing("/sys/kernel/kexec_loaded")),
        ("for root only", _user),
    ],
    "the magic key": [
        ("a kernel without the key", _missing("/proc/sysrq-trigger")),
        ("for root only", _user),
    ],
}


def kernel_refuses(name: str) -> str:
    """Why this machine's kernel refuses an attack to a plain process of this user; "" if it does not."""
    return next((why for why, holds in KERNEL_REFUSES.get(name, []) if holds()), "")
