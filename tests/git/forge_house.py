"""A stand-in for GitHub's and GitLab's REST APIs, over a real bare repository.

It serves what their documentation describes of projects, comparing, requests and merging: paths, fields,
statuses and error bodies. Branches, commits and conflicts are those of the repository; a merge is made there
by git. Calls can be told to fail, before or after they did what they were asked.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

TOKEN = "s3cret-token-of-a-forge"
PATH = "ada/engine"


@dataclass
class Fault:
    """What happens to the next calls of a kind.

    Attributes:
        method, part: which calls: of this method, with this in their path.
        status: answered instead; 0: the connection breaks.
        after: only when the call has done what it was asked.
        times: so many of them.
    """

    method: str
    part: str
    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False
    times: int = 1


class Refused(Exception):
    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status)
        self.status, self.body = status, body


class ForgeHouse:
    """One project of one forge.

    Args:
        kind: "github" or "gitlab".
        repository: bare.

    Attributes:
        url: ``http://127.0.0.1:PORT``; the API is where an Enterprise server has it.
        calls: (method, path, Authorization) of every call.
        faults: of the calls to come.
        held: calls with the token are not answered as long as it is set.
        checking: how many times GitLab says that it is still looking whether a request can be merged.
    """

    def __init__(self, kind: str, repository: Path) -> None:
        self.kind, self.repository = kind, repository
        self.calls: list[tuple[str, str, str]] = []
        self.faults: list[Fault] = []
        self.requests: dict[int, dict[str, Any]] = {}
        self.checking, self.held = 0, False
        self.url = ""

    # -- git -----------------------------------------------------------------------------------------------

    def git(self, *words: str, check: bool = True, **env: str) -> str:
        done = subprocess.run(
            ["git", "-c", "user.name=Forge", "-c", "user.email=forge@example.org", *words],
            cwd=self.repository,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise Refused(404, {"message": "Not Found"})
        return done.stdout.strip() if done.returncode == 0 else ""

    def tip(self, name: str) -> str:
        return self.git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")

    def count(self, base: str, head: str) -> int:
        return int(self.git("rev-list", "--count", f"{base}..{head}"))

    def merge(self, base: str, head: str, message: str) -> str:
        """The merge commit; Refused when there is a conflict."""
        tree = self.git("merge-tree", "--write-tree", base, head, check=False).partition("\n")[0]
        if not tree:
            raise Refused(409, {"message": "Merge conflict"})
        sha = self.git("commit-tree", tree, "-p", self.tip(base), "-p", self.tip(head), "-m", message)
        self.git("update-ref", f"refs/heads/{base}", sha)
        return sha

    # -- the server ----------------------------------------------------------------------------------------

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        authorization = request.headers.get("Authorization", "")
        self.calls.append((request.method, path, authorization))
        while self.held and TOKEN in authorization:
            await asyncio.sleep(0.02)
        fault = next((f for f in self.faults if f.method == request.method and f.part in path), None)
        if fault is not None:
            fault.times -= 1
            if not fault.times:
                self.faults.remove(fault)
            if not fault.after:
                return self._fail(request, fault)
        answer = await self._answer(request, path)
        return self._fail(request, fault) if fault is not None else answer

    def _fail(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        if not fault.status:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(fault.body, status=fault.status or 500, headers=fault.headers)

    async def _answer(self, request: web.Request, path: str) -> web.StreamResponse:
        prefix = f"/api/v3/repos/{PATH}" if self.kind == "github" else "/api/v4/projects/ada%2Fengine"
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"message": "Bad credentials"}, status=401)
        if not (path == prefix or path.startswith(prefix + "/")):
            return web.json_response({"message": "Not Found"}, status=404)
        fields = json.loads(await request.text() or "{}") if request.method != "GET" else dict(request.query)
        serve = self._github if self.kind == "github" else self._gitlab
        try:
            status, value = serve(request.method, path.removeprefix(prefix).strip("/").split("/"), fields)
        except Refused as refused:
            return web.json_response(refused.body, status=refused.status)
        return web.json_response(value, status=status) if status != 204 else web.Response(status=204)

    # -- GitHub --------------------------------------------------------------------------------------------

    def _github(self, method: str, words: list[str], fields: dict[str, Any]) -> tuple[int, Any]:
        from urllib.parse import unquote

        match method, *words:
            case "GET", "":
                return 200, {"default_branch": self.git("symbolic-ref", "--short", "HEAD")}
            case "GET", "compare", pair:
                base, _, head = unquote(pair).partition("...")
                return 200, {"ahead_by": self.count(base, head), "behind_by": self.count(head, base)}
            case "GET", "pulls":
                owner, _, head = fields["head"].partition(":")
                assert owner == "ada"
                wanted = {"state": "open", "head": head, "base": fields["base"]}
                return 200, [
                    self._pull(one) for one in self.requests.values() if wanted.items() <= one.items()
                ]
            case "POST", "pulls":
                return 201, self._pull(self._open(fields["head"], fields["base"], fields, 422))
            case "PUT", "pulls", number, "merge":
                return 200, {"merged": True, "sha": self._merge_request(int(number), fields.get("sha", ""))}
            case "POST", "merges":
                if not self.count(fields["base"], fields["head"]):
                    return 204, None
                return 201, {"sha": self.merge(fields["base"], fields["head"], fields["commit_message"])}
        raise Refused(404, {"message": "Not Found"})

    def _pull(self, one: dict[str, Any]) -> dict[str, Any]:
        return {
            "number": one["number"],
            "title": one["title"],
            "draft": one["draft"],
            "html_url": f"{self.url}/{PATH}/pull/{one['number']}",
            "head": {"ref": one["head"]},
            "base": {"ref": one["base"]},
        }

    def _open(self, head: str, base: str, fields: dict[str, Any], exists: int) -> dict[str, Any]:
        if not self.tip(head) or not self.tip(base):
            errors = [{"resource": "PullRequest", "field": "head", "code": "invalid"}]
            raise Refused(422, {"message": "Validation Failed", "errors": errors})
        if any(
            (one["head"], one["base"], one["state"]) == (head, base, "open") for one in self.requests.values()
        ):
            text = f"A pull request already exists for ada:{head}."
            raise Refused(exists, {"message": "Validation Failed", "errors": [{"message": text}]})
        if not self.count(base, head):
            text = f"No commits between {base} and {head}"
            raise Refused(422, {"message": "Validation Failed", "errors": [{"message": text}]})
        number = len(self.requests) + 1
        title, draft = fields["title"], bool(fields.get("draft"))
        if title.startswith("Draft: "):
            title, draft = title.removeprefix("Draft: "), True
        body = fields.get("body", fields.get("description", ""))
        self.requests[number] = {
            **{"number": number, "title": title, "body": body, "head": head, "base": base},
            **{"draft": draft, "state": "open"},
        }
        return self.requests[number]

    def _merge_request(self, number: int, sha: str) -> str:
        one = self.requests.get(number)
        if one is None:
            raise Refused(404, {"message": "404 Not found"})
        if one["draft"] or one["state"] != "open":
            raise Refused(405, {"message": "405 Method Not Allowed"})
        if sha and sha != self.tip(one["head"]):
            raise Refused(409, {"message": "Head branch was modified. Review and try the merge again."})
        try:
            merged = self.merge(one["base"], one["head"], f"Merge #{number}")
        except Refused:
            raise Refused(405, {"message": "Pull Request is not mergeable"}) from None
        one["state"] = "merged"
        return merged

    # -- GitLab --------------------------------------------------------------------------------------------

    def _gitlab(self, method: str, words: list[str], fields: dict[str, Any]) -> tuple[int, Any]:
        match method, *words:
            case "GET", "":
                return 200, {"default_branch": self.git("symbolic-ref", "--short", "HEAD")}
            case "GET", "repository", "compare":
                shas = self.git("rev-list", f"{fields['from']}..{fields['to']}").split()
                return 200, {"commits": [{"id": sha} for sha in shas]}
            case "GET", "merge_requests":
                wanted = {"state": "open", "head": fields["source_branch"], "base": fields["target_branch"]}
                assert fields["state"] == "opened"
                return 200, [
                    self._lab(one) for one in self.requests.values() if wanted.items() <= one.items()
                ]
            case "POST", "merge_requests":
                try:
                    one = self._open(fields["source_branch"], fields["target_branch"], fields, 409)
                except Refused as refused:
                    if refused.status == 409:
                        text = ["Another open merge request already exists for this source branch: !1"]
                        raise Refused(409, {"message": text}) from None
                    raise
                return 201, self._lab(one)
            case "GET", "merge_requests", number:
                self.checking -= 1
                status = "checking" if self.checking >= 0 else "mergeable"
                return 200, {**self._lab(self.requests[int(number)]), "detailed_merge_status": status}
            case "PUT", "merge_requests", number, "merge":
                if self.checking > 0:
                    raise Refused(405, {"message": "405 Method Not Allowed"})
                try:
                    sha = self._merge_request(int(number), fields.get("sha", ""))
                except Refused as refused:
                    if refused.status == 405 and not self.requests[int(number)]["draft"]:
                        raise Refused(422, {"message": "Branch cannot be merged"}) from None
                    raise
                return 200, {
                    **self._lab(self.requests[int(number)]),
                    "state": "merged",
                    "merge_commit_sha": sha,
                }
        raise Refused(404, {"error": "404 Not Found"})

    def _lab(self, one: dict[str, Any]) -> dict[str, Any]:
        return {
            "iid": one["number"],
            "title": one["title"],
            "draft": one["draft"],
            "web_url": f"{self.url}/{PATH}/-/merge_requests/{one['number']}",
            "source_branch": one["head"],
            "target_branch": one["base"],
            "source_project_id": 7,
            "target_project_id": 7,
        }


@contextmanager
def forge_house(kind: str, repository: Path) -> Iterator[ForgeHouse]:
    """The stand-in, on a thread of its own, on a free port of 127.0.0.1."""
    house = ForgeHouse(kind, repository)
    loop, ready = asyncio.new_event_loop(), threading.Event()
    stop = asyncio.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", house.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        house.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield house
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()
