# ruff: noqa: E501, UP031  (cells are written as they are typed)
"""Python cells: streams, values, errors, rich output, commands, and an ordinary interpreter around them."""

from __future__ import annotations

import base64
import textwrap

import pytest

from .harness import Client, Guest


def test_streams_keep_order_partial_lines_and_control_characters(client: Client) -> None:
    code = """
    import sys
    print("a", end="")
    print("b\\r", end="", flush=True)
    sys.stderr.write("\\x1b[31mred\\x1b[0m")
    sys.stdout.write("c\\n")
    sys.stdout.buffer.write(b"\\xff\\x00\\xfe")
    print("d\\ud800", "é")
    """
    run = client.run(textwrap.dedent(code))
    merged: list[tuple[str, bytes]] = []
    for kind, data in run.both:
        if merged and merged[-1][0] == kind:
            merged[-1] = (kind, merged[-1][1] + data)
        else:
            merged.append((kind, data))
    assert merged == [
        ("out", b"ab\r"),
        ("err", b"\x1b[31mred\x1b[0m"),
        ("out", b"c\n\xff\x00\xfed\\ud800 \xc3\xa9\n"),
    ]


def test_all_byte_values(client: Client) -> None:
    run = client.run("import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000); None")
    assert run.out == bytes(range(256)) * 1000


def test_output_of_children_is_in_order(client: Client) -> None:
    code = """
    import subprocess, os, sys
    for i in range(20):
        print("p%d" % i)
        subprocess.run(["echo", "c%d" % i])
        os.system("echo s%d" % i)
        print("q%d" % i, end="\\n")
    """
    run = client.run(textwrap.dedent(code))
    assert run.text.split() == [x % i for i in range(20) for x in ("p%d", "c%d", "s%d", "q%d")]


def test_last_value_semicolon_underscore_and_none(client: Client) -> None:
    assert client.run("1+1").result == "2"
    assert client.run("_ * 21").result == "42"
    assert client.run("5;").result is None
    assert client.run("5; # note").result is None
    assert client.run("'a;b'").result == "'a;b'"
    assert client.run("None").result is None
    assert client.run("x = 3\nx").result == "3"
    assert client.run("").status == "ok"
    assert client.run("# only a comment").status == "ok"


def test_repr_that_raises(client: Client) -> None:
    run = client.run("class R:\n    def __repr__(self): raise ValueError('no')\nR()")
    assert run.status == "error" and run.result is None
    assert run.error["ename"] == "ValueError" and run.error["evalue"] == "no"


def test_rich_reprs(client: Client) -> None:
    code = """
    class Rich:
        def __repr__(self): return "plain"
        def _repr_html_(self): return "<b>h</b>", {"isolated": True}
        def _repr_png_(self): return b"\\x89PNG"
        def _repr_svg_(self): return "<svg/>"
        def _repr_json_(self): return {"a": 1}
        def _repr_latex_(self): return "$x$"
        def _repr_markdown_(self): return "*m*"
        def _repr_jpeg_(self): return b"\\xff\\xd8"
        def _repr_mimebundle_(self, include=None, exclude=None): return {"application/x": {"k": 2}}
    Rich()
    """
    bundle = client.run(textwrap.dedent(code)).of("result")[0]
    assert bundle["data"] == {
        "text/plain": "plain",
        "text/html": "<b>h</b>",
        "image/png": base64.b64encode(b"\x89PNG").decode(),
        "image/svg+xml": "<svg/>",
        "application/json": {"a": 1},
        "text/latex": "$x$",
        "text/markdown": "*m*",
        "image/jpeg": base64.b64encode(b"\xff\xd8").decode(),
        "application/x": {"k": 2},
    }
    assert bundle["metadata"] == {"text/html": {"isolated": True}}
    assert client.run("Rich").of("result")[0]["data"].keys() == {"text/plain"}
    display = client.run("class D:\n    def _ipython_display_(self): print('shown')\nD()")
    assert display.text == "shown\n" and display.result is None
    greedy = client.run("class G:\n    def __getattr__(self, n): return lambda *a, **k: 'x'\nG()")
    assert greedy.of("result")[0]["data"].keys() == {"text/plain"}


