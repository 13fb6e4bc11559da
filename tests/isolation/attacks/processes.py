"""Attacks on the host's processes: what they hold, and whether they can be disturbed."""

from .attack import ALWAYS, KERNEL, ROOT, Attack

#: An attack that ends so lets the outside see whether the process has died.
_SENT = "\ntime.sleep(0.1); safe('sent')"

TABLE = [
    Attack(
        "secret in the own environment",
        5,
        ALWAYS,
        "leak() if facts['secret'] in repr(os.environ) else safe()",
        "environment",
    ),
    Attack(
        "secret in any environment of /proc",
        4,
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
        6,
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
    ),
    Attack(
        "names of other processes",
        6,
        ALWAYS,
        """
with open(f"/proc/{facts['pid']}/stat") as file:
    text = file.read()
leak(text) if facts["comm"] in text else safe()
""",
    ),
    Attack(
        "look into the parent's environment",
        4,
        ALWAYS,
        "open(f'/proc/{PARENT}/environ', 'rb').read(); leak()",
        "environment",
    ),
    Attack("list the parent's descriptors", 28, ALWAYS, "leak(os.listdir(f'/proc/{PARENT}/fd'))", "process"),
    Attack(
        "follow descriptors of other processes",
        7,
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
    Attack("count a host process's descriptors", 7, ALWAYS, "leak(os.listdir(f\"/proc/{facts['pid']}/fd\"))"),
    Attack(
        "look into a host process",
        7,
        ALWAYS,
        """
for name in "environ auxv maps smaps io syscall personality pagemap fdinfo/0 map_files".split():
    path = f"/proc/{facts['pid']}/{name}"
    try:
        if (os.listdir(path) if name == "map_files" else open(path, "rb").read(8)):
            leak(name)
    except OSError:
        continue
for name in ("exe", "cwd", "root", "fd/0", "ns/net"):
    try:
        leak(name + os.readlink(f"/proc/{facts['pid']}/{name}"))
    except OSError:
        continue
safe()
""",
        "process",
    ),
    Attack(
        "read the memory of another process", 7, KERNEL, "open(f\"/proc/{facts['pid']}/mem\", 'rb'); leak()"
    ),
    # -- signals
    Attack("kill a host process", 8, ALWAYS, "os.kill(facts['pid'], signal.SIGKILL)" + _SENT, "process"),
    Attack(
        "kill a host process's group", 8, ALWAYS, "os.killpg(facts['pid'], signal.SIGKILL)" + _SENT, "process"
    ),
    Attack(
        "kill a host process by pidfd",
        8,
        ALWAYS,
        "signal.pidfd_send_signal(os.pidfd_open(facts['pid']), signal.SIGKILL)" + _SENT,
        "process",
    ),
    Attack("kill a host process by tkill", 8, ALWAYS, "call(200, facts['pid'], 9)" + _SENT, "process"),
    Attack(
        "kill a host process by tgkill",
        8,
        ALWAYS,
        "call(234, facts['pid'], facts['pid'], 9)" + _SENT,
        "process",
    ),
    Attack(
        "kill a host process by sigqueue",
        8,
        ALWAYS,
        "call(129, facts['pid'], 9, struct.pack('iii', 9, 0, -1) + bytes(116))" + _SENT,
        "process",
    ),
    Attack(
        "kill a host process's thread by sigqueue",
        8,
        ALWAYS,
        "call(297, facts['pid'], facts['pid'], 9, struct.pack('iii', 9, 0, -1) + bytes(116))" + _SENT,
        "process",
    ),
    Attack(
        "kill a host process as the owner of a descriptor",
        8,
        ALWAYS,
        """
import fcntl
near, far = socket.socketpair()
fcntl.fcntl(near, fcntl.F_SETOWN, facts["pid"])
fcntl.fcntl(near, 10, signal.SIGKILL)  # F_SETSIG
fcntl.fcntl(near, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
far.send(b"x")
"""
        + _SENT,
        "process",
    ),
    Attack(
        "set a host process's limits",
        8,
        ALWAYS,
        # A limit of no processor time would kill it.
        "import resource\nresource.prlimit(facts['pid'], resource.RLIMIT_CORE, (0, 0)); leak()",
        "process",
    ),
    Attack(
        "read a host process's limits", 7, ALWAYS, "import resource\nleak(resource.prlimit(facts['pid'], 7))"
    ),
    Attack(
        "make a host process the first to go without memory",
        8,
        ALWAYS,
        "open(f\"/proc/{facts['pid']}/oom_score_adj\", 'w').write('900'); leak()",
        "process",
    ),
    Attack(
        "slow a host process down",
        8,
        ALWAYS,
        "os.setpriority(os.PRIO_PROCESS, facts['pid'], 19); leak()",
        "process",
    ),
    Attack(
        "slow a host process's group down",
        8,
        ALWAYS,
        "os.setpriority(os.PRIO_PGRP, facts['pid'], 19); leak()",
        "process",
    ),
    Attack(
        "slow everything of the host's user down",
        8,
        ALWAYS,
        # What counts is that it can be asked for: by root for a user that does not exist, or it would change
        # all of this machine; by others for their own, whose processes all run alike.
        """
if os.stat(facts["state"]).st_uid != os.getuid() or os.stat("/proc/self/ns/pid").st_ino != facts["pidns"]:
    safe("not the same user, or not the same processes")
if os.getuid():
    try:
        os.setpriority(os.PRIO_USER, 0, os.getpriority(os.PRIO_USER, 0))
        leak("all processes of this user")
    except OSError:
        pass
reachable(141, 2, 3999999, 0)
""",
        "process",
    ),
    Attack(
        "push a host process to another processor",
        8,
        ALWAYS,
        "os.sched_setaffinity(facts['pid'], os.sched_getaffinity(facts['pid'])); leak()",
        "process",
    ),
    Attack(
        "change a host process's scheduling",
        8,
        ALWAYS,
        # By sched_setscheduler, sched_setparam, sched_setattr.
        """
batch = struct.pack("IIQiIQQQ", 48, os.SCHED_BATCH, 0, 0, 0, 0, 0, 0)
for number, arguments in ((144, (os.SCHED_BATCH, bytes(4))), (142, (bytes(4),)), (314, (batch, 0))):
    try:
        call(number, facts["pid"], *arguments)
    except OSError:
        continue
    leak(number)
safe()
""",
        "process",
    ),
    Attack(
        "slow a host process's disk down",
        8,
        ALWAYS,
        "call(251, 1, facts['pid'], (3 << 13)); leak()",
        "process",
    ),
    Attack(
        "advise on a host process's memory",
        9,
        ROOT,
        """
fd = os.pidfd_open(facts["pid"])
call(440, fd, struct.pack("QQ", 0x1000, 0), 1, 20, 0)
leak()
""",
    ),
    Attack(
        "move a host process's pages", 9, KERNEL, "call(279, facts['pid'], 0, None, None, None, 0); leak()"
    ),
    Attack("compare with a host process", 9, KERNEL, "call(312, facts['pid'], os.getpid(), 1, 0, 0); leak()"),
    # -- memory of others
    Attack("ptrace a host process", 9, KERNEL, "call(101, 16, facts['pid'], None, None); leak()"),
    Attack(
        "ptrace at all",
        9,
        ALWAYS,
        "pid = os.fork()\nif not pid: time.sleep(5); os._exit(0)\ncall(101, 0x4206, pid, None, None); leak()",
    ),
    Attack(
        "process_vm_readv a host process",
        9,
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
    # -- other sandboxes
    Attack(
        "kill another sandbox's process", 48, ALWAYS, "os.kill(facts['other']['pid'], 0); leak()", "process"
    ),
    Attack(
        "look into another sandbox's process",
        48,
        ALWAYS,
        """
with open(f"/proc/{facts['other']['pid']}/environ", "rb") as file:
    leak() if facts["other"]["secret"].encode() in file.read() else safe()
""",
        "environment",
    ),
    Attack(
        "command line of another sandbox's process",
        48,
        ALWAYS,
        """
with open(f"/proc/{facts['other']['pid']}/cmdline", "rb") as file:
    leak() if facts["other"]["marker"].encode() in file.read() else safe()
""",
    ),
    Attack(
        "be spared as long as the engine when memory runs out",
        34,
        KERNEL,
        "open('/proc/self/oom_score_adj', 'w').write('0'); leak()",
    ),
    Attack("run before all others", 36, ROOT, "os.setpriority(os.PRIO_PROCESS, 0, -5); leak()"),
]
