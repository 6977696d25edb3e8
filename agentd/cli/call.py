"""Calling tools, running plans and pursuing goals: ``call``, ``tools``, ``run``, ``runs``."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import click
import yaml

from agentd.cli import show
from agentd.cli.client import Client, connect
from agentd.cli.follow import ask, fail_unless_done, follow_job, follow_run, interactive
from agentd.errors import InputError, NeedsApproval

__all__ = ["call", "named_values", "run", "runs", "tools"]

WIDEST = 5  # columns a terminal has room for; --json has all of them


@click.command()
@click.argument("tool")
@click.argument("arguments", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--no-wait", is_flag=True, help="Print the handle of a started job and return.")
@click.option("--quote", "only_quote", is_flag=True, help="Only tell what it would take.")
@click.option("--key", default="", help="Idempotency key: the same key is the same call.")
@click.option("--json", "json_", is_flag=True, help="Print the whole answer as JSON.")
def call(
    tool: str, arguments: tuple[str, ...], no_wait: bool, only_quote: bool, key: str, json_: bool
) -> None:
    """Call a tool, and wait for what it launches.

    Numbers, true, false, null, [lists] and {mappings} are what they look like; other values are text.

    \b
    Examples: agentd call get_model source=smollm2-135m
              agentd call search query="how long do refunds take" collection=handbook
              agentd call finetune model=smollm2-135m dataset=train.jsonl epochs=2 --quote
    """
    client, given = connect(), named_values(arguments)
    if only_quote:
        tool, given = "quote", {"tool": tool, "arguments": given}
    try:
        answer = client.call(tool, given, key=key)
    except NeedsApproval as needs:
        answer = _approved(client, needs)
    if _is_job(answer) and answer["id"] and not no_wait:
        answer = follow_job(client, answer["id"]) if answer["state"] != "succeeded" else answer
        _print_job(answer, json_)
        fail_unless_done(answer)
    elif json_:
        show.as_json(answer)
    elif only_quote:
        show.facts(show.figures(answer))
    elif _is_job(answer):
        _print_job(answer, json_)
    else:
        _print_answer(answer)


@click.command()
@click.argument("name", required=False)
@click.option("--json", "json_", is_flag=True, help="Print schemas as JSON.")
def tools(name: str | None, json_: bool) -> None:
    """List the tools, or one tool with its arguments.

    \b
    Example: agentd tools finetune
    """
    listed = connect().get("/api/tools")
    if name:
        found = next((tool for tool in listed if tool["name"] == name), None)
        if found is None:
            from agentd.errors import NotFound

            raise NotFound("tool", name, [tool["name"] for tool in listed])
        listed = [found]
    if json_:
        show.as_json(listed)
    elif name:
        tool = listed[0]
        show.console.print(f"[bold]{tool['name']}[/]  {tool['title']}\n\n{tool['description']}\n")
        required = tool["inputSchema"].get("required", [])
        rows = [
            (n, "needed" if n in required else p.get("default", ""), p.get("description", ""))
            for n, p in tool["inputSchema"].get("properties", {}).items()
        ]
        show.table(["argument", "default", "meaning"], rows, empty="It takes no arguments.")
    else:
        rows = [
            (tool["name"], tool["title"], " ".join(tool["description"].split()).split(". ")[0].rstrip("."))
            for tool in listed
        ]
        show.table(["tool", "title", "what it does"], rows, empty="There are no tools.")


@click.command()
@click.argument("plan", metavar="PLAN|GOAL", required=False)
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Replace a parameter of the plan."
)
@click.option(
    "--model", default="", help="Which model or alias thinks, for a goal; the alias 'agent' by default."
)
@click.option("--max-steps", type=click.IntRange(min=1), help="Calls of tools that a goal may take (30).")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Tokens into and out of the model (500,000).")
@click.option("--max-usd", type=click.FloatRange(min=0), help="Money, for its requests and its jobs (1).")
@click.option("--max-hours", type=click.FloatRange(min=0, min_open=True), help="Time, sleep included (168).")
@click.option("--plan-only", is_flag=True, help="Show the plan and what it would take; start nothing.")
@click.option(
    "--save",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the drafted plan to a file, to be edited and run. Goes with --plan-only.",
)
@click.option("--resume", metavar="RUN", help="Go on with a run that failed or was stopped.")
@click.option("--stop", "stop_", metavar="RUN", help="Stop a run; finished steps stay.")
@click.option("--tell", metavar="RUN", help="Say something to the run of a goal: the words are PLAN|GOAL.")
@click.option("--no-wait", is_flag=True, help="Print the run's id and return.")
@click.option("--json", "json_", is_flag=True, help="Print the finished run as JSON.")
def run(
    plan: str | None,
    settings: tuple[str, ...],
    model: str,
    plan_only: bool,
    save: Path | None,
    resume: str | None,
    stop_: str | None,
    tell: str | None,
    no_wait: bool,
    json_: bool,
    **most: float | None,
) -> None:
    """Run a plan, or pursue a goal. Exit code 1 when it was not reached.

    A plan is a file, or the name of a shipped one. A goal is said in words: a model pursues it with the
    tools, asks where policy says so, and ends with an answer, or with what was done, what was not, and what
    to do next. With --plan-only a model drafts a plan for it instead, or a plan of yours is looked at.

    \b
    Examples: agentd run tickets
              agentd run plan.yaml --set epochs=2 --json
              agentd run "which of our models is best at tickets?" --model big --max-usd 0.2
              agentd run "quantize tickets-lora if it stays as good" --plan-only --save plan.yaml
              agentd run --tell run-1m8… "use the small data set"
              agentd run --resume run-1m8… --max-steps 60
    """
    if save is not None and not (plan_only and plan and _is_goal(plan)):
        raise InputError("--save is for a drafted plan", hint='agentd run "…" --plan-only --save plan.yaml')
    if save is not None and save.exists():
        raise InputError(f"{str(save)!r} is there already", hint="Name a new file")
    client = connect()
    limits = {name.removeprefix("max_"): value for name, value in most.items() if value is not None}
    if plan_only:
        draft = client.post("/api/plans", _to_draft(plan or "", settings, model, limits), timeout_s=None)
        _print_draft(draft, save, json_)
        return
    if stop_:
        view = client.post(f"/api/runs/{stop_}/stop")
        show.as_json(view) if json_ else show.errors.print(f"{stop_} stopped")
        return
    if tell:
        client.post(f"/api/runs/{tell}/tell", {"text": plan or ""})
        show.errors.print(f"{tell} is told with its next step")
        return
    if resume:
        run_id = client.post(f"/api/runs/{resume}/resume", {"limits": limits} if limits else None)["id"]
    elif plan and _is_goal(plan):
        if settings:
            raise InputError("--set is for plans; a goal is said in words")
        wanted = {"goal": plan, "model": model, "limits": limits, "cwd": str(Path.cwd())}
        run_id = client.post("/api/runs", wanted)["id"]
    elif plan:
        if limits or model:
            raise InputError(f"{plan!r} is a plan: --model and --max-… are for goals")
        run_id = client.call("run_plan", {"plan": plan, "params": named_values(settings)})["run"]
    else:
        raise InputError(
            "Name a plan, or say a goal", hint='agentd run plan.yaml, agentd run "…", or --resume RUN'
        )
    if no_wait:
        show.as_json({"run": run_id}) if json_ else show.console.print(run_id)
        return
    show.errors.print(f"{run_id} (Ctrl-C leaves it running; agentd runs {run_id} --follow)")
    view = follow_run(client, run_id)
    if json_:
        show.as_json(view)
    elif outcome := view.get("outcome"):
        _print_outcome(view, outcome)
    fail_unless_done(view)


def _is_goal(said: str) -> bool:
    """Words with a space between them, that name no file."""
    return " " in said.strip() and not Path(said).exists()


def _to_draft(plan: str, settings: tuple[str, ...], model: str, limits: dict[str, float]) -> dict[str, Any]:
    """What is asked of the daemon: to draft a plan for a goal, or to look at one."""
    cwd = str(Path.cwd())
    if _is_goal(plan):
        if settings:
            raise InputError("--set is for plans; a goal is said in words")
        return {"goal": plan, "model": model, "limits": limits, "cwd": cwd}
    if limits or model:
        raise InputError(f"{plan!r} is a plan: --model and --max-… are for goals")
    if not Path(plan).is_file():
        raise InputError(f"{plan!r} is no file", hint='agentd run plan.yaml --plan-only, or say a goal: "…"')
    text = Path(plan).read_text(encoding="utf-8")
    return {"plan": text, "params": named_values(settings), "cwd": cwd}


def _print_draft(draft: dict[str, Any], save: Path | None, json_: bool) -> None:
    """A plan, what each of its steps would take and meet with, and the sum."""
    if save is not None:
        save.write_text(draft["plan"], encoding="utf-8")
    if json_:
        show.as_json(draft)
        return
    if draft["model"] and save is None:
        show.console.print(show.escape(draft["plan"]))
    rows = [
        (
            step["id"],
            step["tool"],
            ", ".join(step["needs"]),
            step["policy"],
            show.span(quote["seconds"]) if (quote := step["quote"]) else "known later",
            show.money(quote["micro_usd"]) if quote else "",
        )
        for step in draft["steps"]
    ]
    show.table(["step", "tool", "after", "policy", "takes about", "costs about"], rows, empty="")
    show.facts(
        {
            "takes about": show.span(draft["seconds"]),
            "costs about": show.money(draft["micro_usd"]),
            "not counted": ", ".join(draft["unquoted"]),
            "asks a person": ", ".join(draft["asks"]),
            "the model read": ", ".join(draft["read"]),
            "drafting cost": show.money(draft["spent_micro_usd"]) if draft["model"] else "",
        }
    )
    if save is not None:
        show.errors.print(
            f"Written to {show.escape(str(save))}. Edit it, then: agentd run {show.escape(str(save))}"
        )


def _print_outcome(view: dict[str, Any], outcome: dict[str, Any]) -> None:
    """The answer to a goal; or what was done, what was not, and the next command."""
    if "answer" in outcome:
        show.console.print(show.escape(outcome["answer"]))
    if numbers := outcome.get("not_from_any_step"):
        show.errors.print(f"[yellow]No step gave these numbers: {show.escape(', '.join(numbers))}[/]")
    facts = {
        name.replace("_", " "): "; ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in outcome.items()
        if name not in ("answer", "not_from_any_step") and value
    }
    if facts:
        show.facts(facts)
    show.errors.print(
        f"[dim]{len(view['steps'])} steps, {view['tokens']} tokens, {show.money(view['micro_usd'])}[/]"
    )


@click.command()
@click.argument("run_id", required=False, metavar="[RUN]")
@click.option("--follow", is_flag=True, help="Watch it until it has ended.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def runs(run_id: str | None, follow: bool, json_: bool) -> None:
    """List runs of plans and goals, or one with its steps.

    \b
    Example: agentd runs run-1m8… --follow
    """
    client = connect()
    if run_id is None:
        listed = client.get("/api/runs")
        if json_:
            show.as_json(listed)
            return
        rows = [
            (r["id"], r["plan"], show.state_mark(r["state"]), show.ago(r["created_at"]), r["reason"])
            for r in listed
        ]
        show.table(["run", "plan", "state", "started", "reason"], rows, empty="No runs yet: agentd run PLAN")
        return
    view = follow_run(client, run_id) if follow else client.get(f"/api/runs/{run_id}")
    if json_:
        show.as_json(view)
        return
    if outcome := view.get("outcome"):
        _print_outcome(view, outcome)
    rows = [
        (s["id"], s["tool"], show.state_mark(s["state"]), s.get("job") or "", s.get("reason") or "")
        for s in view["steps"]
    ]
    show.table(["step", "tool", "state", "job", "reason"], rows, empty="")


def named_values(pairs: tuple[str, ...]) -> dict[str, Any]:
    """``name=value`` pairs, by `_value`."""
    given: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.isidentifier():
            raise InputError(
                f"{pair!r} is not NAME=VALUE", hint='Quote values with spaces: query="two words"'
            )
        given[name] = _value(value)
    return given


def _value(text: str) -> Any:
    """Numbers, true, false, null, ``[lists]`` and ``{mappings}`` are themselves, the rest is text."""
    with contextlib.suppress(ValueError):
        return json.loads(text, parse_constant=_no_constant)
    if text.lstrip().startswith(("[", "{")):
        with contextlib.suppress(yaml.YAMLError, ValueError):
            return json.loads(json.dumps(yaml.safe_load(text), default=str, allow_nan=False))
    return text


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number that can be sent")


def _is_job(answer: Any) -> bool:
    return isinstance(answer, dict) and {"id", "state", "tool", "quote"} <= answer.keys()


def _approved(client: Client, needs: NeedsApproval) -> dict[str, Any]:
    """A call that waits for a person: ask at a terminal, else say how to go on."""
    if not interactive():
        raise needs
    ask(client, client.get(f"/api/approvals/{needs.approval_id}"))
    return client.get(f"/api/jobs/{needs.job_id}")


def _print_job(job: dict[str, Any], json_: bool) -> None:
    if json_:
        show.as_json(job)
    elif job["state"] == "succeeded":
        _print_answer(job["result"] or {})
    else:
        service = job["service"] or {}
        show.facts(
            {
                "job": job["id"],
                "state": job["state"],
                "url": service.get("url"),
                "serves": ", ".join(service.get("serves", [])),
                "next": job["next"],
            }
        )


def _print_answer(answer: Any) -> None:
    if not isinstance(answer, dict):
        show.as_json(answer)
        return
    simple = {k: v for k, v in answer.items() if not isinstance(v, (dict, list))}
    show.facts(simple)
    for name, value in answer.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            columns = [key for key in value[0] if not isinstance(value[0][key], (dict, list))][:WIDEST]
            show.console.print(f"\n[bold]{name}[/]")
            show.table(columns, [[str(item.get(c, ""))[:160] for c in columns] for item in value], empty="")
        elif isinstance(value, dict) and value and all(show.is_estimate(each) for each in value.values()):
            show.console.print()
            show.estimates(name, value)
        elif isinstance(value, (dict, list)) and value:
            show.console.print(f"\n[bold]{name}[/]")
            show.as_json(value)
