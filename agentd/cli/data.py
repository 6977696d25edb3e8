"""Data sets: ``data prepare``, ``check``, ``list``, ``show``, ``diff``, ``export``."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from agentd.cli import show
from agentd.cli.client import Client, connect
from agentd.cli.follow import fail_unless_done, follow_job
from agentd.cli.review import publish, review, told_review, told_row
from agentd.errors import InputError

__all__ = ["data"]

Choice = click.Choice


@click.group()
def data() -> None:
    """Make, review, look at and compare data sets.

    \b
    Examples: agentd data prepare chats.csv tickets.parquet --name support
              agentd data review support
              agentd data publish support
    """


@data.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--name", required=True, help="What to call it.")
@click.option(
    "--column", "columns", multiple=True, metavar="WHAT=COLUMN", help="prompt=body, user=customer_id …"
)
@click.option("--speaker", "speakers", multiple=True, metavar="NAME=ROLE", help="Ann=assistant, Bob=user …")
@click.option("--system", default="", help="System message for rows that have none.")
@click.option("--turns", type=Choice(["last", "each"]), default="last", show_default=True)
@click.option("--pii", type=Choice(["replace", "report", "keep"]), default="replace", show_default=True)
@click.option("--language", "languages", multiple=True, metavar="CODE", help="Keep only these (en, de …).")
@click.option("--min-chars", default=0, help="Characters a conversation must have.")
@click.option("--max-chars", default=0, help="Characters it may have.")
@click.option("--min-rating", type=float, help="Leave out rows that are rated lower.")
@click.option("--duplicates", type=Choice(["none", "exact", "near"]), default="exact", show_default=True,
              help="What is left out.")  # fmt: skip
@click.option(
    "--near", default=0.8, show_default=True, help="Similarity from which rows are near-duplicates."
)
@click.option("--balance", type=Choice(["none", "cap", "upsample"]), default="none", show_default=True)
@click.option("--per-label", default=0, help="Rows of a label; 0: as many as the median label.")
@click.option("--validation", default=0.1, show_default=True, help="Share of the rows.")
@click.option("--test", default=0.1, show_default=True, help="Share of the rows.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "json_", is_flag=True, help="Print the whole answer as JSON.")
def prepare(sources: tuple[str, ...], json_: bool, **options: Any) -> None:
    """Make training, validation and test rows from files, data sets, report:ID or traffic:ALIAS.

    What the columns were taken for is printed: look at it. Nothing is lost: what was left out is kept
    as NAME-dropped, each row with its reason.

    \b
    Examples: agentd data prepare chats.csv tickets.parquet --name support --language en
              agentd data prepare export/ --name support --column prompt=subject+body --column label=queue
              agentd data prepare traffic:tickets,corrected,pairs,since=7d --name mended
    """
    named = {what: pairs(what.rstrip("s"), options.pop(what)) for what in ("columns", "speakers")}
    given = {"sources": list(sources), **named, **options, "languages": list(options["languages"])}
    result = launched(connect(), "prepare_data", given)
    show.as_json(result) if json_ else tell_prepared(result)


@data.command(name="list")
@click.argument("name", required=False)
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def list_(name: str | None, json_: bool) -> None:
    """List data sets with their versions, newest first; with NAME only those of it.

    \b
    Example: agentd data list support
    """
    answer = connect().call("list_datasets", {"name": name or ""})
    if json_:
        show.as_json(answer)
        return
    rows = [
        (
            d["name"],
            d["version"],
            d["split"],
            d["rows"],
            d["made"],
            show.bytes_(d["size_bytes"]),
            d["dataset"],
        )
        for d in answer["datasets"]
    ]
    show.table(
        ["data set", "version", "split", ">rows", "made", ">size", "id"],
        rows,
        empty="No data sets yet: agentd data prepare FILE --name NAME",
    )


@data.command(name="show")
@click.argument("dataset")
@click.option("-n", "rows", default=3, show_default=True, help="How many rows.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def show_(dataset: str, rows: int, json_: bool) -> None:
    """Show a data set: where it comes from, what was done to it, and its first rows.

    \b
    Example: agentd data show support
    """
    answer = connect().call("show_dataset", {"dataset": dataset, "rows": rows})
    if json_:
        show.as_json(answer)
        return
    show.facts({k: answer[k] for k in ("dataset", "split", "rows", "made", "path")})
    show.facts({"from": ", ".join(answer["parents"]), "review": told_review(answer["review"])})
    if answer["card"]:
        show.console.print(show.escape(answer["card"].partition("\n---\n")[2].strip()), soft_wrap=True)
    for row in answer["first"]:
        show.console.rule(f"row {row.get('id', '')}", align="left", style="dim")
        show.console.print(show.escape(told_row(row)), soft_wrap=True)


@data.command()
@click.argument("a")
@click.argument("b")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def diff(a: str, b: str, json_: bool) -> None:
    """Compare two versions of a data set, or two data sets, row by row. Takes names or ids.

    \b
    Example: agentd data diff dataset-3f2a… support
    """
    answer = connect().call("diff_datasets", {"a": a, "b": b})
    if json_:
        show.as_json(answer)
        return
    show.facts({side: f"{answer[side]['dataset']}, {answer[side]['rows']} rows" for side in ("a", "b")})
    show.facts({name: answer[name] for name in ("same", "only_a", "only_b", "changed")})
    for name in ("labels", "options"):
        for key, (one, other) in answer[name].items():
            show.console.print(show.escape(f"{name.rstrip('s')} {key}: {one} → {other}"))
    for each in answer["examples"]:
        show.console.rule("changed", align="left", style="dim")
        show.console.print(show.escape(f"- {told_row(each['a'])}\n+ {told_row(each['b'])}"), soft_wrap=True)


@data.command()
@click.argument("dataset")
@click.option("--model", default="smollm2-135m", show_default=True, help="Whose tokens and chat template.")
@click.option("--suite", default="", help="A suite whose rows must not stand in it.")
@click.option("--max-length", default=512, show_default=True, help="Tokens a row may have.")
@click.option("--json", "json_", is_flag=True, help="Print the whole answer as JSON.")
def check(dataset: str, model: str, suite: str, max_length: int, json_: bool) -> None:
    """Look at a data set as a model will see it: tokens, chat template, leaks from a suite.

    Two rows are shown as the model's chat template renders them, what would be learned in bold.

    \b
    Example: agentd data check support --model smollm2-135m --suite tickets
    """
    given = {"path": dataset, "tokenizer_model": model, "suite": suite, "max_length": max_length}
    result = launched(connect(), "check_dataset", given)
    if json_:
        show.as_json(result)
        return
    show.facts(
        {
            "data set": result["dataset"],
            "rows": result["rows"],
            "tokens": f"{result['tokens_median']} median, {result['tokens_max']} at most",
        }
    )
    if template := result["template"]:
        show.facts({"template": template["sha256"][:16], "rendered": template["rendered_sha256"][:16]})
        for row in template["shown"]:
            show.console.rule(f"row {row['line']}, as {model} sees it", align="left", style="dim")
            show.console.print(
                f"{show.escape(row['given'])}[bold]{show.escape(row['learned'])}[/]", soft_wrap=True
            )
    for problem in result["problems"]:
        show.console.print(f"[yellow]! {show.escape(problem)}[/]", soft_wrap=True)


@data.command()
@click.argument("dataset")
@click.option("--as", "form", type=Choice(["sft", "preference", "verifier", "suite"]), default="sft",
              show_default=True, help="Answers to imitate, pairs, a verifier, or eval cases.")  # fmt: skip
@click.option(
    "--scorer",
    default="exact_text",
    show_default=True,
    help="Of a verifier or suite: a name in evals/scorers/.",
)
@click.option("--out", type=click.Path(path_type=Path), help="A new folder to copy it to.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def export(dataset: str, form: str, scorer: str, out: Path | None, json_: bool) -> None:
    """Write a data set as trl's trainers load it, or as a suite of eval cases.

    \b
    Examples: agentd data export support --out sft
              agentd data export support --as preference --out pairs
              agentd data export tickets --as verifier --scorer exact_json --out grpo
              agentd data export mended --as suite --out evals/mended
    """
    if out is not None and out.exists():
        raise InputError(f"{str(out)!r} is there already", hint="Name a new folder")
    answer = connect().call("export_dataset", {"dataset": dataset, "form": form, "scorer": scorer})
    if out is not None:
        shutil.copytree(answer["path"], out)
        answer["path"] = str(out.resolve())
    if json_:
        show.as_json(answer)
        return
    left = {f"left out, {reason}": count for reason, count in answer["left_out"].items()}
    show.facts({"folder": answer["path"], "rows": answer["rows"], **left})
    show.console.print(show.escape(answer["load"]), soft_wrap=True)


data.add_command(review)
data.add_command(publish)


# --- parts ----------------------------------------------------------------------------------


def launched(client: Client, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a tool that launches a job, waited for. Raises what it failed with."""
    job = client.call(tool, arguments)
    view = follow_job(client, job["id"]) if job["state"] != "succeeded" else job
    fail_unless_done(view)
    return view["result"]


