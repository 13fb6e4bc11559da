"""Which project of GitHub or GitLab a remote belongs to, and the pages it has there.

Nothing is asked of anybody: all of it follows from the address.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import quote, urlencode, urlsplit

from daytona_magics.git.host import over_https
from daytona_magics.git.logins import Server, server_of

KINDS = ("github", "gitlab")

_PATH = re.compile(r"^[\w.~+-]+(?:/[\w.~+-]+)+$")


@dataclass(frozen=True)
class Project:
    """A repository on a forge.

    Attributes:
        kind: ``"github"`` or ``"gitlab"``.
        server: where it is.
        path: ``"owner/name"``; groups of GitLab may be nested.
    """

    kind: str
    server: Server
    path: str

    @property
    def web(self) -> str:
        """Its page, e.g. ``https://github.com/octocat/Hello-World``."""
        return f"{self.server.scheme}://{self.server.host}/{self.path}"

    @property
    def api(self) -> str:
        """Where the API has it."""
        origin = f"{self.server.scheme}://{self.server.host}"
        if self.kind == "gitlab":
            return f"{origin}/api/v4/projects/{quote(self.path, safe='')}"
        if self.server == Server("https", "github.com"):
            return f"https://api.github.com/repos/{self.path}"
        return f"{origin}/api/v3/repos/{self.path}"

    def branch_page(self, branch: str) -> str:
        """The page of a branch."""
        return f"{self.web}{'/-' if self.kind == 'gitlab' else ''}/tree/{quote(branch)}"

    def compare_page(self, base: str, head: str) -> str:
        """The page that compares two branches.

        In:  project_of("git@github.com:octocat/spoon.git").compare_page("main", "nb/a")
        Out: 'https://github.com/octocat/spoon/compare/main...nb/a'
        """
        return f"{self.web}{'/-' if self.kind == 'gitlab' else ''}/compare/{quote(base)}...{quote(head)}"

    def new_request_page(self, base: str, head: str) -> str:
        """The page with the form for a request; for a person without a login for the API."""
        if self.kind == "github":
            return f"{self.compare_page(base, head)}?expand=1"
        fields = {"merge_request[source_branch]": head, "merge_request[target_branch]": base}
        return f"{self.web}/-/merge_requests/new?{urlencode(fields)}"


def project_of(url: str, kind: str = "") -> Project | None:
    """The project that a remote's address belongs to; None where that is no forge we know.

    Args:
        url: http(s) or ssh, as git takes it.
        kind: ``"github"`` or ``"gitlab"``; default: by the name of the host, GH_HOST and GITLAB_HOST.

    In:  project_of("git@gitlab.com:group/sub/project.git").path
    Out: 'group/sub/project'
    """
    address = over_https(url) or url
    server = server_of(address)
    if server is None:
        return None
    path = urlsplit(address).path.strip("/").removesuffix(".git")
    kind = kind or _kind_of(server)
    if kind not in KINDS or not _PATH.match(path) or ".." in path.split("/"):
        return None
    if kind == "github" and path.count("/") != 1:
        return None
    return Project(kind, server, path)


def _kind_of(server: Server) -> str:
    labels = server.name.lower().split(".")
    for kind, variable in (("github", "GH_HOST"), ("gitlab", "GITLAB_HOST")):
        named = os.environ.get(variable, "").strip().lower()
        named = named.partition("://")[2] or named
        if kind in labels or (named and named.rstrip("/") in (server.host.lower(), server.name.lower())):
            return kind
    return ""
