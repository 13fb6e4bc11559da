"""Attacks on memory and queues that have names, and on the machine's own name."""

from .attack import ALWAYS, KERNEL, ROOT, Attack

TABLE = [
    Attack(
        "shared memory of the host",
        32,
        ALWAYS,
        "leak() if libc.shmget(facts['shm_key'], 0, 0) >= 0 else safe(os.strerror(ctypes.get_errno()))",
    ),
    Attack(
        "semaphores of the host",
        32,
        ALWAYS,
        "leak() if libc.semget(facts['shm_key'], 0, 0) >= 0 else safe(os.strerror(ctypes.get_errno()))",
    ),
    Attack(
        "a message queue of the host",
        32,
        ALWAYS,
        "leak() if libc.msgget(facts['shm_key'], 0) >= 0 else safe(os.strerror(ctypes.get_errno()))",
    ),
    Attack(
        "a POSIX message queue of the host",
        32,
        KERNEL,
        # mq_open(name without its slash, O_RDONLY | O_NONBLOCK)
        "call(240, facts['marker'].encode(), 0o4000, 0, None); leak()",
    ),
    Attack(
        "lists of shared memory",
        32,
        ALWAYS,
        "leak() if str(facts['shm_id']) in open('/proc/sysvipc/shm').read().split() else safe()",
    ),
    Attack("/dev/shm of the host", 32, ALWAYS, "leak(open(facts['shm_file']).read())"),
    Attack("the host's name", 32, ALWAYS, "leak() if socket.gethostname() == facts['hostname'] else safe()"),
    Attack("rename the machine", 32, ROOT, "socket.sethostname(socket.gethostname()); leak()"),
]
