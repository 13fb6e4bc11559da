"""GitHub and GitLab through their REST APIs: requests, merging, refusals, and outcomes nobody knows."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from daytona_magics.errors import GitError, SandboxUsageError
from daytona_magics.git import forge_answers, forges
from daytona_magics.git.forge_kinds import forge_of
from daytona_magics.git.forges import Forge
from daytona_magics.git.logins import Login, server_of
from daytona_magics.git.projects import Project, project_of

from .forge_house import PATH, TOKEN, Fault, ForgeHouse, forge_house

KINDS = ("github", "gitlab")


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    done = subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def work(tmp_path: Path, template: Path) -> Path:
    """The clone and its origin, for one test to change."""
    folder = tmp_path / "own"
    shutil.copytree(template, folder)
    git(folder / "work", "remote", "set-url", "origin", str(folder / "origin.git"))
    return folder / "work"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``origin.git`` with main, nb/ahead (two commits more), equal and conflict; ``work`` is its clone."""
    top = tmp_path_factory.mktemp("forges")
    bare, folder = top / "origin.git", top / "work"
    git(top, "init", "-q", "--bare", "-b", "main", str(bare))
    git(top, "clone", "-q", str(bare), str(folder))
    git(folder, "checkout", "-q", "-b", "main")

    def commit(branch: str, name: str, text: str) -> None:
        git(folder, "checkout", "-q", "-B", branch)
        (folder / name).write_text(text)
        git(folder, "add", ".")
        git(folder, "commit", "-q", "-m", f"{name} of {branch}")

    commit("main", "a.txt", "first\n")
    git(folder, "branch", "equal")
    commit("conflict", "a.txt", "theirs\n")
    git(folder, "checkout", "-q", "main")
    commit("nb/ahead", "b.txt", "new\n")
    commit("nb/ahead", "c.txt", "newer\n")
    git(folder, "checkout", "-q", "main")
    commit("main", "a.txt", "ours\n")
    git(folder, "push", "-q", "--all", "origin")
    return top


@pytest.fixture(params=KINDS)
def house(request: pytest.FixtureRequest, work: Path) -> Iterator[ForgeHouse]:
    with forge_house(request.param, work.parent / "origin.git") as made:
        yield made


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forges, "PAUSES", (0.0, 0.0))


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


def project(house: ForgeHouse, path: str = PATH) -> Project:
    found = project_of(f"{house.url}/{path}.git", house.kind)
    assert found is not None
    return found


def of(house: ForgeHouse, token: str = TOKEN, path: str = PATH) -> Forge:
    server = server_of(house.url)
    return forge_of(project(house, path), Login("x", token, "the test", server))


# -- addresses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "kind", "api"),
    [
        ("https://github.com/octocat/spoon.git", "github", "https://api.github.com/repos/octocat/spoon"),
        ("git@github.com:octocat/spoon.git", "github", "https://api.github.com/repos/octocat/spoon"),
        ("ssh://git@github.com:22/octocat/spoon", "github", "https://api.github.com/repos/octocat/spoon"),
        ("https://github.corp.example/a/b", "github", "https://github.corp.example/api/v3/repos/a/b"),
        ("https://x:y@gitlab.com/a/b/c.git", "gitlab", "https://gitlab.com/api/v4/projects/a%2Fb%2Fc"),
        ("https://gitlab.corp.example:8443/a/b/", "gitlab", "https://gitlab.corp.example:8443/api/v4/projects/a%2Fb"),
    ],
)  # fmt: skip
def test_a_remote_is_a_project(url: str, kind: str, api: str) -> None:
    found = project_of(url)
    assert found is not None and (found.kind, found.api) == (kind, api)
    assert "y@" not in found.web


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example.org/a/b",
        "/home/ada/github/spoon",
        "file:///srv/github.com/a/b",
        "https://github.com/only-one",
        "https://github.com/a/b/c",
        "https://notgithub.example/a/b",
        "https://github.com/../b",
        "https://github.com/a/b?x=y#z/../..",
        "git@github.com:a b/c",
        "",
    ],
)
def test_what_is_no_project_is_none(url: str) -> None:
    found = project_of(url)
    assert found is None or found.path == "a/b"


