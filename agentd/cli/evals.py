"""Measuring and deciding, for people and build servers: ``eval run|gate|power|drift|report|export``.

A gate has exit codes of its own, so that a build can tell "it got worse" from "it could not be told"
and both from "the measurement broke":

0 better or not worse · 10 worse · 11 inconclusive · 12 broken
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from agentd.cli import show
from agentd.cli.client import Client, connect
from agentd.cli.follow import follow_job
from agentd.errors import AgentdError, DataError, InputError, NeedsApproval

__all__ = ["evals"]

PASSED, WORSE, INCONCLUSIVE, BROKEN = 0, 10, 11, 12
CODES = {
    "better": PASSED,
    "not_worse": PASSED,
    "worse": WORSE,
    "inconclusive": INCONCLUSIVE,
    "broken": BROKEN,
}

_margin = click.option("--margin", type=float, help="Acceptable loss of score; the suite's by default.")
_alpha = click.option("--alpha", type=float, help="1 - confidence; the suite's by default.")
_json = click.option("--json", "json_", is_flag=True, help="Print as JSON.")


def _pages(command: Any) -> Any:
    """The options that write a report to a file."""
    for name, what in (("html", "one page"), ("markdown", "Markdown"), ("junit", "JUnit XML")):
        command = click.option(f"--{name}", type=click.Path(path_type=Path), help=f"Write {what} here.")(
            command
        )
    return command


@click.group()
def evals() -> None:
    """Measure models on suites, and decide whether one may take another's place.

    \b
    Examples: agentd eval run tickets --model tickets-fp8 --baseline tickets-lora@tickets --gate
              agentd eval report tickets-fp8@tickets --html report.html
    """


@evals.command()
@click.argument("suites", nargs=-1, required=True, metavar="SUITE...")
@click.option("--model", required=True, help="Model or alias to measure.")
@click.option("--baseline", "baselines", multiple=True, metavar="REF", help="Report id, model@suite or FILE.")
@click.option("--gate", "gated", is_flag=True, help="Exit 10 when worse, 11 inconclusive, 12 broken.")
@click.option("--constrained", is_flag=True, help="Enforce the suite's JSON Schema.")
@click.option("--prompt", default="", help="Ask by this prompt: NAME or NAME@DIGEST.")
@click.option("--limit", type=int, default=0, help="Only the first so many rows.")
@click.option("--difference", type=float, default=0.0, help="Refuse suites too small to show it.")
@click.option("--concurrency", type=int, default=16, show_default=True, help="Requests at a time.")
@_margin
@_alpha
@_pages
@_json
def run(
    suites: tuple[str, ...],
    model: str,
    baselines: tuple[str, ...],
    gated: bool,
    constrained: bool,
    prompt: str,
    limit: int,
    difference: float,
    concurrency: int,
    margin: float | None,
    alpha: float | None,
    html: Path | None,
    markdown: Path | None,
    junit: Path | None,
    json_: bool,
) -> None:
    """Measure a model on suites, and hold it against baselines, one a suite in the same order.

    A baseline is a report (id, or model@suite for the newest) or a file made by 'agentd eval export'.
    Before anything is asked, a gate says which suite has too few rows for its margin.
    With AGENTD_URL and AGENTD_TOKEN set, another machine's daemon does the work.

    \b
    Example: agentd eval run tickets --model mine --baseline tests/tickets.json --gate --junit gate.xml
    """
    if gated and len(baselines) != len(suites):
        raise InputError(
            f"{len(suites)} suites and {len(baselines)} baselines", hint="Give --baseline once for each suite"
        )
    client = connect()
    known = [_reference(client, each) for each in baselines]
    options = {
        "model": model, "constrained": constrained, "limit": limit, "concurrency": concurrency,
        "difference": difference, "prompt": prompt,
    }  # fmt: skip
    made: list[str] = []
    try:
        if gated and not difference:
            _foresee(client, suites, known, margin, alpha, limit)
        for suite in suites:
            made.append(_measured(client, {"suite": suite, **options}))
    except NeedsApproval:
        raise
    except AgentdError as error:
        if not gated:
            raise
        show.errors.print(f"broken: {show.escape(str(error))}")
        sys.exit(BROKEN)
    outcome = _gate(client, made, known, margin, alpha) if known else None
    named = [Path(suite).stem for suite in suites]
    _write(client, made, known, {"html": html, "markdown": markdown, "junit": junit}, named)
    if json_:
        show.as_json({"reports": made, "gate": outcome})
    else:
        _print(client, made, outcome)
    if gated and outcome:
        sys.exit(CODES[outcome["verdict"]])


@evals.command()
@click.argument("candidates", nargs=-1, required=True, metavar="REPORT...")
@click.option("--baseline", "baselines", multiple=True, required=True, metavar="REF", help="One a report.")
@_margin
@_alpha
@_json
def gate(
    candidates: tuple[str, ...],
    baselines: tuple[str, ...],
    margin: float | None,
    alpha: float | None,
    json_: bool,
) -> None:
    """Decide about reports that are there. Exit code 0, 10 when worse, 11 inconclusive, 12 broken.

    \b
    Example: agentd eval gate tickets-fp8@tickets --baseline tickets-lora@tickets --margin 0.05
    """
    client = connect()
    outcome = _gate(client, list(candidates), [_reference(client, b) for b in baselines], margin, alpha)
    show.as_json(outcome) if json_ else _print(client, list(candidates), outcome)
    sys.exit(CODES[outcome["verdict"]])


@evals.command()
@click.argument("suites", nargs=-1, required=True, metavar="SUITE...")
@click.option("--difference", type=float, help="Difference of score to show; the suite's margin by default.")
@click.option("--power", type=float, help="Chance to notice it; the suite's by default (0.8).")
@click.option("--pilot", "pilots", multiple=True, metavar="REPORT", help="One or two reports of the suite.")
@click.option("--limit", type=int, default=0, help="Only the first so many rows.")
@_alpha
@_json
def power(
    suites: tuple[str, ...],
    difference: float | None,
    power: float | None,
    pilots: tuple[str, ...],
    limit: int,
    alpha: float | None,
    json_: bool,
) -> None:
    """Say how many rows a difference needs, before a model is asked. Exit code 11 if there are too few.

    How much two models differ on a row is taken from reports of the suite, or guessed. Several suites are
    planned as one verdict.

    \b
    Example: agentd eval power tickets --difference 0.05 --pilot tickets-lora@tickets
    """
    client = connect()
    given = {"difference": difference, "power": power, "alpha": alpha, "pilot": list(pilots), "limit": limit}
    made = [client.call("power", {"suite": each, "suites": len(suites), **given}) for each in suites]
    if json_:
        show.as_json(made)
    else:
        columns = ["suite", ">rows", ">difference", ">needed", ">power", ">shown", "figured from"]
        show.table(columns, [_planned(each) for each in made], empty="")
    sys.exit(PASSED if all(each["enough"] for each in made) else INCONCLUSIVE)


@evals.command()
@click.argument("suite")
@click.option("--against", default="", metavar="FILE", help="JSONL of traffic; else the suite's own target.")
@click.option("--field", "fields", multiple=True, metavar="SUITE=TRAFFIC", help="Compare this field as well.")
@_json
def drift(suite: str, against: str, fields: tuple[str, ...], json_: bool) -> None:
    """Say which slices of a suite are far from the traffic. Exit code 10 if one is, 11 if it is unclear.

    Slices of the suite and the length of inputs are compared, by the population stability index.

    \b
    Example: agentd eval drift tickets --against june.jsonl --field expected.intent=label
    """
    given = {name: other for name, _, other in (each.partition("=") for each in fields)}
    made = connect().call("drift", {"suite": suite, "against": against, "fields": given})
    if json_:
        show.as_json(made)
    else:
        columns = ["field", ">index", ">by chance", ">p", "level", "most of it (suite, traffic)"]
        show.table(columns, [_field(each) for each in made["fields"]], empty="")
        if made["missing"]:
            show.errors.print(f"not compared: {show.escape(', '.join(made['missing']))}")
    sys.exit({"far": WORSE, "unclear": INCONCLUSIVE}.get(made["level"], PASSED))


def _field(each: dict[str, Any]) -> tuple[str, ...]:
    most = ", ".join(f"{v['value']} {v['suite']:.0%} {v['traffic']:.0%}" for v in each["values"][:3])
    return (
        each["field"],
        *(f"{each[name]:.3f}" for name in ("psi", "noise", "p_value")),
        each["level"],
        most,
    )


def _planned(plan: dict[str, Any]) -> tuple[Any, ...]:
    figures = (f"{plan['power']:.2f}", f"{plan['difference_shown']:.2g}", plan["basis"])
    return plan["suite"], plan["rows"], f"{plan['difference']:g}", plan["needed"], *figures


@evals.command()
@click.argument("ref", metavar="REPORT")
@click.option("--baseline", default="", metavar="REF", help="Report or file that it is held against.")
@_pages
@_json
def report(
    ref: str, baseline: str, html: Path | None, markdown: Path | None, junit: Path | None, json_: bool
) -> None:
    """Write a report as a page; without a file, print it as Markdown.

    \b
    Example: agentd eval report tickets-lora@tickets --html report.html
    """
    client = connect()
    against = [_reference(client, baseline)] if baseline else []
    files = {"html": html, "markdown": markdown, "junit": junit}
    _write(client, [ref], against, files, [ref])
    if json_ or not any(files.values()):
        click.echo(_page(client, ref, against[0] if against else "", "json" if json_ else "markdown"))


@evals.command()
@click.argument("ref", metavar="REPORT")
@click.argument("file", type=click.Path(path_type=Path))
def export(ref: str, file: Path) -> None:
    """Write a report with its rows' scores to a file, to be kept in a repository as a baseline.

    \b
    Example: agentd eval export tickets-lora@tickets tests/tickets-baseline.json
    """
    bundle = connect().call("export_baseline", {"report": ref})["bundle"]
    file.write_text(json.dumps(bundle, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    show.errors.print(f"wrote {file} ({len(bundle['scores'])} rows)")


def _foresee(
    client: Client,
    suites: tuple[str, ...],
    baselines: list[str],
    margin: float | None,
    alpha: float | None,
    limit: int,
) -> None:
    """Tell which suites cannot show the margin, before a model is asked."""
    for suite, baseline in zip(suites, baselines, strict=True):
        given = {"difference": margin, "alpha": alpha, "limit": limit, "suites": len(suites)}
        made = client.call("power", {"suite": suite, "pilot": [baseline], **given})
        if not made["enough"]:
            show.errors.print(f"[yellow]{show.escape(made['suite'])}[/]: {show.escape(made['why'])}")


def _measured(client: Client, arguments: dict[str, Any]) -> str:
    """Evaluate, wait, and answer with the report's id. Raises what went wrong."""
    job = client.call("evaluate", arguments)
    if job["id"]:
        job = follow_job(client, job["id"])
    if job["state"] != "succeeded":
        raise AgentdError(f"{job['title']} {job['state']}: {job['reason']}", hint=job["next"])
    return job["result"]["report"]


