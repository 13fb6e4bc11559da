"""The stateful interpreter: contexts, streams, errors, timeouts, through both clients of the SDK."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp
import pytest
from daytona.common.errors import DaytonaError, DaytonaNotFoundError, DaytonaTimeoutError

from tests.engine_process import IsolatedEngine


def test_variables_stay_and_contexts_are_apart(shared: Any) -> None:
    interpreter = shared.code_interpreter
    assert interpreter.run_code("import math\nx = 6").error is None
    assert interpreter.run_code("print(x * 7, math.pi > 3)").stdout == "42 True\n"
    assert interpreter.run_code("x").stdout == ""  # As on the platform: no value of the last expression.
    context = interpreter.create_context(cwd="/tmp")
    assert (context.language, context.cwd, context.active) == ("python", "/tmp", False)
    run = interpreter.run_code("import os\nprint(os.getcwd(), 'x' in globals())", context=context)
    assert run.stdout == "/tmp False\n"
    assert [(c.id, c.active) for c in interpreter.list_contexts()] == [(context.id, True)]
    assert (
        interpreter.run_code(
            "class K: pass\nimport pickle\nprint(type(pickle.loads(pickle.dumps(K()))) is K)"
        ).stdout
        == "True\n"
    )
    interpreter.delete_context(context)
    assert interpreter.list_contexts() == []
    with pytest.raises(DaytonaNotFoundError):
        interpreter.delete_context(context)
    with pytest.raises(DaytonaError, match="there is no interpreter context"):
        interpreter.run_code("1", context=context)


def test_errors_have_name_value_and_their_own_traceback(shared: Any) -> None:
    interpreter = shared.code_interpreter
    seen: list[Any] = []
    run = interpreter.run_code(
        "print('before')\ndef f():\n    return 1 / 0\nf()\nprint('after')", on_error=seen.append
    )
    assert run.stdout == "before\n" and seen == [run.error]
    assert (run.error.name, run.error.value) == ("ZeroDivisionError", "division by zero")
    assert "return 1 / 0" in run.error.traceback and "line 3, in f" in run.error.traceback
    assert "interpreter_worker" not in run.error.traceback and 'File "<string>"' not in run.error.traceback
    syntax = interpreter.run_code("x = = 1")
    assert syntax.error.name == "SyntaxError" and "x = = 1" in syntax.error.traceback
    assert interpreter.run_code("import sys; sys.exit(3)").error.name == "SystemExit"
    assert interpreter.run_code("import sys; sys.exit()").error is None
    broken = "class E(Exception):\n    def __str__(self): raise ValueError\nraise E"
    assert interpreter.run_code(broken).error.name == "E"
    assert interpreter.run_code("input()").error.name == "EOFError"


def test_everything_that_is_printed_arrives(shared: Any) -> None:
    interpreter = shared.code_interpreter
    code = """
