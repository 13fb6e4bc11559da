"""What the comparison takes out, and that it still sees a real difference beside each of its rules."""

from __future__ import annotations

from typing import Any

import pytest

from tests.parity import compare, traces
from tests.parity.suite import Case, Outcome


def shown(*messages: tuple[str, dict[str, Any]], sandbox: bool, cells: tuple[str, ...] = ()) -> Any:
    return compare.normal(Case("case", list(cells)), Outcome(list(messages), ["error"]), sandbox=sandbox)


def stream(text: str, name: str = "stderr") -> tuple[str, dict[str, Any]]:
    return "stream", {"name": name, "text": text}


def error(name: str, message: str, *lines: str) -> tuple[str, dict[str, Any]]:
    drawn = [*lines, f"\x1b[31m{name}\x1b[0m: {message}"]
    return "error", {"ename": name, "evalue": message, "traceback": drawn}


def display(**data: str) -> tuple[str, dict[str, Any]]:
    bundle = {name.replace("_", "/"): value for name, value in data.items()}
    return "display_data", {"data": bundle, "metadata": {}}


def test_what_the_local_kernel_says_of_itself_is_left_out_and_nothing_else() -> None:
    own = "/x/site-packages/IPython/core/interactiveshell.py:9: UserWarning: To exit\n  warn(\n"
    own += "Note: you may need to restart the kernel to use updated packages.\n"
    assert shown(stream(own), sandbox=False) == shown(sandbox=True)
    # The sandbox's own machinery must not appear, and a library's warning counts.
    assert shown(stream(own), sandbox=True) != shown(sandbox=False)
    library = "/x/site-packages/other/core.py:9: UserWarning: old\n  warn(\n"
    assert shown(stream(library), sandbox=False) != shown(sandbox=True)


def test_what_an_interrupt_did_is_left_out_and_what_was_interrupted_is_not() -> None:
    there = "Cell In[3], line 2\n----> 2 one()"
    local = shown(error("KeyboardInterrupt", "", there), sandbox=False)
    done = "sent Ctrl-C to the cell; variables are alive"
    assert shown(error("KeyboardInterrupt", done, there), sandbox=True) == local
    assert shown(error("KeyboardInterrupt", f"mine; {done}", there), sandbox=True) != local
    lost = "its worker was ended: variables were lost, files kept"
    assert shown(error("KeyboardInterrupt", lost, there), sandbox=True) != local
    assert shown(error("KeyboardInterrupt", done, there.replace("2", "3")), sandbox=True) != local
    assert shown(error("ValueError", done, there), sandbox=True) != local


def test_exit_codes_are_compared_as_numbers() -> None:
    raw = "Command 'b'echo\\nexit 3\\n'' returned non-zero exit status 3."
    local = shown(error("CalledProcessError", raw), sandbox=False)
    assert shown(error("ExitCodeError", "the cell ended with exit code 3"), sandbox=True) == local
    assert shown(error("ExitCodeError", "the cell ended with exit code 4"), sandbox=True) != local
    assert shown(error("SandboxError", "the cell ended with exit code 3"), sandbox=True) != local


def test_a_printed_usage_error_is_an_error() -> None:
    local = shown(stream("UsageError: Line magic function `%x` not found.\n"), sandbox=False)
    text = "Line magic function `%x` not found. What works inside a sandbox cell: %cd"
    assert shown(error("UsageError", text), sandbox=True) == local
    assert shown(error("UsageError", text.replace("%x", "%y")), sandbox=True) != local
    assert shown(error("MagicError", text), sandbox=True) != local
    # Printed only, it does not fail a notebook that runs without a person.
    assert shown(stream("UsageError: Line magic function `%x` not found.\n"), sandbox=True) != local


def test_only_what_no_sandbox_may_send_to_a_page_may_be_missing() -> None:
    def compared(**data: str) -> tuple[Any, Any]:
        safe, _ = compare.safe_bundle(display(**data)[1]["data"])
        there = ("display_data", {"data": safe, "metadata": {}})
        return shown(display(**data), sandbox=False), shown(there, sandbox=True)

    local, there = compared(application_javascript="1", text_plain="x")
    assert local == there and "not shown" in str(there)
    # A mimetype that the sanitiser happens to take away still differs.
    local, there = compared(text_markdown="<b>x</b>", text_plain="x")
    assert local != there
    nothing = ("display_data", {"data": {"text/plain": "x"}, "metadata": {}})
    assert shown(display(application_javascript="1", text_plain="x"), sandbox=False) != shown(
        nothing, sandbox=True
    )


