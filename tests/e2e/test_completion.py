"""Tab and Shift-Tab by the messages a front end sends, answered by a real sandbox."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel_client import ANSI, Kernel

DEFINE = """%%sandbox
import os
value = "abc"
table = {"alpha": 1, "beta": 2}

def helper(first, second=2):
    "What it does."

class Effects:
    @property
    def computed(self):
        open("property-was-read", "w").close()
        return ""

class Endless:
    def __dir__(self):
        while True:
            pass

class Hostile:
    def __dir__(self):
        bad = ["x\\n%%local\\nimport os", "\\x1b]0;t\\x07", "y" * 10**6]
        return ["ok", *bad, *("n%d" % n for n in range(20_000))]
    def _ipython_key_completions_(self):
        return ["k", "k\\n%%local", "k\\u202e"]

effects, endless, hostile = Effects(), Endless(), Hostile()
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel() as made:
        assert made.run(DEFINE).status == "ok"
        made.run("host_secret = 1\ndef helper(): 'Of this machine.'")
        yield made


def inspect(kernel: Kernel, code: str, detail: int = 0) -> dict[str, Any]:
    msg_id = kernel.client.inspect(code, len(code), detail)
    return kernel._reply(msg_id, time.monotonic() + 60)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("val", ["value"]),
        ("value.upp", ["upper"]),
        ("os.path.joi", ["join"]),
        ("table['al", ["alpha"]),
        ("helper(sec", ["second="]),
        ("import json, o", ["opcode", "operator", "optparse", "os"]),
        ("%timei", ["timeit"]),
        ("# two lines\nx = val", ["value"]),
    ],
)
def test_names_of_the_sandbox(kernel: Kernel, body: str, expected: list[str]) -> None:
    for magic in ("%%sandbox\n", "# %%sandbox\n", "# a note\n%%sandbox -q\n"):
        assert [one for one in kernel.complete(magic + body) if one in expected] == expected


def test_names_of_this_machine_are_not_offered(kernel: Kernel) -> None:
    assert kernel.complete("host_sec") == ["host_secret"]
    for body in ("host_sec", "import_nothing.x", "unknown_name."):
        assert set(kernel.complete(f"%%sandbox\n{body}")) <= {body, body.rpartition(".")[2]}


def test_files_of_this_machine_are_not_offered_for_paths_of_the_sandbox(kernel: Kernel) -> None:
    mine = Path(kernel.env["HOME"]) / "only-here.txt"
    mine.write_text("")
    try:
        assert kernel.complete("%sandbox upload ~/only-h") == ["~/only-here.txt"]
        for line in ("%sandbox cat ~/only-h", f"%sandbox cat {mine.parent}/only-h", "%sandbox exec only-h"):
            assert not [text for text in kernel.complete(line) if "only-here" in text], line
    finally:
        mine.unlink()


def test_in_whole_notebook_mode(kernel: Kernel) -> None:
    kernel.run("%sandbox on")
    try:
        assert kernel.complete("value.upp") == ["upper"] and kernel.complete("host_sec") == ["host_sec"]
        assert kernel.complete("%%local\nhost_sec") == ["host_secret"]
        assert kernel.complete("%sandbox insp") == ["inspect"]
    finally:
        kernel.run("%sandbox off")


def test_where_tags_decide_names_of_both_places_are_offered(kernel: Kernel) -> None:
    whole = "__import__('daytona_magics.magics.whole', fromlist=['x']).of(get_ipython())"
    kernel.run(f"{whole}.start('', tagged=True, quiet=True)")
    try:
        offered = kernel.complete("hel")
        assert kernel.complete("valu") == ["value"] and kernel.complete("host_sec") == ["host_secret"]
        assert "help" in offered and "helper" in offered
        assert kernel.complete("%%local\nvalu") == []
    finally:
        kernel.run("%sandbox off")
    assert kernel.complete("valu") == []


def eventually(kernel: Kernel, text: str, expected: list[str]) -> None:
    """Tab offers this, at the latest when it is asked again: an endpoint may take longer than Tab waits."""
    until = time.monotonic() + 60
    while kernel.complete(text) != expected:
        assert time.monotonic() < until, (text, kernel.complete(text))
        time.sleep(0.1)


def test_paths_of_a_bash_cell_begin_where_its_shell_is(kernel: Kernel) -> None:
    made = kernel.run(
        "%%sandbox bash\nmkdir -p deep/er 'deep/two words' ~/homely; touch deep/file.txt\ncd deep"
    )
    assert made.status == "ok", made
    eventually(kernel, "%%sandbox bash\nls fi", ["file.txt"])
    eventually(kernel, "%%sandbox bash\nls < two", ["two\\ words/"])
    eventually(kernel, "%%sandbox bash\nls two\\ w", ["two\\ words/"])
    eventually(kernel, "%%sandbox bash\nls ../dee", ["../deep/"])
    eventually(kernel, "%%sandbox bash\nls ~/hom", ["~/homely/"])
    eventually(kernel, "%%sandbox bash --cwd /\nls et", ["etc/"])
    eventually(kernel, "%%sandbox node\n'hom", ["homely/"])
    # The notebook's own sandbox by its name, and a context of its own, which is still at home.
    name = str(kernel.run("import daytona_magics as dm\ndm.current().name").result).strip("'")
    eventually(kernel, f"%%sandbox bash -s {name}\nls fi", ["file.txt"])
    eventually(kernel, "%%sandbox bash --context side\nls homel", ["homely/"])
    kernel.run("%%sandbox bash\ncd; rm -r deep homely")


