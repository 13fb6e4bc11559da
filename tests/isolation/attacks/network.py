"""Attacks by sockets: services of the host and of other sandboxes, the way out, what the network tells."""

from .attack import ALWAYS, KERNEL, ROOT, Attack

#: Sockets that may be made but lead nowhere are no leak where the network is the sandbox's own.
_OWN_NETWORK = """
if os.stat("/proc/self/ns/net").st_ino != facts["netns"]:
    safe("a network of its own")
"""

#: What a process sees of the network, it may see of others' networks as well.
_TABLES = """
def tables(*names):
    for process in ("self", *pids()):
        for name in names:
            try:
                with open(f"/proc/{process}/net/{name}") as file:
                    yield file.read()
            except OSError:
                continue
"""
_TABLE_OF_LISTENERS = (
    _TABLES
    + """
if any(f":{facts['tcp_port']:04X} " in text for text in tables("tcp", "tcp6")):
    leak()
safe()
"""
)

TABLE = [
    Attack(
        "a service on the host's loopback",
        10,
        ALWAYS,
        """
with socket.create_connection(("127.0.0.1", facts["tcp_port"]), 2) as sock:
    leak(sock.recv(100))
""",
        "loopback service",
    ),
    Attack(
        "the host's loopback under its other names",
        10,
        ALWAYS,
        """
for host in ("127.0.0.2", "0.0.0.0", "::ffff:127.0.0.1", "::1"):
    try:
        with socket.create_connection((host, facts["tcp6_port"]), 2) as sock:
            leak((host, sock.recv(100)))
    except OSError:
        continue
safe()
""",
        "loopback service",
    ),
    Attack(
        "a service on the host's loopback by fast open",
        10,
        KERNEL,
        """
sock = socket.socket()
sock.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", facts["tcp_port"]))
leak(sock.recv(100))
""",
    ),
    Attack(
        "a service on the host's loopback by multipath TCP",
        10,
        KERNEL,
        """
sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
sock.settimeout(2)
sock.connect(("127.0.0.1", facts["tcp_port"]))
leak(sock.recv(100))
""",
    ),
    Attack(
        "other transports",
        13,
        KERNEL,
        # SCTP, DCCP, UDP-Lite, SMC.
        _OWN_NETWORK
        + """
for family, kind, protocol in ((2, 1, 132), (2, 6, 33), (2, 2, 136), (43, 1, 0)):
    try:
        socket.socket(family, kind, protocol)
    except OSError:
        continue
    leak((family, kind, protocol))
safe()
""",
    ),
    Attack(
        "a UDP service on the host's loopback",
        14,
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
        "another sandbox's service",
        48,
        ALWAYS,
        """
with socket.create_connection(("127.0.0.1", facts["other"]["port"]), 2) as sock:
    leak(sock.recv(100))
""",
        "loopback service",
    ),
    Attack(
        "a service of another machine on port numbers of the sandbox",
        13,
        ALWAYS,
        """
with socket.create_connection(("127.0.0.3", facts["own_port"]), 2) as sock:
    leak(sock.recv(100))
""",
    ),
    Attack(
        "listen on a port of the host",
        10,
        ALWAYS,
        _OWN_NETWORK
        + """
sock = socket.socket()
sock.bind(("127.0.0.1", facts["free_port"]))
sock.listen()
leak()
""",
    ),
    Attack(
        "listen on whatever port of the host is free",
        10,
        ALWAYS,
        _OWN_NETWORK + "sock = socket.socket()\nsock.listen()\nleak(sock.getsockname())",
    ),
    Attack(
        "a UDP port of the host",
        14,
        ALWAYS,
        _OWN_NETWORK
        + "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 0)); leak()",
    ),
    # -- unix sockets
    Attack(
        "a unix socket in the host's home",
        11,
        ALWAYS,
        "s = socket.socket(socket.AF_UNIX); s.settimeout(2)\n"
        "s.connect(facts['unix_path']); leak(s.recv(100))",
        "unix socket",
    ),
    Attack(
        "a unix socket in /tmp",
        11,
        ALWAYS,
        "s = socket.socket(socket.AF_UNIX); s.settimeout(2)\ns.connect(facts['unix_tmp']); leak(s.recv(100))",
        "unix socket",
    ),
    Attack(
        "a unix socket through /proc/self/fd",
        11,
        ALWAYS,
        """
fd = os.open(os.path.dirname(facts["unix_path"]), os.O_PATH)
s = socket.socket(socket.AF_UNIX)
s.settimeout(2)
s.connect(f"/proc/self/fd/{fd}/{os.path.basename(facts['unix_path'])}")
leak(s.recv(100))
""",
        "unix socket",
    ),
    Attack(
        "a unix datagram socket by way of a pair",
        11,
        ALWAYS,
        """
near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
near.sendto(b"hello", facts["unix_datagram"])
leak()
""",
        "unix socket",
    ),
    Attack(
        "an abstract unix socket",
        12,
        ALWAYS,
        "s = socket.socket(socket.AF_UNIX); s.settimeout(2)\n"
        "s.connect('\\0' + facts['unix_abstract']); leak(s.recv(100))",
        "unix socket",
    ),
    Attack(
        "an abstract unix datagram socket by way of a pair",
        12,
        ALWAYS,
        """
near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
near.sendto(b"hello", "\\0" + facts["unix_abstract"] + "d")
leak()
""",
        "unix socket",
    ),
    Attack(
        "a unix socket of another sandbox",
        48,
        ALWAYS,
        "s = socket.socket(socket.AF_UNIX); s.settimeout(2)\n"
        "s.connect(facts['other']['home'] + '/socket'); leak(s.recv(100))",
        "unix socket",
    ),
    # -- what the network tells
    Attack("ports on which the host listens", 10, ALWAYS, _TABLE_OF_LISTENERS),
    Attack(
        "names of the host's unix sockets",
        11,
        ALWAYS,
        _TABLES + "leak() if any(facts['unix_abstract'] in text for text in tables('unix')) else safe()",
    ),
    Attack(
        "network interfaces",
        13,
        KERNEL,
        "found = [n for _, n in socket.if_nameindex() if n != 'lo']\nleak(found) if found else safe()",
    ),
    # Connecting UDP sends nothing; it only asks the kernel for a way out. 192.0.2.1 is nobody's address.
    Attack(
        "a way out of the machine",
        14,
        KERNEL,
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('192.0.2.1', 9)); leak()",
    ),
    Attack(
        "a TCP connection out of the machine",
        13,
        KERNEL,
        # Not connected at once but on its way: the kernel has sent something.
        """
sock = socket.socket()
sock.setblocking(False)
try:
    sock.connect(("192.0.2.1", 9))
except BlockingIOError as error:
    leak(error)
leak()
""",
    ),
    # -- kinds of sockets nobody needs
    Attack("a raw socket", 15, ROOT, "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); leak()"),
    Attack("a packet socket", 15, ROOT, "socket.socket(socket.AF_PACKET, socket.SOCK_RAW); leak()"),
    Attack(
        "an echo request",
        15,
        KERNEL,
        _OWN_NETWORK + "socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1); leak()",
    ),
    Attack(
        "have whoever closes a socket last wait",
        28,
        ALWAYS,
        """
sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
leak() if struct.unpack("ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))[0] else safe()
""",
    ),
    Attack("a vsock socket", 16, KERNEL, "socket.socket(40, socket.SOCK_STREAM); leak()"),
    Attack("a kernel crypto socket", 17, KERNEL, "socket.socket(38, socket.SOCK_SEQPACKET); leak()"),
    Attack("an audit netlink socket", 15, KERNEL, "socket.socket(16, socket.SOCK_RAW, 9); leak()"),
    Attack(
        "netlink sockets but for routes",
        15,
        KERNEL,
        """
for protocol in range(1, 32):
    try:
        socket.socket(16, socket.SOCK_RAW, protocol)
    except OSError:
        continue
    leak(protocol)
safe()
""",
    ),
    Attack(
        "other families of sockets",
        15,
        KERNEL,
        """
for family in sorted(set(range(3, 46)) - {10, 16, 17, 38, 40, 43}):
    for kind in (1, 2, 3, 5):
        try:
            socket.socket(family, kind)
        except OSError:
            continue
        leak((family, kind))
safe()
""",
    ),
]
