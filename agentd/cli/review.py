"""Reviewing a data set at a terminal, or from a file of decisions: ``data review`` and ``data publish``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from agentd.cli import show
from agentd.cli.client import Client, connect
from agentd.cli.follow import interactive
from agentd.errors import DataError, InputError

__all__ = ["publish", "review", "told_review", "told_row"]

AT_ONCE = 500
KEYS = {"a": "accept", "f": "fix", "r": "reject", "s": "skip", "u": "undo", "q": "quit"}
ASKED, ANSWERED = "--- question ---", "--- answer ---"


@click.command()
@click.argument("dataset")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), help="Only this split.")
@click.option("--reviewer", default="", help="Who reviews; you, by default.")
@click.option("--overlap", default=0.2, show_default=True, help="Share of rows that every reviewer is shown.")
@click.option("--decide", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help='JSONL of {"id", "verdict", "completion", "note"} instead of asking.')  # fmt: skip
@click.option("-n", "count", default=20, show_default=True, help="With --json: how many rows.")
@click.option("--json", "json_", is_flag=True, help="Print the next rows as JSON, and ask nothing.")
def review(
    dataset: str,
    split: str | None,
    reviewer: str,
    overlap: float,
    decide: Path | None,
    count: int,
    json_: bool,
) -> None:
    """Accept, mend or reject the rows of a data set, one after another.

    Keys: a accept, f fix in your $EDITOR, r reject, s skip, u undo the last one, q quit. Decisions are kept
    at once, and hold for a row's words in every version. Some rows are shown to every reviewer, so that
    'agentd data show' can tell how far they agree; a reviewer is not shown what others said.

    \b
    Examples: agentd data review support
              agentd data review support --json -n 100 > rows.json
              agentd data review support --decide decisions.jsonl
    """
    client = connect()
    wanted = {"dataset": dataset, "reviewer": reviewer, "split": split or "", "overlap": overlap}
    if decide:
        sent = [each for part in parts_of(decide) for each in [send(client, dataset, reviewer, part)]]
        kept, undone = (sum(each[name] for each in sent) for name in ("kept", "undone"))
        answer = {
            "reviewer": sent[-1]["reviewer"],
            "kept": kept,
            "undone": undone,
            "waiting": sent[-1]["waiting"],
        }
        show.as_json(answer) if json_ else show.facts(answer)
    elif json_:
        show.as_json(client.call("review_rows", {**wanted, "limit": count}))
    elif interactive():
        sit(client, dataset, reviewer, wanted)
    else:
        raise InputError(
            "Reviewing asks at a terminal", hint="Use --json for rows and --decide FILE for answers"
        )


@click.command()
@click.argument("dataset")
@click.option("--keep-unreviewed", is_flag=True, help="Keep the rows that nobody decided about.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def publish(dataset: str, keep_unreviewed: bool, json_: bool) -> None:
    """Make a new version out of the rows that were accepted and mended, without the rejected and disputed.

    \b
    Example: agentd data publish support
    """
    given = {"dataset": dataset, "unreviewed": "keep" if keep_unreviewed else "leave_out"}
    answer = connect().call("publish_dataset", given)
    if json_:
        show.as_json(answer)
        return
    rows = [(split, answer["rows"][split], version) for split, version in answer["datasets"].items()]
    show.table(["split", ">rows", "data set"], rows, empty="")
    pairs = f"{answer['pairs']} of a mended answer and the one before" if answer["pairs"] else ""
    show.facts({"review": told_review(answer["review"]), "pairs": pairs, "next": answer["next"]})


# --- at a terminal --------------------------------------------------------------------------


def sit(client: Client, dataset: str, reviewer: str, wanted: Mapping[str, Any]) -> None:
    """Show rows and take decisions until there are no rows or the reviewer quits."""
    skipped: set[str] = set()
    done: list[str] = []
    while True:
        answer = client.call("review_rows", {**wanted, "limit": min(1000, len(skipped) + 1)})
        rows = [row for row in answer["rows"] if row["id"] not in skipped]
        if not rows:
            show.errors.print(f"Nothing waits for {answer['reviewer']}. Next: agentd data publish {dataset}")
            return
        decision = asked(rows[0], f"{answer['waiting']} waiting, {answer['decided']} decided", done)
        if decision is None:
            return
        if decision["verdict"] == "skip":
            skipped.add(rows[0]["id"])
        else:
            send(client, dataset, reviewer, [decision])
            undoing = decision["verdict"] == "undo"
            done.remove(decision["id"]) if undoing else done.append(decision["id"])


def asked(row: Mapping[str, Any], place: str, done: Sequence[str]) -> dict[str, Any] | None:
    """The decision about a row, or about the one before it; None to stop."""
    about = " · ".join(
        str(part) for part in (row["split"], row.get("origin"), row.get("label"), place) if part
    )
    show.errors.rule(about, align="left", style="dim")
    show.errors.print(show.escape(told_row(row)), soft_wrap=True)
    while True:
        show.errors.print(
            "[bold]a[/]ccept [bold]f[/]ix [bold]r[/]eject [bold]s[/]kip [bold]u[/]ndo [bold]q[/]uit ", end=""
        )
        verdict = KEYS.get(click.getchar().lower(), "")
        show.errors.print(verdict)
        if verdict == "quit":
            return None
        if verdict == "undo" and done:
            return {"id": done[-1], "verdict": "undo"}
        if verdict == "fix" and (mended := mend(row)):
            return {"id": row["id"], "verdict": "fix", **mended}
        if verdict in ("accept", "reject", "skip"):
            return {"id": row["id"], "verdict": verdict}


def mend(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were changed, in the editor that the environment names, else the answer on a line."""
    if "text" in row:
        text = edited(row["text"])
        return {"text": text} if text and text != row["text"] else {}
    asked_, answered = last(row["prompt"]), last(row["completion"])
    if not (os.environ.get("VISUAL") or os.environ.get("EDITOR")):
        answer = click.prompt("answer", default=answered, show_default=False, err=True)
        return {"completion": answer} if answer != answered else {}
    whole = edited(f"{ASKED}\n{asked_}\n{ANSWERED}\n{answered}\n")
    head, sign, answer = whole.partition(f"\n{ANSWERED}\n")
    if not sign:
        show.errors.print(f"The line {ANSWERED!r} is needed; nothing was changed")
        return {}
    question = head.removeprefix(f"{ASKED}\n")
    changed = {"prompt": (question, asked_), "completion": (answer.rstrip("\n"), answered)}
    return {name: new for name, (new, old) in changed.items() if new.strip() and new != old}


