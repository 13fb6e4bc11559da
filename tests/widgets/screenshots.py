"""Pictures of every widget: ``python -m tests.widgets.screenshots OUT [--only NAME]``.

Each is drawn in JupyterLab's light and dark colours, 400 and 1400 pixels wide, empty, typical, huge and
failing, by the bundle as it is built, over a model that answers from here: no kernel, the same every time.
A widget is added by a function ``(bench, state, width)`` that draws it, and a line in ``WIDGETS``.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Route, expect

from daytona_magics.widgets.log_intake import Intake
from daytona_magics.widgets.log_query import Query
from daytona_magics.widgets.log_store import NOTE, STDERR, STDOUT, LogStore
from daytona_magics.widgets.log_view import View
from tests.browser import chromium
from tests.widgets import panel_states
from tests.widgets.page import Bench
from tests.widgets.test_preview_page import DOWN, OPENED, SEEN, TOKEN
from tests.widgets.test_terminal_view import TAB, Terminal

STATES = ("empty", "typical", "huge", "error")
WIDTHS = (400, 1400)
THEMES = Path(sys.prefix, "share", "jupyter", "lab", "themes", "@jupyterlab")
ERROR = {
    "state": "stopped",
    "name": "analysis-3f9a1c",
    "text": "The sandbox analysis-3f9a1c is stopped: files are kept, variables are lost.",
    "offer": "Start it",
}

Row = list[Any]


def _folder(name: str) -> Row:
    return [name, "dir", 4096, 1_760_000_000, "rwxr-xr-x", "", True]


def _file(name: str, size: int, modified: int = 1_760_000_000, target: str = "") -> Row:
    return [name, "link" if target else "file", size, modified, "rw-r--r--", target, True]


def _listing(path: str, rows: list[Row], total: int = 0, hidden: int = 0) -> dict[str, Any]:
    shown = {"path": path, "offset": 0, "rows": rows, "hidden": hidden, "more": False}
    return {**shown, "total": total or len(rows)}


def file_tree(bench: Bench, state: str, width: int) -> None:
    """The files of a project; of a folder of a hundred thousand; of none; of a sandbox that stopped."""
    path = "/home/daytona/project"
    rows = [
        *map(_folder, ("data", "notebooks", "src", "tests")),
        *(
            _file("README.md", 3_214),
            _file("analysis.ipynb", 181_442),
            _file("latest.csv", 24, target="data/9.csv"),
        ),
        *(
            _file("model.pt", 412_316_860),
            _file("pyproject.toml", 1_120),
            _file("results.parquet", 8_400_112),
        ),
    ]
    if state == "empty":
        rows = []
    elif state == "huge":
        rows = [
            _file(f"measurement-{at:06d}-of-a-rather-long-series-with-a-name.json", at) for at in range(200)
        ]
    bench.answers["list"] = _listing(path, rows, 100_000 if state == "huge" else 0, hidden=3)
    bench.answers["marks"] = {
        "branch": "main" if rows else "",
        "git": {"src": ".", "analysis.ipynb": "M", "results.parquet": "?"} if state == "typical" else {},
        "changed": ["results.parquet", "src"] if state == "typical" else [],
    }
    standing = {"_sandbox": ERROR} if state == "error" else {}
    if state == "error":
        bench.answers["list"] = {"error": {"code": "stopped", "text": ERROR["text"], "hint": ""}}
    root = bench.mount("file-tree", width, view={"path": path}, **standing)
    if state in ("typical", "huge"):
        expect(root.get_by_role("treeitem").nth(3)).to_be_visible()
        root.get_by_role("tree").focus()
        bench.page.keyboard.press("ArrowDown")
    if state == "typical" and width > 1000:
        bench.answers["look"] = {
            "kind": "text",
            "text": "# Project\n\nWhat was measured, and how.\n",
            "size": 3_214,
        }
        root.get_by_role("treeitem", name="README.md").click()
        expect(root.locator(".dm-look pre")).to_be_visible()


PROMPT = "\x1b[1;32mdaytona@sandbox\x1b[0m:\x1b[1;34m~/project\x1b[0m$ "
LISTED = "\x1b[1;34mdata\x1b[0m  \x1b[1;34mnotebooks\x1b[0m  README.md  \x1b[1;32mrun.sh\x1b[0m  train.py\r\n"
TESTED = (
    "\x1b[1m============ test session starts ============\x1b[0m\r\n"
    "tests/test_model.py \x1b[32m......\x1b[31mF\x1b[32m....\x1b[0m  \x1b[31m[100%]\x1b[0m\r\n\r\n"
    "\x1b[31mFAILED\x1b[0m tests/test_model.py::test_shape - assert (3, 4) == (4, 3)\r\n"
    "\x1b[31m====== \x1b[1m1 failed\x1b[0;31m, \x1b[32m10 passed\x1b[31m in 0.42s ======\x1b[0m\r\n"
)


def terminal(bench: Bench, state: str, width: int) -> None:
    """A shell that was just opened; two that were used; sixteen of them; and a sandbox that stopped."""
    tabs = [TAB]
    if state == "typical":
        tabs = [TAB, {**TAB, "id": 2, "name": "htop"}]
    elif state == "huge":
        names = (f"{number} a shell with a rather long name" for number in range(1, 17))
        tabs = [{**TAB, "id": number, "name": name} for number, name in enumerate(names, 1)]
    elif state == "error":
        said = "The sandbox is not running any more; the shell has ended."
        tabs = [{**TAB, "state": "stopped", "said": said}]
    made = Terminal(bench)
    root = made.mount(*tabs, speaks=False, width=width)
    root.get_by_role("tab").first.click()
    made.feed(PROMPT)
    if state != "empty":
        made.feed(f"ls\r\n{LISTED}{PROMPT}pytest -q\r\n{TESTED}{PROMPT}")
    if state == "huge":
        made.feed("seq 1 2000\r\n" + "".join(f"{number}\r\n" for number in range(1, 2001)) + PROMPT)
    if state == "error":
        bench.change("_sandbox", ERROR)
    expect(root.locator(".xterm-rows").first).to_contain_text("daytona@sandbox")


SERVED = """<!doctype html><title>{title}</title>
<style>body {{ font: 15px/1.5 sans-serif; margin: 2em; color: #223 }} td {{ padding: .2em 1em }}
td i {{ display: block; height: .8em; background: #4a7bd0; border-radius: 3px }}</style>
<h1>{title}</h1><p>Millimetres of rain, by day.</p><table>{rows}</table>"""


def preview(bench: Bench, state: str, width: int) -> None:
    """A page of a server; a long one with long names; a server that does not answer; a stopped sandbox."""
    title = "Rain" if state != "huge" else "A report whose title goes on and on, " * 6
    days = 7 if state != "huge" else 400
    rows = "".join(f"<tr><td>day {n}<td><i style='width:{n * 37 % 90 + 5}px'></i>" for n in range(1, days))

    def serve(route: Route) -> None:
        headers = {"Access-Control-Allow-Origin": "*"}
        if route.request.url.endswith(TOKEN):
            route.fulfill(status=204, headers=headers)
        else:
            route.fulfill(content_type="text/html", body=SERVED.format(title=title, rows=rows))

    bench.page.unroute_all()
    bench.page.route(re.compile("^http:"), serve)
    path = "/" if state != "huge" else "/reports/2026/rain?" + "&".join(f"station={n}" for n in range(40))
    seen = {"title": title, "path": path}
    bench.answers["open"] = {**(DOWN if state == "empty" else OPENED), **seen}
    bench.answers["look"] = {**(DOWN if state == "empty" else SEEN), **seen}
    if state == "error":
        bench.answers["open"] = {"error": {"code": "stopped", "text": ERROR["text"], "hint": ""}}
    standing = {"_sandbox": ERROR} if state == "error" else {}
    root = bench.mount("preview", width, view={"port": 3000, "path": path}, **standing)
    if state == "empty":
        expect(root.locator(".dm-notice")).to_be_visible()
    elif state != "error":
        expect(root.frame_locator("iframe").locator("h1")).to_be_visible()


def panel(bench: Bench, state: str, width: int) -> None:
    """A sandbox at work; none; one with ninety cells among two hundred; one that stopped, out of reach."""
    bench.answers.update({name: {} for name in ("watch", "refresh")})
    root = bench.mount("sandbox-panel", width, **panel_states.cases()[state])
    if state == "huge":
        bench.page.evaluate("() => document.querySelectorAll('details').forEach(one => { one.open = true })")
    expect(root.locator(".dm-panel-title")).not_to_be_empty()


TRAINING = (
    "\x1b[1mLoading\x1b[0m data/results.parquet \x1b[90m(8.0 MiB)\x1b[0m",
    *(
        f"\x1b[32mINFO\x1b[0m  epoch {at:2d}  loss {2 / (at + 1):.4f}  \x1b[36m{at * 7 + 20} it/s\x1b[0m"
        for at in range(9)
    ),
    "\x1b[33mWARNING\x1b[0m learning rate was lowered to \x1b[38;5;208m3e-4\x1b[0m",
    "epoch 10 100%|██████████| 640/640 [00:04<00:00, 151.20it/s]",
    "\x1b[44;97m saved \x1b[0m checkpoints/epoch-10.pt, \x1b[4mmodel card\x1b[0m and a name that goes on",
)


def log_stream(bench: Bench, state: str, width: int) -> None:
    """A job and a file that are followed; a log of a million lines; nothing yet; a sandbox that stopped."""
    store = LogStore()
    when = 1_760_000_000.0
    sources = [{"name": "Cell In[7] (4f2a77c0)", "state": "live", "said": ""}]
    if state != "empty":
        Intake(store, 0, STDOUT).feed("".join(f"{line}\n" for line in TRAINING), when)
        Intake(store, 0, STDERR).feed(
            "\x1b[1;31mTraceback\x1b[0m (most recent call last):\nValueError: NaN\n", when
        )
        sources.append({"name": "~/server.log", "state": "live", "said": ""})
        Intake(store, 1, STDOUT).feed("GET /predict 200 in 12 ms\n" * 4, when)
    if state == "huge":
        Intake(store, 0, STDOUT).feed("".join(f"row {at:,}\n" for at in range(1_000_000)), when)
        store.dropped_lines, store.dropped_bytes = 2_718_281, 314 << 20
        store.dropped_why = "this log keeps the newest 256.0 MiB"
        sources += [
            {"name": f"session {at}: make all", "state": "ended", "said": "exit code 2"} for at in range(6)
        ]
    if state == "error":
        store.append(0, NOTE, [(f"not followed any more: {ERROR['text']}".encode(), False)], when)
        sources = [{**one, "state": "lost", "said": ERROR["text"]} for one in sources]
    view = View(store, Query(find="epoch" if state == "typical" else ""))
    view.glance()
    bench.answers["look"] = view.news({"sources": sources, "open": []}, always=True)
    bench.answers["rows"] = view.rows(max(0, store.end - 400), 400)
    store.close()
    root = bench.mount("log-stream", width, **({"_sandbox": ERROR} if state == "error" else {}))
    expect(root.locator(".dm-chip").first).to_be_visible()
    if state == "typical":
        root.get_by_role("button", name="Times").click()
        root.get_by_label("Find").fill("epoch")


#: Name -> the bundle that draws it, and the function.
WIDGETS: dict[str, tuple[str, Callable[[Bench, str, int], None]]] = {
    "file-tree": ("core.js", file_tree),
    "terminal": ("terminal.js", terminal),
    "preview": ("core.js", preview),
    "panel": ("core.js", panel),
    "log-stream": ("core.js", log_stream),
}


def _dress(bench: Bench, dark: bool) -> None:
    """Give the page the colours of JupyterLab's own theme."""
    css = (THEMES / f"theme-{'dark' if dark else 'light'}-extension" / "index.css").read_text("utf-8")
    bench.page.evaluate(
        """([css, light]) => {
          document.querySelector('#dm-theme')?.remove();
          const sheet = document.createElement('style');
          sheet.id = 'dm-theme';
          sheet.textContent = css + 'body { margin: 0; background: var(--jp-layout-color0); }';
          document.head.append(sheet);
          document.body.dataset.jpThemeLight = light;
        }""",
        [css, str(not dark).lower()],
    )


def take(browser: Browser, out: Path, only: str = "") -> list[Path]:
    """Take the pictures; returns where they are."""
    out.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    for name, (bundle, draw) in WIDGETS.items():
        if only and name != only:
            continue
        page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
        bench = Bench(page, bundle)
        for theme in ("light", "dark"):
            _dress(bench, theme == "dark")
            for width in WIDTHS:
                for state in STATES:
                    bench.answers.clear()
                    draw(bench, state, width)
                    page.wait_for_timeout(250)
                    made.append(out / f"{name}-{theme}-{width}-{state}.png")
                    page.locator("#dm-bench").screenshot(path=str(made[-1]))
        page.context.close()
    return made


def main() -> None:
    """The command."""
    asked = argparse.ArgumentParser(prog="python -m tests.widgets.screenshots", description=__doc__)
    asked.add_argument("out", type=Path, help="the folder for the pictures")
    asked.add_argument("--only", default="", choices=["", *WIDGETS], help="one widget")
    options = asked.parse_args()
    with chromium() as browser:
        for path in take(browser, options.out, options.only):
            print(path)


if __name__ == "__main__":
    main()
