"""What can be read by address, and completed while it is typed, by clients of both eras."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import mcp_types as types
import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from agentd.sdk import JobView
from agentd.server.completion import narrowed
from agentd.server.resources import PAGE

pytestmark = pytest.mark.anyio
Connect = Callable[..., AbstractAsyncContextManager[Client]]


async def read(client: Client, uri: str) -> types.TextResourceContents:
    (content,) = (await client.read_resource(uri)).contents
    assert isinstance(content, types.TextResourceContents)
    return content


@pytest.mark.parametrize(
    ("uri", "key"),
    [
        ("agentd://catalog", "aliases"),
        ("agentd://jobs/job-1", "state"),
        ("agentd://reports/rep-1", "score"),
        ("agentd://runs/run-1", "steps"),
        ("agentd://models/support", "weights"),
        ("agentd://models/small", "kind"),
        ("agentd://collections/handbook", "chunks"),
        ("agentd://ledger", "day_spent"),
    ],
)
async def test_one_thing_is_an_object(connect: Connect, uri: str, key: str) -> None:
    async with connect("view") as client:
        content = await read(client, uri)
    assert content.mime_type == "application/json"
    assert key in json.loads(content.text)


@pytest.mark.parametrize("kind", ["jobs", "runs", "reports", "collections", "plans", "journal"])
async def test_a_kind_is_a_list(connect: Connect, kind: str) -> None:
    async with connect("view") as client:
        content = await read(client, f"agentd://{kind}")
    assert len(json.loads(content.text)) >= 1


@pytest.mark.parametrize(("form", "mime"), [("markdown", "text/markdown"), ("html", "text/html")])
async def test_a_report_is_also_a_page(connect: Connect, form: str, mime: str) -> None:
    async with connect() as client:
        content = await read(client, f"agentd://reports/rep-1/{form}")
    assert (content.mime_type, content.text) == (mime, f"# rep-1 as {form}")


async def test_the_documentation_and_plans_are_read_as_they_are_shipped(connect: Connect) -> None:
    async with connect() as client:
        index = await read(client, "agentd://docs")
        policy = await read(client, "agentd://docs/policy")
        plan = await read(client, "agentd://plans/tickets")
    assert "(agentd://docs/policy)" in index.text
    assert policy.text.startswith("# ")
    assert (policy.mime_type, plan.mime_type) == ("text/markdown", "application/yaml")
    assert "plan: tickets" in plan.text


@pytest.mark.parametrize(
    ("uri", "near"),
    [
        ("agentd://jobs/job-2", "job-1"),
        ("agentd://docs/polcy", "policy"),
        ("agentd://plans/ticket", "tickets"),
        ("agentd://models/smal", "small"),
        ("agentd://collections/handbok", "handbook"),
        ("agentd://reports/rep-1/markdwn", "markdown"),
        ("agentd://job", "agentd://jobs"),
        ("agentd://ledger/x", "agentd://ledger"),
        ("agentd://plans/..%2F..%2Fpolicies%2Fdefault", "tickets"),
        ("agentd://docs/..%2FREADME", ""),
        ("file:///etc/passwd", ""),
    ],
)
async def test_what_is_not_there_is_an_invalid_parameter_with_near_names(
    connect: Connect, uri: str, near: str
) -> None:
    async with connect() as client:
        with pytest.raises(MCPError) as caught:
            await client.read_resource(uri)
    assert caught.value.error.code == types.INVALID_PARAMS
    assert near in caught.value.error.message


async def test_a_list_shows_what_is_worth_picking(connect: Connect) -> None:
    async with connect() as client:
        found = {str(each.uri): each for each in (await client.list_resources()).resources}
        templates = (await client.list_resource_templates()).resource_templates
    assert {"agentd://catalog", "agentd://ledger", "agentd://journal", "agentd://docs/policy"} <= set(found)
    assert found["agentd://reports/rep-1/markdown"].title == "small on tickets: exact 0.900 (0.840 to 0.940)"
    assert found["agentd://jobs/job-1"].title == "finetune job-1: succeeded"
    assert "agentd://jobs/{id}" in [template.uri_template for template in templates]


async def test_everything_that_is_listed_can_be_read(connect: Connect) -> None:
    async with connect() as client:
        for each in (await client.list_resources()).resources:
            assert (await read(client, str(each.uri))).mime_type == each.mime_type


async def test_a_long_list_comes_in_pages(connect: Connect, kernel: Any) -> None:
    job = JobView(id="job-1", tool="finetune", title="A run", state="succeeded")
    kernel.jobs.stories |= {f"job-{n}": [job.model_copy(update={"id": f"job-{n}"})] for n in range(2, 91)}
    async with connect() as client:
        first = await client.list_resources()
        second = await client.list_resources(cursor=first.next_cursor)
        with pytest.raises(MCPError, match="no cursor"):
            await client.list_resources(cursor="soon")
    assert (len(first.resources), second.next_cursor) == (PAGE, None)
    uris = [str(each.uri) for each in (*first.resources, *second.resources)]
    assert len(uris) == len(set(uris))
    assert {f"agentd://jobs/job-{n}" for n in range(1, 91)} <= set(uris)


# --- completion ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "name", "typed", "values"),
    [
        ("agentd://jobs/{id}", "id", "", ["job-1"]),
        ("agentd://runs/{id}", "id", "run", ["run-1"]),
        ("agentd://reports/{id}", "id", "1", ["rep-1"]),
        ("agentd://reports/{id}/{format}", "format", "m", ["markdown", "html"]),
        ("agentd://models/{name}", "name", "SUP", ["support"]),
        ("agentd://collections/{name}", "name", "hand", ["handbook"]),
        ("agentd://plans/{name}", "name", "tick", ["tickets"]),
        ("agentd://docs/{page}", "page", "poli", ["policy"]),
        ("agentd://journal/{subject}", "subject", "job", ["job-1"]),
    ],
)
async def test_a_variable_of_an_address_is_completed(
    connect: Connect, uri: str, name: str, typed: str, values: list[str]
) -> None:
    async with connect("view") as client:
        ref = types.ResourceTemplateReference(uri=uri)
        completion = (await client.complete(ref, {"name": name, "value": typed})).completion
    assert completion.values == values


@pytest.mark.parametrize(
    ("prompt", "argument", "typed", "value"),
    [
        ("finetune_and_compare", "base", "sm", "small"),
        ("finetune_and_compare", "suite", "tick", "tickets"),
        ("cut_cost_of_alias", "alias", "", "support"),
        ("investigate_regression", "report", "", "rep-1"),
        ("start_with_rag", "collection", "h", "handbook"),
    ],
)
async def test_an_argument_of_a_prompt_is_completed(
    connect: Connect, prompt: str, argument: str, typed: str, value: str
) -> None:
    async with connect("view") as client:
        ref = types.PromptReference(name=prompt)
        completion = (await client.complete(ref, {"name": argument, "value": typed})).completion
    assert value in completion.values


async def test_completing_what_is_not_there_names_what_is(connect: Connect) -> None:
    async with connect() as client:
        with pytest.raises(MCPError, match="start_with_rag"):
            await client.complete(types.PromptReference(name="start_with_rga"), {"name": "x", "value": ""})
        with pytest.raises(MCPError, match="'id'"):
            await client.complete(
                types.ResourceTemplateReference(uri="agentd://jobs/{id}"), {"name": "ids", "value": ""}
            )


def test_what_begins_with_the_typed_text_comes_first_and_a_slip_finds_the_nearest() -> None:
    names = ["my-tickets", "tickets", "banking"]
    assert narrowed(names, "tick") == ["tickets", "my-tickets"]
    assert narrowed(names, "bakning") == ["banking"]
    assert narrowed(names, "zzz") == []


async def test_a_key_for_inference_reads_and_completes_nothing(connect_http: Connect) -> None:
    ref = types.ResourceTemplateReference(uri="agentd://jobs/{id}")
    async with connect_http("infer") as client:
        with pytest.raises(MCPError, match="needs 'view'"):
            await client.read_resource("agentd://journal")
        with pytest.raises(MCPError, match="needs 'view'"):
            await client.complete(ref, {"name": "id", "value": ""})
