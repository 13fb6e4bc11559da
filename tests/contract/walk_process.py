"""Scenarios of processes, sessions, terminals and the interpreter."""

from __future__ import annotations

import asyncio
from typing import Any

from daytona import CodeRunParams, PtySize, SessionExecuteRequest

from tests.contract.walk import Walk, walks

CHART = "import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.title('walked'); plt.show()\nprint('drawn')"


@walks("Process.exec")
async def executing(w: Walk) -> None:
    """output, exit code, folder and environment are the command's; a timeout ends its processes"""
    done = await w(
        w.box.process.exec, "pwd; echo $WALK; echo err >&2; exit 7", cwd="/tmp", env={"WALK": "a b"}
    )
    assert (done.exit_code, done.result) == (7, f"{await w.tmp()}\na b\nerr\n")
    await w.fails("DaytonaTimeoutError", w.box.process.exec, "echo $$ > slow; exec sleep 1000", timeout=1)
    pid = await w.sh("cat slow")
    await w.until(lambda: _is_gone(w, pid), "the timed out command is gone")


async def _is_gone(w: Walk, pid: str) -> bool:
    done = await w(w.box.process.exec, f"kill -0 {pid}")
    return bool(done.exit_code)


@walks("Process.code_run")
async def running_code(w: Walk) -> None:
    """the program's own output with its arguments and environment, its exit code, and the chart it drew"""
    code = "import os, sys; print(sys.argv[1:], os.environ['WALK']); sys.exit(3)"
    done = await w(w.box.process.code_run, code, CodeRunParams(argv=["x y"], env={"WALK": "1"}))
    assert (done.exit_code, done.result) == (3, "['x y'] 1\n")
    drawn = await w(w.box.process.code_run, CHART)
    assert drawn.result == "drawn\n" and [c.title for c in drawn.artifacts.charts] == ["walked"], drawn


@walks(
    "Process.create_session",
    "Process.get_session",
    "Process.list_sessions",
    "Process.execute_session_command",
    "Process.get_session_command",
    "Process.get_session_command_logs",
    "Process.delete_session",
)
async def sessions(w: Walk) -> None:
    """a shell keeps its variables from command to command, its commands are listed with their exit codes
    and streams, and deleting it ends its processes"""
    process = w.box.process
    await w(process.create_session, "walked")
    assert "walked" in [session.session_id for session in await w(process.list_sessions)]

    async def run(command: str, **more: Any) -> Any:
        request = SessionExecuteRequest(command=command, **more)
        return await w(process.execute_session_command, "walked", request)

    await run("X=kept")
    done = await run("echo $X; echo bad >&2; (exit 4)")
    assert (done.exit_code, done.stdout, done.stderr) == (4, "kept\n", "bad\n")
    seen = await w(process.get_session_command, "walked", done.cmd_id)
    assert (seen.command, seen.exit_code) == ("echo $X; echo bad >&2; (exit 4)", 4)
    logs = await w(process.get_session_command_logs, "walked", done.cmd_id)
    assert (logs.stdout, logs.stderr) == ("kept\n", "bad\n")
    await run("echo $$ > shell; sleep 1000", run_async=True)
    pid = await w.until(lambda: w.sh("cat shell 2>/dev/null; true"), "the command runs")
    session = await w(process.get_session, "walked")
    assert [command.exit_code for command in session.commands] == [0, 4, None]
    await w(process.delete_session, "walked")
    await w.until(lambda: _is_gone(w, pid), "the session's process is gone")
    await w.fails("DaytonaNotFoundError", process.get_session, "walked")


@walks("Process.send_session_command_input", "Process.get_session_command_logs_async")
async def following(w: Walk) -> None:
    """what is sent is logged and reaches the running command; what that prints is followed to its end"""
    process = w.box.process
    await w(process.create_session, "followed")
    command = SessionExecuteRequest(command="read -r a; echo got $a; echo bad >&2", run_async=True)
    made = await w(process.execute_session_command, "followed", command)
    out: list[str] = []
    err: list[str] = []
    follow = process.get_session_command_logs_async
    following = asyncio.ensure_future(w(follow, "followed", made.cmd_id, out.append, err.append))
    await w(process.send_session_command_input, "followed", made.cmd_id, "hello\n")
    await asyncio.wait_for(following, 60)
    assert ("".join(out), "".join(err)) == ("hello\ngot hello\n", "bad\n"), (out, err)
    await w(process.delete_session, "followed")


@walks("Process.get_entrypoint_session", "Process.get_entrypoint_logs", "Process.get_entrypoint_logs_async")
async def entrypoint(w: Walk) -> None:
    """without an image its command's session is empty: no command, no output, a followed log that ends"""
    process = w.box.process
    session = await w(process.get_entrypoint_session)
    assert (session.session_id, session.commands) == ("entrypoint", [])
    logs = await w(process.get_entrypoint_logs)
    assert (logs.output, logs.stdout, logs.stderr) == ("", "", "")
    heard: list[str] = []
    await w(process.get_entrypoint_logs_async, heard.append, heard.append)
    assert heard == []


