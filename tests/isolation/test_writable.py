"""A system and a Python environment that a sandbox can write to, and nothing of the host that changes by it.

Run as root the whole file is run once more as an ordinary user that exists nowhere else.
"""

import contextlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from daytona_magics.engine.launch import folders, overlay, skeleton, tree, visible
from daytona_magics.engine.launch.launcher import LaunchError, SandboxProcess, SandboxSpec
from daytona_magics.engine.launch.system import SystemLayers
from daytona_magics.engine.toolbox import trees
from tests import uids
from tests.isolation import as_user
from tests.isolation.conftest import Level, _open

pytestmark = pytest.mark.isolation

ROOT = os.geteuid() == 0
REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = "/usr/bin/dpkg-deb"
#: A link of the host in /usr that leads through /etc, and what it leads to.
LINK = "/usr/bin/awk"


class Writable:
    """Sandboxes with a system of their own, which keep their folders over restarts."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self.layers = SystemLayers(level.launcher, level.folder)
        self.layer: Path | None = level.run(self.layers.current())
        self._count = 0

    def folder(self) -> Path:
        """A new sandbox's folder."""
        self._count += 1
        folder = self.level.folder / f"own{self._count}"
        folder.mkdir(mode=0o711)
        return folder

    def uid(self, folder: Path) -> int | None:
        return uids.uid(1_950_000 + int(folder.name[3:])) if ROOT else None

    def start(self, folder: Path) -> SandboxProcess:
        uid = self.uid(folder)
        self.level.launcher.prepare_home(folder / "home", uid)
        folders.make_system(folder / "system", uid)
        name = folder.name
        spec = SandboxSpec(name, folder / "home", uid, name, system=folder / "system", layers=self.layer)
        box: SandboxProcess = self.level.run(self.level.launcher.spawn(spec))
        return box

    def sh(self, box: SandboxProcess, command: str, *, fails: bool = False) -> str:
        result = self.level.run(box.toolbox.run_program(["/bin/sh", "-c", command], timeout=50))
        output: str = result.output.decode()
        assert (result.exit_code != 0) == fails, output
        return output

    def python(self, box: SandboxProcess, code: str) -> str:
        result = self.level.run(box.toolbox.run_program(["python3", "-c", code], timeout=50))
        output: str = result.output.decode()
        assert result.exit_code == 0, output
        return output.strip()

    def end(self, box: SandboxProcess) -> None:
        self.level.run(box.kill())


@pytest.fixture(scope="module")
def writable() -> Iterator[Writable]:
    level = _open("L3")
    made = Writable(level)
    assert made.layers.reason == "" and made.layer is not None
    yield made
    level.run(made.layers.close())
    level.close()


@pytest.fixture
def box(writable: Writable) -> Iterator[SandboxProcess]:
    started = writable.start(writable.folder())
    yield started
    writable.end(started)


# -- the system


def test_what_is_written_stays_and_is_seen_by_nobody_else(writable: Writable) -> None:
    folder = writable.folder()
    first = writable.start(folder)
    places = ("/usr", "/usr/bin", "/usr/local/bin", "/etc", "/var/lib", "/var/lib/dpkg", "/opt")
    writable.sh(first, f"for f in {' '.join(places)}; do echo mine >$f/dm-mine; done")
    writable.sh(
        first, "rm -r /usr/share/man; rm /usr/bin/env; mkdir -p /usr/share/man/own; echo x >/etc/passwd"
    )
    writable.end(first)
    again, other = writable.start(folder), writable.start(writable.folder())
    files = " ".join(f"{place}/dm-mine" for place in places)
    assert writable.sh(again, f"cat {files}") == "mine\n" * len(places)
    assert writable.sh(
        again, "ls /usr/share/man; ls /usr/bin/env 2>/dev/null; cat /etc/passwd", fails=False
    ) == ("own\nx\n")
    assert writable.sh(other, "find / -name dm-mine 2>/dev/null; ls /usr/bin/env") == "/usr/bin/env\n"
    for place in places:
        assert not os.path.lexists(f"{place}/dm-mine"), place
    assert os.path.exists("/usr/bin/env") and not os.path.exists("/usr/share/man/own")
    writable.end(again)
    writable.end(other)


