"""Attempts to get rights that were not given: mounts, namespaces, uids, capabilities, other call tables."""

from .attack import ALWAYS, KERNEL, ROOT, Attack

_NAMESPACES = {
    "time": 0x80,
    "mount": 0x20000,
    "cgroup": 0x2000000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "pid": 0x20000000,
    "network": 0x40000000,
}

TABLE = [
    Attack(
        "mount something",
        19,
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
    Attack("unmount something", 19, ALWAYS, "reachable(166, b'/nowhere', 0)"),
    Attack("open_tree a mount", 19, ROOT, "call(428, -100, b'/', 1); leak()"),
    Attack("fsopen a file system", 19, ROOT, "call(430, b'tmpfs', 0); leak()"),
    Attack(
        "change the attributes of a mount", 19, ROOT, "reachable(442, -100, b'/nowhere', 0, bytes(32), 32)"
    ),
    Attack("list the mounts by the new calls", 19, KERNEL, "reachable(458, None, None, 0, 0)"),
    Attack("unshare a user namespace", 20, ALWAYS, "call(272, 0x10000000); leak()"),
    Attack(
        "unshare the others",
        20,
        ROOT,
        f"""
for name, flag in {_NAMESPACES!r}.items():
    try:
        call(272, flag)
    except OSError:
        continue
    leak(name)
safe()
""",
    ),
    Attack(
        "clone a user namespace",
        20,
        ALWAYS,
        "pid = call(56, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)\nif pid == 0: os._exit(0)\nleak()",
    ),
    Attack(
        "clone3 a user namespace",
        20,
        ALWAYS,
        """
request = struct.pack("11Q", 0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
pid = call(435, request, len(request))
if pid == 0:
    os._exit(0)
leak()
""",
    ),
    Attack("chroot", 21, ROOT, "os.chroot('/'); leak()"),
    Attack("pivot_root", 21, ROOT, "reachable(155, b'/nowhere', b'/nowhere')"),
    Attack("setns", 29, ROOT, "call(308, os.open('/proc/self/ns/uts', os.O_RDONLY), 0); leak()"),
    Attack(
        "enter the namespaces of a host process",
        29,
        ROOT,
        "call(308, os.open(f\"/proc/{facts['pid']}/ns/net\", os.O_RDONLY), 0); leak()",
    ),
    Attack("gain by setuid programs", 22, ALWAYS, "leak() if status_line('NoNewPrivs') == '0' else safe()"),
    Attack("a capability", 23, ROOT, "leak() if int(status_line('CapEff'), 16) else safe()"),
    Attack(
        "a capability to come",
        23,
        ALWAYS,
        # With no_new_privs no program brings one of the bounding set, which only root can empty.
        """
bound = int(status_line("CapBnd"), 16) and (status_line("NoNewPrivs") == "0" or os.getuid() == 0)
leak() if bound or int(status_line("CapAmb"), 16) or int(status_line("CapInh"), 16) else safe()
""",
    ),
    Attack("become uid 0", 23, ROOT, "os.setuid(0); leak()"),
    Attack("become another user", 23, ROOT, "os.setuid(65534); leak()"),
    Attack("join another group", 23, ROOT, "os.setgroups([1]); leak()"),
    Attack("system calls unfiltered", 26, ALWAYS, "leak() if status_line('Seccomp') == '0' else safe()"),
    Attack(
        "system calls of a 32-bit program",
        26,
        KERNEL,
        # mov eax, 20 (getpid); int 0x80; ret
        """
import mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
leak() if ctypes.CFUNCTYPE(ctypes.c_int)(address)() == os.getpid() else safe()
""",
    ),
    Attack(
        "system calls of the x32 table",
        26,
        KERNEL,
        "leak() if call(0x40000000 | 39) == os.getpid() else safe()",
    ),
]
