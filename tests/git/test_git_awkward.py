"""Twenty awkward repositories: every verb that looks says something true of each, and none breaks."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tests.git.conftest import House

LOOK = """shown = {{}}
for line in {lines!r}:
    try:
        shown[line] = repr(get_ipython().run_line_magic("sandbox_git", f"{{line}} -C {path}"))
    except Exception as error:
        shown[line] = f"{{type(error).__name__}}: {{error}} {{getattr(error, 'hint', '')}}"
shown"""


@dataclass
class Case:
    """A repository, made by ``commands`` in its folder, and what verbs must say: {line: a part of it}."""

    name: str
    commands: str
    says: dict[str, str] = field(default_factory=dict)
    #: After the looks; must succeed.
    check: str = "true"
    #: The folder looked at, if not the repository's.
    folder: str = "."


FIRST = "git init -q && echo one >a && git add a && git commit -qm one"
SERVED = f"mkdir s && cd s && {FIRST} && cd .. && git clone -q --bare s s.git && git clone -q s.git w && cd w"
CASES = [
    Case("an empty folder with git", "git init -q", {"status": "no commits yet", "log": "No commits yet"}),
    Case(
        "an unborn branch beside others",
        f"{FIRST} && git checkout -q --orphan bare && git rm -qrf .",
        {"status": "On bare, no commits yet", "branches": "main", "push": "nothing is committed yet"},
    ),
    Case(
        "a submodule",
        f"{FIRST} && git -c protocol.file.allow=always submodule --quiet add ./ sub && echo 2 >sub/a",
        {"status": "A  sub", "diff --staged": "+Subproject commit", "diff": "sub"},
    ),
    Case(
        "an LFS pointer",
        f"{FIRST} && printf '*.bin filter=lfs diff=lfs merge=lfs -text\\n' >.gitattributes && "
        "git config filter.lfs.required false && "
        "printf 'version https://git-lfs.github.com/spec/v1\\noid sha256:%064d\\nsize 9\\n' 1 >x.bin && "
        "git add . && git commit -qm lfs && printf 'size 10\\n' >>x.bin",
        {"status": "M  x.bin", "diff": "+size 10"},
    ),
    Case(
        "many renames",
        f"{FIRST} && for i in $(seq 300); do echo line $i of $i >f$i; done; git add . && "
        "git commit -qm many && mkdir d && git mv f* d/",
        {"status": "Staged (300)", "diff --staged": "f1 → d/f1", "diff --stat --staged": "300 files changed"},
    ),
    Case(
        "a binary file",
        f"{FIRST} && head -c 5000 /dev/urandom >b && git add b && git commit -qm b && "
        "head -c 5000 /dev/zero >b",
        {"diff": "Binary files", "status": "M  b"},
    ),
    Case(
        "Windows line ends",
        f"{FIRST} && printf 'x\\r\\ny\\r\\n' >c && git add c && git commit -qm c && "
        "printf 'x\\r\\nz\\r\\n' >c",
        {"diff": "+z␍", "status": "M  c"},
    ),
    Case(
        "names of every kind",
        f"{FIRST} && touch -- 'ünï' 'two w' -C --help '*' $'new\\nline' $'tab\\there' '\"quoted\"' '日本'",
        {"status": "ünï"},
        "git add . && git status --porcelain -z | tr '\\0' '\\n' | grep -q -- --help",
    ),
    Case(
        "50,000 files",
        f"{FIRST} && python3 -c \"import os\nfor i in range(50000): open(f'f{{i}}','w').close()\"",
        {"status": "Not tracked (50,000)", "diff": "No difference"},
    ),
    Case(
        "a shallow clone",
        f"{SERVED} && echo 2 >a && git commit -qam two && git push -q && cd .. && rm -rf w && "
        "git clone -q --depth 1 file://$PWD/s.git w",
        {"status": "in step", "log": "two", "branches": "origin/main"},
        folder="w",
    ),
    Case(
        "a conflict",
        f"{FIRST} && git checkout -qb x && echo x >a && git commit -qam x && git checkout -q main && "
        "echo m >a && git commit -qam m && ! git merge -q x",
        {"status": "Conflicts (1)", "diff": "<<<<<<<", "commit -m no": "there are conflicts in a"},
    ),
    Case(
        "a rebase that stopped",
        f"{FIRST} && git checkout -qb x && echo x >a && git commit -qam x && git checkout -q main && "
        "echo m >a && git commit -qam m && ! git rebase -q x",
        {"status": "A rebase is under way", "push": "HEAD is detached"},
    ),
    Case(
        "a detached HEAD",
        f"{FIRST} && git checkout -q --detach",
        {"status": "HEAD is detached", "push": "HEAD is detached", "pull": "HEAD is detached"},
    ),
    Case(
        "no upstream",
        f"{SERVED} && git checkout -qb mine",
        {"status": "following no remote branch", "pull": "follows no branch", "push": "None"},
        folder="w",
        check="git rev-parse -q --verify origin/mine",
    ),
    Case(
        "a protected branch",
        f"{SERVED} && printf '#!/bin/sh\\necho not allowed; exit 1\\n' >../s.git/hooks/pre-receive && "
        "chmod +x ../s.git/hooks/pre-receive && echo 2 >a && git commit -qam two",
        {"push": "a branch of your own", "status": "1 to push"},
        folder="w",
    ),
    Case(
        "a force-pushed upstream",
        f"{SERVED} && echo 1 >b && git add b && git commit -qm b && git push -q && cd .. && "
        "git clone -q s.git o && cd o && git commit -q --amend -m other && git push -qf && "
        "cd ../w && echo 2 >a && git commit -qam two",
        {
            "fetch": "None",
            "status": "2 to push and 1 to pull",
            "pull": "commits of their own",
            "push": "git pull",
        },
        folder="w",
    ),
    Case(
        "a second working tree",
        f"{FIRST} && git worktree add -q ../$(basename $PWD)-tree -b tree && "
        "ln -s ../$(basename $PWD)-tree t",
        {"status": "On tree", "branches": "→ tree"},
        folder="t",
    ),
    Case(
        "a huge difference",
        f"{FIRST} && seq 400000 >a",
        {"diff": "only its beginning", "status": "M  a"},
    ),
    Case(
        "a repository in a repository",
        f"{FIRST} && mkdir in && cd in && git init -q && echo 1 >b && cd ..",
        {"status": "in/", "diff": "No difference"},
    ),
    Case(
        "links, also broken ones and out of it",
        f"{FIRST} && ln -s a l && ln -s /etc/passwd p && ln -s nowhere n && git add . && git commit -qm l && "
        "ln -sf b l",
        {"status": "M  l", "diff": "-a"},
    ),
    Case(
        "a bit that says it can be run",
        f"{FIRST} && chmod +x a",
        {"status": "M  a", "diff": "new mode 100755"},
    ),
    Case("a bare repository", "git init -q --bare .", {"status": "no files", "branches": "No branches yet"}),
]


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_an_awkward_repository(house: House, number: int) -> None:
    case = CASES[number]
    top = f"awkward{number}"
    house.hub.sandbox.fs.upload_file(case.commands.encode(), f"{top}.sh")
    house.hub.sh(f"rm -rf {top} {top}-tree; mkdir {top}; cd {top}; bash -e ../{top}.sh")
    where = f"~/{top}/{case.folder}"
    lines = list(dict.fromkeys([*case.says, "status", "log -n 3", "branches -a"]))
    cell = house.ok(LOOK.format(lines=lines, path=where))
    shown = eval(str(cell.result))
    for line, part in case.says.items():
        assert part in shown[line], f"{line}:\n{shown[line]}"
    for line, text in shown.items():
        kind = text.partition(":")[0]
        assert not kind.endswith("Error") or kind in ("GitError", "SandboxUsageError"), f"{line}: {text}"
    house.hub.sh(case.check, f"{top}/{case.folder}")
    house.hub.sh(f"rm -rf {top} {top}-tree")