def _reference(client: Client, ref: str) -> str:
    """A report's name, or the name that a baseline file is kept under."""
    if not ref.endswith(".json"):
        return ref
    try:
        bundle = json.loads(Path(ref).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The baseline {ref!r} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(ref, f"is not JSON: {error}", hint="Make it with: agentd eval export") from error
    return client.call("keep_baseline", {"bundle": bundle})["report"]


def _gate(
    client: Client, candidates: list[str], baselines: list[str], margin: float | None, alpha: float | None
) -> dict[str, Any]:
    given = {"candidates": candidates, "baselines": baselines, "margin": margin, "alpha": alpha}
    return client.call("gate", given)


def _write(
    client: Client, made: list[str], known: list[str], files: dict[str, Path | None], suites: list[str]
) -> None:
    """Each report to its file; of several, the suite's name goes before the suffix."""
    for index, (ref, suite) in enumerate(zip(made, suites, strict=True)):
        against = known[index] if index < len(known) else ""
        for format_, path in files.items():
            if path is not None:
                suffix = f".{suite}" if len(made) > 1 else ""
                file = path.with_name(f"{path.stem}{suffix}{path.suffix}")
                file.write_text(_page(client, ref, against, format_), encoding="utf-8")
                show.errors.print(f"wrote {file}")


def _page(client: Client, ref: str, baseline: str, format_: str) -> str:
    return client.call("report_page", {"report": ref, "baseline": baseline, "format": format_})["text"]


def _print(client: Client, refs: list[str], outcome: dict[str, Any] | None) -> None:
    found = [client.get(f"/api/reports/{ref}") for ref in refs]
    rows = [
        (
            r["suite"],
            r["model"],
            r["metric"],
            f"{r['score']:.3f}",
            f"{r['low']:.3f} to {r['high']:.3f}",
            r["n"],
        )
        for r in found
    ]
    show.table(["suite", "model", "metric", ">score", "95 % interval", ">n"], rows, empty="")
    if outcome:
        colour = {"worse": "red", "broken": "red", "inconclusive": "yellow"}.get(outcome["verdict"], "green")
        verdict = outcome["verdict"].replace("_", " ")
        show.console.print(f"\n[bold {colour}]{verdict}[/]  {show.escape(outcome['why'])}")
