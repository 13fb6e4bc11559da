"""Where cells run is decided by typed settings and the process environment, and by nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from traitlets import TraitError
from traitlets.config import Config, Configurable

from daytona_magics.config import SandboxConfig, level_at_least, make_config
from daytona_magics.engine import address
from daytona_magics.errors import EndpointError, IsolationUnavailable
from daytona_magics.sandboxes import endpoint
from daytona_magics.sandboxes.endpoint import CLOUD_URL, Endpoint, check_level, choose, connect

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
    added: list[bool] = []
    monkeypatch.setattr(endpoint.address, "add_no_proxy", lambda environ: added.append(True))
    connect(SandboxConfig(endpoint="http://127.0.0.1:9/api"), KEY)
    assert added == [True]
    connect(SandboxConfig(endpoint="https://daytona.example/api"), KEY)
    assert added == [True]


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
            "L3",
            False,
        )

    def test_every_setting_explains_itself_and_numbers_have_units(self) -> None:
        for name, trait in SandboxConfig.class_own_traits(config=True).items():
            assert len(trait.help) > 20, name
            if isinstance(trait.default_value, int | float) and not isinstance(trait.default_value, bool):
                assert trait.help.split()[0] in ("Minutes", "Seconds"), name

    def test_a_bad_value_in_the_configuration_does_not_make_loading_impossible(self) -> None:
        shell = Configurable()
        shell.config = Config({"SandboxConfig": {"min_isolation": "L9"}})
        config, ignored = make_config(shell)
        assert config.min_isolation == "L3" and "min_isolation" in ignored
        assert make_config(shell)[1] == ""
