"""``models``: what can be asked, and endpoints that come and go."""

from __future__ import annotations

import datetime
from typing import Any, get_args
from urllib.parse import quote

import click

from agentd.cli import show
from agentd.cli.client import connect
from agentd.sdk import Capability

__all__ = ["models"]


@click.group(invoke_without_command=True)
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
@click.pass_context
def models(context: click.Context, json_: bool) -> None:
    """List models and aliases, and which of them answer now; add endpoints, and remove them.

    \b
    Examples: agentd models
              agentd models add big --provider openai --upstream gpt-5.2 --input-usd 1.75 --output-usd 14
              agentd models remove big
    """
    if context.invoked_subcommand is None:
        _list(json_)


def _list(json_: bool) -> None:
    client = connect()
    answer = client.call("list_models", {})
    if json_:
        show.as_json(answer)
        return
    rows = [
        (
            m["name"],
            m["kind"],
            m.get("base") or "",
            show.bytes_(m["size_bytes"]) if m.get("size_bytes") else "",
            m["served_by"],
            "  ".join(f"{q['suite']} {q['score']:.2f}" for q in m["quality"]),
        )
        for m in answer["models"]
    ]
    show.table(
        ["model", "kind", "base", ">size", "answered by", "quality"],
        rows,
        empty="No models yet: agentd call get_model source=smollm2-135m",
    )
    for each in answer["rollouts"]:
        _say_rollout(each)
    resting = {n: h for n, h in client.get("/api/models")["health"].items() if h["rests_s"]}
    for name, health in resting.items():
        show.console.print(f"[yellow]{show.escape(name)} rests[/]: {show.escape(health['problem'])}")
    for alias in answer["aliases"]:
        weights = ", ".join(
            f"{m} ({w:g})" if len(alias["weights"]) > 1 else m for m, w in alias["weights"].items()
        )
        then = f", then {show.escape(', '.join(alias['fallbacks']))}" if alias.get("fallbacks") else ""
        show.console.print(
            f"[bold]{show.escape(alias['name'])}[/] → {show.escape(weights)}{then}  "
            f"[dim]{show.escape(alias['reason'])}[/]"
        )


@models.command()
@click.argument("name")
@click.option(
    "--provider", default="", help="Fills in endpoint and key: a file of adapters/models, such as openai."
)
@click.option(
    "--endpoint", default="", metavar="URL", help="Its API, ending in /v1, where no provider says it."
)
@click.option(
    "--key-env", default="", metavar="VARIABLE", help="The environment variable that holds the key."
)
@click.option("--upstream", default="", help="What the model is called there; NAME by default.")
@click.option(
    "--kind", type=click.Choice(("frontier", "reasoning", "local")), default="frontier", show_default=True
)
@click.option(
    "--dialect", type=click.Choice(("openai", "anthropic", "google")), help="The protocol it speaks."
)
@click.option(
    "--input-usd", type=click.FloatRange(min=0), help="Price of a million tokens going in; 0 is free."
)
@click.option("--output-usd", type=click.FloatRange(min=0), help="Price of a million tokens coming out.")
@click.option("--cached-usd", type=click.FloatRange(min=0), help="Price of a million that it had cached.")
@click.option("--context", type=click.IntRange(min=0), default=0, help="Its context length in tokens.")
@click.option("--capability", multiple=True, type=click.Choice(get_args(Capability)), help="What it can do.")
@click.option("--residency", default="", help='Where it processes texts, such as "eu".')
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def add(
    name: str,
    input_usd: float | None,
    output_usd: float | None,
    cached_usd: float | None,
    capability: tuple[str, ...],
    json_: bool,
    **said: Any,
) -> None:
    """Add the endpoint NAME to the catalog, or change it. For administrators.

    It is there at once, and after a restart. What agentd.toml says of a name wins. Prices count as read
    today.

    \b
    Examples: agentd models add big --provider openai --upstream gpt-5.2 --input-usd 1.75 --output-usd 14
              agentd models add box --endpoint http://10.0.0.5:8000/v1 --kind local --upstream llama
    """
    dollars = {"input": input_usd, "output": output_usd, "cached": cached_usd}
    prices = {f"{of}_micro_usd_per_mtok": round(usd * 1e6) for of, usd in dollars.items() if usd is not None}
    wanted = {"name": name, **{field: value for field, value in said.items() if value}, **prices}
    wanted |= {"capabilities": capability} if capability else {}
    wanted |= {"prices_as_of": datetime.datetime.now().astimezone().date().isoformat()} if prices else {}
    made = connect().post("/api/models", wanted)
    if json_:
        show.as_json(made)
        return
    show.console.print(f"{show.escape(name)} is asked at {show.escape(made['endpoint'])}")
    if made["kind"] != "local" and (input_usd is None or output_usd is None):
        show.errors.print("Nobody said what it costs, so it is not asked: give --input-usd and --output-usd.")
    if made["key_env"]:
        show.errors.print(f"Its key is read from {made['key_env']} in the environment of the daemon.")


@models.command()
@click.argument("name")
def remove(name: str) -> None:
    """Take the endpoint NAME out of the catalog, unless an alias has it. For administrators.

    \b
    Example: agentd models remove big
    """
    connect().delete(f"/api/models/{quote(name, safe='')}")
    show.console.print(f"{show.escape(name)} is not in the catalog any more")


def _say_rollout(each: dict[str, Any]) -> None:
    """Where an alias stands on its way to another model, and what it waits for."""
    state = each["state"].replace("_", " ")
    colour = {"running": "cyan", "done": "green"}.get(each["state"], "yellow")
    show.console.print(
        f"[bold]{show.escape(each['alias'])}[/] → {show.escape(each['model'])} by stages:"
        f" [{colour}]{state}[/], {show.escape(each['stage'])} ({each['number']} of {len(each['stages'])})"
        f" for {show.ago(each['stage_at']).removesuffix(' ago')}"
        f"  [dim]{each['id']}: {show.escape(each['why'])}[/]"
    )
    show.facts({f"  {name}": said for name, said in each["seen"].items()})
    if each["waits_for"]:
        show.facts({"  waits for": "; ".join(each["waits_for"])})
