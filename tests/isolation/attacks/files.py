"""Attacks on the host's and other sandboxes' files."""

from .attack import ALWAYS, KERNEL, NONE, ROOT, Attack

_PLANT = "open({path}, 'w').close(); os.unlink({path}); leak()"

TABLE = [
    Attack("read the private key", 1, ALWAYS, "leak(open(facts['key']).read())", "home"),
    Attack(
        "read the private key through a link",
        43,
        ALWAYS,
        """
path = os.environ["HOME"] + "/link-to-key"
os.symlink(facts["key"], path)
try:
    leak(open(path).read())
finally:
    os.unlink(path)
""",
        "home",
    ),
    Attack(
        "read the private key from its folder's descriptor",
        1,
        ALWAYS,
        """
folder = os.open(facts["home"], os.O_PATH)
try:
    leak(os.read(os.open("key", os.O_RDONLY, dir_fd=folder), 100))
except OSError:
    os.chdir(facts["home"])
    leak(open("key").read())
""",
        "home",
    ),
    Attack(
        "reopen the private key through /proc/self/fd",
        7,
        ALWAYS,
        "fd = os.open(facts['key'], os.O_PATH); leak(open(f'/proc/self/fd/{fd}').read())",
        "home",
    ),
    Attack(
        "read the private key by a program in memory",
        1,
        ALWAYS,
        """
fd = os.memfd_create("cat")
with open("/bin/cat", "rb") as file:
    os.write(fd, file.read())
read, write = os.pipe()
pid = os.fork()
if not pid:
    os.dup2(write, 1)
    os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
    os.execve(fd, ["cat", facts["key"]], {})
os.close(write)
leak() if os.read(read, 100).decode() == facts["secret"] else safe()
""",
        "home",
    ),
    Attack(
        "list the host's home",
        2,
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
    Attack("learn that a file of the host exists", 2, ALWAYS, "leak(os.stat(facts['tmp_file']).st_size)"),
    Attack("learn where a link of the host leads", 2, ALWAYS, "leak(os.readlink(facts['tmp_link']))"),
    Attack(
        "names of the machine's accounts",
        2,
        ALWAYS,
        "leak() if facts['account'] in open('/etc/passwd').read() else safe()",
    ),
    Attack(
        "watch what happens in the host's home",
        2,
        ALWAYS,
        """
fd = libc.inotify_init1(os.O_NONBLOCK)
if fd < 0 or libc.inotify_add_watch(fd, facts["watched"].encode(), 0xFFF) < 0:
    safe(os.strerror(ctypes.get_errno()))
time.sleep(0.3)
leak(os.read(fd, 4096))
""",
    ),
    Attack("read /etc/shadow", 3, ROOT, "leak(open('/etc/shadow').read(1))"),
    Attack("read a file in the host's /tmp", 2, ALWAYS, "leak(open(facts['tmp_file']).read())"),
    Attack(
        "find the key through another root",
        7,
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
        "read configuration that may hold passwords",
        1,
        ALWAYS,
        """
for path in facts["configuration"]:
    try:
        with open(path) as file:
            if facts["secret"] in file.read():
                leak(path)
    except OSError:
        continue
safe()
""",
        "home",
    ),
    Attack(
        "run a program of the host's home",
        1,
        ALWAYS,
        "import subprocess\nleak(subprocess.run([facts['program']], capture_output=True, check=True).stdout)",
    ),
    # -- writing
    Attack(
        "write into the host's home",
        18,
        ALWAYS,
        _PLANT.format(path="facts['home'] + '/planted'"),
        "writable path",
    ),
    Attack("write into /usr", 18, ROOT, _PLANT.format(path="'/usr/dm-planted'"), "writable path"),
    Attack("write into /etc", 18, ROOT, _PLANT.format(path="'/etc/dm-planted'"), "writable path"),
    Attack(
        "write beside the host's packages",
        18,
        ROOT,
        _PLANT.format(path="facts['packages'] + '/dm_planted.pth'"),
        "writable path",
    ),
    Attack(
        "write into packages that this account installed",
        18,
        ALWAYS,
        _PLANT.format(path="facts['shown'] + '/planted.pth'"),
        "writable path",
    ),
    Attack(
        "cut off a package by opening it",
        18,
        ALWAYS,
        # Asks for no right to write, so that Landlock sees only reading before its third version.
        """
path = facts["shown"] + "/opened.py"
size = os.stat(path).st_size
os.close(os.open(path, os.O_RDONLY | os.O_TRUNC))
leak() if os.stat(path).st_size < size else safe()
""",
        "writable path",
    ),
    Attack(
        "cut off a package",
        18,
        ALWAYS,
        "os.truncate(facts['shown'] + '/cut.py', 0); leak()",
        "writable path",
    ),
    Attack(
        "leave a file in the host's /tmp",
        18,
        ALWAYS,
        """
path = facts["tmp_file"] + "-planted"
open(path, "w").close()
# A /tmp of the sandbox's own does not hold the host's file.
shared = os.path.exists(facts["tmp_file"])
os.unlink(path)
leak() if shared else safe()
""",
        "writable path",
    ),
    Attack("cut off a file of the host", 18, ALWAYS, "os.truncate(facts['victims']['cut'], 0); leak()"),
    Attack(
        "cut off a file of the host by opening it for nothing",
        18,
        ALWAYS,
        # Access mode 3: neither reading nor writing, so that Landlock sees nothing to allow.
        """
path = facts["victims"]["opened"]
os.close(os.open(path, 3 | os.O_TRUNC))
leak() if os.stat(path).st_size == 0 else safe()
""",
    ),
    Attack(
        "open a file of the host for nothing",
        18,
        ALWAYS,
        "leak(os.fstat(os.open(facts['victims']['mode'], 3)))",
    ),
    Attack("delete a file of the host", 18, ALWAYS, "os.unlink(facts['victims']['deleted']); leak()"),
    Attack(
        "leave a folder, a link or a pipe in the host's home",
        18,
        ALWAYS,
        """
path = facts["home"] + "/planted"
for make, undo in (
    (lambda: os.mkdir(path), os.rmdir),
    (lambda: os.symlink("/", path), os.unlink),
    (lambda: os.mkfifo(path), os.unlink),
):
    try:
        make()
    except OSError:
        continue
    undo(path)
    leak()
safe()
""",
        "writable path",
    ),
    Attack(
        "a file without a name in the host's home",
        18,
        KERNEL,
        "os.open(facts['home'], os.O_TMPFILE | os.O_RDWR); leak()",
    ),
    Attack("delete a folder of the host", 18, ALWAYS, "os.rmdir(facts['victims']['folder']); leak()"),
    Attack(
        "take a file of the host by renaming",
        18,
        ALWAYS,
        "os.rename(facts['victims']['renamed'], os.environ['HOME'] + '/taken'); leak()",
    ),
    Attack(
        "put a file into the host by renaming",
        18,
        ALWAYS,
        """
path = os.environ["HOME"] + "/planting"
open(path, "w").close()
os.rename(path, facts["home"] + "/planted")
os.unlink(facts["home"] + "/planted")
leak()
""",
        "writable path",
    ),
    Attack(
        "exchange a file of the host",
        18,
        ALWAYS,
        """
path = os.environ["HOME"] + "/exchanged"
open(path, "w").close()
call(316, -100, facts["victims"]["exchanged"].encode(), -100, path.encode(), 2)
leak(open(path).read())
""",
    ),
    Attack(
        "hard link to the key",
        31,
        ALWAYS,
        "path = os.environ['HOME'] + '/linked'\nos.link(facts['key'], path); os.unlink(path); leak()",
        "home",
    ),
    Attack(
        "hard link into the host's home",
        31,
        ALWAYS,
        """
path = os.environ["HOME"] + "/linking"
open(path, "w").close()
os.link(path, facts["home"] + "/planted")
os.unlink(facts["home"] + "/planted")
leak()
""",
        "writable path",
    ),
    Attack(
        "change the mode of a file of the host",
        18,
        ALWAYS,
        "os.chmod(facts['victims']['mode'], 0o666); leak()",
    ),
    Attack(
        "change the times of a file of the host",
        18,
        ALWAYS,
        "os.utime(facts['victims']['mode'], (1, 1)); leak()",
    ),
    Attack(
        "change an attribute of a file of the host",
        18,
        KERNEL,
        "os.setxattr(facts['victims']['mode'], 'user.dm', b'x'); leak()",
    ),
    # -- other sandboxes
    Attack(
        "read another sandbox's home",
        48,
        ALWAYS,
        "leak(open(facts['other']['home'] + '/key').read())",
        "home",
    ),
    Attack(
        "write into another sandbox's home",
        48,
        ALWAYS,
        _PLANT.format(path="facts['other']['home'] + '/planted'"),
        "writable path",
    ),
    Attack("read another sandbox's /tmp", 48, ALWAYS, "leak(open(facts['other']['tmp_file']).read())"),
    # -- /sys and cgroups
    Attack(
        "see /sys", 27, ALWAYS, "leak(os.listdir('/sys/kernel')) if os.listdir('/sys/kernel') else safe()"
    ),
    Attack(
        "make a control group",
        27,
        KERNEL,
        """
root = "/sys/fs/cgroup"
for folder in [root, *(f"{root}/{name}" for name in os.listdir(root))]:
    try:
        os.mkdir(folder + "/dm-planted")
    except OSError:
        continue
    os.rmdir(folder + "/dm-planted")
    leak(folder)
safe()
""",
    ),
    Attack(
        "a program the kernel runs when a control group is empty",
        27,
        KERNEL,
        """
root = "/sys/fs/cgroup"
for name in os.listdir(root):
    try:
        os.close(os.open(f"{root}/{name}/release_agent", os.O_WRONLY))
    except OSError:
        continue
    leak(name)
safe()
""",
    ),
    Attack(
        "descriptors nobody gave",
        28,
        NONE,
        "leak(START_FDS) if START_FDS else safe()",
    ),
]
