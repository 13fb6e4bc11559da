"""Makes twenty awkward repositories: ``python3 awkward.py FOLDER [NAME ...]``, inside a sandbox.

A program of its own (standard library, git). Each repository is FOLDER/NAME; what it has as its remote is
FOLDER/NAME.git. Names are those of the functions below.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org"), ("DATE", "2026-01-02T03:04:05Z"))
}
ENVIRONMENT = {
    **os.environ,
    **IDENTITY,
    "GIT_CONFIG_COUNT": "3",
    "GIT_CONFIG_KEY_0": "protocol.file.allow",
    "GIT_CONFIG_VALUE_0": "always",
    "GIT_CONFIG_KEY_1": "advice.detachedHead",
    "GIT_CONFIG_VALUE_1": "false",
    "GIT_CONFIG_KEY_2": "core.autocrlf",
    "GIT_CONFIG_VALUE_2": "false",
}
MANY = 50_000


def git(folder, *words, check=True, given=None):
    done = subprocess.run(
        ["git", *words], cwd=folder, env=ENVIRONMENT, input=given, stdout=subprocess.PIPE, check=False
    )
    if check and done.returncode:
        raise SystemExit(f"git {words} in {folder}: {done.returncode}")
    return done.stdout.decode("utf-8", "replace").strip()


def plain(folder, branch="main"):
    """A repository without a commit."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", branch)


def commit(folder, text="work", **files):
    """Write files (their names with ``__`` for a dot) and commit all there is."""
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", text)


def remote(folder):
    """A bare repository beside it, as its origin, with what it has."""
    bare = folder.with_name(folder.name + ".git")
    git(folder.parent, "clone", "-q", "--bare", str(folder), str(bare))
    git(folder, "remote", "add", "origin", str(bare))
    git(folder, "fetch", "-q")
    git(folder, "branch", "-q", "--set-upstream-to=origin/main", check=False)
    return bare


def empty(folder):
    """A clone of a repository in which there is nothing at all."""
    bare = folder.with_name(folder.name + ".git")
    git(folder.parent, "init", "-q", "--bare", "-b", "main", str(bare))
    git(folder.parent, "clone", "-q", str(bare), str(folder))


def unborn(folder):
    """Staged files, and a branch that has no commit yet beside one that has."""
    plain(folder)
    commit(folder, a__txt="a\n")
    git(folder, "checkout", "-q", "--orphan", "fresh")
    (folder / "b.txt").write_text("b\n")
    git(folder, "add", "-A")


def submodule(folder):
    """A submodule at another commit than the one that is recorded, with a change in it."""
    inner = folder.with_name(folder.name + "-inner")
    plain(inner)
    commit(inner, lib__py="one = 1\n")
    plain(folder)
    git(folder, "submodule", "--quiet", "add", str(inner), "vendor/lib")
    commit(folder, "with a submodule")
    commit(folder / "vendor/lib", lib__py="one = 2\n")
    (folder / "vendor/lib/lib.py").write_text("one = 3\n")


def lfs_pointer(folder):
    """A file that is a pointer of git-lfs, which is not installed."""
    plain(folder)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 123456789\n"
    commit(folder, "large", model__bin=pointer, __gitattributes="*.bin filter=lfs diff=lfs merge=lfs -text\n")
    (folder / "model.bin").write_text(pointer.replace("ab", "cd"))


def renames(folder):
    """Four hundred files moved to another folder, some with a change."""
    plain(folder)
    (folder / "old").mkdir()
    for number in range(400):
        text = "".join(f"{number} {line}\n" for line in range(20))
        (folder / f"old/file {number}.txt").write_text(text)
    commit(folder)
    git(folder, "mv", "old", "new")
    for number in range(0, 400, 7):
        with open(folder / f"new/file {number}.txt", "a") as file:
            file.write("one more\n")
    git(folder, "add", "-A")