def test_display_update_and_clear(client: Client) -> None:
    run = client.run(
        "h = display('one', display_id='k')\nprint('mid')\nh.update('two')\ndisplay(1, 2, clear=True)"
    )
    kinds = [m["msg"] for m in run.messages]
    assert kinds == ["started", "display", "display", "clear", "display", "display", "done"]
    first, second = run.of("display")[:2]
    assert first["transient"] == second["transient"] == {"display_id": "k"}
    assert (first["update"], second["update"]) == (False, True)


def test_display_of_ipython_comes_to_us(client: Client) -> None:
    pytest.importorskip("IPython")
    run = client.run(
        "from IPython.display import display, HTML, Image\ndisplay(HTML('<i>x</i>'))\nHTML('<u>y</u>')"
    )
    assert run.of("display")[0]["data"]["text/html"] == "<i>x</i>"
    assert run.of("result")[0]["data"]["text/html"] == "<u>y</u>"
    assert run.out == b""


def test_large_display_is_whole_and_too_large_is_named_in_its_place(client: Client) -> None:
    run = client.run("display({'text/plain': 'x' * 3_000_000}, raw=True)")
    assert len(run.of("display")[0]["data"]["text/plain"]) == 3_000_000
    run = client.run("display({'text/plain': 'x' * (65 << 20)}, raw=True)")
    said = "(an output of 65 MiB is not shown: the limit is 64 MiB)"
    assert run.status == "ok" and [one["data"] for one in run.of("display")] == [{"text/plain": said}]


def test_matplotlib_figures(client: Client) -> None:
    pytest.importorskip("matplotlib")
    code = (
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show(); print('between')\nplt.plot([3, 4]);"
    )
    run = client.run(code, timeout_s=90)
    shown = run.of("display")
    assert len(shown) == 2 and run.text == "between\n"
    assert base64.b64decode(shown[0]["data"]["image/png"]).startswith(b"\x89PNG")
    assert client.run("plt.get_fignums()").result == "[]"
    assert client.run("plt.subplots()[0]").of("result")[0]["data"].keys() >= {"image/png"}


def plain(lines: list[str]) -> str:
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines))


def test_traceback_has_cell_frames_and_source(client: Client) -> None:
    client.run("def f(x):\n    y = 1\n    return g(x)\n", name="Cell In[7]")
    run = client.run("def g(x):\n    return 1 / x\nf(0)", name="Cell In[8]")
    text = plain(run.error["traceback"])
    assert run.status == "error" and run.error["ename"] == "ZeroDivisionError"
    assert "Cell In[8], line 3" in text and "----> 3 f(0)" in text
    assert "Cell In[7], line 3, in f" in text and "----> 3     return g(x)" in text
    assert "guest" not in text and "worker.py" not in text


def test_chained_syntax_and_hostile_errors(client: Client) -> None:
    run = client.run("try:\n    {}['k']\nexcept KeyError as e:\n    raise ValueError('v') from e")
    text = plain(run.error["traceback"])
    assert text.index("KeyError") < text.index("direct cause") < text.index("ValueError: v")
    run = client.run("x = (1 +\ny = $", name="Cell In[9]")
    text = plain(run.error["traceback"])
    assert run.error["ename"] == "SyntaxError" and "Cell In[9]" in text and "^" in text
    run = client.run("class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E")
    assert run.error["ename"] == "E" and "str() failed" in run.error["evalue"]
    run = client.run("def r(): r()\nr()")
    assert run.error["ename"] == "RecursionError" and len(run.error["traceback"]) < 60
    assert client.run("try:\n    int('x')\nexcept Exception:\n    1/0").error["ename"] == "ZeroDivisionError"


