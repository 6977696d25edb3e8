"""``server.json``, for MCP registries: it says what pyproject.toml says, and starts what is there."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from agentd import __version__
from agentd.cli.app import COMMANDS
from agentd.config import ServerConfig

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture
def said() -> dict[str, Any]:
    return json.loads((ROOT / "server.json").read_text(encoding="utf-8"))


def test_name_and_version_are_those_of_the_package(said: dict[str, Any]) -> None:
    assert said["version"] == PROJECT["version"] == __version__
    for package in said["packages"]:
        assert package["registryType"] == "pypi"
        assert (package["identifier"], package["version"]) == (PROJECT["name"], PROJECT["version"])
        assert "registryBaseUrl" not in package
    assert PROJECT["name"] in PROJECT["scripts"]  # what starts a package by its name looks for that command


def test_the_limits_of_the_schema_are_kept(said: dict[str, Any]) -> None:
    assert said["$schema"].endswith("/2025-12-11/server.schema.json")
    assert re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", said["name"])
    assert 3 <= len(said["name"]) <= 200
    assert 1 <= len(said["description"]) <= 100
    assert set(said) <= {"$schema", "name", "title", "description", "version", "packages"}


def test_each_form_starts_a_command_that_is_there(said: dict[str, Any]) -> None:
    forms = {package["transport"]["type"]: package for package in said["packages"]}
    assert set(forms) == {"stdio", "streamable-http"}
    for package in forms.values():
        (argument,) = package["packageArguments"]
        assert argument["type"] == "positional"
        assert argument["value"] in COMMANDS
    http = forms["streamable-http"]["transport"]
    where, default = urlsplit(http["url"]), ServerConfig()
    assert (where.hostname, where.port, where.path) == (default.host, default.port, "/mcp")
    assert http["headers"][0]["isSecret"] is True


def test_the_package_says_whose_name_it_is(said: dict[str, Any]) -> None:
    assert f"<!-- mcp-name: {said['name']} -->" in (ROOT / "README.md").read_text(encoding="utf-8")
