"""Helpers of all widget tests: a page that is watched, what must hold in it, and a bench without Jupyter.

watched = Watched(server, browser, "name", *cells)       # JupyterLab, or front="notebook" for Notebook 7
watched.kernel("print(1)")                               # what a cell prints that is not in the notebook
axe(watched.page, ".dm-files")                           # no serious finding; the control is in it
watched.nothing_leaks()                                  # no errors, no request elsewhere, no token anywhere

bench = Bench(page, "core.js")                           # a bundle and a fake model in an empty page
bench.answers["list"] = {"total": 0, ...}
bench.mount("file-tree", view={"path": "~"})
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page

from daytona_magics.widgets import assets
from tests.engine_process import wait_until
from tests.lab import Lab
from tests.typescript.node_sdk import node_modules

_EXECUTE = """async code => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const future = kernel.requestExecute({code});
  let said = '';
  future.onIOPub = message => { said += message.content.text ?? message.content.evalue ?? ''; };
  await future.done;
  return said;
}"""


#: What anywidget says of a model that was not ready in two seconds; on a busy machine that is so.
LATE = "[anywidget] Failed to initialize model."
#: That, what Notebook 7 says of itself when a page is opened, with or without widgets, and what JupyterLab
#: says when a page is loaded again, or a kernel ends, before a question of JupyterLab's own was answered.
_NOT_OURS = (
    LATE,
    "Canceled future for create_subshell_request message before replies were done",
    "Cannot read properties of undefined (reading 'schema')",
    "Command 'filebrowser:open-path' not registered.",
)


#: A page of the sandbox in a preview has a name of its own on this machine; the engine is asked whether it is
#: there, and what does not come from it comes through the notebook's server.
_PREVIEW = re.compile(
    r"(http|ws)://(127\.0\.0\.1:\d+/p/[a-z0-9]{26}$|\d+-[a-z0-9]{26}\.localhost:"
    r"|127\.0\.0\.1:\d+/.*daytona-magics/p/)"
)


class Watched:
    """A notebook in a page, all of whose cells have run, and what went wrong in the page since it was opened.

    Attributes:
        problems: dialogs, errors and console errors, but for those of the sandbox's own pages in previews:
            what these load may end with their server.
        theirs: the console errors of those.
        elsewhere: addresses of requests that were neither for the server nor of a preview.
        previews: addresses of requests of previews.
        frames: messages of web sockets, both ways.
        page: it is JupyterLab's and shows another notebook after :meth:`close`.
    """

    def __init__(self, server: Lab, browser: Browser, name: str, *cells: str, **how: Any) -> None:
        self.server, self.name, self._front = server, name, str(how.get("front", "lab"))
        self.problems: list[str] = []
        self.theirs: list[str] = []
        self.elsewhere: list[str] = []
        self.previews: list[str] = []
        self.frames: list[str] = []
        self._here = (f"http://127.0.0.1:{server.port}/", f"ws://127.0.0.1:{server.port}/", "blob:", "data:")
        self._hears: dict[str, Callable[[Any], object]] = {
            "dialog": lambda dialog: (self.problems.append(dialog.message), dialog.dismiss()),
            "pageerror": lambda error: self.problems.append(str(error)),
            "console": self._said,
            "request": lambda request: self._asked(request.url),
            "websocket": self._connected,
        }
        self.page = server.open(browser, name, *cells, watch=self._watch, again=True, **how)

    def _watch(self, page: Page) -> None:
        for event, act in self._hears.items():
            page.on(event, act)  # type: ignore[call-overload]

    def _said(self, said: ConsoleMessage) -> None:
        if said.type == "error":
            where = said.location.get("url", "")
            (self.theirs if _PREVIEW.match(where) else self.problems).append(f"{said.text} ({where})")

    def _asked(self, url: str) -> None:
        if _PREVIEW.match(url):
            self.previews.append(url)
        elif not url.startswith(self._here):
            self.elsewhere.append(url)

    def _connected(self, socket: Any) -> None:
        self._asked(socket.url)
        socket.on("framereceived", lambda data: self.frames.append(str(data)))
        socket.on("framesent", lambda data: self.frames.append(str(data)))

    def reload(self) -> None:
        """Save the notebook and load the page again."""
        self.command("docmanager:save")
        self.page.reload()

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for what messages and events of the page tell: they come in while the page is asked."""
        wait_until(lambda: self.page.evaluate("() => true") and condition(), what)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        for key in keys:
            self.page.keyboard.press(key)

    def kernel(self, code: str) -> str:
        """Run code in the notebook's kernel, beside the notebook; returns what it printed, or its error."""
        said: str = self.page.evaluate(_EXECUTE, code)
        return said

    def begin(self, code: str) -> None:
        """Like :meth:`kernel`, without waiting; :meth:`ended` does."""
        self.page.evaluate(f"code => {{ window.dmLate = ({_EXECUTE})(code) }}", code)

    def ended(self) -> str:
        """Wait for what :meth:`begin` began; returns what it printed."""
        said: str = self.page.evaluate("() => window.dmLate")
        return said

    def command(self, name: str) -> None:
        """One of the front end's own commands, such as "docmanager:save"."""
        self.page.evaluate("name => window.jupyterapp.commands.execute(name)", name)

    def saved(self) -> str:
        """The notebook as it is on the disk, after saving it."""
        self.command("docmanager:save")
        return (self.server.work / f"{self.name}.ipynb").read_text()

    def secrets(self) -> list[str]:
        """The key of the embedded engine, which must be nowhere."""
        record = next(Path(self.server.env["XDG_RUNTIME_DIR"]).rglob("engine.json"))
        return [json.loads(record.read_text())["api_key"]]

    def nothing_leaks(self, signed: str = "") -> None:
        """Nothing went wrong, nothing was asked elsewhere, and no secret is in page, messages or notebook.

        Args:
            signed: the token of a signed address: it is in answers of the kernel and nowhere else.
        """
        ours = [one for one in self.problems if not any(said in one for said in _NOT_OURS)]
        assert ours == [], ours
        assert self.elsewhere == []
        assert len(self.frames) > 5
        saved, content = self.saved(), self.page.content()
        for secret in self.secrets():
            for place in (content, saved, *self.frames):
                assert secret not in place
        if signed:
            told = [one for one in self.frames if signed in one]
            assert told and all('"reply"' in one and "comm_msg" in one for one in told)
            assert signed not in content and signed not in saved

    def close(self) -> None:
        """End the notebook and its kernel, and watch no more."""
        for event, act in self._hears.items():
            self.page.remove_listener(event, act)
        self.server.leave(self.page, self._front)


