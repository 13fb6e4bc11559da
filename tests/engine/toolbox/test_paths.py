"""Requests may name the folders of the cloud, also where a sandbox has none of them."""

import os
from collections.abc import AsyncIterator

import pytest

from daytona_magics.engine.launch.launcher import SandboxProcess
from daytona_magics.engine.toolbox.client import ToolboxError


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def content(box: SandboxProcess, path: str) -> bytes:
    async with await box.toolbox.download(path) as file:
        return b"".join([chunk async for chunk in file])


@pytest.mark.parametrize("launcher", ["L3", "L2", "L1"], indirect=True)
async def test_home_and_tmp(box: SandboxProcess) -> None:
    toolbox = box.toolbox
    temporary = (await toolbox.execute('printf %s "$TMPDIR"')).output.decode()
    for given, real in (("/home/daytona", toolbox.home), ("/tmp", temporary)):
        for start in (given, "/" + given, f"{given}/./x/..", real):
            await toolbox.upload(f"{start}/deep/file", chunks(start.encode()))
            for way in (given, real):
                assert await content(box, f"{way}/deep/file") == start.encode()
            assert await toolbox.run_program(["cat", f"{real}/deep/file"]) is not None
        # What is answered is where it is.
        assert [file.path for file in await toolbox.list_files(f"{given}/deep")] == [f"{real}/deep/file"]
        assert (await toolbox.execute("pwd", cwd=f"{given}/deep")).output.decode() == f"{real}/deep\n"
        await toolbox.delete_file(f"{given}/deep", recursive=True)
        assert not [file for file in await toolbox.list_files(real) if file.name == "deep"]
    # Only as folders, only in requests, and no way to anywhere else.
    for path in ("/home/daytonaX/file", "/tmpX/file", "/home/daytona/../../etc/new", "/tmp/../root/new"):
        with pytest.raises(ToolboxError):
            await toolbox.upload(path, chunks(b"x"))
    seen = (await toolbox.execute("ls -d /home/daytona")).exit_code == 0
    assert seen == (toolbox.home == "/home/daytona")
    with pytest.raises(ToolboxError, match="home is in it"):
        await toolbox.delete_file("/home/daytona", recursive=True)


@pytest.mark.parametrize("launcher", ["L1"], indirect=True)
async def test_a_home_below_the_machines_tmp_is_itself(box: SandboxProcess) -> None:
    """The state folder may lie in /tmp; what the sandbox calls its home must not be taken for its /tmp."""
    if not box.toolbox.home.startswith("/tmp/"):
        pytest.skip("temporary folders of this machine are elsewhere")
    await box.toolbox.upload(f"{box.toolbox.home}/file", chunks(b"here"))
    assert (await box.toolbox.execute("cat ~/file")).output == b"here"
    outside = os.path.dirname(box.toolbox.home)
    with pytest.raises(ToolboxError):
        await box.toolbox.list_files(outside)


@pytest.mark.parametrize("launcher", ["L3", "L2", "L1"], indirect=True)
async def test_here_documents_of_every_shell(box: SandboxProcess) -> None:
    for shell in ("zsh", "bash", "sh"):
        if (await box.toolbox.execute(f"command -v {shell}")).exit_code:
            pytest.skip(f"this machine has no {shell}")
        done = await box.toolbox.run_program([shell, "-c", "cat <<END\nhere\nEND"])
        assert done.output == b"here\n", shell