def test_only_these_parts_are_writable(writable: Writable, box: SandboxProcess) -> None:
    rows = [line.split() for line in writable.sh(box, "cat /proc/self/mountinfo").splitlines()]
    kinds = {row[4]: (row[5].split(","), row[row.index("-") + 1]) for row in rows}
    for path in ("/usr", "/etc", "/var", "/opt", overlay.DPKG):
        if path in kinds:
            assert kinds[path][1] == "overlay" and {"nosuid", "nodev"} <= set(kinds[path][0]), path
    writable_places = {path for path, (flags, _) in kinds.items() if "rw" in flags}
    expected = {"/usr", "/etc", "/var", "/opt", overlay.DPKG, tree.HOME, "/tmp", "/var/tmp", "/run", "/proc"}
    assert {path for path in writable_places if not path.startswith("/dev")} <= expected
    hidden = str(writable.level.folder)
    assert hidden not in writable.sh(box, "cat /proc/self/mounts")
    assert (
        "root:" in writable.sh(box, "cat /etc/passwd") and writable.sh(box, "ls -a /").count(".system") == 0
    )


def test_where_it_cannot_be_had_is_said(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        level = Level("L0")
        stack.callback(level.close)
        layers = SystemLayers(level.launcher, level.folder)
        assert level.run(layers.current()) is None
        assert "isolation level L3 only, and this is L0" in layers.reason


def test_a_layer_that_does_not_work_is_not_used(writable: Writable, monkeypatch: pytest.MonkeyPatch) -> None:
    assert writable.layer is not None
    broken = writable.level.folder / "layers" / "broken"
    (broken / "usr").mkdir(parents=True)
    layers = SystemLayers(writable.level.launcher, writable.level.folder)
    writable.level.run(layers._use(broken))
    assert layers._current is None and "trial sandbox" in layers.reason
    trees.remove_tree(broken)


def test_without_layers_the_system_is_read_only(writable: Writable) -> None:
    folder = writable.folder()
    layer, writable.layer = writable.layer, None
    box = writable.start(folder)
    writable.layer = layer
    output = writable.sh(box, "touch /usr/x", fails=True) + writable.sh(box, "sudo touch /etc/x", fails=True)
    assert output.count("Read-only file system") == 2 and "and the system is read-only" in output
    writable.end(box)


def test_folders_end_completely(writable: Writable) -> None:
    folder = writable.folder()
    box = writable.start(folder)
    writable.sh(
        box, "rm -r /usr/share/man; mkdir /opt/closed; touch /opt/closed/file; chmod 0 /opt/closed /usr"
    )
    writable.end(box)
    assert stat.S_IMODE((folder / "system" / "usr" / "work" / "work").stat().st_mode) == 0
    # A closed folder of its own is no reason not to start.
    writable.end(writable.start(folder))
    trees.remove_tree(folder)
    assert not folder.exists()


# -- packages


def deb(folder: Path, name: str, version: str, files: dict[str, str], **scripts: str) -> Path:
    """A Debian package for all architectures."""
    source = folder / f"{name}-{version}"
    (source / "DEBIAN").mkdir(parents=True)
    fields = {"Package": name, "Version": version, "Architecture": "all", "Maintainer": "me <me@example.org>"}
    text = "".join(f"{key}: {value}\n" for key, value in fields.items()) + "Description: a test\n"
    (source / "DEBIAN/control").write_text(text)
    for script, body in scripts.items():
        (source / "DEBIAN" / script).write_text("#!/bin/sh\nset -e\n" + body)
        (source / "DEBIAN" / script).chmod(0o755)
    for path, content in files.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(content)
        (source / path).chmod(0o755)
    target = folder / f"{name}_{version}_all.deb"
    subprocess.run(
        [PACKAGES, "--root-owner-group", "-Zgzip", "--build", str(source), str(target)],
        check=True,
        capture_output=True,
    )
    return target


POSTINST = """
test "$(id -u)" = 0
chown root:root /usr/bin/dm-tool
chown -R 33:33 /opt/dm
chmod 4755 /opt/dm/data
mkfifo /opt/dm/pipe
mknod /opt/dm/device c 1 3
update-alternatives --install /usr/bin/dm-alias dm-alias /usr/bin/dm-tool 10
getent passwd dm-user >/dev/null || useradd --system --no-create-home dm-user
chown dm-user: /opt/dm/data
[ ! -e /usr/sbin/invoke-rc.d ] || invoke-rc.d dm start
"""


def upload(writable: Writable, folder: Path, path: Path) -> str:
    """Put a file into a sandbox's home; returns its path inside."""
    target = folder / "home" / path.name
    shutil.copyfile(path, target)
    target.chmod(0o644)
    return f"{tree.HOME}/{path.name}"


@pytest.mark.skipif(not os.path.exists(PACKAGES), reason="this machine has no dpkg")
def test_packages_are_installed_upgraded_and_removed(writable: Writable, tmp_path: Path) -> None:
    folder = writable.folder()
    box = writable.start(folder)
    files = {"usr/bin/dm-tool": "#!/bin/sh\necho tool 1\n", "opt/dm/data": "x", "etc/dm.conf": "a"}
    files["etc/init.d/dm"] = "#!/bin/sh\ntouch /opt/dm/started\n"
    one = upload(writable, folder, deb(tmp_path, "dm-tool", "1", files, postinst=POSTINST))
    output = writable.sh(box, f"sudo dpkg -i {one}")
    assert "this sandbox has one user and no root; running as daytona\n" in output
    shown = writable.sh(box, "dm-tool; dm-alias; stat -c %U:%F /opt/dm/data /opt/dm/pipe; ls /opt/dm")
    assert shown == "tool 1\ntool 1\ndaytona:regular file\ndaytona:fifo\ndata\npipe\n"
    assert "dm-tool" in writable.sh(box, "dpkg -l dm-tool | cat") and not os.path.exists("/opt/dm")
    writable.end(box)

    box = writable.start(folder)
    # A file of the host's own package database: its owner does not exist inside.
    victim = writable.sh(box, "dpkg -S /bin/hostname /usr/bin/hostname 2>/dev/null | head -1 || true").strip()
    two = upload(
        writable,
        folder,
        deb(tmp_path, "dm-tool", "2", {**files, "usr/bin/dm-tool": "#!/bin/sh\necho tool 2\n"}),
    )
    writable.sh(box, f"apt-get install -y {two}")
    assert writable.sh(box, "dm-tool") == "tool 2\n"
    if victim:
        package, path = victim.split(": ")
        real = os.path.realpath(path)
        before = os.stat(real)
        new = deb(tmp_path, package, "9999", {path.lstrip("/"): "#!/bin/sh\necho upgraded\n"})
        inside = upload(writable, folder, new)
        writable.sh(box, f"apt-get install -y --allow-downgrades {inside}")
        assert writable.sh(box, path) == "upgraded\n"
        after = os.stat(real)
        assert (before.st_ino, before.st_mtime_ns, before.st_size) == (
            after.st_ino,
            after.st_mtime_ns,
            after.st_size,
        )
    writable.sh(box, "sudo apt-get purge -y dm-tool")
    assert "not found" in writable.sh(box, "dm-tool", fails=True)
    writable.end(box)


def test_sudo_understands_its_options(writable: Writable, box: SandboxProcess) -> None:
    assert writable.sh(box, "sudo -n -E A=b sh -c 'id -u; echo $A' 2>/dev/null") == "0\nb\n"
    assert writable.sh(box, "sudo -u root -- id -un 2>/dev/null; sudo -i echo in 2>/dev/null") == "root\nin\n"
    assert "usage: sudo" in writable.sh(box, "sudo --help")
    for words, answer in (
        ("-u somebody id", "no other user than daytona"),
        ("", "which command"),
        ("-Z id", "option -Z is not understood"),
        ("no-such-program", "no-such-program: No such file or directory"),
    ):
        assert answer in writable.sh(box, f"sudo {words}", fails=True)


#: What a real root could do; each says what became of it.
GRAB = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")
def tried(name, action):
    try:
        action()
        print(name, 'done')
    except OSError as error:
        print(name, 'refused')
os.setuid(0)
os.setgroups([0])
os.chown('/home/daytona', 0, 0)
os.mknod('/tmp/device', 0o20666, os.makedev(1, 3))
print(os.getuid(), os.stat('/home/daytona').st_uid)
tried('mount', lambda: call('mount', b'x', b'/mnt', b'tmpfs', 0, None))
tried('chroot', lambda: os.chroot('/tmp'))
tried('namespace', lambda: call('unshare', 0x10000000))
tried('raw socket', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
tried('device', lambda: open('/tmp/device'))
print(open('/proc/self/status').read().split('CapEff:')[1].split()[0])
"""


def test_sudo_gives_no_power(writable: Writable, box: SandboxProcess) -> None:
    result = writable.level.run(box.toolbox.run_program(["sudo", "python3", "-c", GRAB]))
    lines = result.output.decode().splitlines()[1:]
    names = ("mount", "chroot", "namespace", "raw socket", "device")
    assert lines == ["0 1000", *(f"{name} refused" for name in names), "0" * 16]


# -- nothing of the host comes in


@pytest.mark.skipif(not ROOT, reason="an ordinary user can put nothing into /usr")
def test_what_only_root_may_read_stays_closed(writable: Writable) -> None:
    folder = Path(tempfile.mkdtemp(prefix="dm-closed-", dir="/usr/local"))
    try:
        folder.chmod(0o755)
        for name, mode in (("open", 0o644), ("early", 0o600), ("group", 0o640)):
            (folder / name).write_text(f"{name} text")
            (folder / name).chmod(mode)
        (folder / "inner").mkdir(mode=0o700)
        (folder / "inner/file").write_text("inner text")
        layers = SystemLayers(writable.level.launcher, Path(tempfile.mkdtemp(dir=writable.level.folder)))
        skeleton.build(str(writable.level.folder / "layers/secrets"), [], sys.executable, whole=False)
        layer, writable.layer = writable.layer, writable.level.folder / "layers/secrets"
        box = writable.start(writable.folder())
        writable.layer = layer
        (folder / "late").write_text("late text")
        (folder / "late").chmod(0o600)
        read = f"cat {folder}/* {folder}/inner/* 2>/dev/null; ls {folder}/inner 2>/dev/null; true"
        assert writable.sh(box, read) == "open text"
        grab = f"cd {folder}; sudo chmod 777 early inner; sudo chown daytona early; "
        move = "sudo mv early /tmp/e; sudo cp -r inner /tmp/i; sudo ln early /tmp/l; "
        assert writable.sh(
            box, f"({grab}{move}) 2>/dev/null; cat /tmp/e /tmp/l /tmp/i/* {folder}/* 2>/dev/null; true"
        ) == ("open text")
        writable.end(box)
        assert layers.reason == "" and (folder / "early").read_text() == "early text"
    finally:
        shutil.rmtree(folder)


def masked(writable: Writable, monkeypatch: pytest.MonkeyPatch, *paths: str) -> None:
    """Have later sandboxes of the level mask `paths` as if they held passwords."""
    plan = visible.plan()
    monkeypatch.setattr(visible, "plan", lambda: replace(plan, masks=(*plan.masks, *paths)))
    launcher = writable.level.launcher
    writable.level.run(launcher.stop())
    writable.level.run(launcher.start())


def test_masks_hold_through_overlays_and_restarts(
    writable: Writable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask is where it is in the host's tree, whatever the sandbox has changed in its own."""
    target = os.path.realpath(LINK)
    through = os.readlink(LINK)
    assert target.startswith("/usr/bin/") and through.startswith("/etc/"), "the links of this machine differ"
    free = writable.start(writable.folder())
    assert writable.sh(free, f"test -r {target}; ls /usr/share/common-licenses | head -1")  # The control.
    writable.end(free)
    try:
        masked(writable, monkeypatch, LINK, "/usr/share/common-licenses")
        folder = writable.folder()
        box = writable.start(folder)
        seek = f"cat {target} /usr/share/common-licenses/GPL-3 2>/dev/null | head -c 9; true"
        assert writable.sh(box, seek) == ""
        # Lead the link elsewhere, and make, move and remove what is around the other.
        writable.sh(
            box,
            f"ln -sf /usr/bin/true {through}; ln -sf /usr/bin/true {LINK};"
            " cd /usr/share; mkdir common-licenses; mv common-licenses moved; mkdir common-licenses;"
            f" rmdir common-licenses; touch {target}; rm {target};"
            ' python3 -c \'import os; os.rename("/usr/share", "/usr/share-2")\' 2>/dev/null || true',
        )
        assert writable.sh(box, seek) == ""
        writable.end(box)
        box = writable.start(folder)
        assert writable.sh(box, seek) == ""
        found = writable.sh(box, "find /usr -name GPL-3 2>/dev/null; ls /usr/share/moved")
        assert found == ""
        writable.end(box)
    finally:
        monkeypatch.undo()
        writable.level.run(writable.level.launcher.stop())
        writable.level.run(writable.level.launcher.start())


MARKS = """
import os
os.makedirs('/usr/share/dm-door', exist_ok=True)
open('/usr/share/dm-door/file', 'w').close()
refused = 0
for name, value in (('redirect', b'/share/common-licenses'), ('origin', b'x' * 20), ('opaque', b'y'),
                    ('metacopy', b''), ('upper', b'x')):
    for path in ('/usr/share/dm-door', '/usr/share/dm-door/file', '/usr/share'):
        try:
            os.setxattr(path, 'user.overlay.' + name, value)
        except OSError:
            refused += 1
print(sorted(os.listdir('/usr/share/dm-door')), len(os.listdir('/usr/share')) > 5)
"""


def test_marks_of_overlays_lead_nowhere(writable: Writable) -> None:
    """What the kernel keeps in attributes of an upper: set from inside, then by hand from outside."""
    folder = writable.folder()
    box = writable.start(folder)
    assert writable.python(box, MARKS) == "['file'] True"
    writable.end(box)
    upper = folder / "system/usr/upper/share"
    assert b"/share/common-licenses" not in [
        os.getxattr(upper / "dm-door", name)
        for name in os.listxattr(upper / "dm-door")
        if name.startswith("user.overlay.") and not name.startswith("user.overlay.overlay.")
    ]
    for name, value in (("redirect", b"/share/common-licenses"), ("metacopy", b"")):
        os.setxattr(upper / "dm-door", f"user.overlay.{name}", value)
        os.setxattr(upper / "dm-door/file", f"user.overlay.{name}", value)
    box = writable.start(folder)
    assert "GPL-3" not in writable.sh(
        box, "ls /usr/share/dm-door; cat /usr/share/dm-door/file | head -c 99; true"
    )
    assert "GPL-3" in writable.sh(
        box, "ls /usr/share/common-licenses"
    )  # The control: that is where it leads.
    writable.end(box)


def test_links_in_the_place_of_folders_are_not_followed(writable: Writable, tmp_path: Path) -> None:
    victim = Path(tempfile.mkdtemp(dir=writable.level.folder))
    victim.chmod(0o777)
    for place in ("system", "system/usr", "system/rest/upper", "system/usr/work"):
        folder = writable.folder()
        folders.make_system(folder / "system", writable.uid(folder))
        trees.remove_tree(folder / place)
        (folder / place).symlink_to(victim)
        with pytest.raises((OSError, LaunchError)):
            writable.start(folder)
        assert list(victim.iterdir()) == [], place
        # And had it been put there after the check: what is mounted is opened without following links.
        if place == "system":
            spec = SandboxSpec(
                "late",
                folder / "home",
                writable.uid(folder),
                "late",
                system=folder / place,
                layers=writable.layer,
            )
            with pytest.raises(LaunchError):
                writable.level.run(writable.level.launcher.spawn(spec))
            assert list(victim.iterdir()) == []


def test_links_inside_uppers_lead_no_mount_elsewhere(writable: Writable) -> None:
    """Places of later mounts are the sandbox's to write: links there must not send pid 1 to the host."""
    victim = Path(tempfile.mkdtemp(dir=writable.level.folder))
    victim.chmod(0o777)
    for place, target in (
        ("rest/upper/var", victim),
        ("rest/upper/etc", victim),
        ("rest/upper/var/lib", victim),
        ("rest/upper/var/lib/dpkg", Path("/home/daytona")),
        ("rest/upper/var/tmp", Path("../../../..")),
    ):
        folder = writable.folder()
        folders.make_system(folder / "system", writable.uid(folder))
        link = folder / "system" / place
        for parent in reversed(link.relative_to(folder / "system/rest/upper").parents):
            made = folder / "system/rest/upper" / parent
            made.mkdir(exist_ok=True)
            if ROOT:
                os.chown(made, writable.uid(folder) or 0, writable.uid(folder) or 0)
        link.symlink_to(target)
        box = writable.start(folder)
        writable.sh(box, "test -d /var/tmp && test -d /var/lib/dpkg && test ! -L /var && test ! -L /etc")
        assert writable.sh(box, "ls -A /home/daytona").count("status") == 0
        writable.end(box)
        assert list(victim.iterdir()) == [], place


@pytest.mark.skipif(not ROOT, reason="only root can make device files")
def test_devices_in_uppers_are_dead(writable: Writable) -> None:
    folder = writable.folder()
    box = writable.start(folder)
    writable.end(box)
    device = folder / "system/usr/upper/dm-device"
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    device.chmod(0o666)
    with device.open("wb") as control:
        assert control.write(b"x") == 1
    tool = folder / "system/usr/upper/dm-setuid"
    shutil.copyfile("/usr/bin/id", tool)
    tool.chmod(0o4755)
    box = writable.start(folder)
    assert "ermission denied" in writable.sh(box, "echo x >/usr/dm-device", fails=True)
    assert writable.sh(box, "/usr/dm-setuid -u") == "1000\n"
    assert "ermi" in writable.sh(box, "mknod /opt/null c 1 3", fails=True)
    writable.end(box)


def test_no_secret_is_in_a_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "apt.sources"
    source.write_text(
        "# see https://a:b@h/\nURIs: https://me:secret@packages.example.org/x https://tok@e.org/\n"
    )
    source.chmod(0o644)
    skeleton._copy_source(str(source), str(tmp_path / "copy"))
    text = (tmp_path / "copy").read_text()
    assert text == "# see https://h/\nURIs: https://packages.example.org/x https://e.org/\n"
    closed = tmp_path / "closed"
    (closed / "inner").mkdir(parents=True)
    (closed / "inner").chmod(0o750)
    (closed / "inner/file").write_text("x")
    (closed / "file").write_text("x")
    (closed / "file").chmod(0o640)
    (closed / "fine").write_text("x")
    (closed / "fine").chmod(0o644)
    skeleton.copy_readable(str(closed), str(tmp_path / "copied"))
    assert sorted(p.name for p in (tmp_path / "copied").rglob("*")) == ["fine"]
    skeleton.build(str(tmp_path / "layer"), [], sys.executable, whole=False)
    names = {path.name for path in (tmp_path / "layer/rest/etc/apt").rglob("*")}
    assert not any(name.startswith("auth.conf") for name in names)
    configuration = sorted((tmp_path / "layer/rest/etc/apt/apt.conf.d").iterdir())
    assert [path.name for path in configuration] == ["90daytona-magics"]
    modes = {
        stat.S_IMODE(path.lstat().st_mode)
        for path in (tmp_path / "layer/rest/etc").rglob("*")
        if path.is_dir()
    }
    assert modes == {0o755}


# -- Python


def wheel(folder: Path, name: str, version: str) -> Path:
    """A pure wheel with a console script."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    texts = {
        f"{name}.py": f"def main():\n    print('{name} {version}')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name.replace('_', '-')} = {name}:main\n",
    }
    texts[f"{info}/RECORD"] = "".join(f"{line},,\n" for line in [*texts, f"{info}/RECORD"])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for line, text in texts.items():
            file.writestr(line, text)
    path.write_bytes(packed.getvalue())
    return path


#: Below L3 a root engine's sandboxes have a uid that may not walk to Python where it lies in /root.
@pytest.mark.parametrize("name", ["L3", "L0"] if ROOT else ["L2", "L1"])
def test_pip_installs_into_the_home(name: str, tmp_path: Path) -> None:
    level = _open(name)
    made = Writable(level)
    try:
        folder = made.folder()
        box = made.start(folder)
        home = box.toolbox.home
        facts = json.loads(
            made.python(
                box,
                "import json, os, pip, sys, aiohttp; print(json.dumps([sys.prefix, aiohttp.__file__,"
                " os.environ['VIRTUAL_ENV'], os.environ['PATH'].split(':')[0]]))",
            )
        )
        assert facts[0] == facts[2] == f"{home}/.venv" and facts[3] == f"{home}/.venv/bin"
        assert not facts[1].startswith(home)
        for name_of, version in (("dm_thing", "1.0"), ("aiosignal", "99.0")):
            shutil.copy(wheel(tmp_path, name_of, version), folder / "home")
            (folder / "home" / f"{name_of}-{version}-py3-none-any.whl").chmod(0o644)
        output = made.sh(box, "cd ~ && pip install --no-index --no-deps ./*.whl 2>&1")
        assert "Successfully installed aiosignal-99.0 dm_thing-1.0" in output.replace("dm-thing", "dm_thing")
        assert made.sh(box, "dm-thing; python3 -c 'import dm_thing; dm_thing.main()'") == "dm_thing 1.0\n" * 2
        # An upgrade of what the host has is found first; taking it away again is left to the host.
        assert made.python(box, "import aiosignal; aiosignal.main()") == "aiosignal 99.0"
        made.sh(box, "pip uninstall -y aiosignal dm_thing 2>&1")
        assert made.python(box, "import aiosignal; print(hasattr(aiosignal, 'Signal'))") == "True"
        if name != "L0":
            refused = made.sh(box, "pip uninstall -y aiosignal 2>&1")
            assert "Not uninstalling aiosignal" in refused and "outside environment" in refused
        made.sh(box, "cd ~ && python3 -m venv --without-pip more && more/bin/python -c pass")
        made.end(box)
        assert (folder / "home/.venv/bin/python").is_symlink()
    finally:
        level.run(made.layers.close())
        level.close()


@pytest.mark.shard_group("a writable system as an ordinary user")
@pytest.mark.timeout(180)
@pytest.mark.skipif(not ROOT, reason="this process already is an ordinary user")
def test_the_same_as_an_ordinary_user() -> None:
    as_user.run_tests(__file__)
