"""Other languages, files, contexts and the debugger at a real kernel."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kernel_client import Cell, Kernel


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel() as made:
        assert made.run("%%sandbox\n0").status == "ok"
        yield made


def ask(kernel: Kernel, cell: str, *answers: str | Callable[[], object]) -> tuple[Cell, list[dict[str, Any]]]:
    """Run a cell and answer its questions in order; a callable is called instead of an answer."""
    ended, seen = threading.Event(), []

    def listen() -> None:
        while not ended.is_set():
            try:
                question = kernel.client.get_stdin_msg(timeout=0.2)
            except queue.Empty:
                continue
            answer = answers[len(seen)] if len(seen) < len(answers) else kernel.interrupt
            seen.append(question["content"])
            if isinstance(answer, str):
                kernel.client.input(answer)
            else:
                answer()

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        return kernel.run(cell), seen
    finally:
        ended.set()
        listener.join()


def test_a_cell_of_another_language_runs_and_fails_like_a_bash_cell(kernel: Kernel) -> None:
    cell = kernel.run("%%sandbox perl -- a b\nprint \"@ARGV\\n\";\ndie 'bad'")
    assert (cell.status, cell.ename, cell.stdout) == ("error", "ExitCodeError", "a b\n")
    assert "line 3." in cell.stderr and "exit code" in cell.traceback and "alive" not in cell.traceback
    cell = kernel.run("%%sandbox --timeout 1 perl\nsleep 60")
    assert cell.ename == "CellTimeout" and "of 1 s\n--timeout SECONDS gives a cell longer" in cell.traceback
    cell = kernel.run("%%sandbox --interpreter 'no-such-program -'\nx")
    assert cell.ename == "CellFailed" and "there is no no-such-program in this sandbox" in cell.traceback
    assert kernel.run("%%sandbox\n#!/usr/bin/env -S perl -w\nprint 6 * 7").stdout == "42"


def test_node_cells(kernel: Kernel) -> None:
    if shutil.which("node") is None:
        pytest.skip("there is no node on this machine")
    cell = kernel.run("%%sandbox js\nconsole.log(6 * 7)\nnope()")
    assert cell.stdout == "42\n" and cell.ename == "ExitCodeError" and "[eval]:3\nnope()" in cell.stderr


#: A language: its program, a cell that prints 42 and asks, what it prints; a cell that fails, what names why.
HEAVY = {
    "ruby": ("ruby", 'puts 6 * 7\nputs "hi #{gets}"', "42\nhi Ada\n", "\nraise 'bad'", "rb:3:in"),
    "R": (
        "Rscript",
        "cat(6 * 7, '\\n')\ncat('hi', readLines(file('stdin'), 1), '\\n')\ninvisible(median(1:3))",
        "42 \nhi Ada \n",
        "f <- function() stop('bad')\nf()",
        "Error in f() : bad",
    ),
}


@pytest.mark.parametrize("language", HEAVY)
def test_ruby_and_r_where_they_are_installed(kernel: Kernel, language: str) -> None:
    program, good, said, bad, why = HEAVY[language]
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program} on this machine")
    cell, seen = ask(kernel, f"%%sandbox {language}\n{good}", "Ada")
    assert (cell.status, cell.stdout, len(seen)) == ("ok", said, 1), cell
    cell = kernel.run(f"%%sandbox {language}\n{bad}")
    assert cell.ename == "ExitCodeError" and why in cell.stderr, cell


def test_wrong_words_run_nothing(kernel: Kernel) -> None:
    for line, said in (
        ("rubby", "did you mean ruby"),
        ("node --fresh", "--fresh is for Python cells"),
        ("bash --interpreter sh", "one of them decides"),
        ("-- words", "words after --"),
        ("--retries -1", "--retries -1"),
        ('--interpreter "\'"', "no closing quotation"),
    ):
        cell = kernel.run(f"%%sandbox {line}\nopen('/tmp/ran', 'w')")
        assert cell.ename == "SandboxUsageError" and said in cell.traceback, cell
    assert kernel.run("%%sandbox bash\nls /tmp/ran").ename == "ExitCodeError"


def test_fresh_and_named_contexts(kernel: Kernel) -> None:
    kernel.run("%%sandbox\nx = 'mine'")
    cell = kernel.run("%%sandbox --fresh -- --in a.csv\nimport sys\nprint(sys.argv[1:], 'x' in globals())\n7")
    assert cell.stdout == "['--in', 'a.csv'] False\n" and cell.result == "7"
    kernel.run("%%sandbox --context other\nx = 'theirs'")
    assert kernel.run("%%sandbox --context other\nx").result == "'theirs'"
    assert kernel.run("%%sandbox\nx").result == "'mine'"


def test_writefile_saves_the_bytes_of_the_cell(kernel: Kernel) -> None:
    body = "  indented é\n\n\ttab $HOME {x}\n"
    assert kernel.run(f"# a note\n\n%%sandbox writefile ~/deep/er/file.txt\n{body}").status == "ok"
    assert kernel.run("%%sandbox writefile -a ~/deep/er/file.txt\nlast\n").status == "ok"
    cell = kernel.run("%%sandbox\nimport os\nopen(os.path.expanduser('~/deep/er/file.txt')).read()")
    assert cell.result == repr(body + "last\n")
    assert kernel.run("%%sandbox bash\nls -A ~/deep/er").stdout == "file.txt\n"
    assert "it is a folder" in kernel.run("%%sandbox writefile ~/deep\nx").traceback
    refused = kernel.run("%%sandbox writefile /proc/none\nx").traceback
    assert "'/proc/none' cannot be written: its folder cannot be written to" in refused
    assert kernel.run("%%sandbox writefile\nx").ename == "SandboxUsageError"
    # Run where it stands.
    kernel.run("%%sandbox writefile ~/deep/helper.py\ndef value():\n    return 1 / 0\n")
    kernel.run(
        "%%sandbox writefile ~/deep/main.py\nimport sys, helper\nprint(sys.argv[1:])\nhelper.value()\n"
    )
    cell = kernel.run("%sandbox run --remote ~/deep/main.py -- --n 1")
    assert cell.stdout == "['--n', '1']\n" and cell.ename == "ZeroDivisionError"
    assert "main.py, line 3" in cell.traceback and "helper.py" in cell.traceback


def test_run_takes_a_file_of_this_machine(kernel: Kernel) -> None:
    work = kernel.home / "work"
    (work / "job.py").write_text("import sys\nkept = sys.argv\nprint(sys.argv, __name__)\n")
    (work / "job.sh").write_text("echo $1\nfalse\n")
    assert kernel.run("%sandbox run job.py -- a").stdout == "['job.py', 'a'] __main__\n"
    assert kernel.run("%sandbox run -i job.py").status == "ok"
    assert kernel.run("%%sandbox\nkept").result == "['']"
    cell = kernel.run("%sandbox run job.sh -- word")
    assert cell.stdout == "word\n" and "line 2: false" in cell.traceback
    assert "--remote" in kernel.run("%sandbox run nothing.py").traceback
    assert ".py, .sh" in kernel.run("%sandbox run job.doc").traceback


def test_programs_ask_and_passwords_are_masked(kernel: Kernel) -> None:
    body = 'read -p "name? " name; read -s word; echo "$name ${#word}"'
    cell, seen = ask(kernel, f"%%sandbox bash\n{body}", "Ada", "s3cret")
    assert cell.stdout == "Ada 6\n" and [one["password"] for one in seen] == [False, True]
    assert "s3cret" not in str(cell.messages)
    forged = "printf '\\033]52;c;AA\\007Password: \\033[2J' > /dev/tty; read x < /dev/tty; echo $x"
    cell, seen = ask(kernel, f"%%sandbox bash\n{forged}", "ok")
    assert cell.stdout == "ok\n" and seen[0]["prompt"] == "Password: "


def test_a_prompt_is_taken_away_when_nobody_waits_any_more(kernel: Kernel) -> None:
    cell, seen = ask(kernel, "%%sandbox bash\nread -t 1 x; echo rc $?", lambda: None)
    assert cell.stdout == "rc 142\n" and cell.status == "ok" and len(seen) == 1
    assert kernel.run("6 * 7").result == "42"


def test_an_interrupt_at_a_programs_prompt(kernel: Kernel) -> None:
    kernel.run("%%sandbox bash\nkept=yes")

    def press() -> None:
        time.sleep(0.2)
        kernel.interrupt()

    cell, _ = ask(kernel, "%%sandbox bash\nread x; echo never", press)
    assert cell.ename == "KeyboardInterrupt" and "never" not in cell.stdout
    assert kernel.run("%%sandbox bash\necho $kept").stdout == "yes\n"


def test_nobody_to_ask_ends_the_input_at_once_and_says_so(kernel: Kernel) -> None:
    cell = kernel.run("%%sandbox bash\nread x || exit 9", allow_stdin=False, timeout=30)
    assert "exit code 9" in cell.traceback and "does not support input" in cell.stderr


def test_the_whole_trace_again_and_the_debugger(kernel: Kernel) -> None:
    cell = kernel.run("%%sandbox\nimport json\ndef parse(text):\n    return json.loads(text)\nparse('{')")
    again = kernel.run("%tb")
    for trace in (cell.traceback, again.traceback):
        assert "JSONDecodeError" in trace and "json/decoder.py" in trace and "daytona_magics" not in trace
    cell, seen = ask(kernel, "%sandbox debug", "u", "u", "u", "p text", "q")
    assert len(seen) == 5 and seen[0]["prompt"] == "ipdb> " and "'{'" in cell.stdout, cell
    cell, seen = ask(kernel, "%%sandbox\n%debug", "q")
    assert len(seen) == 1 and "raw_decode" in cell.stdout and cell.status == "ok"


def test_a_cell_whose_connection_failed_is_tried_again_and_runs_once(kernel: Kernel) -> None:
    """The engine stands still for longer than the kernel keeps trying; the sandbox runs on."""
    engine = int(str(kernel.run("from daytona_magics.engine import address\naddress.find().pid").result))
    waits = (
        "import time, pathlib\npathlib.Path('runs').open('a').write('x')\nprint('began')\ntime.sleep(10)\n"
    )
    assert kernel.run("%sandbox config reconnect_for=1").status == "ok"
    kernel.run("from daytona_magics import sandboxes\nsandboxes.current().channel.reconnect_for = 1")

    frozen: list[bool] = []

    def freeze(kind: str, content: dict[str, Any], cell: Cell) -> None:
        if not frozen and "began" in cell.stdout:
            frozen.append(True)
            os.kill(engine, signal.SIGSTOP)
        elif "retry 1 of" in str(content):
            os.kill(engine, signal.SIGCONT)

    try:
        cell = kernel.run(
            f"%%sandbox --retries 3\n{waits}pathlib.Path('runs').read_text()", on=freeze, timeout=90
        )
        assert cell.result == "'x'" and "retry 1 of 3" in cell.notes, cell
    finally:
        os.kill(engine, signal.SIGCONT)
        kernel.run("%sandbox config reconnect_for=60")
