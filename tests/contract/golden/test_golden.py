"""The recorded transcripts hold on both sides: the engine says these bytes, and clients read them so.

After a change that is meant, ``python -m tests.contract.golden`` records them anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from daytona import Daytona

from tests.contract.golden import replay
from tests.contract.golden.made_of import MADE_OF_IT, NOT_PLAYED, OTHERWISE
from tests.contract.golden.scenarios import SCENARIOS, Live
from tests.contract.golden.transcript import FOLDER, connections, dump, load
from tests.engine_process import isolated_engine


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    """An engine and a sandbox for all scenarios."""
    with isolated_engine() as engine:
        client = Daytona(engine.config())
        sandbox = client.create()
        home = sandbox.get_user_home_dir()
        if home != "/home/daytona":
            assert not os.environ.get("CI") or os.geteuid() != 0, "the full isolation is needed"
            pytest.skip(f"recorded where a sandbox's home is /home/daytona; here it is {home}")
        yield Live(engine.url, engine.key, sandbox)
        sandbox.delete()
        client._sandbox_api.api_client.rest_client.pool_manager.clear()


def test_every_scenario_is_recorded() -> None:
    assert replay.names() == sorted(SCENARIOS) == sorted(MADE_OF_IT)


def test_text_and_bytes_are_the_same() -> None:
    for name in SCENARIOS:
        assert dump(load(name)) == (FOLDER / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_engine_says_these_bytes(live: Live, name: str) -> None:
    live.begin()
    SCENARIOS[name](live)
    assert dump(live.steps) == (FOLDER / f"{name}.txt").read_text()


@pytest.mark.filterwarnings("ignore:Polling-only mode:DeprecationWarning")
@pytest.mark.parametrize("client", replay.CLIENTS)
def test_a_client_reads_these_bytes(live: Live, client: str) -> None:
    """Served by a program that has only the recorded bytes, one at a time; it says what is recorded."""
    transcripts = replay.recorded(client)
    with replay.serving(transcripts, live.described()) as servers:
        told = replay.read(client, servers)
    expected: dict[str, Any] = {name: MADE_OF_IT[name] for name in servers}
    assert told == {**expected, **OTHERWISE[client]}
    assert {name: server.problems for name, server in servers.items()} == {name: [] for name in servers}
    not_played = {
        name: missing
        for name, steps in transcripts.items()
        if (missing := {connection.name for connection in connections(steps)} - servers[name].played)
    }
    assert not_played.keys() == set(NOT_PLAYED[client]), not_played


@pytest.mark.filterwarnings("ignore:Polling-only mode:DeprecationWarning")
def test_another_byte_is_noticed(live: Live) -> None:
    """The control: clients read what is said and not what they expect, and what they say is compared."""
    said, sent = load("pty-exit-3"), load("bulk-upload-python")
    for step in said:
        step.data = step.data.replace(b'"exitCode": 3', b'"exitCode": 4')
    sent[1].data = sent[1].data.replace(b"first", b"other")
    transcripts = {"pty-exit-3": said, "bulk-upload-python": sent}
    with replay.serving(transcripts, live.described()) as servers:
        told = replay.read("python", servers)
    assert told["pty-exit-3"]["exit_code"] == 4
    assert servers["bulk-upload-python"].problems