def edited(text: str) -> str:
    return click.edit(text, extension=".txt") or text


def last(said: Any) -> str:
    return said if isinstance(said, str) else said[-1]["content"]


# --- from a file ----------------------------------------------------------------------------


def parts_of(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The decisions of a file, as many at once as a call takes. Raises `DataError` naming the line."""
    decisions: list[dict[str, Any]] = []
    for line, text in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not text.strip():
            continue
        try:
            decision = json.loads(text)
        except ValueError as error:
            raise DataError(
                path, f"is not JSON: {error}", line=line, hint='{"id": "…", "verdict": "accept"}'
            ) from error
        if not isinstance(decision, dict) or not {"id", "verdict"} <= decision.keys():
            raise DataError(path, "has no id and verdict", line=line, hint='{"id": "…", "verdict": "accept"}')
        decisions.append(decision)
    if not decisions:
        raise DataError(path, "is empty", hint='Write {"id": "…", "verdict": "accept"} a line')
    for start in range(0, len(decisions), AT_ONCE):
        yield decisions[start : start + AT_ONCE]


def send(
    client: Client, dataset: str, reviewer: str, decisions: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    given = {"dataset": dataset, "reviewer": reviewer, "decisions": list(decisions)}
    return client.call("review_decide", given)


# --- words ----------------------------------------------------------------------------------


def told_row(row: Mapping[str, Any]) -> str:
    """A row as a person reads it: who says what, and where it comes from."""
    said: list[str] = []
    for field in ("prompt", "messages", "completion"):
        value = row.get(field)
        if isinstance(value, str):
            said.append(f"{field}: {value}")
        elif value:
            said += [f"{message['role']}: {message['content']}" for message in value]
    said += [f"{field}: {row[field]}" for field in ("text", "rejected", "label") if row.get(field)]
    if source := row.get("source"):
        said.append(
            f"source: {source if isinstance(source, str) else json.dumps(source, ensure_ascii=False)}"
        )
    return "\n".join(said)


def told_review(review: Mapping[str, Any]) -> str:
    """Where a review stands, in one line."""
    counts = ", ".join(
        f"{review[name]} {name}" for name in ("accepted", "fixed", "rejected", "disputed") if review[name]
    )
    done = f"{review['rows'] - review['unreviewed']} of {review['rows']} rows"
    if review["alpha"] is None:
        return f"{done}: {counts}" if counts else done
    bounds = f"{review['alpha_low']:.2f} to {review['alpha_high']:.2f}"
    agreement = f"alpha {review['alpha']:.2f} ({bounds}) on {review['judged_twice']} rows"
    return f"{done}: {counts}; {agreement} by {len(review['reviewers'])} people"