class Terminal:
    """A handle of either flavour, and what it said."""

    def __init__(self, w: Walk) -> None:
        self.w, self.said = w, b""
        self.handle: Any = None

    def hear(self, data: bytes) -> None:
        self.said += data

    async def open(self, method: Any, *args: Any, **kwargs: Any) -> Terminal:
        """Create or connect."""
        heard = {"on_data": self.hear} if self.w.flavour == "async" else {}
        self.handle = await self.w(method, *args, **heard, **kwargs)
        return self

    async def wait(self) -> Any:
        """Until the program has ended."""
        heard = () if self.w.flavour == "async" else (self.hear,)
        return await asyncio.wait_for(self.w(self.handle.wait, *heard), 60)


@walks(
    "Process.create_pty_session",
    "PtyHandle.wait_for_connection",
    "PtyHandle.send_input",
    "PtyHandle.wait",
    "PtyHandle.session_id",
    "PtyHandle.is_connected",
    "PtyHandle.exit_code",
    "PtyHandle.error",
)
async def terminal(w: Walk) -> None:
    """a program in a real terminal of the asked size reads what is typed and ends with the exit code told"""
    size = PtySize(rows=33, cols=101)
    t = await Terminal(w).open(
        w.box.process.create_pty_session, "walk", cwd="/tmp", envs={"WALK": "ed"}, pty_size=size
    )
    handle = t.handle
    await w(handle.wait_for_connection)
    assert w.see(handle, "session_id") == "walk" and await w(handle.is_connected)
    assert w.see(handle, "exit_code") is None
    await w(handle.send_input, "stty size; echo $WALK in $PWD; [ -t 0 ] && exit 5\n")
    ended = await t.wait()
    assert b"33 101" in t.said and f"ed in {await w.tmp()}\r\n".encode() in t.said, t.said
    assert ended.exit_code == w.see(handle, "exit_code") == 5
    assert not await w(handle.is_connected) and "5" in str(w.see(handle, "error") or "5")


@walks(
    "Process.connect_pty_session",
    "Process.list_pty_sessions",
    "Process.get_pty_session_info",
    "Process.resize_pty_session",
    "Process.kill_pty_session",
    "PtyHandle.resize",
    "PtyHandle.kill",
    "PtyHandle.disconnect",
)
async def terminals(w: Walk) -> None:
    """a terminal outlives its client, is found again with its variables and its new size, and dies when
    killed"""
    process = w.box.process
    first = await Terminal(w).open(process.create_pty_session, "long")
    await w(first.handle.send_input, "X=remembered; echo $$ > tty\n")
    pid = await w.until(lambda: w.sh("cat tty 2>/dev/null; true"), "the shell has read its input")
    await w(first.handle.resize, PtySize(rows=20, cols=70))
    await w(first.handle.disconnect)
    assert not await w(first.handle.is_connected)
    info = await w(process.get_pty_session_info, "long")
    assert (info.id, info.active, info.cols, info.rows) == ("long", True, 70, 20)
    await w(process.resize_pty_session, "long", PtySize(rows=21, cols=71))
    again = await Terminal(w).open(process.connect_pty_session, "long")
    await w(again.handle.send_input, "echo $X > seen; stty size >> seen; echo done >> seen\n")
    await w.until(lambda: w.sh("grep done seen 2>/dev/null; true"), "the shell has answered")
    assert await w.sh("cat seen") == "remembered\n21 71\ndone"
    await w(again.handle.kill)
    await w.until(lambda: _is_gone(w, pid), "the shell is gone")
    assert (await again.wait()).exit_code not in (None, 0)

    await Terminal(w).open(process.create_pty_session, "second")
    assert "second" in [session.id for session in await w(process.list_pty_sessions)]
    await w(process.kill_pty_session, "second")
    assert "second" not in [session.id for session in await w(process.list_pty_sessions)]


@walks(
    "CodeInterpreter.run_code",
    "CodeInterpreter.create_context",
    "CodeInterpreter.list_contexts",
    "CodeInterpreter.delete_context",
)
async def interpreter(w: Walk) -> None:
    """variables stay within a context and nowhere else; streams, errors and a timeout are told; a deleted
    context is gone"""
    interpreter = w.box.code_interpreter
    assert (await w(interpreter.run_code, "x = 6")).error is None
    heard: list[str] = []
    done = await w(
        interpreter.run_code,
        "import os, sys; print(x * 7, os.environ['WALK']); print('bad', file=sys.stderr); 1 / 0",
        on_stdout=lambda message: heard.append(message.output),
        envs={"WALK": "ed"},
    )
    assert ("".join(heard), done.stdout, done.stderr) == ("42 ed\n", "42 ed\n", "bad\n")
    assert (done.error.name, done.error.value) == ("ZeroDivisionError", "division by zero")
    context = await w(interpreter.create_context, cwd="/tmp")
    apart = await w(interpreter.run_code, "import os; print(os.getcwd(), 'x' in globals())", context=context)
    assert apart.stdout == f"{await w.tmp()} False\n"
    assert context.id in [other.id for other in await w(interpreter.list_contexts)]
    await w(interpreter.delete_context, context)
    assert context.id not in [other.id for other in await w(interpreter.list_contexts)]
    await w.fails("there is no interpreter context", interpreter.run_code, "1", context=context)
    await w.fails("DaytonaTimeoutError", interpreter.run_code, "while True: pass", timeout=1)
