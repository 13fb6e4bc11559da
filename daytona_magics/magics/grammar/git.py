"""The verbs of ``%sandbox_git``."""

from __future__ import annotations

from typing import Any

from daytona_magics.magics.grammar.terms import (
    BRANCH,
    GIT_VERB,
    LOCAL_PATH,
    QUIET,
    REMOTE_PATH,
    SANDBOX,
    Argument,
    Option,
)
from daytona_magics.magics.grammar.terms import Command as _Command

WHERE = (
    Option(
        ("-C", "--repository"),
        "a folder in the repository (default: where this notebook's cells are, else the last clone)",
        "PATH",
        values=REMOTE_PATH,
    ),
    Option(
        ("-s", "--sandbox"),
        "in another sandbox, by name or id (default: this notebook's)",
        "NAME",
        values=SANDBOX,
    ),
)
LOGIN = (
    Option(("--user",), "the user name that goes with --token-env", "NAME"),
    Option(
        ("--token-env",),
        "log in with the password or token in variable VAR of this machine "
        "(default: gh, glab, git's credential helpers, else you are asked)",
        "VAR",
    ),
)


def _verb(
    name: str, summary: str, run: str, *args: Any, options: tuple[Option, ...] = (), **more: Any
) -> _Command:
    return _Command(name, summary, run, args, (*options, *WHERE), magic="sandbox_git", **more)


