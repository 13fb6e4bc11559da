"""``%sandbox_git fetch --to``: what was made in a sandbox comes to this machine's git, as data only."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest

from daytona_magics.errors import GitError
from daytona_magics.git import carrying, home
from daytona_magics.git.home import Home
from tests.git.conftest import House

pytestmark = pytest.mark.shard_group("git and this machine")

_numbers = itertools.count(1)
_PERSON = ("-c", "user.name=Host", "-c", "user.email=host@example.org")


def git(folder: Path, *words: str, given: bytes = b"", check: bool = True) -> str:
    """This machine's git, with nothing held back."""
    done = subprocess.run(
        ["git", *_PERSON, *words], cwd=folder, input=given, capture_output=True, check=False
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository of this machine: branch main with one commit of the file ``a``."""
    folder = tmp_path / f"project{next(_numbers)}"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "a").write_text("one\ntwo\nthree\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    return folder


def state(project: Path) -> tuple[str, str]:
    """What a person sees of their checkout: where HEAD is, and which files are not as committed."""
    head = git(project, "symbolic-ref", "HEAD") + git(project, "rev-parse", "HEAD")
    return head, git(project, "status", "--porcelain")


def there(house: House, project: Path) -> str:
    """A clone of it in the sandbox; its path."""
    name = f"clone{next(_numbers)}-home"
    bundle = project.with_suffix(".bundle")
    git(project, "bundle", "create", "-q", str(bundle), "HEAD", "main")
    house.hub.sandbox.fs.upload_file(bundle.read_bytes(), f"{name}.bundle")
    house.hub.sh(f"git clone -q -b main {name}.bundle {name}")
    return name


def test_commits_come_as_a_branch(house: House, project: Path, tmp_path: Path) -> None:
    before, path = state(project), there(house, project)
    line = f"fetch --to {project} -C {path}"
    house.hub.sh("echo 2 >b; git add b; git commit -qm two; echo 3 >b; git commit -qam three", path)
    assert "2 commits → branch `sandbox/main`" in house.git(line)
    log = git(project, "log", "--format=%an %s", "sandbox/main")
    assert log == "Tester three\nTester two\nHost one"
    house.hub.sh("echo 4 >b; git commit -qam four", path)
    assert "1 commit →" in house.git(line) and "no commit that was not there" in house.git(line)
    assert "branch `mine`" in house.git(f"{line} --branch mine")
    assert git(project, "rev-parse", "mine") == house.hub.sh("git rev-parse HEAD", path)
    house.hub.sh("git reset -q --hard HEAD~2; echo 5 >b; git commit -qam five", path)
    assert "has other commits than the sandbox's" in house.refused(line)
    assert git(project, "log", "-1", "--format=%s", "sandbox/main") == "four"
    assert "is checked out on this machine" in house.refused(f"{line} --branch main")
    for name in ("..", "@{-1}", "HEAD", "0" * 40, "a..b"):
        assert "is no name for a branch" in house.refused(f"{line} --branch {name}")
    assert state(project) == before, "the checkout is as it was"
    other = tmp_path / "other"
    other.mkdir()
    assert "in no git repository of this machine" in house.refused(f"fetch --to {other} -C {path}")
    git(other, "init", "-q")
    assert "has none of the commits" in house.refused(f"fetch --to {other} -C {path}")
    assert "go with --to" in house.refused(f"fetch --patch -C {path}")
    assert "one of them" in house.refused(f"{line} --patch --apply")
    assert house.hub.sh("ls ~/.daytona-magics/transfers") == "", "nothing is left in the sandbox"


def test_a_patch_is_shown_and_then_applied(house: House, project: Path) -> None:
    path = there(house, project)
    line = f"fetch --to {project} -C {path}"
    assert "no patch was shown yet" in house.refused(f"{line} --apply")
    house.hub.sh("mkdir sub; git mv a sub/a; sed -i s/two/2/ sub/a; printf '\\0\\1' >raw; echo x >run", path)
    house.hub.sh("chmod +x run; git add .; git commit -qm some; echo late >>sub/a; echo y >untracked", path)
    before = state(project)
    shown = house.ok(f"%sandbox_git {line} --patch")
    assert "+2" in str(shown.result) and "a → sub/a" in str(shown.result) and "+late" in str(shown.result)
    assert "Binary file" in str(shown.result) and "literal" not in str(shown.result)
    assert "1 file git does not track" in shown.notes and "--apply` does it" in shown.notes
    assert state(project) == before, "showing changes nothing"
    house.hub.sh("echo evil >>sub/a", path)
    (project / "mine").write_text("not committed\n")
    assert "3 files changed" in house.git(f"{line} --apply")
    assert (project / "sub/a").read_text() == "one\n2\nthree\nlate\n", "what was shown, and nothing later"
    assert (project / "raw").read_bytes() == b"\0\1" and (project / "run").stat().st_mode & 0o100
    assert not (project / "a").exists() and (project / "mine").read_text() == "not committed\n"
    assert state(project)[0] == before[0] and git(project, "diff", "--cached", "--name-only") == ""
    house.git(f"{line} --patch")
    said = house.refused(f"{line} --apply")
    assert "nothing was changed" in said and "sub/a" in git(project, "status", "--porcelain", "-uall")


def bundle_of(repository: Path, folder: Path, *refs: str) -> Path:
    folder.mkdir()
    git(repository, "bundle", "create", "-q", str(folder / "bundle"), *refs)
    return folder / "bundle"


def test_no_hook_or_monitor_of_this_machine_runs(project: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    program = f"#!/bin/sh\necho $0 >>{ran}\n"
    work = tmp_path / "work"
    git(tmp_path, "clone", "-q", str(project), str(work))
    git(work, "commit", "-q", "--allow-empty", "-m", "two")
    for name in ("reference-transaction", "post-checkout", "pre-auto-gc"):
        (project / ".git/hooks" / name).write_text(program)
        (project / ".git/hooks" / name).chmod(0o755)
    git(project, "config", "core.fsmonitor", str(project / ".git/hooks/post-checkout"))
    bundle = bundle_of(work, tmp_path / "one", "HEAD", "^origin/main")
    base = git(project, "rev-parse", "HEAD")
    ran.unlink(missing_ok=True)
    home.take(home.of(project), bundle, base, "mine")
    home.apply(home.of(project), patch_of("a.txt"))
    assert not ran.exists() and git(project, "log", "-1", "--format=%s", "mine") == "two"
    git(project, "fetch", "-q", str(bundle), "HEAD:refs/heads/control")
    assert "reference-transaction" in ran.read_text(), "the control: git's own fetch runs them"


def test_objects_that_would_write_into_git_are_refused(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree with an entry ``.git``: whoever checks it out with an old git gets its hooks."""
    work, base = tmp_path / "work", git(project, "rev-parse", "HEAD")
    git(tmp_path, "clone", "-q", str(project), str(work))
    blob = git(work, "hash-object", "-w", "--stdin", given=b"#!/bin/sh\n")
    inner = bytes.fromhex(blob)
    words = ("hash-object", "-w", "-t", "tree", "--literally", "--stdin")
    hooks = git(work, *words, given=b"100755 post-checkout\0" + inner)
    tree = git(work, *words, given=b"40000 .git\0" + bytes.fromhex(hooks))
    evil = git(work, "commit-tree", tree, "-p", base, "-m", "evil")
    git(work, "update-ref", "refs/heads/main", evil)
    bundle = bundle_of(work, tmp_path / "one", "HEAD", f"^{base}")
    with pytest.raises(GitError, match=r"hasDotgit|contains '\.git'"):
        home.take(home.of(project), bundle, base, "evil")
    assert git(project, "branch", "--list", "evil") == ""
    unchecked = tuple(one for one in home._OPTIONS if "fsckObjects" not in one)
    monkeypatch.setattr(home, "_OPTIONS", unchecked)
    home.take(home.of(project), bundle_of(work, tmp_path / "two", "HEAD", f"^{base}"), base, "evil")
    assert git(project, "rev-parse", "evil") == evil, "the control: without the check it comes"


def test_a_bundle_is_one_commit_and_nothing_else(project: Path, tmp_path: Path) -> None:
    base, name = git(project, "rev-parse", "HEAD"), "is not the bundle that was asked for"
    git(project, "tag", "v1")
    file = tmp_path / "bundle"
    objects = bundle_of(project, tmp_path / "one", "HEAD", "v1").read_bytes().partition(b"\n\n")[2]
    for head in (
        f"# v2 git bundle\n{base} HEAD\n{base} refs/tags/v1",
        f"# v2 git bundle\n{base} refs/heads/main",
        f"# v2 git bundle\n{base} HEAD\n{base} HEAD",
        f"# v3 git bundle\n@object-format=sha1\n@filter=blob:none\n{base} HEAD",
        "# v2 git bundle\n--upload-pack=touch HEAD",
        f"# v9 git bundle\n{base} HEAD",
        "no bundle",
    ):
        file.write_bytes(head.encode() + b"\n\n" + objects)
        with pytest.raises(GitError, match=name):
            home.tip_of(file)
    file.write_bytes(b"# v2 git bundle\n" + b"0" * (2 << 20))
    with pytest.raises(GitError, match=name):
        home.tip_of(file)
    file.write_bytes(f"# v2 git bundle\n-{base}\n{'1' * 40} HEAD\n\n".encode() + objects[:20])
    with pytest.raises(GitError, match="nothing was changed"):
        home.take(home.of(project), file, base, "mine")
    assert git(project, "branch", "--list", "mine") == ""


def patch_of(name: str, text: str = "x", mode: str = "100644") -> bytes:
    """A patch that makes a file."""
    return (
        f"diff --git a/{name} b/{name}\nnew file mode {mode}\nindex {'0' * 40}..{'1' * 40}\n"
        f"--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+{text}\n"
    ).encode()


@pytest.mark.parametrize("name", ["../outside", ".git/hooks/post-checkout", "sub/../../outside"])
def test_a_patch_stays_in_the_repository(project: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(GitError, match="nothing was changed"):
        home.apply(home.of(project), patch_of(name))
    assert not (project / name).exists() and state(project)[1] == ""
    plain = tmp_path / "plain/inner"
    for folder in ("sub", ".git/hooks"):
        (plain / folder).mkdir(parents=True)
    git(plain, "apply", "--unsafe-paths", "-", given=patch_of(name))
    assert (plain / name).exists(), "the control: told not to look, git writes it"


@pytest.mark.parametrize("mode", ["120000", "160000", "0120000", "120777", "+120000"])
def test_a_patch_makes_no_links(project: Path, mode: str) -> None:
    with pytest.raises(GitError, match="links or other repositories"):
        home.apply(home.of(project), patch_of("link", "/etc/passwd", mode))
    assert state(project)[1] == ""
    if mode == "120000":
        patch = patch_of("link", "/etc", mode) + b"\\ No newline at end of file\n"
        git(project, "apply", "-", given=patch)
        assert (project / "link").is_symlink(), "the control"


def test_a_patch_runs_no_filter(project: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    git(project, "config", "filter.touch.smudge", f"touch {ran}; cat")
    git(project, "config", "filter.touch.required", "true")
    patch = patch_of(".gitattributes", "* filter=touch") + patch_of("new")
    home.apply(home.of(project), patch)
    assert (project / "new").read_text() == "x\n" and not ran.exists()
    git(project, "apply", "-", given=patch_of("other"))
    assert ran.exists(), "the control: git's own apply runs it"


def test_git_and_the_page_know_the_same_files(project: Path) -> None:
    """A patch can hide a file from a reader: a header of the old kind, behind the part that is shown."""
    from daytona_magics.git.bringing import Patch

    hidden = patch_of("shown") + b"--- a/a\n+++ b/a\n@@ -1,3 +1,1 @@\n one\n-two\n-three\n"
    made = Patch(hidden)
    assert made.files == ["shown"] and home.files_of(Home(project), hidden) == ["shown", "a"]


BEGIN = """from daytona_magics import sandboxes
from daytona_magics.magics import line_git_source, line_git_sync
from pathlib import Path
source = line_git_source.Source({url!r}, 'main', folder=Path({folder!r}), secrets={secrets})
line_git_sync.begin(get_ipython(), sandboxes.current(), source, quiet=False).path"""


@pytest.fixture
def dirty(project: Path) -> Path:
    """A checkout with a commit that is not pushed, a change, and files git does not track."""
    (project / "c").write_text("three\n")
    (project / ".gitignore").write_text("ignored/\n")
    git(project, "add", ".")
    git(project, "commit", "-qm", "not pushed")
    (project / "a").write_text("one\nTWO\nthree\n")
    (project / "ignored").mkdir()
    for name, text in (("näw file", "new"), (".env", "KEY=x"), ("ignored/x", "x"), (".env.example", "KEY=")):
        (project / name).write_text(text)
    (project / "run").write_bytes(b"\0\1")
    (project / "run").chmod(0o755)
    return project


def test_what_only_this_machine_has_goes_along(house: House, dirty: Path) -> None:
    hub, path = house.hub, there(house, dirty)
    hub.sh(
        f"git -C {path} reset -q --hard HEAD~1; git clone -q --bare {path} served/{path}.git; rm -rf {path}"
    )
    before, index = state(dirty), (dirty / ".git/index").read_bytes()
    house.login()
    url = f"{hub.url}/private/{path}.git"
    for secrets, said in ((False, "left out, for they look secret: `.env`"), (True, "7 files")):
        cell = house.ok(BEGIN.format(url=url, folder=str(dirty), secrets=secrets))
        assert said in cell.notes and "not committed" in cell.notes, cell
        names = hub.sh("git status --porcelain -uall -z | tr '\\0' '|'", path).split("|")
        expected = {" M a", "?? .gitignore", "?? c", "?? näw file", "?? run", "?? .env.example", ""}
        assert set(names) == expected | ({"?? .env"} if secrets else set()), "the control: asked for, it goes"
        assert hub.sh("cat a; test -x run && cat .env.example", path) == "one\nTWO\nthree\nKEY="
        house.git("sync off")
        house.ok("%%sandbox\n%cd ~")
        hub.sh(f"rm -rf {path}")
    assert (dirty / ".git/index").read_bytes() == index and state(dirty) == before
    house.login(False)
    for line in ("--include-dirty", "--repo . --include-secrets", f"--repo {url} --include-dirty"):
        assert house.kernel.run(f"%sandbox create {line}", timeout=90).ename == "SandboxUsageError"


def test_a_secret_with_a_name_that_is_no_text_stays(dirty: Path) -> None:
    where, base = home.of(dirty), git(dirty, "rev-parse", "HEAD~1")
    name = os.fsdecode(b"pass\xffword.key")
    (dirty / name).write_text("of this machine")
    git(dirty, "add", name)
    assert b"of this machine" in carrying.changes(where, base, secrets=True).patch, "the control"
    made = carrying.changes(where, base, secrets=False)
    assert name in made.left and b"of this machine" not in made.patch
    assert "pass\ufffdword.key" in made.said()


def test_a_change_within_the_second_of_the_commit_goes_along(project: Path) -> None:
    """Of the same size and time as what was committed: git has to look into the file to see it."""
    then = 1_700_000_000
    for name in ("a", ".git/index"):
        os.utime(project / name, (then, then))
    git(project, "update-index", "--really-refresh")
    index = project / ".git/index"
    os.utime(index, (then, then))
    (project / "a").write_text("one\nTWO\nthree\n")
    os.utime(project / "a", (then, then))
    where = home.of(project)
    # The time of the last change of its entry cannot be set, so git is told not to look at it.
    git(project, "config", "core.trustctime", "false")
    os.utime(index, (then, then))
    assert b"+TWO" in carrying.changes(where, "HEAD", secrets=False).patch
    os.utime(index, (then + 9, then + 9))
    assert carrying.changes(where, "HEAD", secrets=False).patch == b"", (
        "the control: an index that is younger"
    )


def test_too_much_does_not_go_along(dirty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, base = home.of(dirty), git(dirty, "rev-parse", "HEAD~1")
    monkeypatch.setattr(carrying, "MOST", 100)
    with pytest.raises(GitError, match="more than"):
        carrying.changes(where, base, secrets=False)
    monkeypatch.setattr(carrying, "UNTRACKED", 2)
    with pytest.raises(GitError, match="does not track 4 files"):
        carrying.changes(where, base, secrets=False)


@pytest.mark.parametrize("name", [".env", "a/.env.local", "k.pem", "id_ed25519", "Secrets.yaml", ".NETRC"])
def test_names_that_look_secret(name: str) -> None:
    assert carrying.looks_secret(name)
    assert not carrying.looks_secret("id_rsa.pub") and not carrying.looks_secret("environment.yml")
