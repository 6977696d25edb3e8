"""Tools and a prompt of the conformance suite that ask the client back, in the way of each era."""

from __future__ import annotations

from typing import Annotated, Any

import mcp_types as types
from answers import mcp, words
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from pydantic import BaseModel, Field


def form(message: str, name: str, kind: str = "string") -> types.ElicitRequest:
    schema: Any = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def sampling(prompt: str) -> types.CreateMessageRequest:
    asked = types.SamplingMessage(role="user", content=words(prompt))
    return types.CreateMessageRequest(
        params=types.CreateMessageRequestParams(messages=[asked], max_tokens=100)
    )


def said(response: Any, name: str) -> str:
    """The field of an accepted form; "" for whatever else came back."""
    content = response.content if isinstance(response, types.ElicitResult) else None
    return str((content or {}).get(name, ""))


def required(requests: dict[str, Any], state: str | None = None) -> types.InputRequiredResult:
    return types.InputRequiredResult(input_requests=requests, request_state=state)


# --- questions to the client, in the middle of a call (older revisions) ----------------------


@mcp.tool()
async def test_sampling(prompt: str, ctx: Context) -> str:
    """Has the client ask its model."""
    in_this_call = ServerMessageMetadata(related_request_id=ctx.request_id)
    answer = await ctx.session.send_request(
        sampling(prompt), types.CreateMessageResult, metadata=in_this_call
    )
    return f"LLM response: {answer.content.text if answer.content.type == 'text' else answer.content.type}"


class User(BaseModel):
    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


class Defaults(BaseModel):
    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: Annotated[str, Field(json_schema_extra={"enum": ["active", "inactive", "pending"]})] = "active"
    verified: bool = True


def titled(*values: str) -> list[dict[str, str]]:
    return [{"const": value, "title": value.title()} for value in values]


OPTIONS = ["option1", "option2", "option3"]


class Enums(BaseModel):
    untitledSingle: Annotated[str, Field(json_schema_extra={"enum": OPTIONS})]
    titledSingle: Annotated[str, Field(json_schema_extra={"oneOf": titled("value1", "value2", "value3")})]
    legacyEnum: Annotated[
        str, Field(json_schema_extra={"enum": ["opt1", "opt2"], "enumNames": ["Option One", "Option Two"]})
    ]
    untitledMulti: Annotated[
        list[str], Field(json_schema_extra={"items": {"type": "string", "enum": OPTIONS}})
    ]
    titledMulti: Annotated[
        list[str], Field(json_schema_extra={"items": {"anyOf": titled("value1", "value2")}})
    ]


async def elicited(ctx: Context, message: str, schema: type[BaseModel]) -> str:
    result = await ctx.elicit(message, schema=schema)
    content = result.data.model_dump_json() if result.action == "accept" else "{}"
    return f"action={result.action}, content={content}"


@mcp.tool()
async def test_elicitation(message: str, ctx: Context) -> str:
    """Asks for a name and an address."""
    return f"User response: {await elicited(ctx, message, User)}"


@mcp.tool()
async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    """Asks in a form with defaults."""
    return f"Elicitation completed: {await elicited(ctx, 'Who are you?', Defaults)}"


@mcp.tool()
async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    """Asks in a form with choices."""
    return f"Elicitation completed: {await elicited(ctx, 'Which?', Enums)}"


# --- questions to the client, as results (2026-07-28) ----------------------------------------


@mcp.tool()
def test_missing_capability(ctx: Context) -> str:
    """Needs a client that samples."""
    declared = ctx.session.client_capabilities
    if declared is None or declared.sampling is None:
        data = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(types.MISSING_REQUIRED_CLIENT_CAPABILITY, "This needs sampling", data)
    return "declared"


@mcp.tool()
def test_streaming_elicitation() -> types.InputRequiredResult:
    """Asks on a stream, which may carry no request."""
    return required({"user_name": form("What is your name?", "name")})


@mcp.tool()
def test_input_required_result_elicitation(ctx: Context) -> str | types.InputRequiredResult:
    """Asks for a name."""
    if name := said((ctx.input_responses or {}).get("user_name"), "name"):
        return f"Hello, {name}!"
    return required({"user_name": form("What is your name?", "name")})


@mcp.tool()
def test_input_required_result_sampling(ctx: Context) -> str | types.InputRequiredResult:
    """Has the client ask its model."""
    answer = (ctx.input_responses or {}).get("capital_question")
    if isinstance(answer, types.CreateMessageResult) and answer.content.type == "text":
        return answer.content.text
    return required({"capital_question": sampling("What is the capital of France?")})


@mcp.tool()
def test_input_required_result_list_roots(ctx: Context) -> str | types.InputRequiredResult:
    """Asks for the roots."""
    answer = (ctx.input_responses or {}).get("client_roots")
    if isinstance(answer, types.ListRootsResult):
        return ", ".join(str(root.uri) for root in answer.roots)
    return required({"client_roots": types.ListRootsRequest()})


@mcp.tool()
def test_input_required_result_request_state(ctx: Context) -> str | types.InputRequiredResult:
    """Asks, and looks whether its state came back."""
    if ctx.request_state == "asked" and "confirm" in (ctx.input_responses or {}):
        return "state-ok"
    return required({"confirm": form("Please confirm", "ok", "boolean")}, "asked")


mcp.add_tool(test_input_required_result_request_state, name="test_input_required_result_tampered_state")


@mcp.tool()
def test_input_required_result_multiple_inputs(ctx: Context) -> str | types.InputRequiredResult:
    """Asks three things at once."""
    asked: dict[str, Any] = {
        "user_name": form("What is your name?", "name"),
        "greeting": sampling("Generate a greeting"),
        "client_roots": types.ListRootsRequest(),
    }
    return "All there." if asked.keys() <= (ctx.input_responses or {}).keys() else required(asked, "asked")


@mcp.tool()
def test_input_required_result_multi_round(ctx: Context) -> str | types.InputRequiredResult:
    """Asks twice."""
    answers = ctx.input_responses or {}
    if ctx.request_state == "1" and (name := said(answers.get("step1"), "name")):
        return required({"step2": form("Step 2: What is your favorite color?", "color")}, f"2{name}")
    if (ctx.request_state or "").startswith("2") and (color := said(answers.get("step2"), "color")):
        return f"{(ctx.request_state or '')[1:]} likes {color}."
    return required({"step1": form("Step 1: What is your name?", "name")}, "1")


@mcp.tool()
def test_input_required_result_capabilities(ctx: Context) -> types.InputRequiredResult:
    """Asks what the client declared that it answers."""
    declared = ctx.session.client_capabilities or types.ClientCapabilities()
    asked: dict[str, Any] = {}
    if declared.sampling is not None:
        asked["sample"] = sampling("Say hello")
    if declared.elicitation is not None:
        asked["ask"] = form("What is your name?", "name")
    return required(asked, "asked")


@mcp.prompt()
def test_input_required_result_prompt(ctx: Context) -> list[UserMessage] | types.InputRequiredResult:
    """Asks before it is a prompt."""
    if context := said((ctx.input_responses or {}).get("user_context"), "context"):
        return [UserMessage(f"Use this: {context}")]
    return required({"user_context": form("What context should the prompt use?", "context")})
