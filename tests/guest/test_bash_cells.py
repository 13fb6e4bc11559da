# ruff: noqa: E501, UP031  (cells are written as they are typed)
"""Bash cells: a state that outlives each shell."""

from __future__ import annotations

import pytest

from .harness import Client, Guest


def test_state_is_kept(client: Client) -> None:
    first = r"""
    cd /usr; x='a b'; arr=(1 'two words' 3); declare -A map=([k]=v); export EXP=e; n=$'line1\nline2'
    f() { echo "f:$1"; }; g() { echo "g:g"; }; export -f g; alias ll='echo aliased'; shopt -s expand_aliases nullglob; umask 027
    readonly RO=1; declare -i num=7
    """
    assert client.bash(first).status == "ok"
    second = (
        'pwd; echo "$x|${arr[1]}|${#arr[@]}|${map[k]}|$EXP|$n"; f 1; ll ok; shopt -q nullglob && echo glob; umask; '
        'echo $RO; num=num+1; echo $num; bash -c "g; echo \\$EXP"'
    )
    run = client.bash(second)
    assert run.text.splitlines() == [
        "/usr", "a b|two words|3|v|e|line1", "line2", "f:1", "aliased ok", "glob", "0027", "1", "8", "g:g", "e",
    ]  # fmt: skip


def test_state_is_kept_whatever_the_shell_is_told_about_files_words_and_names(client: Client) -> None:
    assert client.bash("cd /usr; set -C -f; IFS=:; declare unset_one; x='* a:b'").status == "ok"
    assert client.bash("y=$x; cd /tmp; umask 077").status == "ok"
    assert client.bash('echo "$PWD|$y|$-|$(umask)"').text.startswith("/tmp|* a:b|")
    assert client.bash("set +C +f; unset IFS y; cd; case $- in *C*) echo C;; esac").text == ""
    contexts = [one for one in client.request("status")["contexts"] if one["language"] == "bash"]
    assert contexts[0]["directory"] == client.guest.home


def test_exit_and_errexit_end_the_cell_not_the_state(client: Client) -> None:
    run = client.bash("y=1; exit 3; echo never")
    assert (run.status, run.done["exit_code"], run.text) == ("error", 3, "")
    run = client.bash("set -e; z=2; false; echo never")
    assert (run.status, run.done["exit_code"], run.text) == ("error", 1, "")
    run = client.bash("set +e; false; echo $y$z")
    assert (run.status, run.text) == ("ok", "12\n")
    assert client.bash("set -u; set -o pipefail; true").status == "ok"
    assert client.bash("false | true; echo $?; set +u; set +o pipefail").text == "1\n"


def test_streams_are_separate_and_errors_name_the_cell(client: Client) -> None:
    run = client.bash("echo out\necho err >&2\nnosuchcommand", name="Cell In[4]")
    assert run.out == b"out\n"
    assert b"Cell In[4]: line 3: nosuchcommand: command not found" in run.err and run.err.startswith(b"err\n")
    assert run.done["exit_code"] == 127


def test_users_exit_trap_runs_and_state_is_kept(client: Client) -> None:
    run = client.bash("trap 'echo bye' EXIT; t=5; exit 4")
    assert (run.text, run.done["exit_code"]) == ("bye\n", 4)
    assert client.bash("echo $t").text == "5\n"


def test_cwd_and_env_are_for_that_cell_only(client: Client, guest: Guest) -> None:
    client.bash("cd ~; DM_V=old")
    run = client.bash("pwd; echo $DM_V $DM_W", cwd="/tmp", env={"DM_V": "new", "DM_W": "w x"})
    assert run.text == "/tmp\nnew w x\n"
    assert client.bash("pwd; echo $DM_V,$DM_W").text == guest.home + "\nold,\n"
    nowhere = client.bash("pwd", cwd="/nowhere/a b'c")
    assert nowhere.status == "error"
    assert (
        bytes(nowhere.err).decode()
        == "--cwd /nowhere/a b'c: there is no such folder, or it cannot be entered\n"
    )
    assert client.bash("pwd; mkdir -p deep", cwd="~").text == guest.home + "\n"
    assert client.bash("pwd", cwd="~/deep").text == guest.home + "/deep\n"
    assert client.bash("pwd").text == guest.home + "\n"


