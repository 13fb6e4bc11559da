"""``drift.toml`` speaks of the SDK that is installed."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.coverage.drift import PAIRS, sdk_models, sdk_routes

if sys.version_info < (3, 11):
    pytest.skip("tomllib came with Python 3.11", allow_module_level=True)

import tomllib

TEXT = Path(__file__).with_name("drift.toml").read_text()


def test_it_was_generated_from_the_installed_sdk() -> None:
    tables = tomllib.loads(TEXT)
    if f"# daytona {version('daytona')}\n" not in TEXT:
        pytest.skip("another version of the SDK is installed than the table was made from")
    for name, package in PAIRS:
        assert set(tables[name]["routes_only_in_sdk"]) <= sdk_routes(package)
        models = sdk_models(package)
        for entry in tables[name]["fields_only_in_sdk"]:
            model, _, field = entry.partition(" ")[0].partition(".")
            assert field in models[model]
            assert models[model][field] == entry.endswith("(required)")


def test_what_made_the_sdk_the_authority_is_in_it() -> None:
    tables = tomllib.loads(TEXT)
    assert "Sandbox.kvm (required)" in tables["api"]["fields_only_in_sdk"]
    assert "POST /computeruse/mouse/down" in tables["toolbox"]["routes_only_in_sdk"]
