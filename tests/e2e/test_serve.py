"""``%sandbox serve`` and the text form of ``preview``, in a real kernel with a real engine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from daytona_magics.sandboxes import projects
from tests.kernel_client import Kernel

pytestmark = pytest.mark.timeout(240)

#: Answers everything with one status, and says on which port and with what.
SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(sys.argv[1])); self.end_headers()
        self.wfile.write(b"<title>T&lt;b&gt;</title><p>" + os.environ.get("WORD", "none").encode() + b"</p>")
print("on", os.environ["PORT"], flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel() as made:
        made.run(f"%%sandbox -q\nwith open('server.py', 'w') as file: file.write({SERVER!r})")
        yield made


def test_any_http_answer_is_readiness_and_the_same_is_not_started_twice(kernel: Kernel) -> None:
    made = kernel.run("%sandbox serve --port 3500 --name api -e WORD=blue python3 server.py 500")
    assert made.status == "ok" and "answered  HTTP 500" in str(made.result), made
    job = re.search(r"job +([0-9a-f]{8})", str(made.result))
    assert job is not None
    again = kernel.run("%sandbox serve --port 3500 --name api -e WORD=blue python3 server.py 500")
    assert job[1] in str(again.result) and "running already" in str(again.result)
    other = kernel.run("%sandbox serve --port 3500 --name api python3 server.py 404")
    assert other.ename == "SandboxUsageError" and "--restart" in other.traceback, other
    clash = kernel.run("%sandbox serve --port 3501 --name api python3 server.py 404")
    assert clash.ename == "SandboxUsageError" and "api (port 3500)" in clash.traceback
    new = kernel.run('%sandbox serve "python3 server.py 404" --port 3500 --name api --restart')
    assert "answered  HTTP 404" in str(new.result) and job[1] not in str(new.result), new


def test_it_is_found_again_after_a_restart_and_ends_when_asked(kernel: Kernel) -> None:
    kernel.restart()
    listed = kernel.run("%sandbox serve --list")
    assert re.search(r"^api +3500 +running", str(listed.result), re.MULTILINE), listed
    again = kernel.run('%sandbox serve "python3 server.py 404" --port 3500 --name api')
    assert "running already" in str(again.result), again
    seen = kernel.run("%sandbox preview api --static")
    text = str(seen.result)
    assert "HTTP 404" in text and "none" in text and "\u202e" not in text, seen
    assert "T<b>" in text and "T<b>" not in str(seen.bundles("execute_result")[-1]["text/html"])
    ended = kernel.run("%sandbox serve --stop 3500")
    assert "has ended" in ended.notes, ended
    gone = kernel.run("%sandbox preview 3500 --static")
    assert "nothing answers on port 3500" in str(gone.result), gone
    assert "{PORT}" in str(kernel.run("%sandbox preview --pattern").result)
    assert kernel.run("%sandbox serve --stop nothing").ename == "SandboxUsageError"


def test_a_project_is_served_without_a_command(kernel: Kernel) -> None:
    kernel.run(
        "%%sandbox -q bash\nmkdir -p site/public && echo '<title>found</title>' > site/public/index.html"
    )
    made = kernel.run("%sandbox serve --cwd ~/site --port 3507")
    assert "page public/index.html: `python3 -m http.server 3507" in made.notes, made
    assert "answered  HTTP 200" in str(made.result)
    assert "found" in str(kernel.run("%sandbox preview 3507 --static").result)
    # The same is not started twice, also from inside the folder; another project there is another command.
    assert "running already" in str(kernel.run("%sandbox serve --cwd ~/site --port 3507").result)
    kernel.run("%%sandbox -q bash\ncp server.py site/manage.py")
    other = kernel.run("%sandbox serve --cwd ~/site --port 3507")
    assert "Django: `python3 manage.py runserver 127.0.0.1:3507`" in other.notes, other
    assert other.ename == "SandboxUsageError" and "--restart" in other.traceback
    kernel.run("%sandbox serve --stop 3507")


@pytest.mark.parametrize(
    ("said", "port", "command"),
    [
        ({"scripts": ["start", "dev"]}, None, "|| npm install; } && npm run dev"),
        ({"scripts": ["dev"], "packages": ["vite"]}, 4000, "npm run dev -- --port 4000"),
        (
            {"scripts": ["dev"], "packages": ["vite"], "files": ["yarn.lock"]},
            None,
            "yarn run dev --port 5173",
        ),
        ({"scripts": ["build"], "files": ["index.html"]}, None, "http.server 8000"),
        ({"programs": [["app.py", "flask", "web"]]}, None, "flask --app app:web run --port 5000"),
        ({"programs": [["main.py", "fastapi", ""]]}, None, "uvicorn main:app --port 8000"),
        ({"programs": [["app.py", "streamlit", ""]]}, 80, "streamlit run app.py --server.port 80 "),
        ({}, None, ""),
    ],
)
def test_kinds_of_projects(said: dict[str, list[Any]], port: int | None, command: str) -> None:
    whole = {"scripts": [], "packages": [], "programs": [], **said}
    found = projects.told({**whole, "files": ["package.json", *said.get("files", [])]}, port)
    assert command in found.command if found is not None else not command, found


@pytest.mark.parametrize(
    "programs",
    [[["x.py", "flask", "app"]], [["app.py", "sh", "a"]], [["app.py", "flask", "a; rm"]], [[1, 2]]],
)
def test_what_a_look_would_not_say_is_refused(programs: list[Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        projects.told({"files": [], "scripts": [], "packages": [], "programs": programs}, None)


def test_one_that_ends_says_how_with_its_last_lines(kernel: Kernel) -> None:
    made = kernel.run('%sandbox serve "echo first; echo last >&2; exit 7" --port 3502')
    assert made.ename == "SandboxError" and "exit code 7" in made.traceback, made
    assert "| first\n" in made.traceback and "| last" in made.traceback
    behind = kernel.run("%sandbox serve --port 3502 sh -c 'sleep 60 &'")
    assert "stays in the foreground" in behind.traceback, behind
    hostile = kernel.run("%sandbox serve --port 3502 \"printf '\\\\033]0;title\\\\007x\\\\n'; exit 1\"")
    assert hostile.status == "error" and "\x1b]" not in str(hostile.error["traceback"])


def test_one_that_does_not_answer_in_time_says_what_listens(kernel: Kernel) -> None:
    code = "import socket, time; s = socket.create_server(('127.0.0.1', 3504)); time.sleep(600)"
    made = kernel.run(f'%sandbox serve --port 3503 --timeout 1 python3 -c "{code}"')
    assert "no HTTP answer within 1 s" in made.traceback and "3504" in made.traceback, made
    # It listens on another port, which by that is not free: its name is said.
    taken = kernel.run("%sandbox serve --port 3504 python3 server.py 200")
    assert taken.ename == "SandboxUsageError" and "python3 -c" in taken.traceback, taken
    kernel.run("%sandbox serve --stop 3503")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("serve", "is no project that is known"),
        ("serve --cwd ~/nowhere", "there is no folder '~/nowhere'"),
        ("serve python3 app.py", "on which port"),
        ("serve --port 0 true", "from 1 to 65535"),
        ("serve --port 70000 true", "from 1 to 65535"),
        ("serve --port 3000 --name ../x true", "a name is a letter"),
        ("serve --list true", "each stand alone"),
        ("preview", "which port?"),
        ("preview --pattern 3000", "stands for every port"),
        ("preview 99999", "from 1 to 65535"),
        ("preview 3000 --path https://example.org/", "no path on the server"),
        ("preview 3000 --expires 5", "10 to 86400 seconds"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(kernel: Kernel, line: str, said: str) -> None:
    made = kernel.run(f"%sandbox {line}")
    assert made.ename in ("SandboxUsageError", "UsageError") and said in made.traceback, made


def test_a_port_that_an_output_names_is_offered(kernel: Kernel) -> None:
    said = "`%sandbox preview 5173` shows what it serves"
    cell = kernel.run("%%sandbox\nprint('  Local:  http://localhost:5173/'); print('http://127.0.0.1:5173')")
    assert cell.notes.count(said) == 1 and "`%sandbox serve COMMAND` runs it beside" in cell.notes, cell
    assert cell.stdout == "  Local:  http://localhost:5173/\nhttp://127.0.0.1:5173\n"
    for quiet in ("%%sandbox -q", "%%sandbox --out kept"):
        assert "preview" not in kernel.run(f"{quiet}\nprint('http://localhost:5173/')").notes
    # What the sandbox prints decides on a number, and on nothing else of the sentence.
    hostile = kernel.run(
        "%%sandbox bash\necho 'listening on port 70000'; echo 'http://localhost:81`<b>x</b>'"
    )
    assert hostile.notes.count("preview") == 1 and "%sandbox preview 81`" in hostile.notes, hostile
    assert "<b>" not in str(hostile.bundles("display_data")[-1])
    kernel.run("%%sandbox --bg bash\necho Listening on port 5174; sleep 600")
    watched = "import time\njob = _\nwhile 'preview 5174' not in repr(job._card()): time.sleep(0.05)\njob.id"
    job = str(kernel.run(watched).result).strip("'")
    replayed = kernel.run(f"%sandbox logs --plain {job}").notes
    assert "preview 5174" in replayed and "keeps the notebook busy" not in replayed
    assert kernel.run(f"%sandbox cancel {job}").status == "ok"
