"""What kind of project a folder of the sandbox holds, and how such a project is served.

A look from inside says which of the files asked for there are, which scripts and packages a ``package.json``
names, and which framework a Python program imports. Of what comes back only words that are expected here
count; the command is made on this side. Nothing of the project is run by looking, and nothing is remembered:
one look is one request, and a project may have become another one.
"""

from __future__ import annotations

import json
import posixpath
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daytona_magics.errors import SandboxError, SandboxUsageError
from daytona_magics.sandboxes import files, worktree
from daytona_magics.sandboxes.report import Silent

if TYPE_CHECKING:
    from daytona_magics.sandboxes.binding import Binding
    from daytona_magics.sandboxes.report import Reporter

#: Seconds a look may take.
WITHIN = 20.0
#: The script of a package.json that is run: the first there is.
_SCRIPTS = ("dev", "start", "serve", "preview")
#: Packages that say on which port a script listens, and whether it wants to be told by an option; the others
#: take the variable PORT.
_PACKAGES = {
    "vite": (5173, True),
    "@sveltejs/kit": (5173, True),
    "astro": (4321, True),
    "@angular/cli": (4200, True),
    "parcel": (1234, True),
    "gatsby": (8000, True),
    "next": (3000, False),
    "nuxt": (3000, False),
    "react-scripts": (3000, False),
}
#: Package managers by their lock file; npm is the rule.
_LOCKS = {"pnpm-lock.yaml": "pnpm", "yarn.lock": "yarn", "bun.lock": "bun", "bun.lockb": "bun"}
_PROGRAMS = ("streamlit_app.py", "main.py", "app.py", "server.py", "api.py", "wsgi.py")
#: Ports of Python's frameworks, in the order they are looked for in a program.
_FRAMEWORKS = {"streamlit": 8501, "gradio": 7860, "dash": 8050, "fastapi": 8000, "flask": 5000}
_PAGES = ("index.html", "public/index.html", "dist/index.html", "build/index.html", "site/index.html")

_PROBE = """
import json, os, re, sys
wanted, programs, frameworks = json.loads(sys.argv[1])
try:
    os.chdir(os.path.expanduser(sys.argv[2]))
except OSError:
    print("null")
    sys.exit()
said = {"files": list(filter(os.path.isfile, wanted)), "scripts": [], "packages": [], "programs": []}
made = r"^(\\w+)[ \\t]*(?::[^=\\n]+)?=[ \\t]*(?:\\w+\\.)?(?:FastAPI|Flask)\\("
try:
    told = json.loads(open("package.json", encoding="utf-8").read(1 << 20))
    said["scripts"] = sorted(told.get("scripts") or {})[:200]
    for key in ("dependencies", "devDependencies"):
        said["packages"] += sorted(told.get(key) or {})[:1000]
except (OSError, ValueError, AttributeError, TypeError):
    pass
for name in programs:
    try:
        text = open(name, encoding="utf-8", errors="replace").read(1 << 16)
    except OSError:
        continue
    for kind in frameworks:
        if re.search(r"^[ \\t]*(?:from|import)[ \\t]+%s\\b" % kind, text, re.M):
            variable = re.search(made, text, re.M)
            said["programs"].append([name, kind, variable.group(1) if variable else ""])
            break
print(json.dumps(said))
"""


@dataclass(frozen=True)
class Project:
    """How a project is served.

    Attributes:
        kind: in a few words.
        command: for a shell, in the project's folder.
        port: the one it listens on then.
    """

    kind: str
    command: str
    port: int


