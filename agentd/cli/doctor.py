"""``doctor``: what this machine offers, what is missing, and how to mend it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sqlite3
import sys
from typing import NamedTuple

import click

from agentd import __version__, locations
from agentd.cli import show
from agentd.config import Config, load_config
from agentd.errors import AgentdError
from agentd.hardware import accelerator, ram_bytes
from agentd.plugins import Plugins
from agentd.policy.rules import load_rules
from agentd.store.traffic import TrafficTable

__all__ = ["doctor"]

DISK_WANTED = 8_000_000_000  # every CPU environment (about 3 GB), models, and room for jobs


class Finding(NamedTuple):
    """One thing that was looked at; `mend` says what to do when it is not `ok`."""

    what: str
    ok: bool
    found: str
    mend: str = ""


@click.command()
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def doctor(json_: bool) -> None:
    """Check this machine and this installation. Exit code 1 when something must be mended.

    \b
    Example: agentd doctor
    """
    config, findings = _config()
    if config is not None:
        for look in (
            _python,
            _platform,
            _machine,
            _uv,
            _disk,
            _plugins,
            _policy,
            _models,
            _capture,
            _journal,
            _notifiers,
            _daemon,
        ):
            findings.append(look(config))
    if json_:
        show.as_json([finding._asdict() for finding in findings])
    else:
        for finding in findings:
            mark = "[green]✓[/]" if finding.ok else "[red]✗[/]"
            show.console.print(f"{mark} {finding.what:<12} {show.escape(finding.found)}")
            if not finding.ok:
                show.console.print(f"  {'':<12} → {show.escape(finding.mend)}")
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


def _config() -> tuple[Config | None, list[Finding]]:
    try:
        config = load_config()
    except AgentdError as error:
        return None, [
            Finding("config", False, str(error), "Mend the file, or name another with AGENTD_CONFIG")
        ]
    path = locations.config_file()
    return config, [Finding("config", True, str(path) if path else "defaults (no agentd.toml)")]


def _python(_: Config) -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    venv = importlib.util.find_spec("venv") is not None
    return Finding(
        "python",
        venv,
        f"{version}, agentd {__version__}, SQLite {sqlite3.sqlite_version}",
        "Install Python's venv module (Debian and Ubuntu: apt install python3-venv)",
    )


def _platform(_: Config) -> Finding:
    return Finding(
        "platform", sys.platform == "linux", sys.platform, "Jobs and services need Linux (WSL 2 will do)"
    )


def _machine(_: Config) -> Finding:
    memory = ram_bytes()
    return Finding(
        "machine",
        memory > 4e9,
        f"{accelerator()}, {os.cpu_count()} cores, {show.bytes_(memory)} memory",
        "The demo trains and serves a small model in about 4 GB of memory",
    )


def _uv(_: Config) -> Finding:
    try:
        import uv

        return Finding("uv", True, str(uv.find_uv_bin()))
    except (ImportError, FileNotFoundError):
        return Finding("uv", False, "not found", "pip install uv: it builds the environments of recipes")


def _disk(config: Config) -> Finding:
    folder = next(p for p in (config.cache_dir, *config.cache_dir.parents) if p.exists())
    free = shutil.disk_usage(folder).free
    return Finding(
        "disk",
        free > DISK_WANTED,
        f"{show.bytes_(free)} free for {config.cache_dir}",
        f"Free {show.bytes_(DISK_WANTED)} ('agentd env prune'), or set AGENTD_CACHE to a larger disk",
    )


def _plugins(config: Config) -> Finding:
    try:
        plugins = Plugins.open(config.roots)
        tools = plugins.tools()
    except AgentdError as error:
        return Finding("plugins", False, str(error), "Mend 'roots' in agentd.toml")
    problems = "; ".join(plugins.problems.values())
    return Finding(
        "plugins",
        not problems,
        problems or f"{len(tools)} tools from {len(plugins.roots)} root(s)",
        "Mend that file",
    )


def _policy(config: Config) -> Finding:
    from agentd.daemon import named_document

    try:
        rules = load_rules(named_document(Plugins.open(config.roots), config.policy))
    except AgentdError as error:
        return Finding(
            "policy", False, str(error), "Mend the rule set, or choose another: policy in agentd.toml"
        )
    return Finding("policy", True, f"{rules.name}: {rules.description.strip()}")


def _models(config: Config) -> Finding:
    from agentd.router.providers import with_provider

    try:
        models = [with_provider(model, Plugins.open(config.roots)) for model in config.models]
    except AgentdError as error:
        return Finding("endpoints", False, str(error), "Mend that entry of agentd.toml")
    missing = sorted({m.key_env for m in models if m.key_env and not os.environ.get(m.key_env)})
    found = (
        f"{len(config.models)} in agentd.toml"
        if config.models
        else "none in agentd.toml (local models need none)"
    )
    return Finding(
        "endpoints",
        not missing,
        found + (f"; not set: {', '.join(missing)}" if missing else ""),
        "Set the variable where the daemon is started",
    )


def _capture(config: Config) -> Finding:
    capture, table = config.capture, TrafficTable(config.state_dir / locations.TRAFFIC, max_bytes=0)
    try:
        count, size = table.held()
    except AgentdError as error:
        return Finding("capture", False, str(error), "Mend or remove that file; it holds kept texts only")
    finally:
        table.close()
    held = f"{count} requests held, {show.bytes_(size)}"
    if not capture.aliases:
        return Finding("capture", True, f"off; {held}" if count else "off: no texts of requests are kept")
    names, days = ", ".join(capture.aliases), f"{capture.keep_days:g} days"
    return Finding("capture", True, f"ON: texts of {names} are kept for {days}; {held}")


def _journal(config: Config) -> Finding:
    from agentd.store.journal import missing_head, noted_head

    database = config.state_dir / "agentd.db"
    if not database.is_file():
        return Finding("journal", True, "none yet")
    try:
        head, missing = noted_head(database), missing_head(database)
    except AgentdError as error:
        return Finding("journal", False, str(error), "Run 'agentd journal verify'")
    said = f"entry {head.seq}, noted {show.ago(head.at)}" if head else "no head was noted yet"
    return Finding(
        "journal",
        missing is None,
        f"{said}, is there" if missing is None and head else f"{said}, is GONE" if head else said,
        "Somebody removed or rewrote entries: agentd journal verify",
    )


def _notifiers(config: Config) -> Finding:
    from agentd.store.notifiers import notifiers_in

    names = [each.name for each in config.notify]
    database = config.state_dir / "agentd.db"
    if not names or not database.is_file():
        return Finding("notifiers", True, ", ".join(names) or "none in agentd.toml")
    try:
        rows = [row for row in notifiers_in(database) if row.name in names]
    except AgentdError as error:
        return Finding("notifiers", False, str(error), "Check the state directory")
    failing = [
        f"{row.name} since {show.ago(row.failing_since)}: {row.problem}" for row in rows if row.failures
    ]
    return Finding(
        "notifiers",
        not failing,
        "; ".join(failing) or ", ".join(names),
        "Nothing is lost, and it is tried again; when it is mended: agentd notify test",
    )


def _daemon(config: Config) -> Finding:
    address = locations.read_address(config.state_dir)
    said = f"{address['url']} (pid {address['pid']})" if address else "not running; it is started when needed"
    return Finding("daemon", True, f"{said}, state in {config.state_dir}")
