"""The list of commands, and the translation of errors to exit codes.

0 done · 1 it ran and failed · 2 the request is wrong · 3 refused (policy, person, budget, credential)
· 4 a part is not there · 5 waiting for approval · 6 not known whether it was stored
· 75 busy (another daemon, a taken port)
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from agentd import __version__
from agentd.errors import AgentdError, Busy, InputError, NeedsApproval, Refused, Unavailable, Unknown

__all__ = ["app", "exit_code"]

COMMANDS = {
    "serve": "agentd.cli.serve:serve",
    "stop": "agentd.cli.serve:stop",
    "mcp": "agentd.cli.serve:mcp",
    "connect": "agentd.cli.connect:connect",
    "run": "agentd.cli.call:run",
    "runs": "agentd.cli.call:runs",
    "call": "agentd.cli.call:call",
    "tools": "agentd.cli.call:tools",
    "jobs": "agentd.cli.jobs:jobs",
    "approvals": "agentd.cli.approvals:approvals",
    "approve": "agentd.cli.approvals:approve",
    "deny": "agentd.cli.approvals:deny",
    "open": "agentd.cli.browser:open_",
    "policy": "agentd.cli.policy:policy",
    "token": "agentd.cli.tokens:token",
    "notify": "agentd.cli.notify:notify",
    "models": "agentd.cli.models:models",
    "eval": "agentd.cli.evals:evals",
    "prompt": "agentd.cli.prompts:prompt",
    "data": "agentd.cli.data:data",
    "reports": "agentd.cli.look:reports",
    "why": "agentd.cli.routes:why",
    "route": "agentd.cli.routes:route",
    "ledger": "agentd.cli.ledger:ledger",
    "quotes": "agentd.cli.ledger:quotes",
    "journal": "agentd.cli.journal:journal",
    "backup": "agentd.cli.backup:backup",
    "restore": "agentd.cli.backup:restore",
    "env": "agentd.cli.envs:env",
    "doctor": "agentd.cli.doctor:doctor",
    "demo": "agentd.cli.demo:demo",
    "bench": "agentd.cli.bench:bench",
}


def exit_code(error: AgentdError) -> int:
    """The exit code an error stands for."""
    codes = ((Busy, 75), (Unknown, 6), (NeedsApproval, 5), (Refused, 3), (Unavailable, 4), (InputError, 2))
    return next((code for kind, code in codes if isinstance(error, kind)), 1)


class Commands(click.Group):
    """Commands are imported when they are used, so that each starts fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        return getattr(importlib.import_module(module), name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AgentdError as error:
            from agentd.wording import spelled

            click.echo(f"agentd: {spelled(str(error), lines=True)}", err=True)
            sys.exit(exit_code(error))
        except KeyboardInterrupt:
            click.echo("\nagentd: stopped watching; what was started goes on (agentd jobs)", err=True)
            sys.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="agentd")
def app() -> None:
    """A daemon for LLM engineers: retrieve, fine-tune, quantize, serve, evaluate and route.

    The daemon is started when it is needed. Begin with 'agentd doctor', or watch 'agentd demo'.
    """
