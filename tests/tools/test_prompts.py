"""tools/prompts.py on a real daemon's state, and prompts as a real endpoint is asked by them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agentd.cli import prompts as commands
from agentd.cli.app import app
from agentd.context import Context
from agentd.errors import DataError, NotFound
from agentd.sdk import Launch, Model
from tests.recipes.test_evaluate import echo, run, serving, written
from tests.tools.conftest import SUITE, OpenDaemon, call, context_of, finish

ROWS = [{"id": str(n), "input": f"country {n}", "expected": "x"} for n in range(3)]
BRIEF = """\
name: brief
description: few words
system: Answer.
template: "Capital of {input}?"
examples:
  - {input: Peru, output: Lima}
"""


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    evals = tmp_path / "mine/evals"
    (evals / "prompts").mkdir(parents=True)
    (evals / "capitals.yaml").write_text(SUITE)
    (evals / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (evals / "prompts/brief.yaml").write_text(BRIEF)
    return evals / "prompts"


@pytest.fixture
def ctx(prompts: Path, open_daemon: OpenDaemon, tmp_path: Path) -> Context:
    far = Model(
        name="far",
        kind="frontier",
        endpoint="http://127.0.0.1:9/v1",
        input_micro_usd_per_mtok=0,
        output_micro_usd_per_mtok=0,
    )
    return context_of(open_daemon(roots=(prompts.parents[1],), models=(far,)), tmp_path)


def versions(ctx: Context) -> list[Any]:
    """Those of the prompt made here; one comes with the project."""
    return [each for each in call(ctx, "list_prompts").prompts if each.prompt.startswith("brief@")]


def evaluated(ctx: Context, folder: Path, job: str, **arguments: Any) -> str:
    """The id of the report of a launch that was carried out: the recipe, and a real endpoint."""
    launch: Launch = call(ctx, "evaluate", suite="capitals", model="far", **arguments)
    out = folder / job
    out.mkdir()
    inputs = {name: str(path) for name, path in launch.inputs.items()}
    with serving(echo) as endpoint:
        spec = {**launch.spec, "inputs": inputs, "answers": str(out / "answers.sqlite")}
        code, _, stderr = run(out, endpoint.url, ROWS, **spec)
        asked = [body["messages"] for body in endpoint.asked]
    assert code == 0, stderr
    result, _ = written(out)
    (folder / f"{job}.json").write_text(json.dumps(asked))
    return finish(ctx, "evaluate", launch, out / "out", result, job)["report"]


def test_a_prompt_is_what_the_model_is_asked_and_the_report_pins_it(ctx: Context, tmp_path: Path) -> None:
    report = ctx.reports.get(evaluated(ctx, tmp_path, "one", prompt="brief"))
    asked = sorted(json.loads((tmp_path / "one.json").read_text()), key=lambda each: each[-1]["content"])
    assert asked[1] == [
        {"role": "system", "content": "Answer."},
        {"role": "user", "content": "Capital of Peru?"},
        {"role": "assistant", "content": "Lima"},
        {"role": "user", "content": "Capital of country 1?"},
    ]
    (row,) = versions(ctx)
    assert report.meta["prompt"] == f"brief@{row.digest}"
    assert len(report.meta["rendered_sha256"]) == 64
    assert (row.current, row.reports) == (True, [report.id])
    page = asyncio.run(ctx.call("report_page", {"report": report.id, "format": "html"})).text
    assert row.digest in page
    assert report.meta["rendered_sha256"] in page


def test_two_prompts_on_one_suite_are_compared_and_named(ctx: Context, tmp_path: Path) -> None:
    one = evaluated(ctx, tmp_path, "one", prompt="brief")
    two = evaluated(ctx, tmp_path, "two")
    (row,) = versions(ctx)
    told = asyncio.run(ctx.call("compare", {"candidate": one, "baseline": two}))
    assert f"prompts differ: brief@{row.digest} against the suite's own" in told.why
    assert "prompts differ" not in asyncio.run(ctx.call("compare", {"candidate": one, "baseline": one})).why
    hashes = {ctx.reports.get(each).meta["rendered_sha256"] for each in (one, two)}
    assert len(hashes) == 2


def test_a_version_that_was_evaluated_can_be_asked_again_after_an_edit(
    ctx: Context, prompts: Path, tmp_path: Path
) -> None:
    evaluated(ctx, tmp_path, "one", prompt="brief")
    (old,) = versions(ctx)
    (prompts / "brief.yaml").write_text(BRIEF.replace("Answer.", "Answer in a word 😀."))
    new, kept = versions(ctx)
    assert (new.current, kept.current, kept.digest) == (True, False, old.digest)
    assert call(ctx, "show_prompt", prompt=old.prompt).system == "Answer."
    assert "+system: Answer in a word" in call(ctx, "diff_prompts", a=old.prompt, b="brief").diff
    assert call(ctx, "evaluate", suite="capitals", model="far", prompt=old.prompt).spec["system"] == "Answer."
    evaluated(ctx, tmp_path, "two", prompt="brief")
    (prompts / "brief.yaml").unlink()
    assert "😀" in call(ctx, "show_prompt", prompt=new.prompt).system
    with pytest.raises(NotFound, match="brief@000000"):
        call(ctx, "show_prompt", prompt="brief@000000")


def test_only_content_changes_a_digest(ctx: Context, prompts: Path) -> None:
    def digest(text: str) -> str:
        (prompts / "brief.yaml").write_text(text)
        return call(ctx, "show_prompt", prompt="brief").digest

    first = digest(BRIEF)
    assert digest(f"# a comment\n{BRIEF.replace('few words', 'other words')}") == first
    changes = [("Answer.", "Reply."), ("Capital", "Capitol"), ("output: Lima", "output: Cusco")]
    assert len({first, *(digest(BRIEF.replace(old, new)) for old, new in changes)}) == 4


def test_a_field_that_rows_do_not_have_is_told_by_file_and_line_before_anything_is_asked(
    ctx: Context, prompts: Path
) -> None:
    path = prompts / "brief.yaml"
    path.write_text('name: brief\n\ntemplate: "Capital of {land}?"\n')
    with pytest.raises(DataError) as caught:
        call(ctx, "evaluate", suite="capitals", model="far", prompt="brief")
    assert (caught.value.path, caught.value.line, caught.value.field) == (str(path), 3, "template")
    assert "{land}" in caught.value.message
    assert caught.value.hint == "Fields there: expected, id, input"
    path.write_text(BRIEF.replace("{input: Peru,", "{country: Peru,"))
    with pytest.raises(DataError, match=r"brief.yaml:5: examples.0: has no 'input'"):
        call(ctx, "show_prompt", prompt="brief")


# --- on the command line --------------------------------------------------------------------


@pytest.fixture
def agentd(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """``agentd("list")``: a command about prompts, its calls answered by the tools themselves."""
    client = SimpleNamespace(call=lambda tool, given: call(ctx, tool, **given).model_dump())
    monkeypatch.setattr(commands, "connect", lambda: client)
    return lambda *words: CliRunner().invoke(app, ["prompt", *words])


def test_an_earlier_version_comes_back_and_one_that_nobody_evaluated_is_not_written_over(
    ctx: Context, prompts: Path, tmp_path: Path, agentd: Callable[..., Result]
) -> None:
    evaluated(ctx, tmp_path, "job-1", prompt="brief")
    first, file = call(ctx, "show_prompt", prompt="brief").prompt, prompts / "brief.yaml"
    file.write_text(BRIEF.replace("Answer.", "Answer briefly."))
    assert "-system: Answer." in agentd("diff", first, "brief").output
    assert "earlier" in agentd("list").output

    refused = agentd("rollback", first)
    assert refused.exit_code != 0
    assert "never evaluated, and would be lost" in refused.output
    assert "briefly" in file.read_text()

    assert agentd("rollback", first, "--force").exit_code == 0
    assert call(ctx, "show_prompt", prompt="brief").prompt == first
    assert "holds" in agentd("rollback", first).output


def test_a_version_whose_file_is_gone_is_written_where_it_is_wanted(
    ctx: Context, prompts: Path, tmp_path: Path, agentd: Callable[..., Result]
) -> None:
    evaluated(ctx, tmp_path, "job-1", prompt="brief")
    first, file = call(ctx, "show_prompt", prompt="brief").prompt, prompts / "brief.yaml"
    file.unlink()
    assert "Name one with --to" in agentd("rollback", first).output
    assert agentd("rollback", first, "--to", str(file)).exit_code == 0
    assert call(ctx, "show_prompt", prompt="brief").prompt == first
