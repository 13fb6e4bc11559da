"""The calls of GitHub and of GitLab: what differs between the two."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import quote

from daytona_magics.errors import SandboxUsageError
from daytona_magics.git.forge_answers import count, rows, sha_of
from daytona_magics.git.forges import Compared, Forge, Merged, Request
from daytona_magics.git.logins import Login
from daytona_magics.git.projects import Project

#: Seconds for GitLab to look at a new request.
READY_WITHIN = 30.0


class GitHub(Forge):
    """GitHub, and GitHub Enterprise (``/api/v3``)."""

    name, sign, noun = "GitHub", "#", "pull request"
    number_field, page_field, page_path = "number", "html_url", "pull"

    def _headers(self, login: Login | None) -> dict[str, str]:
        headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
        if login is not None:
            headers["Authorization"] = f"Bearer {login.password}"
        return headers

    async def compare(self, base: str, head: str) -> Compared:
        value = await self._ask("GET", f"/compare/{quote(base, safe='')}...{quote(head, safe='')}")
        ahead, behind = count(value, "ahead_by"), count(value, "behind_by")
        if ahead is None:
            raise self._nonsense("a count of commits")
        return Compared(ahead, behind, self.project.compare_page(base, head))

    async def find_request(self, head: str, base: str) -> Request | None:
        owner = self.project.path.partition("/")[0]
        fields = {"state": "open", "head": f"{owner}:{head}", "base": base, "per_page": "10"}
        for one in rows(await self._ask("GET", "/pulls", fields)):
            if [_ref(one.get(end)) for end in ("head", "base")] == [head, base]:
                return self._request(one, head, base)
        return None

    async def _create_request(self, head: str, base: str, title: str, body: str, draft: bool) -> Request:
        fields = {"title": title, "body": body, "head": head, "base": base, "draft": draft}
        return self._request(await self._ask("POST", "/pulls", fields), head, base)

    async def merge_request(self, request: Request, method: str, sha: str) -> Merged:
        fields = {"merge_method": method, **({"sha": sha} if sha else {})}
        value = await self._ask("PUT", f"/pulls/{request.number}/merge", fields)
        if not isinstance(value, dict) or value.get("merged") is not True:
            raise self._nonsense("saying that it merged")
        return Merged(sha_of(value.get("sha")), request)

    async def merge_branch(self, head: str, base: str, message: str, sha: str) -> Merged:
        # A commit can be merged like a branch: exactly what was looked at, whoever pushes meanwhile.
        fields = {"base": base, "head": sha or head, "commit_message": message}
        answer = await self._call("POST", "/merges", fields)
        if answer.status == 204:
            return Merged(already=True)
        if not isinstance(answer.value, dict):
            raise self._nonsense("saying that it merged")
        return Merged(sha_of(answer.value.get("sha")))


class GitLab(Forge):
    """GitLab, gitlab.com or one's own."""

    name, sign, noun = "GitLab", "!", "merge request"
    number_field, page_field, page_path = "iid", "web_url", "-/merge_requests"

    def _headers(self, login: Login | None) -> dict[str, str]:
        # Personal and project tokens and those of `glab auth login` are all taken like this.
        return {"Authorization": f"Bearer {login.password}"} if login is not None else {}

    async def compare(self, base: str, head: str) -> Compared:
        value = await self._ask("GET", "/repository/compare", {"from": base, "to": head})
        commits = value.get("commits") if isinstance(value, dict) else None
        if not isinstance(commits, list):
            raise self._nonsense("the commits")
        return Compared(len(commits), None, self.project.compare_page(base, head))

    async def find_request(self, head: str, base: str) -> Request | None:
        fields = {"state": "opened", "source_branch": head, "target_branch": base, "per_page": "10"}
        for one in rows(await self._ask("GET", "/merge_requests", fields)):
            own = one.get("source_project_id") == one.get("target_project_id")
            if one.get("source_branch") == head and one.get("target_branch") == base and own:
                return self._request(one, head, base)
        return None

    async def _create_request(self, head: str, base: str, title: str, body: str, draft: bool) -> Request:
        fields = {
            "title": f"Draft: {title}" if draft else title,
            "description": body,
            "source_branch": head,
            "target_branch": base,
        }
        return self._request(await self._ask("POST", "/merge_requests", fields), head, base)

    async def merge_request(self, request: Request, method: str, sha: str) -> Merged:
        if method == "rebase":
            raise SandboxUsageError(
                "GitLab merges as the project's settings say, or with squash; it has no rebase to ask for"
            )
        fields = {"squash": method == "squash", **({"sha": sha} if sha else {})}
        await self._looked_at(request)
        value = await self._ask("PUT", f"/merge_requests/{request.number}/merge", fields)
        if not isinstance(value, dict) or value.get("state") not in ("merged", "locked"):
            raise self._nonsense("saying that it merged")
        return Merged(sha_of(value.get("merge_commit_sha") or value.get("squash_commit_sha")), request)

    async def merge_branch(self, head: str, base: str, message: str, sha: str) -> Merged:
        if (await self.compare(base, head)).ahead == 0:
            return Merged(already=True)
        # GitLab merges by requests only.
        request = await self.open_request(head, base, message.partition("\n")[0])
        return await self.merge_request(request, "merge", sha)

    async def _looked_at(self, request: Request) -> None:
        """Wait until GitLab has looked whether it can merge a request; before that it refuses."""
        until = time.monotonic() + READY_WITHIN
        while time.monotonic() < until:
            value = await self._ask("GET", f"/merge_requests/{request.number}")
            state = value.get("detailed_merge_status") if isinstance(value, dict) else None
            if state not in ("unchecked", "checking", "preparing", "approvals_syncing"):
                return
            await asyncio.sleep(0.5)


def _ref(end: Any) -> Any:
    """The branch at one end of a pull request."""
    return end.get("ref") if isinstance(end, dict) else None


def forge_of(project: Project, login: Login | None) -> Forge:
    """The forge a project is on."""
    return {"github": GitHub, "gitlab": GitLab}[project.kind](project, login)
