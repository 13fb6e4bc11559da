"""The system call filters of both architectures, run in a small interpreter of their language.

What a filter says is asserted here for every call it knows; that the kernel does as it says is what the
attacks show.
"""

import errno
import platform
import re
import struct
from pathlib import Path

import pytest

from daytona_magics.engine.launch import seccomp
from daytona_magics.engine.launch.numbers import ARCHITECTURES, TOO_NEW, Architecture

ALLOW, KILL = "allow", "kill"
LEVELS = [("L3", 0), ("L2", 7), ("L2", 2), ("L1", 7), ("L1", 4), ("L1", 3), ("L1", 2)]
UNIX, INET, INET6, NETLINK, PACKET, ALG, VSOCK, SMC = 1, 2, 10, 16, 17, 38, 40, 43
STREAM, DGRAM, RAW, SEQPACKET, NONBLOCK = 1, 2, 3, 5, 0o4000
TCP, UDP, MPTCP, SCTP = 6, 17, 262, 132


def run(program: bytes, audit: int, number: int, *arguments: int) -> str:
    """What the kernel would do: "allow", "kill" or the name of an error."""
    wide = [argument & (1 << 64) - 1 for argument in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, audit, 0, *wide)
    lines = [struct.unpack_from("<HBBI", program, index) for index in range(0, len(program), 8)]
    loaded, at = 0, 0
    while True:
        operation, yes, no, value = lines[at]
        at += 1
        if operation == 0x20:
            (loaded,) = struct.unpack_from("<I", data, value)
        elif operation == 0x54:
            loaded &= value
        elif operation == 0x06:
            kind, error = value & 0xFFFF0000, value & 0xFFFF
            return {0x7FFF0000: ALLOW, 0x80000000: KILL}.get(kind) or errno.errorcode[error]
        else:
            hit = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}[operation]
            at += yes if hit else no


class Filter:
    """One filter: ``filter("socket", 2, 1, 0)`` is what becomes of the call."""

    def __init__(self, architecture: Architecture, level: str, abi: int) -> None:
        self.numbers, self.audit = architecture.numbers, architecture.audit
        self.program = seccomp.build(architecture, seccomp.variant(level, abi))

    def __call__(self, name: str, *arguments: int) -> str:
        return run(self.program, self.audit, self.numbers[name], *arguments)


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return ARCHITECTURES[request.param]


@pytest.fixture(params=LEVELS, ids=lambda level: f"{level[0]}-abi{level[1]}")
def level(request: pytest.FixtureRequest) -> tuple[str, int]:
    found: tuple[str, int] = request.param
    return found


def test_it_is_well_formed(architecture: Architecture, level: tuple[str, int]) -> None:
    program = Filter(architecture, *level).program
    count = len(program) // 8
    assert len(program) % 8 == 0 and count < 4096
    for index in range(count):
        operation, yes, no, _ = struct.unpack_from("<HBBI", program, index * 8)
        if operation & 7 == 5:  # A jump lands inside the program.
            assert index + 1 + max(yes, no) < count
    assert struct.unpack_from("<H", program, len(program) - 8)[0] == 0x06


def test_what_no_sandbox_may_call(architecture: Architecture, level: tuple[str, int]) -> None:
    found = Filter(architecture, *level)
    for name in seccomp._NOT_PERMITTED:
        if name in architecture.numbers:
            assert found(name) == "EPERM", name
    for name in seccomp._NOT_THERE:
        assert found(name) == "ENOSYS", name
    must = {
        "ptrace",
        "mount",
        "unshare",
        "setns",
        "bpf",
        "keyctl",
        "perf_event_open",
        "userfaultfd",
        "kexec_load",
    }
    assert must <= set(seccomp._NOT_PERMITTED) & set(architecture.numbers)
    assert run(found.program, architecture.audit, TOO_NEW) == "ENOSYS"
    assert run(found.program, architecture.audit, 0x40000000 | 101) == "ENOSYS"
    assert run(found.program, architecture.audit, -1) == "ENOSYS"
    # Another architecture's calls (32-bit ones on a 64-bit kernel) have other numbers: none is let through.
    assert run(found.program, 0x40000003, 1) == KILL
    plain = {"x86_64": (0, 1, 59, 231), "aarch64": (63, 64, 221, 94)}  # read, write, execve, exit_group
    name = next(name for name, entry in ARCHITECTURES.items() if entry is architecture)
    assert {run(found.program, architecture.audit, number) for number in plain[name]} == {ALLOW}


def test_clone_and_terminals(architecture: Architecture, level: tuple[str, int]) -> None:
    found = Filter(architecture, *level)
    assert found("clone", 17) == found("clone", 0x3D0F00) == ALLOW
    for bit in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert found("clone", bit | 17) == "EPERM"
    for number in (0x5412, 0x541C, 0x5423):
        # The kernel looks at the low half only, so a high half must not hide it.
        assert found("ioctl", 0, number) == found("ioctl", 0, number | 1 << 32) == "EPERM"
    assert found("ioctl", 0, 0x5413) == found("ioctl", 0, 0x540E) == ALLOW


