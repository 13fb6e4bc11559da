# ruff: noqa: E501  (cells are written as they are typed)
"""The keyboard of programs in a cell: who is asked, when, and what becomes of questions nobody answers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from .harness import Client, Run


def talk(client: Client, code: str, *answers: Any, language: str = "bash", **options: Any) -> Run:
    """Run a cell and answer its questions one by one; a question too many is a failure."""
    run = client.start(code, language, **options)
    for number, answer in enumerate(answers):
        client.until(lambda number=number: len(run.of("input")) > number or run.done)
        assert len(run.of("input")) > number, client.story()
        reply(client, run, run.of("input")[number], answer)
    client.until(lambda: run.done or len(run.of("input")) > len(answers))
    assert run.done, client.story()
    return run


def reply(client: Client, run: Run, question: dict[str, Any], answer: Any) -> dict[str, Any]:
    fields = answer if isinstance(answer, dict) else {"text": answer}
    return client.request("answer", id=run.id, number=question["number"], **fields)


def asked(run: Run) -> list[tuple[str, bool]]:
    return [(one["prompt"], one["password"]) for one in run.of("input")]


def test_commands_in_a_python_cell_are_answered_too(client: Client) -> None:
    code = "!read -p 'name? ' name; read -s word; echo $name; echo ${#word}\nprint(_exit_code)"
    run = talk(client, code, "Ada é", "s3cret", language="python")
    assert run.text == "name? Ada é\n6\n0\n" and asked(run) == [("", False), ("", True)]
    code = "!python3 -c \"import getpass; print(len(getpass.getpass('pw? ')), len(input()))\""
    run = talk(client, code, "s3cret", "x" * 3000, language="python")
    assert "6 3000" in run.text and asked(run) == [("", True), ("", False)] and "s3cret" not in run.text
    run = talk(client, "!cat; echo over", "one", {"end": True}, language="python")
    assert run.text == "one\nover\n"
    assert talk(client, "!sleep 0.3; cat < /dev/null; echo none", language="python").text == "none\n"


def test_a_command_whose_question_nobody_answers_says_so_and_goes_on(client: Client) -> None:
    run = talk(client, "!read x || echo nothing", {"error": "no keyboard here"}, language="python")
    assert run.text == "nothing\n" and run.err == b"no keyboard here\n"
    run = client.start("!read -t 0.7 x\nprint('after', input('next? '))", "python")
    client.until(lambda: len(run.of("input")) > 1 or run.done)
    assert len(run.of("input_over")) == 1, client.story()
    reply(client, run, run.of("input")[1], "yes")
    client.until(lambda: run.done)
    assert run.text == "after yes\n"


def test_reads_of_a_shell_are_answered_line_by_line(client: Client) -> None:
    run = talk(client, "read -p 'name? ' name; read -s word; echo $name; echo ${#word}", "Ada é", "s3cret")
    assert run.text == "Ada é\n6\n" and run.err == b"name? "
    assert asked(run) == [("", False), ("", True)]


@pytest.mark.parametrize(
    ("code", "answer", "said"),
    [
        ("python3 -c \"print('hi', input('who? '))\"", "Ada", "who? hi Ada\n"),
        ("head -n 1 | tr a-z A-Z", "ada", "ADA\n"),
        ("bash -c 'read x < /dev/tty; echo got $x'", "Ada", "got Ada\n"),
        ("python3 -c 'import select; print(select.select([0],[],[])[0], input())'", "Ada", "[0] Ada\n"),
        ("python3 -c 'import select\np = select.poll(); p.register(0, 1); p.poll(); print(input())'", "Ada", "Ada\n"),
        ("python3 -c 'import select\np = select.epoll(); p.register(0, 1); p.poll(); print(input())'", "Ada", "Ada\n"),
        ("python3 -c 'import threading as t\nx = t.Thread(target=lambda: print(input())); x.start(); x.join()'", "Ada", "Ada\n"),
        ("for i in 1; do (read x; echo sub $x) | cat; done < /dev/stdin", "Ada", "sub Ada\n"),
    ],
)  # fmt: skip
def test_programs_that_wait_are_found_however_they_wait(
    client: Client, code: str, answer: str, said: str
) -> None:
    assert talk(client, code, answer).text == said


def test_a_program_that_listens_in_a_loop_of_its_own_is_found(client: Client) -> None:
    if shutil.which("node") is None:
        pytest.skip("there is no node on this machine")
    code = (
        'const rl = require("readline").createInterface({input: process.stdin});\n'
        'rl.once("line", line => { console.log("hi " + line); rl.close() })'
    )
    assert talk(client, code, "Ada", language="node").text == "hi Ada\n"


def test_prompts_of_the_terminal_are_the_questions_own_and_passwords_are_masked(client: Client) -> None:
    run = talk(client, "printf 'protocol=https\\nhost=example.org\\n\\n' | git credential fill", "ada", "pw")
    assert asked(run) == [
        ("Username for 'https://example.org': ", False),
        ("Password for 'https://ada@example.org': ", True),
    ]
    assert "password=pw\n" in run.text and b"pw" not in run.err
    run = talk(client, "python3 -c 'import getpass; print(len(getpass.getpass()))'", "four")
    assert asked(run) == [("Password: ", True)] and run.text == "4\n"


def test_an_answer_of_any_length_and_the_end_of_the_input(client: Client) -> None:
    assert talk(client, "read x; echo ${#x}", "x" * 20_000).text == "20000\n"
    run = talk(client, "cat; echo over", "one", "two", {"end": True})
    assert run.text == "one\ntwo\nover\n" and run.err == b""


def test_nobody_there_ends_the_input_at_once_and_says_so(client: Client) -> None:
    run = talk(client, "read x; echo rc $?", {"error": "nobody is there"}, name="Cell In[7]")
    assert run.text == "rc 1\n" and run.err == b"Cell In[7]: nobody is there\n"
    # One that goes on asking is not asked for any more, and finds no terminal in the end.
    run = talk(client, "for i in 1 2 3 4 5 6 7 8; do read x; done; echo rc $?", {"error": "nobody"})
    assert run.text == "rc 1\n" and len(run.of("input")) == 1


def test_a_cell_that_reads_nothing_is_never_asked(client: Client) -> None:
    run = talk(client, "sleep 0.3; python3 -c 'import time; time.sleep(0.3)'; echo done")
    assert run.text == "done\n" and not run.of("input")
    # Only the input is a terminal, so nothing pages or draws, and packages ask nothing of their own.
    run = talk(
        client, "test -t 0 && echo in; test -t 1 || test -t 2 || echo out; echo $TERM $DEBIAN_FRONTEND"
    )
    assert run.text == "in\nout\ndumb noninteractive\n"


def test_a_question_nobody_waits_for_any_more_is_taken_back(client: Client) -> None:
    run = client.start("read -t 2 x; echo rc $?; sleep 1; echo $x", "bash")
    client.until(lambda: run.of("input"))
    client.until(lambda: run.of("input_over") or run.done)
    assert [one["number"] for one in run.of("input_over")] == [1] and run.done is None
    assert reply(client, run, run.of("input")[0], "late")["error"] == "not-asked"
    assert client.wait(run).text == "rc 142\n\n"


@pytest.mark.parametrize("level", [1, 2, 3])
def test_an_interrupt_ends_a_question(client: Client, level: int) -> None:
    client.bash("kept=yes")
    run = client.start("read x; echo never", "bash")
    client.until(lambda: run.of("input"))
    client.request("interrupt", id=run.id, level=level)
    assert client.wait(run).status == "interrupted" and "never" not in run.text
    assert client.bash("echo $kept").text == "yes\n"


def test_the_time_limit_counts_while_a_program_waits(client: Client) -> None:
    assert client.bash("read x", timeout=0.5).status == "timeout"


def test_background_jobs_outlive_their_cells_terminal(client: Client) -> None:
    run = client.bash(
        "mkfifo still; (read x < still; echo alive > proof) & (trap '' HUP; read y; echo y$? > end) & true"
    )
    assert run.status == "ok"
    client.bash("echo > still; while ! test -s proof -a -s end; do sleep 0.01; done; cat proof end")
    assert client.bash("cat proof end").text == "alive\ny1\n"


def test_two_programs_that_wait_take_turns(client: Client) -> None:
    run = talk(client, "(read a; echo a$a) < /dev/tty & (read b; echo b$b) < /dev/tty & wait", "1", "2")
    assert sorted(run.text) == sorted("a1\nb2\n") or sorted(run.text) == sorted("a2\nb1\n")


@pytest.fixture
def flood() -> Callable[[int], str]:
    return lambda count: (
        f"for i in $(seq {count}); do read -p \"$(printf '\\033]52;c;AA\\007')$i \" x; done; echo $i"
    )


def test_a_flood_of_questions_waits_for_each_answer(client: Client, flood: Callable[[int], str]) -> None:
    run = talk(client, flood(20), *("x" for _ in range(20)))
    assert run.text == "20\n" and len(run.of("input")) == 20
    # Endless prompts on the terminal itself are output, not one long question.
    run = talk(client, "head -c 300000 /dev/zero | tr '\\0' p > /dev/tty; read x < /dev/tty; echo $x", "ok")
    prompt = run.of("input")[0]["prompt"]
    assert run.text == "ok\n" and len(prompt) <= 2000 and len(run.err) + len(prompt) == 300_000


def test_a_forced_keyboard_asks_also_what_cannot_be_seen(client: Client) -> None:
    code = "python3 - <<'E'\nimport os, time\nos.set_blocking(0, False)\ntty = os.open('/dev/tty', os.O_RDONLY)\nos.set_blocking(tty, False)\nsaid = b''\nwhile not said:\n    time.sleep(0.05)\n    try:\n        said = os.read(tty, 100)\n    except BlockingIOError:\n        pass\nprint(said)\nE"
    run = talk(client, code, "seen", stdin=True)
    assert run.text == "b'seen\\n'\n"
    # The control: a program that only looks now and then is not asked for otherwise.
    run = client.bash(code, timeout=1.5)
    assert run.status == "timeout" and not run.of("input")


def test_a_job_has_nobody_to_ask(client: Client) -> None:
    run = client.start("read x; echo rc $?", "bash", job=True)
    client.request("subscribe", id=run.id, after=0)
    client.wait(run)
    assert run.text == "rc 1\n" and not run.of("input") and b"Cell In[1]: " in run.err