def test_error_source_of_a_rerun_cell(client: Client) -> None:
    client.run("def old():\n    raise OSError('first version')", name="Cell In[20]")
    client.run("def new():\n    pass", name="Cell In[20]")
    assert "Cell In[20], line 1" in plain(client.run("1/0", name="Cell In[20]").error["traceback"])
    assert "raise OSError('first version')" in plain(client.run("old()").error["traceback"])


def test_exit(client: Client) -> None:
    client.run("kept = 1")
    assert client.run("exit()").status == "ok"
    run = client.run("import sys; sys.exit(3)")
    assert (run.status, run.done["exit_code"], run.error["ename"]) == ("error", 3, "SystemExit")
    assert client.run("kept").result == "1"


def test_children_have_no_keyboard(client: Client) -> None:
    assert client.run("import subprocess; subprocess.run('cat', stdout=-1).stdout").result == "b''"


def test_commands_and_magics(client: Client, guest: Guest) -> None:
    run = client.run("n = 3\n!echo {n + 1} $n '$HOME'; exit 5\n_exit_code")
    assert run.text.split()[:2] == ["4", "3"] and run.result == "5"
    run = client.run("x = !printf 'a\\nb\\n'\nx, x.n")
    assert run.result == "(['a', 'b'], 'a\\nb')"
    run = client.run("if True:\n    !echo nested\n    %cd /tmp\ns = '''\n!not a command\n%nor magic\n'''\ns")
    assert run.text == "nested\n/tmp\n" and "!not a command" in run.result
    assert client.run("import os; os.getcwd()").result == "'/tmp'"
    client.run("%cd")
    assert client.run("%env DM_X=1\n%env DM_X").result == "'1'"
    assert client.run("%pip --version").text.startswith("pip ")
    run = client.run("%nosuchmagic")
    assert run.error["ename"] == "UsageError" and "What works" in run.error["evalue"]
    assert client.run("%%bash\necho from bash").text == "from bash\n"
    (page,) = client.run("len?").of("page")
    assert "len(obj" in page["text"]


def test_top_level_await_shares_a_loop(client: Client) -> None:
    assert (
        client.run(
            "import asyncio\nawait asyncio.sleep(0)\nt = asyncio.ensure_future(asyncio.sleep(0, 7))"
        ).status
        == "ok"
    )
    assert client.run("await t").result == "7"
    assert client.run("async def m(): return 5\nasyncio.run(m())").result == "5"


def test_looks_like_an_ordinary_interpreter(client: Client, guest: Guest) -> None:
    code = """
    import sys, os, signal, pickle
    class K: pass
    assert type(pickle.loads(pickle.dumps(K()))) is K and K.__module__ == "__main__"
    assert sys.modules["__main__"].__dict__ is globals() and __name__ == "__main__"
    assert sys.argv == [""] and sys.path[0] == ""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL and signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
    assert os.getsid(0) == os.getpid() == os.getpgid(0)
    assert not sys.flags.isolated and not sys.flags.no_site
    assert os.read(0, 1) == b""
    assert signal.set_wakeup_fd(-1) == -1
    try:
        open("/dev/tty")
    except OSError as error:
        print("no tty")
    print(os.getcwd(), [f for f in range(300) if os.path.exists("/proc/self/fd/%d" % f)])
    """
    run = client.run(textwrap.dedent(code), context="ordinary")
    assert run.status == "ok", run.messages
    assert run.text == "no tty\n%s [0, 1, 2, 250, 251]\n" % guest.home


def test_cell_cwd_and_env_are_for_that_cell_only(client: Client, guest: Guest) -> None:
    run = client.run("import os; os.getcwd(), os.environ['DM_E']", cwd="/", env={"DM_E": "v"})
    assert run.result == "('/', 'v')"
    assert client.run("os.getcwd(), 'DM_E' in os.environ").result == repr((guest.home, False))
    run = client.run("1", cwd="/nowhere")
    assert run.status == "error" and run.error["ename"] == "FileNotFoundError"
    assert run.error["evalue"] == "--cwd /nowhere: there is no such folder, or it cannot be entered"


