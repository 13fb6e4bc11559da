"""GitHub and GitLab, as far as a branch needs them: comparing, requests to merge it, and merging it.

All of it is a few calls of their documented REST APIs, from this machine, with a login of this machine; the
sandbox knows nothing of them. What the two call differently has one name here: a *request* is a pull request
of GitHub and a merge request of GitLab.

The login goes to the forge's own API address and nowhere else: redirects are not followed, and plain http is
for loopback only. What a forge answers is bounded and checked before it is used (:mod:`.forge_answers`).

**Nothing twice.** Questions are asked again when the forge is unwell (5xx, a broken connection), with pauses.
A change is never simply sent again: after a failure whose outcome nobody knows, the forge is asked what is
there now, and what is there already counts as done.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import aiohttp

from daytona_magics.errors import GitError, SandboxUsageError, printable
from daytona_magics.git import forge_answers as answers
from daytona_magics.git.forge_answers import Answer
from daytona_magics.git.logins import Login, check, server_of
from daytona_magics.git.projects import Project
from daytona_magics.runtime.proxies import through

#: Seconds one call may take; of pauses between tries of a question.
WITHIN, PAUSES = 30.0, (0.5, 2.0)
#: Ways to merge a request.
METHODS = ("merge", "squash", "rebase")


@dataclass(frozen=True)
class Request:
    """A pull request (GitHub) or merge request (GitLab).

    Attributes:
        number: what people call it by: #7 or !7.
        existed: it was there before it was asked for.
    """

    number: int
    url: str
    title: str
    base: str
    head: str
    draft: bool = False
    existed: bool = False


@dataclass(frozen=True)
class Merged:
    """A branch is in its base now.

    Attributes:
        sha: the commit; "" where the forge does not say.
        request: the request it was merged by, if there was one.
        already: there was nothing to merge.
    """

    sha: str = ""
    request: Request | None = None
    already: bool = False


@dataclass(frozen=True)
class Compared:
    """Two branches: how many commits each has that the other has not; None where the forge does not say."""

    ahead: int
    behind: int | None
    page: str


class _Unknown(Exception):
    """A change was sent, and nobody knows whether it was made."""


class Forge(abc.ABC):
    """The API of one project.

    Args:
        project: what it is about.
        login: of this machine, for the project's server; None to ask as nobody.

    Raises (every method):
        GitError: it was refused or failed; ``code`` says which: GIT_AUTH_FAILED (401), FORBIDDEN (403),
            RATE_LIMITED, GIT_REPO_NOT_FOUND (404), GIT_MERGE_CONFLICT (409), NOT_MERGEABLE (405), REFUSED
            (422), FORGE_FAILED (5xx, no connection, an answer that makes no sense), UNKNOWN_OUTCOME.

    In:  forge = forge_of(project, login); await forge.open_request("nb/a", "main", "My work")
    Out: Request(number=7, url='https://github.com/octocat/spoon/pull/7', ...)
    """

    name: ClassVar[str]
    #: What people write before a request's number, and what they call it.
    sign: ClassVar[str]
    noun: ClassVar[str]
    #: Where an answer has a request's number and its page, and how the page's address goes on before it.
    number_field: ClassVar[str]
    page_field: ClassVar[str]
    page_path: ClassVar[str]

    def __init__(self, project: Project, login: Login | None) -> None:
        self.project, self._login = project, login
        if login is not None:
            check(project.server)
            if login.server is not None and login.server != project.server:
                raise GitError(
                    f"the login of {login.server} is not for {project.server}", code="GIT_AUTH_FAILED"
                )

    # -- what both can do ----------------------------------------------------------------------------------

    async def default_branch(self) -> str:
        """The branch that work goes into when nothing else is said."""
        value = await self._ask("GET", "")
        return answers.branch_of(value.get("default_branch") if isinstance(value, dict) else None)

    @abc.abstractmethod
    async def compare(self, base: str, head: str) -> Compared:
        """How far two branches are from each other."""

    @abc.abstractmethod
    async def find_request(self, head: str, base: str) -> Request | None:
        """The open request for a branch."""

    @abc.abstractmethod
    async def _create_request(self, head: str, base: str, title: str, body: str, draft: bool) -> Request: ...

    @abc.abstractmethod
    async def merge_request(self, request: Request, method: str, sha: str) -> Merged:
        """Merge a request.

        Args:
            method: one of METHODS.
            sha: the commit the branch must be at, so that nothing is merged that was not looked at.
        """

    @abc.abstractmethod
    async def merge_branch(self, head: str, base: str, message: str, sha: str) -> Merged:
        """Merge a branch for which there is no request yet."""

    async def open_request(
        self, head: str, base: str, title: str, body: str = "", draft: bool = False
    ) -> Request:
        """Open a request for a branch, or find the one that is open already."""
        if (found := await self.find_request(head, base)) is not None:
            return replace(found, existed=True)
        try:
            return await self._create_request(head, base, title, body, draft)
        except (_Unknown, GitError) as error:
            if isinstance(error, GitError) and error.code not in ("REFUSED", "GIT_MERGE_CONFLICT"):
                raise
            # It may have been made all the same, or somebody else was faster.
            if (found := await self.find_request(head, base)) is not None:
                return replace(found, existed=not isinstance(error, _Unknown))
            raise self._failed(error, f"open a {self.noun}") from None

    async def merge(
        self, head: str, base: str, *, method: str = "merge", message: str = "", sha: str = ""
    ) -> Merged:
        """Bring a branch into its base: by its request where one is open, else directly.

        Raises:
            SandboxUsageError: there is no such method.
        """
        if method not in METHODS:
            raise SandboxUsageError(f"method {method!r}: choose from {', '.join(METHODS)}")
        request = await self.find_request(head, base)
        if request is None and method != "merge":
            raise SandboxUsageError(f"{method} needs a {self.noun}, and there is none for {head}")
        try:
            if request is not None:
                return await self.merge_request(request, method, sha)
            return await self.merge_branch(head, base, message or f"Merge {head} into {base}", sha)
        except (_Unknown, GitError) as error:
            # aiohttp itself sends a PUT again when a connection broke: this may be what the second one got.
            refusals = ("NOT_MERGEABLE", "GIT_MERGE_CONFLICT", "REFUSED")
            unclear = isinstance(error, _Unknown) or error.code in refusals
            if unclear and (await self.compare(base, head)).ahead == 0:
                return Merged(request=request)
            raise self._failed(error, "merge") from None

    # -- calls ---------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _headers(self, login: Login | None) -> dict[str, str]: ...

    async def _ask(self, method: str, path: str, fields: Mapping[str, Any] | None = None) -> Any:
        """One call; its value. Changes raise _Unknown when their outcome is not known."""
        return (await self._call(method, path, fields)).value

    async def _call(self, method: str, path: str, fields: Mapping[str, Any] | None = None) -> Answer:
        question = method == "GET"
        for pause in (*PAUSES, None) if question else (None,):
            try:
                answer = await self._once(method, path, fields)
            except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
                # Nothing was sent.
                problem = GitError(f"{self.project.server} cannot be reached: {error}", code="FORGE_FAILED")
                if pause is None:
                    raise problem from None
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
                said = str(error) or f"no answer within {WITHIN:.0f} s"
                if not question:
                    raise _Unknown(f"the connection to {self.project.server} broke: {said}") from None
                if pause is None:
                    raise GitError(
                        f"the connection to {self.project.server} broke: {said}", code="FORGE_FAILED"
                    ) from None
            else:
                if answer.status < 500:
                    if answer.status >= 300:
                        raise self._refused(answer)
                    return answer
                if not question:
                    raise _Unknown(f"{self.name} is unwell ({answer.status}{answers.said(answer)})")
                if pause is None:
                    raise GitError(
                        f"{self.name} is unwell ({answer.status}{answers.said(answer)}); nothing was changed",
                        code="FORGE_FAILED",
                        hint="Try again in a while.",
                    )
            assert pause is not None
            await asyncio.sleep(pause)
        raise AssertionError("every try returns, raises or is followed by another")

    async def _once(self, method: str, path: str, fields: Mapping[str, Any] | None) -> Answer:
        given: dict[str, Any] = {"params" if method == "GET" else "json": dict(fields or {})}
        address = f"{self.project.api}{path}"
        given |= await through(address)
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=WITHIN), headers=self._headers(self._login)
        ) as session:
            async with session.request(method, address, allow_redirects=False, **given) as response:
                body = await answers.read(response)
                value = answers.parsed(response, body) if body else None
                return Answer(response.status, value, response.headers)

    # -- refusals ------------------------------------------------------------------------------------------

    def _refused(self, answer: Answer) -> GitError:
        status, said, where = answer.status, answers.said(answer), self.project
        source = f" with {self._login.source or 'this login'}" if self._login is not None else ""
        if status == 401:
            what = "does not accept this login" if self._login else "wants a login"
            return GitError(
                f"{self.name} {what}{source}{said}",
                code="GIT_AUTH_FAILED",
                hint="%sandbox_git credentials  shows which login is used for a host, and why.",
            )
        if status == 429 or (status == 403 and answer.headers.get("X-RateLimit-Remaining") == "0"):
            return GitError(
                f"{self.name} takes no more calls for now{answers.until(answer)}", code="RATE_LIMITED"
            )
        if status == 403:
            return GitError(
                f"{self.name} does not allow this{source}{said}",
                code="FORBIDDEN",
                hint=answers.sso(answer, where.server)
                or "The token may lack the right to write to this project.",
            )
        if status == 404:
            return GitError(
                f"{self.name} has no {where.path}, or not this branch of it, or hides it{source}{said}",
                code="GIT_REPO_NOT_FOUND",
                hint="A private project looks like none without a login:  %sandbox_git credentials",
            )
        if 300 <= status < 400:
            return GitError(
                f"{where.path} has moved; its remote's address is the old one",
                code="GIT_REPO_NOT_FOUND",
                hint="%sandbox_git remote  shows the address.",
            )
        codes = {405: "NOT_MERGEABLE", 406: "NOT_MERGEABLE", 409: "GIT_MERGE_CONFLICT"}
        return GitError(f"{self.name} refused ({status}{said})", code=codes.get(status, "REFUSED"))

    def _failed(self, error: BaseException, what: str) -> GitError:
        if isinstance(error, GitError):
            return error
        return GitError(
            f"{error}; whether it did {what} is not known, and nothing of it can be seen there",
            code="UNKNOWN_OUTCOME",
            hint=f"Look there, or try again: {self.project.web}",
        )

    def _nonsense(self, what: str) -> GitError:
        return GitError(f"{self.name} answered without {what}", code="FORGE_FAILED")

    def _request(self, value: Any, head: str, base: str) -> Request:
        """A request as an answer describes it."""
        number = answers.count(value, self.number_field)
        if not number:
            raise self._nonsense(f"the number of the {self.noun}")
        page = self._page(value.get(self.page_field), f"{self.project.web}/{self.page_path}/{number}")
        return Request(number, page, answers.title_of(value), base, head, value.get("draft") is True)

    def _page(self, value: Any, otherwise: str) -> str:
        """An address the forge gave, if it lies on the forge."""
        if isinstance(value, str) and server_of(value) == self.project.server and printable(value) == value:
            return value
        return otherwise
