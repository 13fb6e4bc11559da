"""Where cells run is decided by typed settings and the process environment, and by nothing else."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from traitlets import TraitError
from traitlets.config import Config, Configurable

from daytona_magics.config import SandboxConfig, level_at_least, make_config
from daytona_magics.engine import address
from daytona_magics.errors import EndpointError, IsolationUnavailable
from daytona_magics.magics import handles
from daytona_magics.runtime.transport import is_loopback
from daytona_magics.sandboxes import client as sdk
from daytona_magics.sandboxes import endpoint
from daytona_magics.sandboxes.binding import Binding
from daytona_magics.sandboxes.endpoint import CLOUD_URL, Endpoint, check_level, choose, connect
from daytona_magics.sandboxes.report import openness

KEY = {"DAYTONA_API_KEY": "dtn_secret"}
URL = {"DAYTONA_API_URL": "https://daytona.example/api/"}


@pytest.mark.parametrize(
    ("setting", "environ", "kind", "url"),
    [
        ("auto", {}, "embedded", ""),
        ("auto", KEY, "cloud", CLOUD_URL),
        ("auto", {**KEY, **URL}, "self-hosted", "https://daytona.example/api"),
        ("auto", {**KEY, "DAYTONA_API_URL": CLOUD_URL}, "cloud", CLOUD_URL),
        ("embedded", {**KEY, **URL}, "embedded", ""),
        ("cloud", {**KEY, **URL}, "cloud", CLOUD_URL),
        ("https://other.example/api", {**KEY, **URL}, "self-hosted", "https://other.example/api"),
    ],
)
def test_order(setting: str, environ: dict[str, str], kind: str, url: str, tmp_path: Path) -> None:
    choice = choose(SandboxConfig(endpoint=setting), environ, tmp_path)
    assert (choice.kind, choice.url) == (kind, url)
    assert choice.reason


def test_the_loopback_url_of_our_engine_is_the_embedded_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "is_engine_url", lambda url: url == "http://127.0.0.1:4321/api")
    assert choose(SandboxConfig(), {"DAYTONA_API_URL": "http://127.0.0.1:4321/api", **KEY}).kind == "embedded"
    assert choose(SandboxConfig(), {"DAYTONA_API_URL": "http://127.0.0.1:9/api", **KEY}).kind == "self-hosted"


@pytest.mark.parametrize("name", [".env", ".env.local"])
@pytest.mark.parametrize("line", ["DAYTONA_API_KEY=dtn_secret", "export DAYTONA_API_KEY = dtn_secret"])
def test_a_key_in_a_file_is_offered_and_not_used(tmp_path: Path, name: str, line: str) -> None:
    (tmp_path / name).write_text(f"A=1\n{line}\n")
    choice = choose(SandboxConfig(), {}, tmp_path)
    assert choice.kind == "embedded" and name in choice.offer and "bills" in choice.offer
    assert "dtn_secret" not in choice.offer
    (tmp_path / name).write_text("# DAYTONA_API_KEY=x\nDAYTONA_API_KEY=\n")
    assert choose(SandboxConfig(), {}, tmp_path).offer == ""


def test_the_cloud_without_a_key_is_refused_with_the_way_out() -> None:
    with pytest.raises(EndpointError, match="DAYTONA_API_KEY is not set") as caught:
        connect(SandboxConfig(endpoint="cloud"), {})
    assert "endpoint=embedded" in caught.value.hint


def test_region_comes_from_the_setting_then_from_the_environment() -> None:
    environ = {**KEY, "DAYTONA_TARGET": "eu"}
    assert connect(SandboxConfig(), environ).target == "eu"
    assert connect(SandboxConfig(target="us"), environ).target == "us"


def test_the_key_is_not_shown() -> None:
    made = connect(SandboxConfig(), KEY)
    assert made.api_key == "dtn_secret" and "dtn_secret" not in repr(made) + made.title + made.reason


def test_loopback_endpoints_are_taken_out_of_the_proxy_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "corp.example")
    connect(SandboxConfig(endpoint="https://daytona.example/api"), KEY)
    assert os.environ["NO_PROXY"] == "corp.example"
    for host in ("127.0.0.1", "127.0.0.2", "box.localhost"):
        assert connect(SandboxConfig(endpoint=f"http://{host}:9/api"), KEY).loopback
        for name in ("NO_PROXY", "no_proxy"):
            assert {"corp.example", host} <= set(os.environ[name].split(","))


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.2:80/api", True),
        ("http://[::1]:3", True),
        ("http://a.localhost", True),
        ("https://app.daytona.io/api", False),
        ("http://127.0.0.1.example.com", False),
    ],
)
def test_endpoint_and_terminal_agree_on_what_is_this_machine(url: str, local: bool) -> None:
    assert Endpoint("self-hosted", url, "r", "k").loopback is local
    assert is_loopback(url) is local


@pytest.fixture
async def trap(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    """A proxy that every client is told to use; collects the headers it is shown."""
    seen: list[str] = []

    async def show(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(f"{request.path} {request.headers}")
        return web.Response(status=502)

    runner = web.ServerRunner(web.Server(show))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{runner.addresses[0][1]}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    yield seen
    await runner.cleanup()


async def test_no_proxy_sees_the_key_of_another_loopback_address(trap: list[str]) -> None:
    arrived: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        arrived.append(request.headers.get("Authorization", ""))
        return web.json_response({"items": [], "nextCursor": None})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.2", 0).start()
    port = runner.addresses[0][1]
    made = connect(SandboxConfig(endpoint=f"http://127.0.0.2:{port}/api"), KEY)
    client: Any = sdk.open_client(made)
    try:
        assert [box async for box in client.list()] == []
    finally:
        await client.close()
        await runner.cleanup()
    assert "Bearer dtn_secret" in arrived
    assert trap == []


async def test_nor_that_of_a_sandbox_with_a_loopback_address_of_its_own(trap: list[str]) -> None:
    made: Any = Binding(SandboxConfig(), lambda: None)  # type: ignore[arg-type,return-value]
    made.bind(SimpleNamespace(toolbox_proxy_url="http://127.0.0.3:9/toolbox"), "ctx")
    assert "127.0.0.3" in os.environ["NO_PROXY"].split(",")
    made.bind(SimpleNamespace(toolbox_proxy_url="https://proxy.example/toolbox"), "ctx")
    assert "proxy.example" not in os.environ["NO_PROXY"]


def test_an_engine_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise address.EngineStartError("no room")

    monkeypatch.setattr(endpoint.address, "ensure", refuse)
    with pytest.raises(EndpointError, match="no room"):
        connect(SandboxConfig(endpoint="embedded"), {})


def test_levels() -> None:
    assert level_at_least("L3", "L3") and level_at_least("L3", "L0") and level_at_least("L0", "L0")
    assert not level_at_least("L0", "L0.5") and not level_at_least("none", "L1")
    check_level("L3", "L3")
    with pytest.raises(IsolationUnavailable, match="level L0 only"):
        check_level("L0", "L3")
    with pytest.raises(IsolationUnavailable, match="cannot isolate"):
        check_level("none", "L3")
    order = ("L0", "L0.5", "L1", "L2", "L3")
    for have in order:
        for wanted in order:
            assert level_at_least(have, wanted) == (order.index(have) >= order.index(wanted))


@pytest.mark.parametrize("level", ["L0.5", "L1", "L2"])
def test_a_refused_level_can_be_accepted_by_one_setting(level: str) -> None:
    with pytest.raises(
        IsolationUnavailable, match=f"level {level} only, and the setting min_isolation"
    ) as got:
        check_level(level, "L3")
    assert f"%sandbox config min_isolation={level}" in got.value.hint and "doctor" in got.value.hint
    assert ("disposable" in got.value.hint) == (level == "L0.5") and "UNSAFE" not in got.value.hint


def test_the_way_around_isolation_is_complete_and_called_unsafe() -> None:
    with pytest.raises(IsolationUnavailable) as caught:
        check_level("none", "L3")
    steps = (
        "UNSAFE",
        "python -m daytona_magics.engine stop",
        "DAYTONA_MAGICS_ISOLATION=L0",
        "%sandbox config min_isolation=L0",
    )
    places = [caught.value.hint.find(step) for step in steps]
    assert -1 not in places and places == sorted(places)
    with pytest.raises(IsolationUnavailable) as caught:
        check_level("L0", "L3")
    assert "UNSAFE" in caught.value.hint and "engine stop" not in caught.value.hint


def test_what_a_level_leaves_open_is_one_sentence() -> None:
    assert openness("L3", ["nothing"]) == ""
    told = openness("L1", ["names can be read", "ports are shared"])
    assert (
        told.startswith("isolation L1 leaves open: names can be read; ports are shared. ") and "`~`" in told
    )
    assert "nothing is isolated" in openness("L0", [])


def test_the_card_says_how_far_a_limit_holds_and_what_can_be_reached() -> None:
    box = SimpleNamespace(cpu=2, memory=1, disk=3, network_block_all=False)
    limits = {"cpu": {"state": "approximated"}, "memory": {"state": "enforced"}}
    assert handles.size(box, None) == "2 CPU, 1 GiB memory, 3 GiB disk"
    assert handles.size(box, limits) == (
        "2 CPU (approximated), 1 GiB memory (enforced), 3 GiB disk (advisory)"
    )
    assert "public addresses" in handles.network(box, {"way_out": "x"}, "embedded")
    assert handles.network(box, None, "embedded") == "none"
    assert handles.network(box, None, "self-hosted") == ""
    assert "tiers 1 and 2" in handles.network(box, None, "cloud")
    box.domain_allow_list = "pypi.org"
    assert handles.network(box, None, "cloud") == "only pypi.org"
    box.network_block_all = True
    assert handles.network(box, {"way_out": "x"}, "embedded") == "blocked"


def test_titles() -> None:
    assert Endpoint("embedded", "u", "r", "k", isolation="L3").title == "embedded engine, isolation L3"
    assert Endpoint("cloud", CLOUD_URL, "r", "k", target="eu").title == "Daytona cloud, region eu"
    assert "daytona.example" in Endpoint("self-hosted", "https://daytona.example/api", "r", "k").title


class TestSettings:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("auto_stop", -1),
            ("auto_delete", -2),
            ("timeout", -0.1),
            ("timeout", float("inf")),
            ("endpoint", "mars"),
            ("min_isolation", "L9"),
            ("on_exit", "explode"),
            ("auto_stop", "soon"),
        ],
    )
    def test_bad_values_are_refused(self, name: str, value: object) -> None:
        with pytest.raises(TraitError):
            setattr(SandboxConfig(), name, value)

    def test_defaults(self) -> None:
        config = SandboxConfig()
        assert (config.auto_stop, config.auto_delete, config.auto_delete_batch) == (15, 10080, 60)
        assert (config.on_exit, config.on_restart, config.min_isolation, config.trust) == (
            "stop",
            "keep",
            "L1",
            False,
        )

    def test_every_setting_explains_itself_and_numbers_have_units(self) -> None:
        for name, trait in SandboxConfig.class_own_traits(config=True).items():
            assert len(trait.help) > 20, name
            if isinstance(trait.default_value, int | float) and not isinstance(trait.default_value, bool):
                assert trait.help.split()[0] in ("Minutes", "Seconds", "MiB", "kB"), name

    def test_a_bad_value_in_the_configuration_does_not_make_loading_impossible(self) -> None:
        shell = Configurable()
        shell.config = Config({"SandboxConfig": {"min_isolation": "L9"}})
        config, ignored = make_config(shell)
        assert config.min_isolation == "L1" and "min_isolation" in ignored
        assert make_config(shell)[1] == ""
