"""Cells in a real kernel, at the isolation level of this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

import pytest

from tests.kernel_client import Kernel


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel() as made:
        first = made.run("%%sandbox\n0")
        assert first.status == "ok", first
        yield made


def test_the_last_value_is_a_true_result(kernel: Kernel) -> None:
    cell = kernel.run("%%sandbox\n40 + 2")
    assert cell.bundles("execute_result") == [{"text/plain": "42"}]
    assert kernel.run("repr(_)").result == "'42'"
    number = next(
        content["execution_count"] for kind, content, _ in cell.messages if kind == "execute_result"
    )
    assert kernel.run(f"Out[{number}]").result == "42"


def test_a_semicolon_silences_the_value_and_statements_have_none(kernel: Kernel) -> None:
    assert kernel.run("%%sandbox\n40 + 2;").result is None
    assert kernel.run("%%sandbox\nx = 1").result is None


def test_output_of_children_is_heard(kernel: Kernel) -> None:
    assert kernel.run('%%sandbox\nimport os; os.system("echo heard");').stdout == "heard\n"


def test_output_is_visible_at_once(kernel: Kernel) -> None:
    cell = kernel.run('%%sandbox\nimport time\nprint("a", end=""); time.sleep(1); print("b")')
    times = [(content["text"], when) for kind, content, when in cell.messages if kind == "stream"]
    assert times[0][0] == "a" and "".join(text for text, _ in times) == "ab\n"
    assert times[1][1] - times[0][1] > 0.7


def test_streams_keep_their_order_and_carriage_returns(kernel: Kernel) -> None:
    cell = kernel.run(
        '%%sandbox\nimport sys\nfor i in range(3):\n    print(i, end="\\r")\n'
        'print("e", file=sys.stderr)\nprint("o")'
    )
    texts = [(c["name"], c["text"]) for kind, c, _ in cell.messages if kind == "stream"]
    joined = [
        (name, "".join(text for _, text in group)) for name, group in groupby(texts, lambda pair: pair[0])
    ]
    assert joined == [("stdout", "0\r1\r2\r"), ("stderr", "e\n"), ("stdout", "o\n")]


def test_errors_have_the_remote_name_and_remote_frames_only(kernel: Kernel) -> None:
    cell = kernel.run("%%sandbox\ndef divide():\n    return 1/0\ndivide()")
    number = next(content["execution_count"] for kind, content, _ in cell.messages if kind == "execute_input")
    assert (cell.status, cell.ename, cell.error["evalue"]) == (
        "error",
        "ZeroDivisionError",
        "division by zero",
    )
    assert cell.reply["ename"] == "ZeroDivisionError"
    assert re.findall(rf"Cell In\[{number}\], line (\d)", cell.traceback) == ["4", "3"]
    for host in ("daytona_magics", "site-packages", "run_cell", "/home/daytona/.daytona-magics"):
        assert host not in cell.traceback


def test_syntax_errors_name_the_line(kernel: Kernel) -> None:
    cell = kernel.run("%%sandbox\nx = 1\nif:\n")
    assert cell.ename == "SyntaxError" and "line 3" in cell.traceback


def test_the_end_of_the_process_is_reported_and_the_next_cell_works(kernel: Kernel) -> None:
    cell = kernel.run("%%sandbox\nimport os; os._exit(3)")
    assert (
        cell.ename == "WorkerDied" and "exit code 3" in cell.traceback and "files are kept" in cell.traceback
    )
    cell = kernel.run("%%sandbox\nimport os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert cell.ename == "WorkerDied" and "SIGSEGV" in cell.traceback
    assert kernel.run("%%sandbox\n'fine'").result == "'fine'"


def test_bash_keeps_its_state_and_reports_its_exit_code(kernel: Kernel) -> None:
    cell = kernel.run("%%sandbox bash\ncd /tmp; A=5; f() { echo f $A; }; echo err >&2; exit 4")
    assert cell.ename == "ExitCodeError" and "exit code 4" in cell.traceback and cell.stderr == "err\n"
    assert kernel.run("%%sandbox bash\npwd; f").stdout == "/tmp\nf 5\n"


def test_two_contexts_do_not_share_variables(kernel: Kernel) -> None:
    kernel.run("%%sandbox\nname = 'python'")
    kernel.run("%%sandbox bash\nname=bash")
    assert kernel.run("%%sandbox\nname").result == "'python'"
    assert kernel.run("%%sandbox bash\necho $name").stdout == "bash\n"


def test_shell_escapes_cd_and_await(kernel: Kernel) -> None:
    cell = kernel.run(
        "%%sandbox\n%cd /tmp\n!echo from $PWD\nimport asyncio\nawait asyncio.sleep(0, 'awaited')"
    )
    assert "from /tmp" in cell.stdout and cell.result == "'awaited'"
    kernel.run("%%sandbox\n%cd ~")


def test_a_timeout_stops_the_cell_and_keeps_variables(kernel: Kernel) -> None:
    kernel.run("%%sandbox\nkept = 1")
    cell = kernel.run("%%sandbox --timeout 0.5\nwhile True: pass")
    assert (
        cell.ename == "CellTimeout" and "0.5 s" in cell.traceback and "variables are alive" in cell.traceback
    )
    assert kernel.run("%%sandbox\nkept").result == "1"


def test_input_fails_at_once_where_nobody_can_answer(kernel: Kernel) -> None:
    cell = kernel.run("%%sandbox\ninput('name? ')", timeout=30, allow_stdin=False)
    assert cell.ename == "StdinNotImplementedError" and "does not support input" in cell.traceback
    assert kernel.run("%%sandbox\n5").result == "5"


def test_html_is_sanitised_and_javascript_dropped(kernel: Kernel) -> None:
    cell = kernel.run(
        "%%sandbox\nfrom IPython.display import HTML, Javascript, display\n"
        "display(HTML('<b onclick=\"x()\">bold</b>'))\ndisplay(HTML('<style>b{}</style>x'))\n"
        "display(Javascript('alert(1)'))"
    )
    shown = [bundle.get("text/html") for bundle in cell.bundles() if "text/html" in bundle]
    assert shown[0] == "<b>bold</b>" and shown[1].startswith("<iframe")
    assert "alert(1)" not in str([m for m in cell.messages if m[0] == "display_data"])


def test_a_plot_arrives_as_png(kernel: Kernel) -> None:
    cell = kernel.run("%%sandbox\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()", timeout=90)
    assert cell.status == "ok", cell
    assert any(bundle.get("image/png", "").startswith("iVBORw0KGgo") for bundle in cell.bundles())


def test_a_frame_looks_like_a_frame(kernel: Kernel) -> None:
    cell = kernel.run("%%sandbox\nimport pandas as pd\npd.DataFrame({'a': [1]})", timeout=90)
    (bundle,) = cell.bundles("execute_result")
    assert 'class="dataframe"' in bundle["text/html"] and "<iframe" not in bundle["text/html"]


def test_terminal_escapes_that_reach_out_are_stripped(kernel: Kernel) -> None:
    cell = kernel.run(r"%%sandbox" "\n" r"print('\x1b]52;c;AA\x07\x1b[31mred\x1b[0m')")
    assert cell.stdout == "\x1b[31mred\x1b[0m\n"


def test_captured_output(kernel: Kernel) -> None:
    cell = kernel.run("%%sandbox --out got\nimport sys\nprint('o'); print('e', file=sys.stderr); 5")
    assert cell.stdout == cell.stderr == "" and cell.result is None
    assert kernel.run("got.stdout, got.stderr, got.result, got.ok").result == "('o\\n', 'e\\n', 5, True)"
    failed = kernel.run("%%sandbox --out got\nprint('before'); 1/0")
    assert failed.ename == "ZeroDivisionError"
    assert kernel.run("got.stdout, type(got.error).__name__").result == "('before\\n', 'ZeroDivisionError')"


def test_no_raise_returns_the_outcome(kernel: Kernel) -> None:
    cell = kernel.run("%%sandbox --no-raise\n1/0")
    assert (
        cell.status == "ok" and "ZeroDivisionError" in cell.stderr and "ZeroDivisionError" in str(cell.result)
    )
    assert kernel.run("_.ok, _.error.ename").result == "(False, 'ZeroDivisionError')"
    assert kernel.run("%%sandbox bash --no-raise\nexit 7").status == "ok"
    assert kernel.run("_.exit_code").result == "7"


def test_environment(kernel: Kernel) -> None:
    kernel.run("import os; os.environ['FROM_HOST'] = 'host value'")
    code = "\nimport os\nos.environ.get('FROM_HOST'), os.environ.get('MODE')"
    assert kernel.run("%%sandbox -e FROM_HOST -e MODE='a b'" + code).result == "('host value', 'a b')"
    assert kernel.run("%%sandbox" + code).result == "(None, None)"
    refused = kernel.run("%%sandbox -e KEY=ghp_0123456789abcdefghijABCDEF\n1")
    assert refused.ename == "SandboxUsageError" and "ghp_" not in refused.traceback


def test_cwd(kernel: Kernel) -> None:
    assert kernel.run("%%sandbox bash --cwd /tmp\npwd").stdout == "/tmp\n"


def test_mistakes_fail_the_cell_with_the_nearest_word(kernel: Kernel) -> None:
    cell = kernel.run("%%sandbox --tiemout 3\nraise SystemExit")
    assert cell.status == "error" and cell.ename == "SandboxUsageError"
    assert "did you mean --timeout?" in cell.traceback


@pytest.mark.parametrize("cell", ["%%sandbox", "%%sandbox --help", "%%sandbox --help\n1", "%%sandbox\n\n"])
def test_help_and_empty_bodies(kernel: Kernel, cell: str) -> None:
    ran = kernel.run(cell)
    assert ran.status == "ok" and "--timeout SECONDS" in str(ran.result)


def test_comments_above_the_magic(kernel: Kernel) -> None:
    cell = "# a note\n\n%%sandbox\n6 * 7"
    assert kernel.run(cell).result == "42"
    assert "line 4" in kernel.run(cell.replace("6 * 7", "1/0")).traceback


@pytest.mark.parametrize("first", ["# %% sandbox", "# a note\n# %% sandbox"])
def test_a_title_that_looks_like_the_magic_runs_nowhere(kernel: Kernel, first: str) -> None:
    refused = kernel.run(f"{first}\nhere = 1")
    assert refused.ename == "SandboxUsageError" and "without a blank" in refused.traceback
    assert kernel.run("'here' in globals()").result == "False"


def test_completion_in_the_kernel(kernel: Kernel) -> None:
    assert kernel.complete("%sandbox st") == ["status", "start", "stop", "stat"]
    assert kernel.complete("%%sandbox --ti\nprint(1)", len("%%sandbox --ti")) == ["--timeout"]
    name = kernel.run("%sandbox list\n").result.split("→ ")[1].split()[0]
    assert name in kernel.complete("%sandbox use ")
    kernel.run("%%sandbox\nopen('completed.txt', 'w').close()")
    assert kernel.complete("%sandbox cat compl") == ["completed.txt"]


def test_keys_are_nowhere_to_be_seen(kernel: Kernel) -> None:
    cell = kernel.run(
        "from daytona_magics import sandboxes as s\nb = s.current()\nkey = b.endpoint.api_key\n"
        "text = repr(b.endpoint) + repr(vars(b)) + repr(b.channel) + repr(b.sandbox)\n"
        "print(len(key) > 8, key in text)"
    )
    assert cell.stdout == "True False\n"


def test_unloading_takes_everything_out_and_loading_again_continues(kernel: Kernel) -> None:
    kernel.run("%%sandbox\nstill = 'here'")
    assert kernel.run("%unload_ext daytona_magics").status == "ok"
    assert kernel.run("%%sandbox\n1").status == "error"
    assert (
        kernel.run(
            "ip = get_ipython(); [c for c in ip.configurables if 'Sandbox' in type(c).__name__]"
        ).result
        == "[]"
    )
    assert kernel.run("%load_ext daytona_magics").status == "ok"
    assert kernel.run("%reload_ext daytona_magics").status == "ok"
    assert kernel.run("sum('SandboxConfig' == type(c).__name__ for c in ip.configurables)").result == "1"
    assert kernel.run("%%sandbox\nstill").result == "'here'"


@pytest.mark.parametrize(
    "body", ["\nwhile True:\n    print('x' * 2000)", " bash\nyes " + "x" * 60], ids=["python", "bash"]
)
def test_a_timeout_holds_under_endless_output_and_the_gap_is_said_once(kernel: Kernel, body: str) -> None:
    head, _, code = body.partition("\n")
    cell = kernel.run(f"%%sandbox{head} --timeout 2\n{code}")
    assert cell.ename == "CellTimeout" and cell.seconds < 15, cell.seconds
    lines = {
        content["transient"].get("display_id")
        for _, content, _ in cell.messages
        if "missing here" in str(content.get("data", {}).get("text/plain", ""))
    }
    assert len(lines) <= 1, "one line, which counts"
    assert kernel.run("%%sandbox\n1").result == "1"


def test_output_between_cells_is_told_and_can_be_read(kernel: Kernel) -> None:
    nothing = kernel.run("%sandbox logs")
    assert nothing.status == "ok", nothing
    kernel.run(
        "%%sandbox\nimport threading, time\n"
        "gone = threading.Event()\n"
        "def later():\n    gone.wait()\n    time.sleep(0.2)\n    print('said by a thread')\n"
        "    open('said', 'w').close()\n"
        "threading.Thread(target=later).start()"
    )
    kernel.run("%%sandbox\ngone.set()")
    waiting = (
        "%sandbox exec for i in $(seq 200); do test -e said && break; sleep 0.05; done; rm said; sleep 0.1"
    )
    assert kernel.run(waiting).status == "ok"
    told = kernel.run("%%sandbox\n1")
    assert "of output came between two cells: `%sandbox logs` shows it" in told.notes, told
    logged = kernel.run("%sandbox logs -n 20")
    assert "said by a thread" in logged.stdout and ", after Cell In[" in logged.stdout, logged
    assert "between two cells" not in kernel.run("%%sandbox\n1").notes
    assert kernel.run("%sandbox logs -n 0").status == "error"


def test_logs_without_a_sandbox_make_none() -> None:
    with Kernel() as kernel:
        assert "Nothing was printed between cells." in kernel.run("%sandbox logs").notes
        assert "No sandbox yet" in str(kernel.run("%sandbox").result)


def test_a_message_of_a_page_ends_no_cell_that_draws(kernel: Kernel) -> None:
    """On a subshell's thread it comes while a cell runs; with any other widget the figure is closed then."""
    made = kernel.run(
        "%matplotlib inline\n%config SandboxConfig.display = 'live'\n"
        "import threading\nimport ipywidgets, matplotlib.pyplot as plt\n"
        "from daytona_magics.widgets.file_tree import FileTree\n"
        "def stays(comm):\n"
        "    figure, _ = plt.subplots()\n"
        "    message = {'content': {'data': {'method': 'custom', 'content': {}}}, 'buffers': []}\n"
        "    thread = threading.Thread(target=comm.handle_msg, args=(message,))\n"
        "    thread.start(); thread.join()\n"
        "    left = plt.fignum_exists(figure.number)\n"
        "    plt.close(figure)\n"
        "    return left\n"
        "tree = FileTree()",
        timeout=90,
    )
    assert made.status == "ok", made
    assert kernel.run("stays(tree._up.comm), stays(tree.comm)").result == "(True, True)"
    assert kernel.run("stays(ipywidgets.Button().comm)").result == "False"
    assert kernel.run("tree.close()\n%config SandboxConfig.display = 'auto'").status == "ok"