_PATHS = "paths from the repository's top"
VERBS: tuple[_Command, ...] = (
    _verb(
        "clone",
        "Clone a repository into the sandbox.",
        "line_git_remote:clone",
        Argument("url", "its address: https://…, or a folder of the sandbox"),
        Argument("path", "folder for it (default: its name, where the cells are)", "?", values=REMOTE_PATH),
        options=(
            Option(("-b", "--branch"), "check out this branch or tag (default: the remote's)", "BRANCH"),
            Option(("--commit",), "check out this commit; HEAD is detached then", "COMMIT"),
            Option(("--depth",), "only the last COUNT commits", "COUNT", "int"),
            Option(("--insecure-skip-tls",), "do not check the server's certificate, for this call only"),
            Option(
                ("--sync",),
                "give the notebook a branch of its own there, pushed after each cell that commits, as "
                "%sandbox create --repo does",
            ),
            *LOGIN,
            QUIET,
        ),
        examples=("%sandbox_git clone https://github.com/octocat/Hello-World",),
    ),
    _verb(
        "status",
        "Show the branch, what it follows, and what is not as committed.",
        "line_git:status",
    ),
    _verb(
        "diff",
        "Show differences, drawn file by file; paths follow --.",
        "line_git:diff",
        Argument("revisions", "commits or branches to compare, A..B or A B", "*", values=BRANCH),
        options=(
            Option(("--staged",), "what is staged, against the last commit"),
            Option(("--stat",), "only how much of each file"),
        ),
        rest="paths",
        examples=("%sandbox_git diff", "%sandbox_git diff main..dev -- src"),
    ),
    _verb(
        "log",
        "List commits, newest first; paths follow --.",
        "line_git:log",
        Argument("revisions", "branches or ranges, like main..dev (default: HEAD)", "*", values=BRANCH),
        options=(Option(("-n", "--count"), "at most COUNT commits (default: 20)", "COUNT", "int"),),
        rest="paths",
    ),
    _verb(
        "branches",
        "List branches, what they follow and how far they are from it.",
        "line_git:branches",
        options=(Option(("-a", "--all"), "also those of remotes"),),
    ),
    _verb(
        "branch",
        "Make a branch here and go to it, or delete one; without a name, list them.",
        "line_git:branch",
        Argument("name", "its name", "?", values=BRANCH),
        options=(
            Option(("-d", "--delete"), "delete it"),
            Option(("--force",), "also when its commits are on no other branch"),
        ),
    ),
    _verb(
        "checkout",
        "Go to a branch, to one of a remote, or to any commit.",
        "line_git:checkout",
        Argument("name", "branch, tag or commit", values=BRANCH),
        options=(Option(("-b", "--new"), "make the branch first"),),
    ),
    _verb(
        "add",
        "Stage files for the next commit.",
        "line_git:add",
        Argument("paths", f"{_PATHS}; . is everything", "+"),
    ),
    _verb(
        "commit",
        "Commit what is staged; as a cell magic, the cell below is the message.",
        "line_git:commit",
        options=(
            Option(("-m", "--message"), "the message", "TEXT"),
            Option(("-a", "--all"), "stage every change of files git tracks first"),
            Option(("-A", "--everything"), "stage everything first, files git does not track included"),
            Option(("--author",), "who commits (default: git's settings)", "'NAME <MAIL>'"),
            Option(("--allow-empty",), "also when nothing is staged"),
        ),
        examples=(
            "%sandbox_git commit -a -m 'Fit the model'",
            "%%sandbox_git commit -A\nFit the model\n\nWhy.",
        ),
    ),
    _verb(
        "pull",
        "Bring in what the branch's upstream has, by fast-forward.",
        "line_git_remote:pull",
        Argument("remote", "a remote (default: the upstream's)", "?"),
        Argument("branch", "a branch of it (default: the upstream)", "?"),
        options=(*LOGIN, QUIET),
    ),
    _verb(
        "push",
        "Push the current branch, or another, to the branch of its name.",
        "line_git_remote:push",
        Argument("remote", "a remote (default: the upstream's, else origin)", "?"),
        Argument("branch", "a branch of this repository (default: the current one)", "?", values=BRANCH),
        options=(*LOGIN, QUIET),
    ),
    _verb(
        "fetch",
        "Learn what a remote has; or with --to, bring what was made here to a repository of your machine.",
        "line_git_remote:fetch",
        Argument("remote", "a remote (default: the upstream's, else origin)", "?"),
        options=(
            Option(("--prune",), "forget branches that are gone over there"),
            Option(
                ("--to",),
                "instead, bring the sandbox's commits to the repository in FOLDER of this machine (.: the "
                "notebook's), as a branch that is not checked out; no file there is changed",
                "FOLDER",
                values=LOCAL_PATH,
            ),
            Option(
                ("--branch",),
                "with --to: its name there (default: the notebook's own, or sandbox/ and its name)",
                "NAME",
            ),
            Option(
                ("--patch",),
                "with --to: only show what differs from what is there, committed or not, as a patch",
            ),
            Option(
                ("--apply",),
                "with --to: change the files there as the patch says that --patch has shown last",
            ),
            *LOGIN,
            QUIET,
        ),
        examples=(
            "%sandbox_git fetch --to .",
            "%sandbox_git fetch --to . --patch",
            "%sandbox_git fetch --to . --apply",
        ),
    ),
    _verb(
        "merge",
        "Merge a branch into the current one, or give up a merge that stopped at conflicts.",
        "line_git:merge",
        Argument("branch", "branch or commit", "?", values=BRANCH),
        options=(
            Option(("--abort",), "give it up: everything is as before the merge"),
            Option(("--no-ff",), "make a merge commit also where the branch only has to move forward"),
            Option(("-m", "--message"), "the message of the merge commit", "TEXT"),
            Option(
                ("--into",),
                "instead, bring the current branch into BASE on the server (GitHub and GitLab: by their API)",
                "BASE",
                values=BRANCH,
            ),
            Option(
                ("--method",),
                "with --into: how a pull or merge request is merged (default: merge)",
                "HOW",
                choices=("merge", "squash", "rebase"),
            ),
            Option(("-y", "--yes"), "with --into: do it, after it was said what would be done"),
            *LOGIN,
            QUIET,
        ),
        examples=("%sandbox_git merge dev", "%sandbox_git merge --into main --yes"),
    ),
    _verb(
        "open",
        "Give the page of the current branch on GitHub or GitLab.",
        "line_git_forge:open_page",
    ),
    _verb(
        "compare",
        "Compare the current branch with its base on GitHub or GitLab, and give the page.",
        "line_git_forge:compare",
        Argument(
            "base",
            "the branch it belongs in (default: where it began, else the server's)",
            "?",
            values=BRANCH,
        ),
        options=(*LOGIN, QUIET),
    ),
    _verb(
        "pr",
        "Open a pull or merge request for the current branch; as a cell magic, title and text.",
        "line_git_forge:pr",
        Argument(
            "base",
            "the branch it belongs in (default: where it began, else the server's)",
            "?",
            values=BRANCH,
        ),
        options=(
            Option(("-t", "--title"), "its title (default: by the commits)", "TEXT"),
            Option(("-m", "--message"), "its text", "TEXT"),
            Option(("--draft",), "not ready to be merged yet"),
            *LOGIN,
            QUIET,
        ),
        examples=("%sandbox_git pr", "%%sandbox_git pr main\nFit the model\n\nWhy."),
    ),
    _verb(
        "sync",
        "Push this notebook's branch after each cell, in the background; stop that, or show how it stands.",
        "line_git_sync:sync",
        Argument("switch", "what to do (default: status)", "?", ("on", "off", "status")),
        options=(*LOGIN, QUIET),
    ),
    _verb(
        "remote",
        "List remotes, add one, or remove one.",
        "line_git_remote:remote",
        Argument("action", "what to do (default: list)", "?", ("list", "add", "remove")),
        Argument("name", "of the remote", "?"),
        Argument("url", "its address", "?"),
        examples=("%sandbox_git remote add upstream https://example.org/tool.git",),
    ),
    _verb(
        "config",
        "Show git's settings in the sandbox, or set one.",
        "line_git:config",
        Argument("key", "like user.name", "?"),
        Argument("value", "what it shall be", "?"),
        options=(Option(("--local",), "of this repository only (default: of the sandbox's user)"),),
        examples=("%sandbox_git config user.name 'Ada'",),
    ),
    _verb(
        "credentials",
        "Show which of this machine's logins is used for a git server; never the password.",
        "line_git_remote:credentials",
        Argument("host", "like github.com (default: that of the repository's remotes)", "?"),
        options=(Option(("--forget",), "forget what was typed in this kernel"),),
    ),
    _verb(
        "reset",
        "Move the branch to a commit, or take files out of what is staged (paths follow --).",
        "line_git:reset",
        Argument("target", "a commit (default: HEAD)", "?", values=BRANCH),
        options=(
            Option(("--soft",), "keep what is staged and the files"),
            Option(("--hard",), "also throw away every change of files git tracks"),
        ),
        rest="paths",
        examples=("%sandbox_git reset -- notes.txt", "%sandbox_git reset --hard HEAD~1"),
    ),
    _verb(
        "restore",
        "Throw away changes of files that are not staged, or with --staged take them out of what is.",
        "line_git:restore",
        Argument("paths", _PATHS, "+"),
        options=(
            Option(("--staged",), "what is staged instead of the file"),
            Option(("--worktree",), "with --staged: the file as well"),
            Option(("--source",), "as this commit has it", "COMMIT", values=BRANCH),
        ),
    ),
    _Command(
        "help",
        "Show this list, or the help of one verb.",
        "line_about:git_help",
        (Argument("verb", "a verb of this list", "?", values=GIT_VERB),),
        magic="sandbox_git",
    ),
)