FRAME = "Cell In[#], line 2\n----> 2 one()\n      3 two()\n\nKeyError: 'a'"


@pytest.mark.parametrize(
    ("was", "put"), [("line 2", "line 3"), ("'a'", "'b'"), ("KeyError", "OSError"), ("one()", "two()")]
)
def test_place_line_name_and_message_of_an_error_count(was: str, put: str) -> None:
    cells = ["one()\ntwo()"]
    there = traces.normal(FRAME, cells, sandbox=True)
    assert there == traces.normal(FRAME, cells, sandbox=False)
    assert traces.normal(FRAME.replace(was, put), cells, sandbox=True) != there


def test_the_text_of_a_line_is_the_cells_own() -> None:
    cells = ["one()\ntwo()"]
    wrong = FRAME.replace("2 one()", "2 # another line")
    right = traces.normal(FRAME, cells, sandbox=True)
    assert traces.normal(wrong, cells, sandbox=False) == right
    assert traces.normal(wrong, cells, sandbox=True) != right


def test_repeated_frames_are_one_and_other_frames_are_not() -> None:
    again = "Cell In[#], line 2, in f(n)\n----> 2 f(n)\n\n"
    once = traces.normal(again + FRAME, ["x"], sandbox=True)
    folded = again + "    [... skipping similar frames: f at line 2 (38 times)]\n\n" + FRAME
    assert traces.normal(again * 40 + FRAME, ["x"], sandbox=True) == once
    assert traces.normal(folded, ["x"], sandbox=True) == once
    assert traces.normal(FRAME, ["x"], sandbox=True) != once
    assert traces.normal(again.replace("f(n)", "g(n)") + FRAME, ["x"], sandbox=True) != once


@pytest.mark.parametrize("link", traces._LINKS)
def test_a_chain_keeps_every_exception_and_how_they_hang_together(link: str) -> None:
    first, last = "Cell In[#], line 3\n----> 3 x\n\nKeyError: 'a'", FRAME.replace("KeyError", "OSError")
    chain = f"{first}\n\n{link}\n\n{last}"
    there = traces.normal(chain, [], sandbox=True)
    assert traces.normal(chain.replace("line 3", "line 5").replace("3 x", "5 x"), [], sandbox=False) == there
    other = next(one for one in traces._LINKS if one != link)
    for different in (
        last,
        chain.replace("'a'\n\n" + link, "'b'\n\n" + link),
        chain.replace(link, other),
        chain.replace("line 2", "line 4"),
    ):
        assert traces.normal(different, [], sandbox=True) != there


def test_a_syntax_error_is_the_same_in_both_drawings() -> None:
    error = "    a b\n      ^\nSyntaxError: invalid syntax"
    machinery = "  File site-packages/IPython/core/interactiveshell.py:9 in run_code\n    exec(code)\n\n"
    plain = f"Traceback (most recent call last):\n{machinery}  Cell In[#], line 2\n    exec('a b')\n\n"
    plain += "  File <string>:1\n" + error
    usual = (
        "-----\nSyntaxError   Traceback (most recent call last)\nCell In[#], line 2\n----> 2 exec('a b')\n\n"
    )
    usual += "  File <string>, line 1\n" + error
    cells = ["exec('a b')"]
    local = traces.normal(plain, cells, sandbox=False)
    assert traces.normal(usual, cells, sandbox=True) == local
    for was, put in (
        ("      ^", "    ^"),
        ("    a b\n", "    a c\n"),
        ("line 1", "line 2"),
        ("2 exec", "3 exec"),
    ):
        assert traces.normal(usual.replace(was, put), cells, sandbox=True) != local


def test_frames_of_the_machinery_count_in_the_sandbox_when_they_are_not_the_local_kernels() -> None:
    guest = "File guest/python_worker.py:3, in run()\n----> 3 run()\n\n"
    assert traces.normal(guest + FRAME, ["x"], sandbox=True) != traces.normal(FRAME, ["x"], sandbox=False)
