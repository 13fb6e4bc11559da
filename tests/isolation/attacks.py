"""The attacks: small programs that run inside a sandbox and try to reach the host.

Each says LEAK when it got what it wanted and SAFE when the kernel refused; any exception but OSError is a
mistake in the program itself and fails the test at every level. ``facts`` are what the attacker is told about
the host (an attacker may know everything but must still not get there).

``control`` says what must happen without isolation (L0), which proves that the attack works:
ALWAYS: it succeeds; ROOT: it succeeds if the engine is root, an ordinary user is refused by the plain
kernel; KERNEL: it succeeds, unless this machine's kernel, by its make or settings, refuses it to a plain
process too, and then it is in KERNEL_REFUSES; NONE: refused at L0 too, because the toolbox and not the
isolation takes care of it.

``reaches`` names what of the host an attack is after, for the things that nothing in a sandbox may ever
reach (REACHES): each has attacks that succeed at L0 whatever the kernel, and the one who runs them.
"""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ALWAYS, ROOT, KERNEL, NONE = "always", "root", "kernel", "none"

PREAMBLE = r"""
import ctypes, errno, json, os, signal, socket, stat, struct, sys, time
facts = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)

def leak(what=""):
    print("LEAK", what); sys.stdout.flush(); os._exit(0)

def safe(why=""):
    print("SAFE", why); sys.stdout.flush(); os._exit(0)

def call(number, *arguments):
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def reachable(number, *arguments):
    # Any answer but these comes from the system call itself, so it is there to be attacked.
    try:
        call(number, *arguments)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            safe(error)
    leak(number)

def pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]

def status_line(name):
    with open("/proc/self/status") as file:
        return next(line.split()[1] for line in file if line.startswith(name + ":"))
"""


#: What a cell must never reach.
REACHES = ("home", "environment", "process", "loopback service", "unix socket", "writable path", "device")


class Attack(NamedTuple):
    name: str
    control: str
    code: str
    reaches: str = ""


