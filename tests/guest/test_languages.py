"""Cells of other programs: each starts afresh, with the cell's lines, words, folder and environment."""

from __future__ import annotations

import os
import shutil

import pytest

from .harness import Client, Guest

NODE = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on this machine")


def test_a_program_gets_the_cell_as_a_file_with_its_words_and_lines(client: Client, guest: Guest) -> None:
    run = client.run('\nprint "@ARGV\\n";\nwarn "careful";\nexit 3', "perl", argv=["a b", "--c"])
    assert run.text == "a b --c\n" and run.done["exit_code"] == 3 and run.status == "error"
    assert b"Cell In[1].pl line 3." in run.err
    # Nothing of it is left, and nothing is known to the next one.
    contexts = os.path.join(guest.run, "contexts")
    assert not [name for name in os.listdir(contexts) if name.endswith(".cell")]
    assert run.done["worker"] == "none"


def test_folder_and_environment_are_the_cells(client: Client, guest: Guest) -> None:
    code = 'use Cwd; print cwd(), " $ENV{DM_V}\\n"'
    assert client.run(code, "perl").text == guest.home + " \n"
    os.makedirs(os.path.join(guest.home, "sub"), exist_ok=True)
    assert client.run(code, "perl", cwd="~/sub", env={"DM_V": "v"}).text == guest.home + "/sub v\n"
    run = client.run(code, "perl", cwd="/nowhere")
    assert (run.status, run.done["text"]) == ("error", "there is no folder /nowhere in this sandbox")


@pytest.mark.parametrize(
    ("interpreter", "code", "said"),
    [
        (["perl", "-"], "print 6 * 7", "42"),
        (["perl", "-w"], "print 6 * 7", "42"),
        (["awk", "-f", "{}", "/dev/null"], "BEGIN { print 6 * 7 }", "42\n"),
        (["sh"], 'echo "$1"', "word\n"),
        (["cat", "-"], "é\n\n", "é\n\n"),
    ],
)
def test_any_program_by_name(client: Client, interpreter: list[str], code: str, said: str) -> None:
    words = ["word"] if interpreter == ["sh"] else []
    assert client.run(code, "program", interpreter=interpreter, argv=words).text == said


def test_what_is_missing_is_named(client: Client) -> None:
    run = client.run("x", "program", interpreter=["no-such-program", "-"])
    assert (run.status, run.done["exit_code"]) == ("error", None)
    assert run.done["text"] == "there is no no-such-program in this sandbox"
    run = client.run("puts 1", "ruby", env={"PATH": "/nowhere"})
    assert "no ruby" in run.done["text"] and "apt-get install ruby" in run.done["text"]
    run = client.run("let x: number = 1", "ts", env={"PATH": "/nowhere"})
    assert "tsx, deno, bun" in run.done["text"]
    assert client.run("1 + 1").result == "2"


@NODE
def test_node_finds_the_folders_packages_and_names_lines(client: Client, guest: Guest) -> None:
    folder = os.path.join(guest.home, "project", "node_modules", "answer")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "index.js"), "w") as file:
        file.write("module.exports = 42")
    code = "\nconst answer = require('answer')\nconsole.log(answer, process.argv.slice(2))\nnope()"
    run = client.run(code, "node", cwd="~/project", argv=["--a", "b"])
    assert run.text == "42 [ '--a', 'b' ]\n" and run.done["exit_code"] == 1
    assert b"[eval]:4\nnope()" in run.err
    module = '\nimport answer from "answer"\nconsole.log(await answer)\nimport.meta.nope()'
    run = client.run(module, "node", cwd="~/project")
    assert run.text == "42\n" and b":4\n" in run.err
    long = "\n// " + "x" * 200_000 + "\nconsole.log(require('answer'))"
    assert client.run(long, "node", cwd="~/project").text == "42\n"
    assert sorted(os.listdir(os.path.join(guest.home, "project"))) == ["node_modules"]


@NODE
def test_typescript_runs_by_what_is_there(client: Client, guest: Guest) -> None:
    code = '\nconst x: number = 42\nconsole.log(x, "strange" as string)'
    run = client.run(code, "ts")
    if run.done["exit_code"] is None:
        assert "node 22.6" in run.done["text"]
        return
    assert run.text == "42 strange\n", client.story()


def test_interrupts_and_limits_end_a_program_with_its_children(client: Client) -> None:
    code = '\nsystem("sleep 71.5 &"); $| = 1; print "up\\n"; sleep 60'
    run = client.start(code, "perl")
    client.until_out(run, b"up")
    client.request("interrupt", id=run.id, level=1)
    assert client.wait(run).status == "interrupted"
    assert client.run(code, "perl", timeout=0.7).status == "timeout"
    assert "71.5" not in client.bash("ps -eo args").text.replace("ps -eo args", "")
    deaf = '\n$SIG{INT} = $SIG{TERM} = "IGNORE"; $| = 1; print "up\\n"; sleep 1 while 1'
    run = client.start(deaf, "perl")
    client.until_out(run, b"up")
    client.request("interrupt", id=run.id, level=1)
    client.request("interrupt", id=run.id, level=2)
    assert client.wait(run).status == "interrupted"


def test_a_fresh_python_is_one_of_its_own(client: Client) -> None:
    client.run("kept = 1")
    code = (
        "import sys, threading, atexit, time\natexit.register(print, 'exit')\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()\n"
        "print(sys.argv, 'kept' in globals())\n40 + 2"
    )
    run = client.run(code, "fresh", argv=["", "a", "--b"])
    assert run.text == "['', 'a', '--b'] False\nthread\nexit\n" and run.result == "42"
    assert client.run("code", "fresh").error["ename"] == "NameError"
    assert client.run("kept, 'code' in globals()").result == "(1, False)"
    assert client.run("raise SystemExit(4)", "fresh").done["exit_code"] == 4
    pids = {client.run("import os; os.getpid()", "fresh").result for _ in range(3)}
    assert len(pids) == 3