def axe(page: Page, selector: str) -> None:
    """Nothing that axe-core calls serious is wrong below a selector; it would find what is."""
    page.evaluate((node_modules() / "axe-core" / "axe.min.js").read_text())
    run = "selector => axe.run(selector).then(result => result.violations)"
    found: Any = page.evaluate(run, selector)
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert serious == [], json.dumps(serious, indent=1)[:3000]
    # The control.
    page.evaluate(
        "selector => document.querySelector(selector).append("
        "Object.assign(document.createElement('img'), {id: 'dm-bad'}))",
        selector,
    )
    found = page.evaluate(run, selector)
    page.evaluate("() => document.getElementById('dm-bad').remove()")
    assert "image-alt" in {one["id"] for one in found}


def hostile_keys(watched: Watched, focused: Locator) -> None:
    """Keys that are the notebook's shortcuts do nothing to it while the focus is in a widget."""
    cells = watched.page.locator(".jp-Notebook .jp-Cell")
    before = cells.count()
    focused.focus()
    watched.press("b", "d", "d", "a", "x", "c", "v", "m", "z")
    assert cells.count() == before and focused.is_visible()


class Bench:
    """A bundle in an empty page, with a model that only remembers: what the page sends, and what it is told.

    Attributes:
        answers: what calls are answered with by name: a value, or ``{"error": {"code", "text", "hint"}}``.
    """

    def __init__(self, page: Page, bundle: str) -> None:
        self.page = page
        self.answers: dict[str, Any] = {}
        page.goto("about:blank")
        page.expose_function("dmAnswer", lambda name: self.answers.get(name))
        page.evaluate(_FAKE, assets.bundle(bundle))

    def mount(self, kind: str, width: int = 900, **state: Any) -> Locator:
        """Draw a widget; returns the element it is in."""
        standing = {"state": "started", "name": "box", "text": "", "offer": ""}
        state = {"_sandbox": standing, "_control": "IPY_MODEL_up", "view": {}, **state}
        self.page.evaluate(
            "([kind, width, state]) => window.dmMount(kind, width, state)", [kind, width, state]
        )
        return self.page.locator("#dm-bench")

    def sent(self) -> list[dict[str, Any]]:
        """What the page has sent so far."""
        said: list[dict[str, Any]] = self.page.evaluate("() => window.dmSent")
        return said

    def down(self, **message: Any) -> None:
        """A message of the kernel."""
        self.page.evaluate("message => window.dmModel.fire('msg:custom', message, [])", message)

    def change(self, trait: str, value: Any) -> None:
        """The kernel changes a trait."""
        self.page.evaluate("([name, value]) => window.dmModel.change(name, value)", [trait, value])

    def kernel_gone(self, gone: bool = True) -> None:
        """The page loses the kernel, or has it again."""
        code = "gone => { window.dmControl.comm_live = !gone; window.dmControl.fire('comm_live_update'); }"
        self.page.evaluate(code, gone)

    def unmount(self) -> None:
        """The view ends."""
        self.page.evaluate("() => window.dmEnd()")


_FAKE = """async source => {
  class Model {
    constructor(state) { this.state = state; this.heard = {}; }
    get(name) { return this.state[name]; }
    set(name, value) { this.state[name] = value; }
    save_changes() {}
    on(event, act) { (this.heard[event] ??= []).push(act); }
    off(event, act) { this.heard[event] = (this.heard[event] ?? []).filter(one => one !== act); }
    fire(event, ...given) { for (const act of [...(this.heard[event] ?? [])]) act(...given); }
    change(name, value) { this.state[name] = value; this.fire('change:' + name); }
    send(content, callbacks, buffers) {
      window.dmSent.push(content);
      if (content.call === undefined || window.dmSilent) return;
      queueMicrotask(() => window.dmControl.fire('msg:custom', {got: content.call}));
      window.dmAnswer(content.name).then(value => {
        if (value === null || value === undefined) return;
        const reply = value.error ? {reply: content.call, error: value.error} : {reply: content.call, value};
        window.dmModel.fire('msg:custom', reply, []);
      });
    }
  }
  const url = URL.createObjectURL(new Blob([source], {type: 'text/javascript'}));
  const core = (await import(url)).default;
  window.dmMount = (kind, width, state) => {
    window.dmEnd?.();
    window.dmSent = [];
    document.body.replaceChildren();
    const el = document.createElement('div');
    el.id = 'dm-bench';
    el.style.width = width + 'px';
    document.body.append(el);
    const ending = new AbortController();
    window.dmEnd = () => ending.abort();
    window.dmControl = new Model({});
    window.dmModel = new Model(state);
    core.mount(kind, {model: window.dmModel, control: window.dmControl, el, signal: ending.signal});
  };
}"""