def test_the_hosts_that_gh_and_glab_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    assert project_of("https://code.example.org/a/b") is None
    monkeypatch.setenv("GITLAB_HOST", "https://code.example.org")
    found = project_of("https://code.example.org/a/b")
    assert found is not None and found.kind == "gitlab"
    monkeypatch.setenv("GH_HOST", "code.example.org")
    found = project_of("https://code.example.org/a/b")
    assert found is not None and found.kind == "github"


def test_pages() -> None:
    hub = project_of("https://github.com/octocat/spoon")
    lab = project_of("https://gitlab.com/group/sub/spoon")
    assert hub is not None and lab is not None
    assert hub.branch_page("nb/a b") == "https://github.com/octocat/spoon/tree/nb/a%20b"
    assert hub.new_request_page("main", "nb/a").endswith("/compare/main...nb/a?expand=1")
    assert lab.compare_page("main", "nb/a") == "https://gitlab.com/group/sub/spoon/-/compare/main...nb/a"
    assert "source_branch%5D=nb%2Fa&" in lab.new_request_page("main", "nb/a")


# -- what they do ------------------------------------------------------------------------------------------


def test_compare_open_and_merge(house: ForgeHouse) -> None:
    forge = of(house)
    assert run(forge.default_branch()) == "main"
    compared = run(forge.compare("main", "nb/ahead"))
    assert compared.ahead == 2 and compared.behind in (1, None)
    assert run(forge.find_request("nb/ahead", "main")) is None
    made = run(forge.open_request("nb/ahead", "main", "Two files", "Both are new."))
    assert made.number == 1 and made.title == "Two files" and not made.existed and not made.draft
    assert made.url.startswith(f"{house.url}/{PATH}/") and house.requests[1]["body"] == "Both are new."
    again = run(forge.open_request("nb/ahead", "main", "Another title"))
    assert again.existed and again.number == 1 and again.title == "Two files"
    merged = run(forge.merge("nb/ahead", "main", sha=house.tip("nb/ahead")))
    assert (merged.sha == house.tip("main") and merged.request == made) or merged.request.number == 1
    assert house.git("show", "main:c.txt") == "newer" and house.count("main", "nb/ahead") == 0


def test_a_branch_is_merged_without_a_request(house: ForgeHouse) -> None:
    forge = of(house)
    merged = run(forge.merge("nb/ahead", "main", message="All of it"))
    assert merged.sha == house.tip("main") and not merged.already
    assert (merged.request is not None) == (house.kind == "gitlab"), "GitLab merges by requests only"
    assert run(forge.merge("nb/ahead", "main")).already
    assert run(forge.merge("equal", "main")).already


def test_a_draft_is_one_and_not_merged(house: ForgeHouse) -> None:
    forge = of(house)
    made = run(forge.open_request("nb/ahead", "main", "Not yet", draft=True))
    assert made.draft and made.title == "Not yet"
    with pytest.raises(GitError) as caught:
        run(forge.merge("nb/ahead", "main"))
    assert caught.value.code == "NOT_MERGEABLE" and house.count("main", "nb/ahead") == 2


def test_a_conflict_is_said_and_changes_nothing(house: ForgeHouse) -> None:
    before, forge = house.tip("main"), of(house)
    with pytest.raises(GitError) as caught:
        run(forge.merge("conflict", "main"))
    assert caught.value.code in ("GIT_MERGE_CONFLICT", "REFUSED") and house.tip("main") == before
    run(forge.open_request("conflict", "main", "Clash"))
    with pytest.raises(GitError) as caught:
        run(forge.merge("conflict", "main"))
    assert caught.value.code in ("NOT_MERGEABLE", "REFUSED") and house.tip("main") == before


def test_nothing_is_merged_that_was_not_looked_at(house: ForgeHouse, work: Path) -> None:
    forge, looked_at = of(house), house.tip("nb/ahead")
    run(forge.open_request("nb/ahead", "main", "Two files"))
    git(work, "checkout", "-q", "nb/ahead")
    (work / "d.txt").write_text("unseen\n")
    git(work, "add", ".")
    git(work, "commit", "-q", "-m", "pushed meanwhile")
    git(work, "push", "-q", "origin", "nb/ahead")
    with pytest.raises(GitError) as caught:
        run(forge.merge("nb/ahead", "main", sha=looked_at))
    assert caught.value.code == "GIT_MERGE_CONFLICT" and house.count("main", "nb/ahead") == 3
    # The control: whoever does not say what he looked at gets what is there.
    run(forge.merge("nb/ahead", "main"))
    assert house.git("show", "main:d.txt") == "unseen"