def test_unix_sockets(architecture: Architecture, level: tuple[str, int]) -> None:
    found = Filter(architecture, *level)
    free = level[0] == "L3"
    assert found("socket", UNIX, STREAM, 0) == (ALLOW if free else "EPERM")
    for kind in (STREAM, SEQPACKET, STREAM | NONBLOCK):
        assert found("socketpair", UNIX, kind, 0) == ALLOW
    # A datagram socket of a pair can send to any path; RAW is another name for it.
    for kind in (DGRAM, RAW, DGRAM | NONBLOCK):
        assert found("socketpair", UNIX, kind, 0) == (ALLOW if free else "EPERM")
    assert found("socketpair", INET, STREAM, 0) == "EAFNOSUPPORT"


def test_opening_files(architecture: Architecture, level: tuple[str, int]) -> None:
    found = Filter(architecture, *level)
    own_tree = level[0] == "L3"
    for name, argument in seccomp._OPENING.items():
        if name not in architecture.numbers:
            continue
        before = [0] * argument
        for flags in (0, 1, 2, 0o101, 0o2000000, 0o1001, 0o1002):
            assert found(name, *before, flags) == ALLOW
        assert found(name, *before, 3) == found(name, *before, 0o1003) == (ALLOW if own_tree else "EPERM")
        cuts = own_tree or level[1] >= 3
        assert found(name, *before, 0o1000) == (ALLOW if cuts else "EPERM")
    assert found("openat2") == (ALLOW if own_tree else "ENOSYS")
    for name in {"inotify_init", "inotify_init1"} & set(architecture.numbers):
        assert found(name) == (ALLOW if own_tree else "ENOSYS")


def test_networks(architecture: Architecture, level: tuple[str, int]) -> None:
    found = Filter(architecture, *level)
    name, abi = level
    for family in (PACKET, ALG, VSOCK, SMC, 0, 45):
        assert found("socket", family, STREAM, 0) == "EAFNOSUPPORT"
    if name != "L1":
        for family in (INET, INET6):
            assert {found("socket", family, kind, 0) for kind in (STREAM, DGRAM)} == {ALLOW}
        assert found("socket", NETLINK, RAW, 0) == ALLOW
        assert found("socket", NETLINK, RAW, 9) == "EAFNOSUPPORT"
        assert found("sendto", 3, 0, 0, 0x20000000) == ALLOW
        return
    assert found("socket", NETLINK, RAW, 0) == "EAFNOSUPPORT"
    for family in (INET, INET6):
        if abi < 4:
            assert found("socket", family, STREAM, 0) == "EAFNOSUPPORT"
            continue
        for kind in (STREAM, STREAM | NONBLOCK | 0o2000000):
            assert found("socket", family, kind, 0) == found("socket", family, kind, TCP) == ALLOW
        # Landlock limits the ports of TCP only.
        assert {found("socket", family, STREAM, protocol) for protocol in (MPTCP, SCTP)} == {"EPERM"}
        for kind, protocol in ((DGRAM, 0), (DGRAM, UDP), (RAW, TCP), (SEQPACKET, SCTP)):
            assert found("socket", family, kind, protocol) == "EPERM"
    if abi >= 4:
        for name, flags in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
            before = [0] * flags
            assert found(name, *before, 0x4000) == ALLOW
            assert found(name, *before, 0x20004000) == "ENOTSUP", "connecting by sending"


def test_what_is_shared_at_l1(architecture: Architecture, level: tuple[str, int]) -> None:
    found = Filter(architecture, *level)
    shared = level[0] == "L1"
    for name in seccomp._SHARED_IPC:
        assert found(name) == ("EPERM" if shared else ALLOW), name
    for name, argument in seccomp._OF_A_PROCESS.items():
        before = [0] * argument
        assert found(name, *before, 0) == ALLOW
        assert found(name, *before, 4711) == ("EPERM" if shared else ALLOW), name
    truncates = level[0] == "L3" or level[1] >= 3
    assert found("truncate") == (ALLOW if truncates else "EPERM")


HEADERS = {
    "x86_64": (
        ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"],
        re.compile(r"#define __NR_(\w+)\s+(\d+)$"),
    ),
    "aarch64": (
        ["/usr/include/asm-generic/unistd.h"],
        re.compile(r"#define __NR(?:3264)?_(\w+)\s+(\d+)$"),
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_numbers_are_the_kernel_s(name: str) -> None:
    paths, pattern = HEADERS[name]
    path = next((path for path in map(Path, paths) if path.exists()), None)
    if path is None:
        pytest.skip(f"none of the kernel's headers is installed: {', '.join(paths)}")
    kernel = {
        match[1]: int(match[2]) for line in path.read_text().splitlines() if (match := pattern.match(line))
    }
    ours = ARCHITECTURES[name].numbers
    # Calls that came after the installed headers cannot be compared.
    assert {call: kernel[call] for call in ours if call in kernel} == {
        call: number for call, number in ours.items() if call in kernel
    }
    assert {call for call in ours if call not in kernel} <= {"statmount", "listmount", "quotactl_fd"}
    refused = {*seccomp._NOT_PERMITTED, *seccomp._NOT_THERE, *seccomp._SHARED_IPC, *seccomp._OF_A_PROCESS}
    assert {call for call in refused if call in kernel} <= set(ours), "a refused call lacks its number"


def test_other_architectures_fail_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert platform.machine() in ARCHITECTURES
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(OSError, match="riscv64"):
        seccomp.program("L1", 7)