TABLE = [
    # -- files
    Attack("read the private key", ALWAYS, "leak(open(facts['key']).read())", "home"),
    Attack(
        "list the host's home",
        ALWAYS,
        """
for home, names in facts["homes"].items():
    try:
        found = set(os.listdir(home)) & set(names)
    except OSError:
        continue
    if found:
        leak(found)
safe()
""",
        "home",
    ),
    Attack("read /etc/shadow", ROOT, "leak(open('/etc/shadow').read(1))"),
    Attack(
        "find the key through another root",
        ALWAYS,
        """
for pid in pids():
    for place in ("root" + facts["key"], "cwd/key"):
        try:
            with open(f"/proc/{pid}/{place}") as file:
                if file.read() == facts["secret"]:
                    leak(f"{pid} {place}")
        except OSError:
            continue
safe()
""",
        "home",
    ),
    Attack(
        "write into the host's home",
        ALWAYS,
        "open(facts['home'] + '/planted', 'w').close(); leak()",
        "writable path",
    ),
    Attack(
        "write into /usr",
        ROOT,
        "path = '/usr/dm-planted'\nopen(path, 'w').close(); os.unlink(path); leak()",
        "writable path",
    ),
    Attack(
        "write into /etc",
        ROOT,
        "path = '/etc/dm-planted'\nopen(path, 'w').close(); os.unlink(path); leak()",
        "writable path",
    ),
    Attack(
        "write beside the host's packages",
        ROOT,
        "path = facts['packages'] + '/dm_planted.pth'\nopen(path, 'w').close(); os.unlink(path); leak()",
        "writable path",
    ),
    Attack(
        "hard link to the key",
        ALWAYS,
        "path = os.environ['HOME'] + '/linked'\nos.link(facts['key'], path); os.unlink(path); leak()",
        "home",
    ),
    Attack("see /sys", ALWAYS, "leak(os.listdir('/sys/kernel')) if os.listdir('/sys/kernel') else safe()"),
    # -- environment, processes
    Attack(
        "secret in the own environment",
        ALWAYS,
        "leak() if facts['secret'] in repr(os.environ) else safe()",
        "environment",
    ),
    Attack(
        "secret in any environment of /proc",
        ALWAYS,
        """
for pid in pids():
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            if facts["secret"].encode() in file.read():
                leak(pid)
    except OSError:
        continue
safe()
""",
        "environment",
    ),
    Attack(
        "command lines of other processes",
        ALWAYS,
        """
for pid in pids():
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            line = file.read()
        if facts["marker"].encode() in line or b"zygote" in line or b"pytest" in line:
            leak(line)
    except OSError:
        continue
safe()
""",
        "process",
    ),
    Attack(
        "look into the parent's environment",
        ALWAYS,
        "open(f'/proc/{os.getppid()}/environ', 'rb').read(); leak()",
        "environment",
    ),
    Attack(
        "list the parent's descriptors", ALWAYS, "leak(os.listdir(f'/proc/{os.getppid()}/fd'))", "process"
    ),
    Attack(
        "follow descriptors of other processes",
        ALWAYS,
        """
for pid in pids():
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{fd}") == facts["key"]:
                with open(f"/proc/{pid}/fd/{fd}") as file:
                    leak(file.read())
    except OSError:
        continue
safe()
""",
        "process",
    ),
    Attack("read the memory of another process", KERNEL, "open(f\"/proc/{facts['pid']}/mem\", 'rb'); leak()"),
    Attack("kill a host process", ALWAYS, "os.kill(facts['pid'], signal.SIGKILL); leak()", "process"),
    Attack(
        "kill a host process by pidfd",
        ALWAYS,
        "signal.pidfd_send_signal(os.pidfd_open(facts['pid']), signal.SIGKILL); leak()",
        "process",
    ),
    Attack(
        "ptrace a host process",
        KERNEL,
        """
call(101, 16, facts["pid"], None, None)
leak()
""",
    ),
    Attack(
        "ptrace at all",
        ALWAYS,
        "pid = os.fork()\nif not pid: time.sleep(5); os._exit(0)\ncall(101, 0x4206, pid, None, None); leak()",
    ),
    Attack(
        "process_vm_readv a host process",
        KERNEL,
        """
buffer = ctypes.create_string_buffer(8)
with open(f"/proc/{facts['pid']}/maps") as file:
    address = int(file.readline().split("-")[0], 16)
local = struct.pack("QQ", ctypes.addressof(buffer), 8)
remote = struct.pack("QQ", address, 8)
call(310, facts["pid"], local, 1, remote, 1, 0)
leak()
""",
    ),
    Attack(
        "descriptors nobody gave",
        NONE,
        """
found = [fd for fd in range(3, 4096) if libc.fcntl(fd, 1) >= 0]
leak(found) if found else safe()
""",
    ),
    # -- network, sockets
    Attack(
        "a service on the host's loopback",
        ALWAYS,
        """
with socket.create_connection(("127.0.0.1", facts["tcp_port"]), 2) as sock:
    leak(sock.recv(100))
""",
        "loopback service",
    ),
    Attack(
        "a UDP service on the host's loopback",
        ALWAYS,
        """
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(2)
sock.connect(("127.0.0.1", facts["udp_port"]))
sock.send(b"hello")
leak(sock.recv(100))
""",
        "loopback service",
    ),
    Attack(
        "a unix socket in the host's home",
        ALWAYS,
        "s = socket.socket(socket.AF_UNIX); s.settimeout(2)\n"
        "s.connect(facts['unix_path']); leak(s.recv(100))",
        "unix socket",
    ),
    Attack(
        "a unix socket in /tmp",
        ALWAYS,
        "s = socket.socket(socket.AF_UNIX); s.settimeout(2)\ns.connect(facts['unix_tmp']); leak(s.recv(100))",
        "unix socket",
    ),
    Attack(
        "an abstract unix socket",
        ALWAYS,
        "s = socket.socket(socket.AF_UNIX); s.settimeout(2)\n"
        "s.connect('\\0' + facts['unix_abstract']); leak(s.recv(100))",
        "unix socket",
    ),
    # Connecting UDP sends nothing; it only asks the kernel for a way out. 192.0.2.1 is nobody's address.
    Attack(
        "a way out of the machine",
        KERNEL,
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('192.0.2.1', 9)); leak()",
    ),
    Attack(
        "network interfaces",
        KERNEL,
        "found = [n for _, n in socket.if_nameindex() if n != 'lo']\nleak(found) if found else safe()",
    ),
    Attack("a raw socket", ROOT, "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); leak()"),
    Attack("a packet socket", ROOT, "socket.socket(socket.AF_PACKET, socket.SOCK_RAW); leak()"),
    Attack("a vsock socket", KERNEL, "socket.socket(40, socket.SOCK_STREAM); leak()"),
    Attack("a kernel crypto socket", KERNEL, "socket.socket(38, socket.SOCK_SEQPACKET); leak()"),
    Attack("an audit netlink socket", KERNEL, "socket.socket(16, socket.SOCK_RAW, 9); leak()"),
    # -- privileges
    Attack(
        "mount something",
        ROOT,
        """
place = os.environ["HOME"] + "/mounted"
os.makedirs(place, exist_ok=True)
if libc.mount(b"tmpfs", place.encode(), b"tmpfs", 0, None) == 0:
    libc.umount2(place.encode(), 2)
    leak()
safe(os.strerror(ctypes.get_errno()))
""",
    ),
    Attack("open_tree a mount", ROOT, "call(428, -100, b'/', 1); leak()"),
    Attack("fsopen a file system", ROOT, "call(430, b'tmpfs', 0); leak()"),
    Attack("unshare a user namespace", ALWAYS, "call(272, 0x10000000); leak()"),
    Attack(
        "clone a user namespace",
        ALWAYS,
        "pid = call(56, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)\nif pid == 0: os._exit(0)\nleak()",
    ),
    Attack(
        "clone3 a user namespace",
        ALWAYS,
        """
request = struct.pack("11Q", 0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
pid = call(435, request, len(request))
if pid == 0:
    os._exit(0)
leak()
""",
    ),
    Attack("chroot", ROOT, "os.chroot('/'); leak()"),
    Attack("setns", ROOT, "call(308, os.open('/proc/self/ns/uts', os.O_RDONLY), 0); leak()"),
    Attack("gain by setuid programs", ALWAYS, "leak() if status_line('NoNewPrivs') == '0' else safe()"),
    Attack("a capability", ROOT, "leak() if int(status_line('CapEff'), 16) else safe()"),
    Attack("a capability to come", ALWAYS, "leak() if int(status_line('CapBnd'), 16) else safe()"),
    Attack("become uid 0", ROOT, "os.setuid(0); leak()"),
    Attack("system calls unfiltered", ALWAYS, "leak() if status_line('Seccomp') == '0' else safe()"),
    # -- devices, kernel
    Attack(
        "a terminal of the host",
        ALWAYS,
        """
fd = os.open(facts["terminal"], os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
leak() if facts["secret"].encode() in os.read(fd, 1000) else safe()
""",
        "device",
    ),
    Attack(
        "a device of the machine",
        ROOT,
        """
names = "mem kmsg vda sda nvme0n1 loop0 fuse kvm net/tun vsock hpet loop-control"
for name in names.split():
    try:
        os.close(os.open("/dev/" + name, os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        continue
    leak(name)
safe()
""",
        "device",
    ),
    Attack(
        "make a device",
        ROOT,
        """
path = os.environ["HOME"] + "/device"
os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
try:
    os.close(os.open(path, os.O_RDONLY))
finally:
    os.unlink(path)
leak()
""",
        "device",
    ),
    Attack(
        "type into a terminal",
        KERNEL,
        """
import fcntl, pty, termios
pid, master = pty.fork()
if pid == 0:
    try:
        fcntl.ioctl(0, termios.TIOCSTI, b"x")
    except OSError:
        os._exit(1)
    os._exit(0)
leak() if os.waitpid(pid, 0)[1] == 0 else safe()
""",
    ),
    Attack("bpf", KERNEL, "reachable(321, 0, None, 0)"),
    Attack("perf_event_open", KERNEL, "reachable(298, None, 0, -1, -1, 0)"),
    Attack("keyctl", KERNEL, "reachable(250, 0, -3, 1)"),
    Attack("add_key", KERNEL, "reachable(248, b'user', b'dm', b'x', 1, -1)"),
    Attack("userfaultfd", KERNEL, "reachable(323, 1)"),
    Attack("io_uring", KERNEL, "reachable(425, 1, None)"),
    Attack("kernel log", ROOT, "call(103, 10, None, 0); leak()"),
    Attack("load a module", KERNEL, "reachable(313, -1, b'', 0)"),
    Attack("kexec", KERNEL, "reachable(320, -1, -1, 0, None, 16)"),
    Attack("open files by handle", ROOT, "reachable(304, -100, None, 0)"),
    Attack("take descriptors by pidfd", KERNEL, "reachable(438, -1, 0, 0)"),
    Attack("a kernel setting", ROOT, "os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY); leak()"),
    Attack("the magic key", KERNEL, "os.open('/proc/sysrq-trigger', os.O_WRONLY); leak()"),
    Attack(
        "a core dump",
        KERNEL,
        "import resource\nleak() if resource.getrlimit(resource.RLIMIT_CORE)[1] else safe()",
    ),
    # -- shared memory, names
    Attack(
        "shared memory of the host",
        ALWAYS,
        "leak() if libc.shmget(facts['shm_key'], 0, 0) >= 0 else safe()",
    ),
    Attack("/dev/shm of the host", ALWAYS, "leak(open(facts['shm_file']).read())"),
    Attack("the host's name", ALWAYS, "leak() if socket.gethostname() == facts['hostname'] else safe()"),
    Attack("rename the machine", ROOT, "socket.sethostname(socket.gethostname()); leak()"),
]


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
    "a way out of the machine": [("no route out of this network namespace", _no_route)],
    "network interfaces": [("no interface but lo in this network namespace", _only_loopback)],
    "a vsock socket": [("a kernel without vsock", _no_family("AF_VSOCK"))],
    "a kernel crypto socket": [("a kernel without AF_ALG", _no_family("AF_ALG"))],
    "an audit netlink socket": [("a kernel without audit", _missing("/proc/self/loginuid"))],
    "type into a terminal": [
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
