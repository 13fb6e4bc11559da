"""The file tree in a real JupyterLab: time to the first rows, bytes on the wire, and frames while scrolling.

Run as ``python -m tests.benchmarks.trees [--files 100000] [--json]``. Times are of the page's own clock: from
the call for the first page to the frame that shows its rows. Nothing here asserts.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from playwright.sync_api import expect

from tests.browser import chromium
from tests.lab import lab
from tests.widgets.page import Watched

MAKE = """%%sandbox -q
import os
os.makedirs('many/inside')
for i in range({0}): os.mknod('many/f%06d' % i)
for i in range(10_000): os.mknod('many/inside/g%05d' % i)
"""
_SHOWN = """async act => {
  const tree = document.querySelector('.dm-tree');
  const row = tree.querySelector('.dm-row:nth-child(2) .dm-name');
  const before = row && row.textContent;
  const began = performance.now();
  act === 'refresh'
    ? [...document.querySelectorAll('.dm-files button')].find(one => one.textContent === 'Refresh').click()
    : tree.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}));
  await new Promise(done => {
    const look = new MutationObserver(() => {
      const now = tree.querySelector('.dm-row:nth-child(2) .dm-name');
      const there = act === 'refresh' ? now : now && now.textContent !== before && now.textContent !== '…';
      if (there) { look.disconnect(); requestAnimationFrame(done); }
    });
    look.observe(tree, {childList: true, subtree: true});
  });
  return performance.now() - began;
}"""
_SCROLL = """async () => {
  const tree = document.querySelector('.dm-tree');
  const frames = [];
  let last = performance.now();
  for (let at = 0; at < 120; at += 1) {
    tree.scrollTop = at * 997;
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    frames.push(now - last);
    last = now;
  }
  return frames;
}"""


def measure(files: int) -> dict[str, Any]:
    """Take the figures for a folder of so many files, with one of 10,000 in it."""
    with lab() as server, chromium() as browser:
        cells = ("%load_ext daytona_magics", MAKE.format(files), "%sandbox files ~/many")
        page = Watched(server, browser, "trees", *cells)
        tree = page.page.get_by_role("tree").last
        expect(tree.get_by_role("treeitem").nth(3)).to_be_visible(timeout=60_000)
        time.sleep(2)
        refreshes = sorted(page.page.evaluate(_SHOWN, "refresh") for _ in range(5))
        # The first row is the folder inside.
        tree.focus()
        page.press("Home")
        before = len(page.frames)
        opened = page.page.evaluate(_SHOWN, "open")
        page.press("End")
        time.sleep(1)
        frames = sorted(page.page.evaluate(_SCROLL))
        sent = sum(map(len, page.frames[before:]))
        listed = [frame for frame in page.frames if '"rows"' in frame or "f000000" in frame]
        page.close()
    return {
        "files": files,
        "first rows, ms": round(refreshes[2]),
        "opening 10,000, ms": round(opened),
        "frame while scrolling, median ms": round(frames[60], 1),
        "frame while scrolling, 95th ms": round(frames[114], 1),
        "bytes of one page": max(map(len, listed), default=0),
        "bytes of opening and scrolling 120 screens": sent,
    }


def main() -> None:
    """The command."""
    asked = argparse.ArgumentParser(prog="python -m tests.benchmarks.trees", description=__doc__)
    asked.add_argument("--files", type=int, default=100_000, help="files of the large folder")
    asked.add_argument("--json", action="store_true", help="figures for programs")
    options = asked.parse_args()
    figures = measure(options.files)
    if options.json:
        print(json.dumps(figures))
    else:
        for what, value in figures.items():
            print(f"{what:45} {value:,}")


if __name__ == "__main__":
    main()