def pairs(what: str, given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in given:
        name, sign, value = pair.partition("=")
        if not sign or not name or not value:
            raise InputError(f"--{what} {pair!r} is not NAME=VALUE")
        found[name] = value
    return found


def tell_prepared(result: Mapping[str, Any]) -> None:
    for file, told in result["mapping"].items():
        columns = ", ".join(f"{what} ← {column}" for what, column in told["columns"].items())
        show.console.print(
            f"[bold]{show.escape(file)}[/] as {told['shape']}: {show.escape(columns)}; "
            f"{told['rows']} rows of {told['records']} records",
            soft_wrap=True,
        )
    for step in result["steps"][1:]:
        show.console.print(
            f"[bold]{step['step']}[/] {step['before']} → {step['after']}: {show.escape(step['what'])}",
            soft_wrap=True,
        )
        for example in step["examples"]:
            show.console.print(f"    [dim]{show.escape(example)}[/]", soft_wrap=True)
    show.console.print()
    rows = [(split, result["rows"][split], dataset) for split, dataset in result["datasets"].items()]
    show.table(["split", ">rows", "data set"], rows, empty="")
    crossing = [
        f"{told['crossing']} of {told['of']} {what.replace('_', ' ')}"
        for what, told in result["crossing"].items()
    ]
    show.facts(
        {
            "in two splits": ", ".join(crossing),
            "left out": f"{result['dropped']} rows, each with its reason: {result['dropped_rows']}",
            "next": result["next"],
        }
    )
    for problem in result["problems"]:
        show.console.print(f"[yellow]! {show.escape(problem)}[/]", soft_wrap=True)