def test_a_new_request_of_gitlab_is_waited_for(work: Path) -> None:
    with forge_house("gitlab", work.parent / "origin.git") as house:
        forge = of(house)
        run(forge.open_request("nb/ahead", "main", "Two files"))
        house.checking = 2
        assert run(forge.merge("nb/ahead", "main")).sha == house.tip("main")


def test_methods(house: ForgeHouse) -> None:
    forge = of(house)
    with pytest.raises(SandboxUsageError, match="choose from merge, squash, rebase"):
        run(forge.merge("nb/ahead", "main", method="fast"))
    with pytest.raises(SandboxUsageError, match=r"squash needs a .* request, and there is none"):
        run(forge.merge("nb/ahead", "main", method="squash"))
    assert not house.requests


def test_no_commits_between(house: ForgeHouse) -> None:
    with pytest.raises(GitError, match="No commits between main and equal") as caught:
        run(of(house).open_request("equal", "main", "Nothing"))
    assert caught.value.code == "REFUSED"


# -- refusals ----------------------------------------------------------------------------------------------

REFUSALS = [
    (401, {"message": "Bad credentials"}, {}, "GIT_AUTH_FAILED", "does not accept this login with the test"),
    (403, {"message": "Resource not accessible"}, {}, "FORBIDDEN", "Resource not accessible"),
    (403, {"message": "x"}, {"X-RateLimit-Remaining": "0", "Retry-After": "90"}, "RATE_LIMITED", "90 sec"),
    (429, None, {"Retry-After": "600"}, "RATE_LIMITED", "in 10 minutes"),
    (404, {"message": "Not Found"}, {}, "GIT_REPO_NOT_FOUND", f"has no {PATH}"),
    (409, {"message": "Conflict"}, {}, "GIT_MERGE_CONFLICT", "409: Conflict"),
    (422, {"message": {"base": ["is too far"]}}, {}, "REFUSED", "base: is too far"),
    (302, None, {"Location": "http://127.0.0.1:9/x"}, "GIT_REPO_NOT_FOUND", "has moved"),
    (500, {"message": "Oops"}, {}, "FORGE_FAILED", "is unwell.*500: Oops.*nothing was changed"),
    (503, None, {}, "FORGE_FAILED", "is unwell .503"),
    (0, None, {}, "FORGE_FAILED", "the connection to .* broke"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "headers", "code", "said"), REFUSALS)
def test_a_refused_question(
    house: ForgeHouse, status: int, body: Any, headers: dict[str, str], code: str, said: str
) -> None:
    house.faults.append(Fault("GET", "/compare", status, body, headers, times=99))
    with pytest.raises(GitError, match=said) as caught:
        run(of(house).compare("main", "nb/ahead"))
    assert caught.value.code == code and TOKEN not in f"{caught.value}{caught.value.hint}"
    asked = sum("/compare" in path for _, path, _ in house.calls)
    # A broken connection makes the HTTP client ask once more by itself.
    assert asked == (6 if status == 0 else 3 if status >= 500 else 1)


@pytest.mark.parametrize("status", [0, 500, 502])
def test_a_question_is_asked_again(house: ForgeHouse, status: int) -> None:
    house.faults.append(Fault("GET", "/compare", status, times=2))
    assert run(of(house).compare("main", "nb/ahead")).ahead == 2


@pytest.mark.parametrize("status", [0, 502])
@pytest.mark.parametrize("after", [False, True], ids=["not done", "done"])
def test_a_change_with_an_unknown_outcome(house: ForgeHouse, status: int, after: bool) -> None:
    forge = of(house)
    opening = "/pulls" if house.kind == "github" else "/merge_requests"
    house.faults.append(Fault("POST", opening, status, {"message": "Bad Gateway"}, after=after))
    if after:
        made = run(forge.open_request("nb/ahead", "main", "Two files"))
        assert made.number == 1 and not made.existed
    else:
        with pytest.raises(GitError, match="is not known") as caught:
            run(forge.open_request("nb/ahead", "main", "Two files"))
        assert caught.value.code == "UNKNOWN_OUTCOME" and not house.requests
        run(forge.open_request("nb/ahead", "main", "Two files"))
    house.faults.append(Fault("PUT", "/merge", status, after=after, times=1 if after or status else 2))
    if after:
        assert run(forge.merge("nb/ahead", "main")).request.number == 1
    else:
        with pytest.raises(GitError, match="is not known"):
            run(forge.merge("nb/ahead", "main"))
        run(forge.merge("nb/ahead", "main"))
    assert len(house.requests) == 1 and house.count("main", "nb/ahead") == 0
    merges = house.git("rev-list", "--merges", "--count", "main")
    assert merges == "1", "nothing is merged twice"