def test_own_session_and_a_terminal_that_is_not_the_protocols(client: Client) -> None:
    run = client.bash("ps -o sid=,pgid=,ppid=,pid=,tty= -p $$; tty; echo to the terminal > /dev/tty")
    session, group, parent, own, terminal = run.text.splitlines()[0].split()
    # A leader of its own, so that background jobs live on when bash ends.
    assert session == parent and group == own and session != own
    assert run.text.splitlines()[1] == "/dev/" + terminal and run.err == b"to the terminal\n"


def test_long_cell_and_verbose_shell(client: Client) -> None:
    run = client.bash("x=" + "y" * 300_000 + "\necho ${#x}")
    assert run.text == "300000\n"
    run = client.bash("set -x; echo t; set +x; x=")
    assert run.err.count(b"\n") == 2 and b"dm_" not in run.err


def test_a_killed_shell_keeps_the_state_before(client: Client) -> None:
    client.bash("k=before")
    run = client.bash("k=after; kill -9 $$")
    assert (run.status, run.done["signal"]) == ("died", 9)
    assert client.bash("echo $k").text == "before\n"


def test_background_job_outlives_its_cell_and_is_logged(client: Client) -> None:
    run = client.bash("mkfifo go; (read x < go; echo late bash words) & echo started")
    assert run.text == "started\n"
    client.bash("echo now > go")
    context = next(c for c in client.request("status")["contexts"] if c["language"] == "bash")

    def logged() -> bool:
        try:
            with open(context["late_output"]) as file:
                return "late bash words" in file.read()
        except FileNotFoundError:
            return False

    client.until(logged)
    # The next cell, of whatever language, says so, once.
    told = client.run("1").of("notice")
    assert [n["text"] for n in told] == [
        "16 bytes of output came between two cells: `%sandbox logs` shows it"
    ]
    assert not client.bash("true").of("notice") and not client.run("1").of("notice")


@pytest.mark.parametrize("size", [10_000_000])
def test_bulk(client: Client, size: int) -> None:
    run = client.bash("head -c %d /dev/zero; seq 100000 >&2" % size)
    assert len(run.out) == size and run.err == b"".join(b"%d\n" % i for i in range(1, 100001))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("echo a\nset -e\nls /nonexistent\necho b", "line 3: ls /nonexistent"),
        ("true\n  ls /none | cat >&2; (exit 7)", "line 2: ( exit 7 )"),
        ("false\nexit 5", ""),
        ("f() {\n  ls /none\n}\nf", "line 4: f (in it: ls /none)"),
        ("for i in 1 2; do\n  ls /none\ndone", "line 2: ls /none"),
        ("echo 'ls /none' > lib\n. ./lib", "line 2: . ./lib"),
        ("set -o pipefail\nls /none | cat\n", "line 2: cat"),
        ("set -e\nx=$(ls /none)\n", "line 2: x=$(ls /none)"),
        ("false || true\nfalse && true\necho fine", ""),
    ],
)
def test_the_failing_line_is_named(client: Client, code: str, said: str) -> None:
    run = client.bash("set +e +o pipefail")
    run = client.bash(code)
    assert run.done["text"].partition("\n")[0] == said, run.done
    assert run.status == ("ok" if "fine" in code else "error")


def test_naming_the_failing_line_is_not_seen(client: Client) -> None:
    run = client.bash("set -x\nfalse\necho $?\nset +x")
    assert run.text == "1\n" and run.err == b"+ false\n+ echo 1\n+ set +x\n"
