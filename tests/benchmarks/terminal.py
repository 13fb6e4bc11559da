"""The terminal widget beside JupyterLab's own terminal: ``python -m tests.benchmarks.terminal [KEYS]``.

Both in one page of one JupyterLab, keys alternating: the time from a key to the message that brings its echo.
The widget's way is page, server, kernel, engine, sandbox, and back; JupyterLab's terminal is a shell of the
server's own. Then how fast a flood arrives and is shown, how long an interrupt takes, and what the bundles
weigh. Medians, because machines are noisy; nothing here asserts.
"""

from __future__ import annotations

import statistics
import sys
import time
import zlib
from typing import Any

from playwright.sync_api import Page

from daytona_magics.widgets import assets
from tests.browser import chromium
from tests.lab import lab

#: Notes when a socket's message brings output: of a terminal of the server, or of a comm with bytes.
_WATCH = """() => {
  window.dmEchoes = [];
  const Native = window.WebSocket;
  window.WebSocket = class extends Native {
    constructor(...given) {
      super(...given);
      this.addEventListener('message', ({data}) => {
        const own = String(this.url).includes('/terminals/');
        if (own ? String(data).startsWith('["stdout"') : holds(data)) window.dmEchoes.push(performance.now());
      });
    }
  };
  const decoder = new TextDecoder();
  const holds = data => data instanceof ArrayBuffer && decoder.decode(data).includes('"tab":');
}"""
#: Presses a key in the focused terminal and waits for the next message; milliseconds.
_KEY = """key => new Promise(done => {
  const area = document.activeElement;
  const count = window.dmEchoes.length;
  const begun = performance.now();
  area.value = key;
  const event = {data: key, inputType: 'insertText', bubbles: true, composed: true};
  area.dispatchEvent(new InputEvent('input', event));
  const look = () => {
    if (window.dmEchoes.length > count) done(window.dmEchoes[count] - begun);
    else if (performance.now() - begun > 5000) done(NaN);
    else setTimeout(look, 0);
  };
  look();
})"""
_WIDGET = ".dm-xterm:not([hidden]) .xterm-helper-textarea"
_OWN = ".jp-Terminal .xterm-helper-textarea"
_BESIDE = """() => {
  const shell = window.jupyterapp.shell;
  shell.add(shell.currentWidget, 'main', {mode: 'split-right'});
}"""
_SCREEN = "() => document.querySelector('.dm-xterm:not([hidden]) .xterm-rows').innerText"


def main(keys: int = 100) -> None:
    """Measure and print."""
    with lab() as server, chromium() as browser:
        page = server.open(
            browser,
            "terminal",
            "%load_ext daytona_magics",
            "%sandbox terminal",
            size=(1300, 1000),
            watch=lambda page: page.add_init_script(f"({_WATCH})()"),
        )
        page.locator(_WIDGET).wait_for(state="attached")
        page.evaluate("() => window.jupyterapp.commands.execute('terminal:create-new')")
        page.locator(_OWN).wait_for(state="attached", timeout=60_000)
        page.evaluate(_BESIDE)
        time.sleep(5)
        ours, theirs = [], []
        for number in range(keys):
            for selector, times in ((_WIDGET, ours), (_OWN, theirs)):
                page.locator(selector).focus()
                time.sleep(0.02)
                times.append(page.evaluate(_KEY, "abcdefgh"[number % 8]))
        print(f"key to echo, widget      {_spread(ours)}")
        print(f"key to echo, Lab's own   {_spread(theirs)}")
        page.locator(_WIDGET).focus()
        page.keyboard.press("Control+c")
        _flood(page)
    for name in ("loader.js", "core.js", "terminal.js"):
        text = assets.bundle(name).encode()
        print(
            f"{name:12} {len(text) / 1000:7.1f} kB, {len(zlib.compress(text, 9)) / 1000:6.1f} kB compressed"
        )


def _flood(page: Page) -> None:
    page.keyboard.type("seq 1 430000")
    begun = time.perf_counter()
    page.keyboard.press("Enter")
    _until(page, "430000")
    taken = time.perf_counter() - begun
    print(f"3.4 MB in {taken:.2f} s, {3.4 / taken:.1f} MB/s to the last line shown")
    page.keyboard.type("yes")
    page.keyboard.press("Enter")
    time.sleep(4)
    begun = time.perf_counter()
    page.keyboard.press("Control+c")
    _until(page, "")
    print(f"prompt {time.perf_counter() - begun:.2f} s after Ctrl-C in a flood")


def _until(page: Page, line: str) -> None:
    """Wait for a prompt below a line."""
    while True:
        lines: list[str] = page.evaluate(_SCREEN).replace("\u00a0", " ").rstrip().splitlines()
        if lines and lines[-1].endswith("$") and (not line or line in lines):
            return
        time.sleep(0.02)


def _spread(times: list[Any]) -> str:
    good = sorted(one for one in times if one == one)
    lost = f", {len(times) - len(good)} lost" if len(good) < len(times) else ""
    if not good:
        return "nothing measured"
    high = good[int(len(good) * 0.95)]
    return f"median {statistics.median(good):.1f} ms, p95 {high:.1f} ms of {len(good)}{lost}"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