def test_a_wrong_login_and_none(house: ForgeHouse) -> None:
    with pytest.raises(GitError, match="does not accept this login") as caught:
        run(of(house, "wrong").default_branch())
    assert caught.value.code == "GIT_AUTH_FAILED" and "wrong" not in str(caught.value)
    with pytest.raises(GitError, match="wants a login"):
        run(forge_of(project(house), None).default_branch())
    with pytest.raises(GitError, match="has no ada/nothing"):
        run(of(house, path="ada/nothing").default_branch())


# -- where the login goes ----------------------------------------------------------------------------------


def test_a_redirect_does_not_get_the_login(house: ForgeHouse, work: Path) -> None:
    with forge_house(house.kind, work.parent / "origin.git") as other:
        path = "/compare"
        house.faults.append(Fault("GET", path, 302, headers={"Location": f"{other.url}/stolen"}))
        with pytest.raises(GitError, match="has moved"):
            run(of(house).compare("main", "nb/ahead"))
        assert not other.calls

        # The control: a client that follows brings something there.
        import urllib.request

        house.faults.append(Fault("GET", path, 302, headers={"Location": f"{other.url}/stolen"}))
        asked = urllib.request.Request(f"{house.url}{path}", headers={"Authorization": f"Bearer {TOKEN}"})
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(asked, timeout=30)
        assert other.calls[0][2] == f"Bearer {TOKEN}"


def test_a_login_is_for_its_server_and_encrypted_only(house: ForgeHouse) -> None:
    login = Login("x", TOKEN, "the test", server_of("https://elsewhere.example"))
    with pytest.raises(GitError, match=r"login of elsewhere\.example is not for"):
        forge_of(project(house), login)
    bare = project_of("http://git.example.org/a/b", house.kind)
    assert bare is not None
    with pytest.raises(GitError, match="unencrypted"):
        forge_of(bare, Login("x", TOKEN, "the test", bare.server))


def test_hostile_answers(house: ForgeHouse) -> None:
    forge = of(house)
    house.faults.append(Fault("GET", "/compare", 200, {"ahead_by": "2", "commits": "many"}))
    with pytest.raises(GitError, match="answered without") as caught:
        run(forge.compare("main", "nb/ahead"))
    assert caught.value.code == "FORGE_FAILED"
    house.faults.append(Fault("GET", "/compare", 422, {"message": "\x1b]0;x\x07<script>" + "a" * 9000}))
    with pytest.raises(GitError) as caught:
        run(forge.compare("main", "nb/ahead"))
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 500
    for nonsense in ([{"head": None, "base": "main"}, 7], {"message": "x"}, "x", None):
        house.faults.append(
            Fault("GET", "/pulls" if house.kind == "github" else "/merge_requests", 200, nonsense)
        )
        assert run(forge.find_request("nb/ahead", "main")) is None
        house.faults.append(Fault("GET", "", 200, nonsense))
        with pytest.raises(GitError, match="does not say which branch"):
            run(forge.default_branch())
    page = {"html_url": "https://elsewhere.example/x", "web_url": "javascript:alert(1)"}
    made = {"number": 3, "iid": 3, "title": "t\x1b[2J", **page}
    house.faults.append(Fault("POST", "", 201, made))
    request = run(forge.open_request("nb/ahead", "main", "Two files"))
    assert request.url.startswith(f"{house.url}/{PATH}/") and "\x1b" not in request.title
    house.faults.append(Fault("GET", "/compare", 200, "x" * (forge_answers.ANSWER_LIMIT + 1)))
    with pytest.raises(GitError, match="more than 4 MiB"):
        run(forge.compare("main", "nb/ahead"))


def test_no_token_in_what_is_shown(house: ForgeHouse) -> None:
    forge = of(house)
    assert TOKEN not in repr(forge._login) and TOKEN not in repr(vars(forge))