import os, subprocess, sys
print("python", flush=True)
os.system("echo shell; echo complaint >&2")
subprocess.run(["sh", "-c", "printf program"])
os.write(1, b"\\xff")
print("{\\"not\\": \\"an answer\\"}")
sys.stderr.write("no line end")
"""
    run = interpreter.run_code(code)
    assert run.error is None
    assert run.stdout == 'python\nshell\nprogram\ufffd{"not": "an answer"}\n'
    assert run.stderr == "complaint\nno line end"
    big = interpreter.run_code("for i in range(300000): print(i)\nprint('é' * 100000)")
    assert big.stdout == "".join(f"{i}\n" for i in range(300_000)) + "é" * 100_000 + "\n"


def test_a_forged_answer_ends_the_interpreter_and_answers_nothing_else(shared: Any) -> None:
    interpreter = shared.code_interpreter
    for text in ("{}\\n", '{"id": ""}\\n', "not json\\n", "{}\\n{}\\n"):
        forged = interpreter.run_code(f"import os, time\nos.write(4, b'{text}')\ntime.sleep(20)")
        assert forged.error.name == "InterpreterEnded", text
        assert "makes no sense" in forged.error.value
        assert interpreter.run_code("print('next')").stdout == "next\n"


def test_environment_is_for_one_execution(shared: Any) -> None:
    interpreter = shared.code_interpreter
    show = "import os; print(os.environ.get('A'), os.environ['HOME'])"
    assert interpreter.run_code(show, envs={"A": "b", "HOME": "/x"}).stdout == "b /x\n"
    assert interpreter.run_code(show).stdout == "None /home/daytona\n"
    with pytest.raises(DaytonaError, match="not a valid environment variable"):
        interpreter.run_code(show, envs={"A B": "c"})


def test_a_timeout_interrupts_and_a_stubborn_one_is_killed(shared: Any) -> None:
    interpreter = shared.code_interpreter
    interpreter.run_code("kept = 1")
    begun = time.monotonic()
    with pytest.raises(DaytonaTimeoutError):
        interpreter.run_code("import time; print('x', flush=True); time.sleep(60)", timeout=1)
    assert time.monotonic() - begun < 10
    assert interpreter.run_code("print(kept)").stdout == "1\n"
    with pytest.raises(DaytonaTimeoutError):
        interpreter.run_code(
            "import time\nwhile True:\n    try: time.sleep(60)\n    except KeyboardInterrupt: pass", timeout=1
        )
    assert interpreter.run_code("print('kept' in globals())").stdout == "False\n"


def test_a_dead_interpreter_says_so_and_is_replaced(shared: Any) -> None:
    interpreter = shared.code_interpreter
    run = interpreter.run_code("print('last words', flush=True)\nimport os; os._exit(3)")
    assert run.stdout == "last words\n"
    assert run.error.name == "InterpreterEnded" and "exit code 3" in run.error.value
    run = interpreter.run_code("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert "signal 11" in run.error.value and "variables are lost" in run.error.value
    assert interpreter.run_code("print('alive')").stdout == "alive\n"


async def test_output_comes_while_the_code_runs_and_one_runs_at_a_time(box: Any) -> None:
    interpreter = box.code_interpreter
    times: list[float] = []
    await interpreter.run_code(
        "import time\nfor i in range(3): print(i); time.sleep(0.3)",
        on_stdout=lambda _: times.append(time.monotonic()),
    )
    assert times[-1] - times[0] > 0.4
    other = await interpreter.create_context()
    begun = time.monotonic()
    same = [
        interpreter.run_code("import time; a = time.time(); time.sleep(0.5); print(a, time.time())")
        for _ in range(2)
    ]
    apart = interpreter.run_code("print('quick')", context=other)
    first, second, quick = await asyncio.gather(*same, apart)
    assert quick.stdout == "quick\n" and time.monotonic() - begun < 15
    spans = sorted(tuple(map(float, run.stdout.split())) for run in (first, second))
    assert spans[0][1] <= spans[1][0]


async def test_a_client_that_leaves_does_not_stop_the_code(box: Any, engine: IsolatedEngine) -> None:
    url = f"{engine.url}/toolbox/{box.id}/process/interpreter/execute"
    code = "import time\nfor i in range(200): print('y' * 1000)\ntime.sleep(0.3)\ndone = True"
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {engine.key}"}) as session:
        async with session.ws_connect(url) as socket:
            await socket.send_str(json.dumps({"code": code}))
            await socket.receive()
    run = await box.code_interpreter.run_code("print(done)")
    assert run.stdout == "True\n"


async def test_what_makes_no_sense_is_refused(box: Any, engine: IsolatedEngine) -> None:
    url = f"{engine.url}/toolbox/{box.id}/process/interpreter/execute"
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {engine.key}"}) as session:
        for request, word in (
            ("{", "JSON"),
            ("[]", "code is required"),
            (json.dumps({"code": 1}), "code is required"),
            (json.dumps({"code": "1", "timeout": -1}), "timeout"),
            (json.dumps({"code": "1", "envs": [1]}), "envs"),
        ):
            async with session.ws_connect(url) as socket:
                await socket.send_str(request)
                message = await socket.receive()
                assert message.type == aiohttp.WSMsgType.CLOSE and message.data == 1003
                assert word in message.extra
        async with session.get(url) as response:
            assert response.status == 400 and "WebSocket" in (await response.json())["message"]
        async with session.post(url.replace("execute", "context"), json={"language": "ruby"}) as response:
            assert response.status == 400
        async with session.post(url.replace("execute", "context"), json={"cwd": "/nowhere"}) as response:
            assert response.status == 404
        async with session.delete(url.replace("execute", "context/default")) as response:
            assert response.status == 400