async def look(binding: Binding, tell: Reporter, cwd: str | None, port: int | None = None) -> Project:
    """Find out how the project in a folder is served.

    Args:
        cwd: the folder, by itself or below the one the notebook's cells are in; None for that one.
        port: to listen on; None for what such projects usually take.

    Raises:
        SandboxUsageError: it is no project of a known kind.
        SandboxError: there is no such folder, or no Python in the sandbox.
    """
    channel = await binding.ready(tell)
    here = await worktree.folder(channel, binding)
    folder = cwd if cwd is not None and cwd.startswith("~") else posixpath.join(here, cwd or "")
    tell.progress(f"looking what kind of project {folder} is")
    wanted = [["package.json", "manage.py", *_LOCKS, *_PAGES], _PROGRAMS, list(_FRAMEWORKS)]
    command = shlex.join(["python3", "-I", "-c", _PROBE, json.dumps(wanted), folder])
    code, text = await files.execute(binding, Silent(), command, cwd=None, env={}, timeout=WITHIN)
    try:
        said = json.loads(text.strip().splitlines()[-1])
        if said is None:
            raise SandboxUsageError(f"there is no folder {folder!r} in the sandbox")
        found = told(said, port)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise SandboxError(
            f"the sandbox does not say what is in {folder} (exit code {code})", hint="It needs python3 there."
        ) from None
    if found is None:
        raise SandboxUsageError(
            f"no command, and {folder} is no project that is known: there is no package.json with a script"
            f" {', '.join(_SCRIPTS)}, no manage.py, no {', '.join(_PROGRAMS)} with one of"
            f" {', '.join(_FRAMEWORKS)}, no index.html",
            hint="%sandbox serve --port 3000 python -m http.server 3000,  or --cwd DIR",
        )
    return found


def told(said: Mapping[str, Any], port: int | None) -> Project | None:
    """The project that a look describes; None for none. Raises ValueError, KeyError or TypeError on nonsense.

    In:  told({"files": ["manage.py"], "scripts": [], "packages": [], "programs": []}, None)
    Out: Project('Django', 'python3 manage.py runserver 127.0.0.1:8000', 8000)
    """
    there, scripts, packages = set(said["files"]), set(said["scripts"]), set(said["packages"])
    script = next((one for one in _SCRIPTS if one in scripts), "")
    if script and "package.json" in there:
        return _node(there, script, packages, port)
    if "manage.py" in there:
        number = port or 8000
        return Project("Django", f"python3 manage.py runserver 127.0.0.1:{number}", number)
    for name, kind, variable in sorted(said["programs"], key=lambda one: _PROGRAMS.index(one[0])):
        if type(variable) is not str or (variable and not variable.isidentifier()):
            raise ValueError("no name of a variable")
        made = _python(name, kind, variable or "app", port or _FRAMEWORKS[kind])
        return Project(f"{kind} program {name}", made, port or _FRAMEWORKS[kind])
    page = next((one for one in _PAGES if one in there), "")
    if page:
        number, folder = port or 8000, posixpath.dirname(page) or "."
        serve = f"python3 -m http.server {number} --bind 127.0.0.1 --directory {folder}"
        return Project(f"page {page}", serve, number)
    return None


def _node(there: set[str], script: str, packages: set[str], port: int | None) -> Project:
    tool = next((tool for lock, tool in _LOCKS.items() if lock in there), "npm")
    known = next((name for name in _PACKAGES if name in packages), "")
    usual, option = _PACKAGES.get(known, (3000, False))
    number = port or usual
    more = ("" if tool != "npm" else " --") + f" --port {number}" if option else ""
    # The first time its packages are not there.
    command = f"{{ [ -d node_modules ] || {tool} install; }} && {tool} run {script}{more}"
    return Project(f"{known or 'Node'} project", command, number)


def _python(name: str, kind: str, variable: str, port: int) -> str:
    module = name.removesuffix(".py")
    return {
        "streamlit": f"python3 -m streamlit run {name} --server.port {port} --server.headless true",
        "gradio": f"GRADIO_SERVER_PORT={port} python3 {name}",
        "dash": f"python3 {name}",
        "fastapi": f"python3 -m uvicorn {module}:{variable} --port {port}",
        "flask": f"python3 -m flask --app {module}:{variable} run --port {port}",
    }[kind]
