"""``%sandbox_git`` in repositories that are not like others (see :mod:`.awkward`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.git import awkward
from tests.git.conftest import House

from .test_git_verbs import html_of

pytestmark = pytest.mark.shard_group("verbs and awkward repositories")

#: What each line says, in the order in which they are run; "!" before one that is refused, "$" before a
#: command of the sandbox's shell.
SAID: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "empty": [
        ("status", ("On main, no commits yet",)),
        ("log", ("No commits yet",)),
        ("branches", ("No branches yet",)),
        ("diff", ("No difference",)),
        ("!commit -m x", ("nothing to commit",)),
        ("$echo a >a.txt", ()),
        ("add .", ("1 file staged",)),
        ("commit -m first", ("on main: first",)),
        ("push", ("pushed main to origin",)),
        ("status", ("following origin/main: in step", "Nothing to commit")),
    ],
    "unborn": [
        ("status", ("On fresh, no commits yet", "A  a.txt", "A  b.txt")),
        ("log", ("No commits yet",)),
        ("branches", ("main",)),
        ("commit -m fresh", ("on fresh: fresh",)),
        ("branches", ("→ fresh", "2 branches")),
    ],
    "submodule": [
        ("status", ("M  vendor/lib",)),
        ("diff", ("-Subproject commit", "+Subproject commit", "-dirty")),
        ("add vendor/lib", ("1 file staged",)),
        ("commit -m bump", ("on main: bump",)),
        ("status -C awkward/submodule/vendor/lib", ("M  lib.py",)),
    ],
    "lfs_pointer": [
        ("diff", ("version https://git-lfs.github.com/spec/v1", "+oid sha256:cdcd")),
        ("commit -a -m lfs", ("on main: lfs",)),
        ("status", ("Nothing to commit",)),
    ],
    "renames": [
        ("status", ("Staged (400)", "R  old/file 0.txt → new/file 0.txt", "and 300 more")),
        ("diff --staged --stat", ("400 files changed", "{old => new}")),
        ("diff --staged", ("+one more",)),
        ("commit -m moved", ("on main: moved",)),
    ],
    "binary": [
        ("diff", ("Binary files a/data.bin and b/data.bin differ",)),
        ("diff --stat", ("Bin 16384 -> 16384 bytes",)),
        ("commit -a -m bytes", ("on main: bytes",)),
    ],
    "crlf": [
        ("diff", ("-one\n", "+one␍\n", "-two␍\n", "+2␍\n", "No newline at end of file")),
        ("commit -a -m crlf", ("on main: crlf",)),
        ("$git show HEAD:windows.txt | od -c | head -1", (r"o   n   e  \r  \n",)),
    ],
    "unicode_names": [
        ("status", ("M  größe.txt", "M  日本語.txt", "M  -rf", "M  line end.txt", "?  новый файл.txt")),
        ("diff -- -rf größe.txt", ("2 files: 2 added, 2 removed",)),
        ("restore -- -rf", ("1 path restored",)),
        ("add -- 日本語.txt 'новый файл.txt'", ("2 files staged",)),
        ("commit -m names", ("on main: names",)),
        ("add .", ("files staged",)),
        ("commit -m 'the rest'", ("on main: the rest",)),
        ("status", ("Nothing to commit",)),
    ],
    "many_files": [
        ("status", ("Changed, not staged (4)", "D  d000/f00001.txt", "?  new.txt")),
        ("diff --stat", ("4 files changed",)),
        ("add .", ("5 files staged",)),
        ("commit -m many", ("on main: many",)),
        ("branch other", ("now on the new branch other",)),
    ],
    "shallow": [
        ("log", ("[grafted", "commit 4")),
        ("commit -a -m shallow", ("on main: shallow",)),
        ("push", ("pushed main to origin",)),
        ("pull", ("already up to date",)),
        ("$git -C ../shallow.git rev-list --count main", ("6",)),
    ],
    "conflict": [
        ("status", ("Conflicts (2)", "U  both.txt", "U  gone.txt", "merge is under way")),
        ("diff", ("++<<<<<<< HEAD", "Unmerged path gone.txt")),
        ("!commit -m no", ("there are conflicts in both.txt, gone.txt",)),
        ("add .", ("staged",)),
        ("commit -m joined", ("lines of the conflict", "both.txt", "on main: joined")),
        ("$git rev-list --parents -1 HEAD | wc -w", ("3",)),
    ],
    "detached": [
        ("status", ("HEAD is detached at", "belong to no branch")),
        ("!push", ("HEAD is detached", "%sandbox_git branch NAME")),
        ("!pull", ("HEAD is detached",)),
        ("branch kept", ("now on the new branch kept",)),
        ("status", ("On kept",)),
        ("!push", ("has no remote named 'origin'",)),
    ],
    "no_upstream": [
        ("status", ("On lonely, following no remote branch",)),
        ("!pull", ("follows no branch of a remote", "%sandbox_git push")),
        ("push", ("it now follows origin/lonely",)),
        ("status", ("following origin/lonely: in step",)),
    ],
    "protected": [
        ("status", ("1 to push",)),
        ("!push", ("remote rejected", "main is protected", "%sandbox_git branch NAME")),
        ("branch mine", ("now on the new branch mine",)),
        ("push", ("pushed mine to origin",)),
        ("$git -C ../protected.git log --format=%s -1 main", ("work",)),
    ],
    "force_pushed": [
        ("status", ("in step",)),
        ("fetch", ("1 to push and 1 to pull",)),
        ("!push", ("non-fast-forward",)),
        ("!pull", ("both have commits of their own; nothing was changed", "%sandbox_git merge origin/main")),
        ("reset --hard origin/main", ("in step",)),
        ("log -n 1", ("another second",)),
    ],
    "worktree": [
        ("status", ("On side", "M  a.txt")),
        ("commit -a -m side", ("on side: side",)),
        ("!checkout main", ("already checked out at",)),
        ("!branch -d main", ("checked out at",)),
    ],
    "huge_diff": [
        ("diff --stat", ("200001 insertions",)),
        ("diff", ("only its beginning", "lines are not shown")),
        ("diff -- wide.txt", ("more characters",)),
        ("commit -a -m huge", ("on main: huge",)),
    ],
    "nested": [
        ("status", ("?  inner/",)),
        ("add .", ("inner: a repository of its own", "its files were not", "%sandbox_git reset -- inner")),
        ("reset -- inner", ("On main",)),
        ("status", ("?  inner/",)),
        ("status -C awkward/nested/inner", ("M  b.txt",)),
    ],
    "symlinks": [
        ("status", ("M  becomes", "M  file.txt")),
        ("diff", ("new file mode 120000", "deleted file mode 120000")),
        ("commit -a -m links", ("on main: links",)),
        ("$readlink file.txt; cat becomes", ("a.txt", "a file now")),
    ],
    "executable": [
        ("status", ("M  run.sh",)),
        ("diff", ("old mode 100644", "new mode 100755")),
        ("commit -a -m runs", ("on main: runs",)),
        ("$git ls-files -s run.sh", ("100755",)),
    ],
}


@pytest.fixture(scope="module")
def repositories(house: House) -> House:
    house.hub.sandbox.fs.upload_file(Path(awkward.__file__).read_bytes(), "awkward.py")
    return house


def test_all_are_told_of() -> None:
    assert list(SAID) == [make.__name__ for make in awkward.ALL] and len(SAID) == 20


@pytest.mark.parametrize("name", SAID)
def test_in(repositories: House, name: str) -> None:
    house = repositories
    house.hub.sh(f"python3 awkward.py awkward {name}")
    for line, expected in SAID[name]:
        if line.startswith("$"):
            said = house.hub.sh(line[1:], f"awkward/{name}")
        else:
            words, dashes, paths = line.lstrip("!").partition(" -- ")
            where = "" if "-C " in line else f" -C awkward/{name}"
            ask = house.refused if line.startswith("!") else house.git
            said = ask(f"{words}{where}{dashes}{paths}")
        for text in expected:
            assert text in said, f"{line}: no {text!r} in\n{said}"


def test_hostile_names_only_show_themselves(repositories: House) -> None:
    house, name = repositories, "unicode_names"
    house.hub.sh(f"rm -rf awkward/{name}; python3 awkward.py awkward {name}")
    for line in ("status", "diff", "diff --stat", "log"):
        cell = house.ok(f"%sandbox_git {line} -C awkward/{name}")
        assert "<img" not in html_of(cell) and "\N{RIGHT-TO-LEFT OVERRIDE}" not in str(cell.result)
    assert "&lt;img src=x" in html_of(house.ok(f"%sandbox_git status -C awkward/{name}"))