def test_threads_and_multiprocessing(client: Client) -> None:
    code = """
    import threading, multiprocessing as mp, os, math
    ts = [threading.Thread(target=lambda i=i: [print("t%d\\n" % i, end="") for _ in range(2000)]) for i in range(4)]
    [t.start() for t in ts]; [t.join() for t in ts]
    with mp.get_context("fork").Pool(2) as pool:
        print(pool.map(abs, [-1, -2]))
    with mp.get_context("spawn").Pool(2) as pool:
        print(pool.map(math.sqrt, [1, 4]))
    p = mp.get_context("fork").Process(target=print, args=("from the child",)); p.start(); p.join()
    pid = os.fork()
    if pid == 0:
        print("forked"); os._exit(0)
    os.waitpid(pid, 0)
    print("end")
    """
    run = client.run(textwrap.dedent(code), timeout_s=60)
    assert run.status == "ok", run.messages
    lines = run.text.splitlines()
    assert sorted(lines[:8000]) == sorted("t%d" % (i // 2000) for i in range(8000))
    assert lines[8000:] == ["[1, 2]", "[1.0, 2.0]", "from the child", "forked", "end"]


def test_a_million_lines(client: Client) -> None:
    run = client.run("for i in range(1000000): print(i)", timeout_s=60)
    assert run.out == b"".join(b"%d\n" % i for i in range(1000000))


def test_late_output_goes_to_the_context_log(client: Client, guest: Guest) -> None:
    run = client.run(
        "import threading\ne = threading.Event()\nthreading.Thread(target=lambda: (e.wait(), print('late words'))).start()\n1"
    )
    assert run.result == "1"
    client.run("e")
    log = [
        c for c in client.request("status")["contexts"] if c["language"] == "python" and c["name"] == "main"
    ]
    client.run("threading.Timer(0.05, e.set).start()")
    client.until(lambda: "late words" in _read(log[0]["late_output"]))


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def test_a_forked_process_that_comes_back_from_the_cell_ends(client: Client) -> None:
    for end in ("", "raise KeyboardInterrupt", "1/0", "import sys; sys.exit(4)"):
        run = client.run(
            "import os\npid = os.fork()\nif pid == 0:\n    print('child')\n    %s\n" % (end or "pass")
        )
        assert run.status == "ok", run.messages
        code = client.run("os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])").result
        assert code == {"": "0", "import sys; sys.exit(4)": "4"}.get(end, "1")
    assert client.run("pid = os.fork()\nif pid: os.waitpid(pid, 0)\npid > 0").result == "True"


def test_an_extension_that_needs_more_than_there_is_says_so(client: Client) -> None:
    make = """
    import sys, types
    for name, load in (("wants", lambda ip: ip.input_transformers_cleanup.append(1)),
                       ("works", lambda ip: ip.register_magic_function(str.upper, "line_cell", "loud"))):
        made = types.ModuleType(name); made.load_ipython_extension = load; sys.modules[name] = made
    """
    client.run(textwrap.dedent(make))
    run = client.run("%load_ext wants")
    assert run.error["ename"] == "MagicError" and "input_transformers_cleanup" in run.error["evalue"]
    assert client.run("%load_ext works\n%loud a").result == "'A'"
    assert client.run("%load_ext daytona_magics").error is not None


def test_a_callback_that_fails_is_reported_and_fails_nothing(client: Client) -> None:
    client.run("def bad(): 1/0\nget_ipython().events.register('post_execute', bad)")
    run = client.run("40 + 2")
    assert run.result == "42" and run.status == "ok" and b"Error in callback" in run.err
    client.run("get_ipython().events.unregister('post_execute', bad)")
    assert client.run("1").err == b""
    assert "no event" in client.run("get_ipython().events.register('x', bad)").error["evalue"]