def binary(folder):
    """Bytes that are no text, changed; and a picture."""
    plain(folder)
    (folder / "data.bin").write_bytes(bytes(range(256)) * 64)
    (folder / "dot.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    commit(folder)
    (folder / "data.bin").write_bytes(bytes(reversed(range(256))) * 64)


def crlf(folder):
    """Lines that end like on Windows, some of them since a moment ago; and no end of the last line."""
    plain(folder)
    (folder / "windows.txt").write_bytes(b"one\r\ntwo\r\nthree\r\n")
    (folder / "unix.txt").write_bytes(b"one\ntwo\nthree")
    commit(folder)
    (folder / "unix.txt").write_bytes(b"one\r\ntwo\r\nthree")
    (folder / "windows.txt").write_bytes(b"one\r\n2\r\nthree\r\n")


def unicode_names(folder):
    """Names in several scripts, with spaces, quotes, a line end, a tab, a dash in front, and markup."""
    plain(folder)
    names = ("größe.txt", "日本語.txt", "a b.txt", 'quote".txt', "tab\t.txt", "line\nend.txt", "-rf", "😀.md")
    for name in (*names, "<img src=x onerror=alert(1)>.txt", "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe"):
        (folder / name).write_text("one\n")
    commit(folder)
    for name in ("größe.txt", "日本語.txt", "line\nend.txt", "-rf", "<img src=x onerror=alert(1)>.txt"):
        (folder / name).write_text("two\n")
    (folder / "новый файл.txt").write_text("new\n")
    # Latin-1, which is not UTF-8.
    (Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt"))).write_text("raw\n")


def many_files(folder):
    """Fifty thousand files, three of them changed, one new, one gone."""
    plain(folder)
    lines = [b"blob\nmark :1\ndata 2\nx\n"]
    lines.append(b"commit refs/heads/main\ncommitter Ada <ada@example.org> 1767323045 +0000\ndata 4\nmany\n")
    lines += [b"M 100644 :1 d%03d/f%05d.txt\n" % (number // 500, number) for number in range(MANY)]
    git(folder, "fast-import", "--quiet", given=b"".join(lines))
    git(folder, "reset", "-q", "--hard")
    for number in (0, 25_000, MANY - 1):
        (folder / f"d{number // 500:03}/f{number:05}.txt").write_text("changed\n")
    (folder / "d000/f00001.txt").unlink()
    (folder / "new.txt").write_text("new\n")


def shallow(folder):
    """A clone with the last commit of five."""
    source = folder.with_name(folder.name + "-source")
    plain(source)
    for number in range(5):
        commit(source, f"commit {number}", a__txt=f"{number}\n")
    bare = folder.with_name(folder.name + ".git")
    git(folder.parent, "clone", "-q", "--bare", str(source), str(bare))
    git(folder.parent, "clone", "-q", "--depth=1", bare.as_uri(), str(folder))
    (folder / "a.txt").write_text("shallow\n")


def conflict(folder):
    """In the middle of a merge: changed on both sides, and changed here but deleted there."""
    plain(folder)
    commit(folder, both__txt="base\n", gone__txt="base\n", fine__txt="base\n")
    git(folder, "checkout", "-q", "-b", "theirs")
    (folder / "gone.txt").unlink()
    commit(folder, "theirs", both__txt="theirs\n")
    git(folder, "checkout", "-q", "main")
    commit(folder, "ours", both__txt="ours\n", gone__txt="ours\n")
    git(folder, "merge", "-q", "theirs", check=False)


def detached(folder):
    """HEAD is a commit of its own, on no branch."""
    plain(folder)
    commit(folder, "one", a__txt="1\n")
    commit(folder, "two", a__txt="2\n")
    git(folder, "checkout", "-q", "--detach", "HEAD~1")
    commit(folder, "on no branch", b__txt="b\n")


def no_upstream(folder):
    """A branch that follows none, although there is a remote."""
    plain(folder)
    commit(folder, a__txt="a\n")
    remote(folder)
    git(folder, "checkout", "-q", "--no-track", "-b", "lonely")
    commit(folder, "lonely work", b__txt="b\n")


def protected(folder):
    """The remote takes nothing for main."""
    plain(folder)
    commit(folder, a__txt="a\n")
    hook = remote(folder) / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text('#!/bin/sh\n[ "$1" != refs/heads/main ] || { echo "main is protected" >&2; exit 1; }\n')
    hook.chmod(0o755)
    commit(folder, "not allowed", a__txt="b\n")


def force_pushed(folder):
    """What was pushed here was replaced there by something else."""
    plain(folder)
    commit(folder, "first", a__txt="a\n")
    commit(folder, "second", a__txt="b\n")
    bare = remote(folder)
    other = folder.with_name(folder.name + "-other")
    git(folder.parent, "clone", "-q", str(bare), str(other))
    git(other, "reset", "-q", "--hard", "HEAD~1")
    commit(other, "another second", a__txt="other\n")
    git(other, "push", "-q", "--force", "origin", "main")


def worktree(folder):
    """A second working tree of another repository; .git is a file."""
    home = folder.with_name(folder.name + "-home")
    plain(home)
    commit(home, a__txt="a\n")
    git(home, "worktree", "add", "-q", "-b", "side", str(folder))
    (folder / "a.txt").write_text("side\n")


def huge_diff(folder):
    """Two hundred thousand lines changed, and one line of four million characters."""
    plain(folder)
    commit(folder, big__txt="".join(f"line {n}\n" for n in range(200_000)), wide__txt="x" * 4_000_000)
    (folder / "big.txt").write_text("".join(f"Line {n}\n" for n in range(200_000)))
    (folder / "wide.txt").write_text("y" * 4_000_000)


def nested(folder):
    """A repository inside of another one that knows nothing of it."""
    plain(folder)
    commit(folder, a__txt="a\n")
    plain(folder / "inner")
    commit(folder / "inner", b__txt="b\n")
    (folder / "inner/b.txt").write_text("inner change\n")


def symlinks(folder):
    """Links: into the repository, out of it, to nothing, to a folder; one became a file, one a link."""
    plain(folder)
    for name, target in (("in", "a.txt"), ("out", "/etc/hostname"), ("dead", "nowhere"), ("up", "..")):
        (folder / name).symlink_to(target)
    (folder / "becomes").symlink_to("a.txt")
    commit(folder, a__txt="a\n", file__txt="f\n")
    (folder / "becomes").unlink()
    (folder / "becomes").write_text("a file now\n")
    (folder / "file.txt").unlink()
    (folder / "file.txt").symlink_to("a.txt")


def executable(folder):
    """Only the permission of a file has changed."""
    plain(folder)
    commit(folder, run__sh="#!/bin/sh\necho hi\n", plain__sh="#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)


ALL = (
    *(empty, unborn, submodule, lfs_pointer, renames, binary, crlf, unicode_names, many_files, shallow),
    *(conflict, detached, no_upstream, protected, force_pushed, worktree, huge_diff, nested, symlinks),
    executable,
)


if __name__ == "__main__":
    place = Path(sys.argv[1]).absolute()
    place.mkdir(parents=True, exist_ok=True)
    for make in ALL:
        if make.__name__ in (sys.argv[2:] or [one.__name__ for one in ALL]):
            # Made anew, so that a second try begins like the first.
            for left in place.glob(make.__name__ + "*"):
                shutil.rmtree(left)
            make(place / make.__name__)