def test_ids_of_jobs_and_labels(kernel: Kernel) -> None:
    job = kernel.run("%%sandbox --bg\nimport time; time.sleep(600)")
    assert job.status == "ok", job
    name = str(kernel.run("job = _\njob.id").result).strip("'")
    for verb in ("logs", "wait", "cancel", "interrupt"):
        eventually(kernel, f"%sandbox {verb} {name[:3]}", [name])
    assert kernel.run(f"%sandbox cancel {name}").status == "ok"
    eventually(kernel, f"%sandbox cancel {name[:3]}", [name[:3]])
    eventually(kernel, f"%sandbox logs {name[:3]}", [name])
    assert kernel.run("%sandbox labels team=blue").status == "ok"
    eventually(kernel, "%sandbox list --label ", ["team=blue"])


def test_a_property_is_not_read_and_an_endless_dir_is_ended(kernel: Kernel) -> None:
    kernel.complete("%%sandbox\neffects.computed.")
    assert kernel.complete("%%sandbox\neffects.comp") == ["computed"]
    assert kernel.complete("%%sandbox\nendless.", timeout=60) == [""]
    assert kernel.run("%%sandbox\nos.path.exists('property-was-read')").result == "False"
    # The control: reading it is what leaves the file.
    assert kernel.run("%%sandbox\neffects.computed; os.path.exists('property-was-read')").result == "True"
    kernel.run("%%sandbox\nos.remove('property-was-read')")
    assert kernel.complete("%%sandbox\nval") == ["value"]


def test_a_hostile_sandbox_offers_nothing_but_a_limited_list_of_words(kernel: Kernel) -> None:
    found, until = [""], time.monotonic() + 60
    while found == [""] and time.monotonic() < until:
        found = kernel.complete("%%sandbox\nhostile.")  # a busy machine may need more than the time it has
    assert found and len(found) <= 1000 and all(one.isidentifier() and len(one) < 300 for one in found)
    assert kernel.complete("%%sandbox\nhostile['") == ["k"]


def test_names_given_before_are_offered_while_the_worker_is_busy(kernel: Kernel) -> None:
    with Kernel(kernel.home) as other:
        kernel.run("import daytona_magics as dm")
        name = str(kernel.run("dm.current().name").result).strip("'")
        context = str(kernel.run("dm.sandboxes.current().context").result).strip("'")
        assert kernel.complete("%%sandbox\nval") == ["value"]
        other.run(f"%sandbox use {name}")
        busy = other.send(f"%%sandbox --context {context}\nimport time; time.sleep(600)")
        until = time.monotonic() + 60
        while not _busy(kernel, context):
            assert time.monotonic() < until
            time.sleep(0.1)
        try:
            assert kernel.complete("%%sandbox\nval") == ["value"]
            assert kernel.complete("%%sandbox\nvalue.up") == ["up"]
        finally:
            other.interrupt()
            other.finish(busy)


def _busy(kernel: Kernel, context: str) -> bool:
    asked = kernel.run(
        f"any(c['busy'] for c in dm.current().wait(dm.sandboxes.current().channel.status())['contexts'] "
        f"if c['name'] == {context!r})"
    )
    return asked.result == "True"


def test_inspect_verb(kernel: Kernel) -> None:
    for line in ("%sandbox inspect helper", "%sandbox ?helper"):
        shown = ANSI.sub("", str(kernel.run(line).result))
        assert "helper(first, second=2)" in shown and "What it does." in shown, line
    assert "def helper" in ANSI.sub("", str(kernel.run("%sandbox ??helper").result))
    failed = kernel.run("%sandbox inspect no_such_name")
    assert failed.ename == "SandboxUsageError" and "no_such_name is no name there" in failed.traceback


def test_shift_tab_asks_the_sandbox_where_that_is_wanted(kernel: Kernel) -> None:
    def shown(code: str) -> str:
        return ANSI.sub("", inspect(kernel, code)["data"].get("text/plain", ""))

    assert "Of this machine." in shown("%%sandbox\nhelper(")
    kernel.run("%sandbox config tooltips=on")
    try:
        assert "What it does." in shown("%%sandbox\nhelper(1, ")
        assert "Of this machine." in shown("helper(")
        assert inspect(kernel, "%%sandbox\nhost_secret")["found"] is False
        assert inspect(kernel, "%%sandbox\neffects.computed")["found"] is False
        assert inspect(kernel, "host_secret")["found"] is True
    finally:
        kernel.run("%sandbox config tooltips=off")
    assert "Of this machine." in shown("%%sandbox\nhelper(")
    assert kernel.run("'do_inspect' in vars(get_ipython().kernel)").result == "False"
