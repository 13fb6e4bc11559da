"""A sandbox for tests of git: commands in it, repositories, and a git server on its own 127.0.0.1."""

from __future__ import annotations

import itertools
import json
import secrets
import shlex
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import daytona_toolbox_api_client as sync_models
import daytona_toolbox_api_client_async as async_models

from tests.engine_process import IsolatedEngine

#: Who commits in commands of the tests' own.
IDENTITY = "git config --global user.name Tester; git config --global user.email tester@example.org"
_numbers = itertools.count(1)


class GitBox:
    """A started sandbox.

    Attributes:
        git: its git, through the synchronous client.
        user, password: what the server wants to hear.
        url: the server's address, ``http://127.0.0.1:PORT``; ``other`` that of its second port.
    """

    def __init__(self, sandbox: Any, engine: IsolatedEngine) -> None:
        self.sandbox = sandbox
        self.git = sandbox.git
        self._engine = engine
        self.user, self.password = "ada", "pw-" + secrets.token_hex(12)
        self.url = self.other = ""
        self.sh(f"mkdir -p served; {IDENTITY}; git config --global init.defaultBranch main")

    def sh(self, command: str, cwd: str | None = None, code: int | None = 0) -> str:
        """What a shell command prints; it must end with ``code``, if there is one."""
        done = self.sandbox.process.exec(f"{{ {command}\n}} 2>&1", cwd=cwd)
        assert code is None or done.exit_code == code, f"{command}: {done.exit_code}\n{done.result}"
        return str(done.result).removesuffix("\n")

    def until(self, condition: str, what: str, cwd: str | None = None, seconds: int = 60) -> None:
        """Wait until a shell command succeeds; it is asked again and again inside, in one call."""
        command = f"for i in $(seq {seconds * 20}); do {condition} && exit 0; sleep .05; done; exit 1"
        done = self.sandbox.process.exec(f"{{ {command}\n}} 2>&1", cwd=cwd, timeout=seconds * 4)
        assert done.exit_code == 0, f"waited {seconds} s in vain until {what}\n{done.result}"

    def serve(self, certificate: bool = False) -> None:
        """Start the server."""
        program = Path(__file__).with_name("git_server.py").read_bytes()
        self.sandbox.fs.upload_file(program, "git_server.py")
        last = ""
        if certificate:
            name = "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
            self.sh(f"openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 2 {name}")
            self.sh("cat key cert > pem")
            last = "pem"
        # What a command reads is in no command line, so tests can look for the password in all of them.
        login = f"printf '%s\\n' {self.user} {self.password}"
        self.sh(f"{login} | setsid python3 git_server.py served {last} >server.log 2>&1 &")
        self.until("test -e served/ports", "the git server listens")
        first, second = self.sh("cat served/ports").split()
        self.url = f"http://127.0.0.1:{first}"
        self.other = f"{'https' if certificate else 'http'}://127.0.0.1:{second}"

    def repository(self, *commands: str) -> str:
        """A new repository with one commit of one file ``a``; ``commands`` follow in it. Its path."""
        name = f"repo{next(_numbers)}"
        first = f"git init -q {name}; cd {name}; echo one >a; git add a; git commit -q -m one"
        self.sh(" && ".join([first.replace("; ", " && "), *commands]))
        return name

    def served(self, *commands: str) -> str:
        """A repository on the server, made like ``repository``; its name."""
        name = self.repository(*commands)
        self.sh(f"git clone -q --bare {name} served/{name}.git; rm -rf {name}")
        return f"{name}.git"

    def clone(self, served: str, how: str = "private") -> str:
        """Clone a served repository by the API; its path."""
        path = f"clone{next(_numbers)}"
        self.git.clone(f"{self.url}/{how}/{served}", path, username=self.user, password=self.password)
        return path

    def commit_on_server(self, served: str, *commands: str) -> None:
        """Commit to a served repository behind everybody's back."""
        made = " && ".join(commands)
        self.sh(f"rm -rf work; git clone -q served/{served} work && cd work && {made} && git push -q -f")

    def raw(self, method: str, path: str, body: Any = None, /, **query: str) -> tuple[int, Any]:
        """Status and JSON body (None if empty) of a request to ``/git/PATH``, without the SDK."""
        url = f"{self._engine.url}/toolbox/{self.sandbox.id}/git/{path}"
        if query:
            url += "?" + urllib.parse.urlencode(query)
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, method=method)
        request.add_header("Authorization", f"Bearer {self._engine.key}")
        request.add_header("Content-Type", "application/json")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def both(self, model: str, path: str, /, **query: str) -> Any:
        """What ``GET /git/PATH`` answers, by the model of the synchronous client.

        The asynchronous client's model must read the same, and neither may lose or add anything.
        """
        status, raw = self.raw("GET", path, **query)
        assert status == 200, raw
        listed = isinstance(raw, list)
        for entry in raw if listed else [raw]:
            one = getattr(sync_models, model).from_dict(entry)
            two = getattr(async_models, model).from_dict(entry)
            assert one.to_dict() == two.to_dict() == {k: v for k, v in entry.items() if v is not None}
            assert not one.additional_properties and not two.additional_properties
        read = [getattr(sync_models, model).from_dict(entry) for entry in (raw if listed else [raw])]
        return read if listed else read[0]

    def status(self, path: str) -> Any:
        """``GitStatus`` of a repository, read by both clients' models."""
        return self.both("GitStatus", "status", path=path)

    def files(self, path: str) -> dict[str, tuple[str, str]]:
        """Staging and worktree state of each file that is not as committed."""
        found = self.status(path).file_status
        return {entry.name: (entry.staging.value, entry.worktree.value) for entry in found}


def quote(text: str) -> str:
    """``text`` as one word of a shell command."""
    return shlex.quote(text)
