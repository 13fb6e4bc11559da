"""Attacks on devices and on the kernel's own interfaces."""

from .attack import ALWAYS, KERNEL, ROOT, Attack

TABLE = [
    Attack(
        "a terminal of the host",
        24,
        ALWAYS,
        """
fd = os.open(facts["terminal"], os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
leak() if facts["secret"].encode() in os.read(fd, 1000) else safe()
""",
        "device",
    ),
    Attack(
        "settings of a terminal of the host",
        24,
        ALWAYS,
        """
import termios
fd = os.open(facts["terminal"], 3 | os.O_NOCTTY | os.O_NONBLOCK)
try:
    leak(termios.tcgetattr(fd)[0])
except termios.error as error:
    safe(error)
""",
        "device",
    ),
    Attack(
        "a device of the machine",
        24,
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
        24,
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
    *(
        Attack(
            f"type into a terminal by {name}",
            25,
            KERNEL,
            f"""
import fcntl, pty
pid, master = pty.fork()
if pid == 0:
    try:
        fcntl.ioctl(0, {number}, b"x")
    except OSError as error:
        os._exit(error.errno in (errno.EPERM, errno.EIO, errno.EACCES))
    os._exit(0)
leak() if os.waitpid(pid, 0)[1] == 0 else safe()
""",
        )
        for name, number in (("TIOCSTI", 0x5412), ("TIOCLINUX", 0x541C))
    ),
    Attack(
        "another line discipline for a terminal",
        25,
        ALWAYS,
        # TIOCSETD with the one it has.
        """
import fcntl
master, terminal = os.openpty()
fcntl.ioctl(terminal, 0x5423, struct.pack("i", 0))
leak()
""",
    ),
    Attack("bpf", 26, KERNEL, "reachable(321, 0, None, 0)"),
    Attack("perf_event_open", 26, KERNEL, "reachable(298, None, 0, -1, -1, 0)"),
    Attack("keyctl", 26, KERNEL, "reachable(250, 0, -3, 1)"),
    Attack("add_key", 26, KERNEL, "reachable(248, b'user', b'dm', b'x', 1, -1)"),
    Attack("request_key", 26, KERNEL, "reachable(249, b'user', b'dm', None, -1)"),
    Attack("userfaultfd", 26, KERNEL, "reachable(323, 1)"),
    Attack("io_uring", 26, KERNEL, "reachable(425, 1, None)"),
    Attack("kernel log", 26, ROOT, "call(103, 10, None, 0); leak()"),
    Attack("load a module", 26, KERNEL, "reachable(313, -1, b'', 0)"),
    Attack("kexec", 26, KERNEL, "reachable(320, -1, -1, 0, None, 16)"),
    Attack("open files by handle", 26, ROOT, "reachable(304, -100, None, 0)"),
    Attack("watch all of a file system", 26, ROOT, "reachable(300, 0, 0)"),
    Attack("take descriptors by pidfd", 26, KERNEL, "reachable(438, -1, 0, 0)"),
    Attack("switch swapping off", 26, ROOT, "reachable(168, b'/nowhere')"),
    Attack("account for processes", 26, ROOT, "reachable(163, b'/nowhere')"),
    Attack("set the clock", 26, KERNEL, "reachable(227, 0, struct.pack('qq', -1, -1))"),
    Attack("input and output ports", 26, KERNEL, "call(173, 0x80, 1, 1); leak()"),
    Attack("a kernel setting", 27, ROOT, "os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY); leak()"),
    Attack("the magic key", 27, KERNEL, "os.open('/proc/sysrq-trigger', os.O_WRONLY); leak()"),
    Attack(
        "a core dump",
        30,
        KERNEL,
        "import resource\nleak() if resource.getrlimit(resource.RLIMIT_CORE)[1] else safe()",
    ),
]
