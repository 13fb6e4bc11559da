"""The file tree in a real JupyterLab: by keyboard, with changes, transfers, reloads, hostile names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.engine_process import wait_until
from tests.lab import Lab, screenshot
from tests.widgets.page import LATE, Watched, axe, hostile_keys

pytestmark = [pytest.mark.timeout(300), pytest.mark.shard_group("files, logs and terminals in JupyterLab")]

#: A name that is a script to whoever parses it, and one that hides what it is.
SCRIPT, HIDDEN = "<img src=x onerror=alert(1)>", "photo\u202egnp.exe"
FILES = f"""%%sandbox -q
import os, zlib, struct
os.makedirs('project/src/deep/er')
for number in range(450): open('project/src/m%03d.py' % number, 'w').write('x = %d\\n' % number)
open('project/README.md', 'w').write('# Hello <script>alert(1)</script>\\n')
open('project/.hidden', 'w').close()
os.symlink('README.md', 'project/link.md')
number = lambda value: struct.pack('>I', value)
chunk = lambda kind, data: number(len(data)) + kind + data + number(zlib.crc32(kind + data))
pixels = zlib.compress(b''.join(b'\\0' + bytes([90, 120, 200]) * 40 for _ in range(20)))
with open('project/picture.png', 'wb') as file:
    file.write(b'\\x89PNG\\r\\n\\x1a\\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 40, 20, 8, 2, 0, 0, 0)))
    file.write(chunk(b'IDAT', pixels) + chunk(b'IEND', b''))
open('project/data.bin', 'wb').write(bytes(range(256)) * 8192)
os.mkdir('project/' + {SCRIPT!r})
open('project/' + {HIDDEN!r}, 'w').close()
os.mkdir('project/work')
"""
CELLS = ("%load_ext daytona_magics", FILES, "%sandbox files ~/project")


class Tree(Watched):
    """One tree in a page."""

    @property
    def box(self) -> Locator:
        return self.page.locator(".dm-files").first

    @property
    def tree(self) -> Locator:
        return self.box.get_by_role("tree")

    def row(self, name: str) -> Locator:
        return self.box.get_by_role("treeitem").filter(has_text=re.compile("^.?" + re.escape(name)))

    @property
    def chosen(self) -> str:
        """The name of the row the reader is on, as assistive technology is told."""
        active = self.tree.get_attribute("aria-activedescendant")
        return self.page.locator(f"[id='{active}'] .dm-name").inner_text()

    def choose(self, name: str) -> None:
        self.tree.focus()
        self.press("Home")
        self.page.keyboard.type(name)
        wait_until(lambda: self.chosen.startswith(name), f"{name} is chosen")

    def says(self, text: str | re.Pattern[str]) -> None:
        # The tree's own; a preview has one, too.
        expect(self.box.locator(":scope > .dm-status")).to_contain_text(text, timeout=30_000)


@pytest.fixture(scope="module")
def tree(server: Lab, browser: Browser) -> Iterator[Tree]:
    made = Tree(server, browser, "tree", *CELLS)
    expect(made.row("README.md")).to_be_visible(timeout=30_000)
    screenshot(made.page, "file_tree")
    yield made
    made.close()


def test_by_keyboard(tree: Tree) -> None:
    names = tree.box.locator(".dm-name").all_inner_texts()
    assert names[:2] == [SCRIPT + "/", "src/"] and "link.md → README.md" in names and ".hidden" not in names
    # What reorders a name is shown as a mark.
    assert HIDDEN.replace("\u202e", "\ufffd") in names
    tree.says("8 entries, 1 hidden")
    tree.choose("src")
    assert tree.row("src").get_attribute("aria-expanded") == "false"
    tree.press("ArrowRight")
    expect(tree.row("m000.py")).to_be_visible()
    tree.press("ArrowRight")
    assert tree.chosen == "deep/" and tree.row("deep").get_attribute("aria-level") == "2"
    # The last of 451 entries is on a page that nobody has fetched yet.
    tree.press("ArrowDown", *["PageDown"] * 50)
    tree.press("Home")
    tree.page.keyboard.type("src")
    tree.press("ArrowRight", "ArrowRight")
    for _ in range(3):
        tree.press("PageDown")
    assert tree.chosen.startswith("m0")
    tree.press("ArrowLeft")
    assert tree.chosen == "src/"
    tree.press("ArrowLeft")
    expect(tree.row("m000.py")).to_have_count(0)
    tree.press("End")
    assert tree.chosen == "README.md"


def test_keys_do_not_reach_the_notebook(tree: Tree) -> None:
    hostile_keys(tree, tree.tree)
    hostile_keys(tree, tree.box.get_by_role("button", name="Hidden"))


def test_looking_into_files(tree: Tree) -> None:
    tree.choose("README")
    tree.press("Enter")
    expect(tree.box.locator(".dm-look pre")).to_have_text("# Hello <script>alert(1)</script>\n")
    tree.choose("picture")
    tree.press("Enter")
    image = tree.box.locator(".dm-look img")
    expect(image).to_be_visible()
    assert image.evaluate("one => one.decode().then(() => one.naturalWidth)") == 40
    tree.choose("data")
    tree.press("Enter")
    expect(tree.box.locator(".dm-look")).to_contain_text("2.0 MiB that are neither text nor a picture")
    tree.tree.focus()
    tree.press("Escape")
    expect(tree.box.locator(".dm-look")).to_be_hidden()


def test_filter_and_hidden_names(tree: Tree) -> None:
    tree.box.get_by_label("Filter this folder").fill("READ")
    tree.says(re.compile("^1 entry"))
    tree.box.get_by_label("Filter this folder").fill("nothing is called so")
    expect(tree.box.get_by_text("No name matches the filter.")).to_be_visible()
    tree.box.get_by_label("Filter this folder").fill("")
    tree.box.get_by_role("button", name="Hidden").click()
    expect(tree.row(".hidden")).to_be_visible()
    tree.box.get_by_role("button", name="Hidden").click()
    expect(tree.row(".hidden")).to_have_count(0)


def test_making_renaming_and_deleting(tree: Tree) -> None:
    tree.choose("work")
    tree.press("ArrowRight")
    tree.box.get_by_role("button", name="New folder").focus()
    tree.press("Enter")
    tree.page.keyboard.type("a/b")
    tree.press("Enter")
    tree.says("without a slash")
    tree.box.get_by_role("button", name="New folder").focus()
    tree.press("Enter")
    tree.page.keyboard.type("fresh")
    tree.press("Enter")
    expect(tree.row("fresh")).to_be_visible(timeout=30_000)
    tree.choose("fresh")
    tree.press("F2")
    tree.page.keyboard.type("older")
    tree.press("Enter")
    expect(tree.row("older")).to_be_visible(timeout=30_000)
    assert tree.kernel("get_ipython().run_line_magic('sandbox', 'exec ls project/work')") == "older\n"
    tree.choose("older")
    tree.press("Delete")
    # The answer that changes nothing has the focus.
    tree.press("Enter")
    expect(tree.row("older")).to_be_visible()
    tree.choose("older")
    tree.press("Delete", "Shift+Tab", "Enter")
    expect(tree.row("older")).to_have_count(0, timeout=30_000)
    assert tree.kernel("get_ipython().run_line_magic('sandbox', 'exec ls project/work')") == ""


def test_git_and_what_the_last_cell_did(tree: Tree) -> None:
    began = (
        "mkdir -p project/repo/sub && cd project/repo && git init -q -b trunk && touch old gone sub/one"
        " && git add . && git -c user.name=a -c user.email=a@b commit -q -m first"
    )
    tree.kernel(f"get_ipython().run_cell_magic('sandbox', 'bash -q', {began!r})")
    # Nobody pressed anything: the end of a cell is noticed.
    expect(tree.row("repo")).to_be_visible(timeout=30_000)
    tree.choose("repo")
    tree.press("ArrowRight")
    expect(tree.row("gone")).to_be_visible(timeout=30_000)
    later = "touch made sub/two && echo x > old && rm gone"
    tree.kernel(f"get_ipython().run_cell_magic('sandbox', 'bash -q', {later!r})")
    tree.says("Since the last cell: 1 new")
    for name, marks in (("made", ["new", "U"]), ("old", ["●", "M"]), ("sub", ["●", "…"])):
        expect(tree.row(name).locator(".dm-mark")).to_have_text(marks, timeout=30_000)
    tree.says("1 deleted (gone)")
    expect(tree.row("gone")).to_have_count(0)
    screenshot(tree.page, "file_tree_marks")
    tree.kernel("get_ipython().run_cell_magic('sandbox', 'bash -q', 'cd ~ && rm -rf project/repo')")
    expect(tree.row("repo")).to_have_count(0, timeout=30_000)


def test_up_and_down(tree: Tree, tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000
    (tmp_path / "up.bin").write_bytes(content)
    tree.choose("README")
    tree.box.locator("input[type=file]").first.set_input_files(tmp_path / "up.bin")
    tree.says("Uploaded 1 file.")
    tree.choose("up.bin")
    tree.press("Enter")
    with tree.page.expect_download() as download:
        tree.box.get_by_role("button", name="Download").click()
    assert Path(download.value.path()).read_bytes() == content
    # Once more asks first.
    tree.box.locator("input[type=file]").first.set_input_files(tmp_path / "up.bin")
    expect(tree.box.get_by_text("Overwrite up.bin?")).to_be_visible()
    tree.press("Escape")


#: As on a busy machine: no model is ready in the two seconds that anywidget gives it.
_LATE = """if (sessionStorage.dmLate) {
  const { timeout } = AbortSignal;
  AbortSignal.timeout = milliseconds => {
    if (milliseconds !== 2000) return timeout.call(AbortSignal, milliseconds);
    const ended = new AbortController();
    setTimeout(() => ended.abort(), 0);
    return ended.signal;
  };
}"""


def test_a_reloaded_page_has_it_again_however_late(tree: Tree) -> None:
    tree.page.add_init_script(_LATE)
    tree.page.evaluate("() => { sessionStorage.dmLate = 'yes' }")
    try:
        tree.reload()
        expect(tree.row("README.md")).to_be_visible(timeout=60_000)
    finally:
        tree.page.evaluate("() => sessionStorage.removeItem('dmLate')")
    # They were late: anywidget says so, and hears nothing for them any more.
    assert [one for one in tree.problems if one.startswith(LATE)]
    tree.choose("src")
    tree.press("ArrowRight")
    expect(tree.row("m000.py")).to_be_visible(timeout=30_000)


#: Makes a file by a command, whose end no widget is told of, and keeps the kernel busy until it is let go.
_BUSY = """import pathlib, time
get_ipython().run_line_magic('sandbox', 'exec touch project/while-busy')
pathlib.Path('made').touch()
while not pathlib.Path('go').exists(): time.sleep(0.02)"""


def test_what_is_asked_of_a_busy_kernel_is_not_lost(tree: Tree) -> None:
    # Its 450 files would fill the tree, of which only what is in sight is drawn.
    tree.choose("src")
    tree.press("ArrowLeft")
    tree.begin(_BUSY)
    wait_until((tree.server.work / "made").exists, "the file is made, the kernel busy")
    assert tree.row("while-busy").count() == 0
    tree.box.get_by_role("button", name="Refresh").click()
    # Answered at once where the kernel can, else when the cell has ended.
    expect(tree.row("while-busy").or_(tree.box.get_by_text("busy with a cell"))).to_be_visible(timeout=30_000)
    (tree.server.work / "go").touch()
    tree.ended()
    expect(tree.row("while-busy")).to_be_visible(timeout=30_000)


def test_a_stopped_sandbox_is_said_and_started_when_asked(tree: Tree) -> None:
    tree.kernel("get_ipython().run_line_magic('sandbox', 'stop')")
    tree.box.get_by_role("button", name="Refresh").click()
    expect(tree.box.locator(".dm-banner")).to_contain_text("is stopped: files are kept")
    screenshot(tree.page, "file_tree_stopped")
    tree.box.get_by_role("button", name="Start it").click()
    tree.says(re.compile(r"\d entries"))
    expect(tree.row("src")).to_be_visible()


def test_it_can_be_read_by_everybody(tree: Tree) -> None:
    axe(tree.page, ".dm-files")


def test_nothing_runs_and_nothing_leaks(tree: Tree) -> None:
    tree.nothing_leaks()
    saved = tree.saved()
    bundle = json.loads(saved)["cells"][2]["outputs"][0]["data"]
    markup = "".join(bundle["text/html"])
    assert "README.md" in "".join(bundle["text/plain"])
    assert "alert(1)&gt;/</code>" in markup and SCRIPT not in markup


def test_a_hundred_thousand_files(server: Lab, browser: Browser) -> None:
    many = "%%sandbox -q\nimport os\nos.mkdir('many')\nfor i in range(100_000): os.mknod('many/f%06d' % i)"
    tree = Tree(server, browser, "many", CELLS[0], many, "%sandbox files ~/many", dark=True)
    expect(tree.row("f000000")).to_be_visible(timeout=30_000)
    assert tree.row("f000000").get_attribute("aria-setsize") == "100000"
    tree.tree.focus()
    tree.press("End")
    expect(tree.row("f099999")).to_be_visible(timeout=30_000)
    assert tree.box.get_by_role("treeitem").count() < 60
    screenshot(tree.page, "file_tree_dark")
    tree.close()
