"""What the conformance suite wants every server to answer: tools, resources and prompts by its names."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from typing import Annotated, Any

import mcp_types as types
from mcp.server import MCPServer
from mcp.server.mcpserver import Context, RequestStateSecurity
from mcp.server.mcpserver.prompts.base import Prompt, UserMessage
from pydantic import Field

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
SILENCE = base64.b64encode(
    b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0@\x1f\0\0@\x1f\0\0\1\0\x08\0data\0\0\0\0"
).decode()

mcp = MCPServer(
    "agentd-conformance",
    version="1",
    request_state_security=RequestStateSecurity(keys=[secrets.token_bytes(32)]),
)


def resource(uri: str, text: str, mime: str = "text/plain") -> types.EmbeddedResource:
    contents = types.TextResourceContents(uri=uri, mime_type=mime, text=text)
    return types.EmbeddedResource(type="resource", resource=contents)


def words(text: str) -> types.TextContent:
    return types.TextContent(type="text", text=text)


def picture() -> types.ImageContent:
    return types.ImageContent(type="image", data=PIXEL, mime_type="image/png")


# --- what tools answer -----------------------------------------------------------------------


@mcp.tool()
def test_simple_text() -> str:
    """Text."""
    return "This is a simple text response for testing."


@mcp.tool()
def test_image_content() -> list[types.ImageContent]:
    """A picture."""
    return [picture()]


@mcp.tool()
def test_audio_content() -> list[types.AudioContent]:
    """A sound."""
    return [types.AudioContent(type="audio", data=SILENCE, mime_type="audio/wav")]


@mcp.tool()
def test_embedded_resource() -> list[types.EmbeddedResource]:
    """A resource in the answer."""
    return [resource("test://embedded-resource", "This is an embedded resource content.")]


@mcp.tool()
def test_multiple_content_types() -> list[types.TextContent | types.ImageContent | types.EmbeddedResource]:
    """Text, a picture and a resource."""
    data = json.dumps({"test": "data", "value": 123})
    mixed = resource("test://mixed-content-resource", data, "application/json")
    return [words("Multiple content types test:"), picture(), mixed]


@mcp.tool()
def test_error_handling() -> str:
    """Fails."""
    raise RuntimeError("This tool intentionally returns an error for testing")


@mcp.tool()
async def test_tool_with_logging(ctx: Context) -> str:
    """Logs three times."""
    for text in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.info(text)  # pyright: ignore[reportDeprecated]
        await asyncio.sleep(0.05)
    return "done"


mcp.add_tool(test_tool_with_logging, name="test_logging_tool")


@mcp.tool()
async def test_tool_with_progress(ctx: Context) -> str:
    """Reports progress three times."""
    for done in (0, 50, 100):
        await ctx.report_progress(done, 100)
        await asyncio.sleep(0.05)
    return "done"


@mcp.tool()
async def test_reconnection(ctx: Context) -> str:
    """Has its stream closed, where streams are replayed, and answers on the next one."""
    await ctx.close_sse_stream()
    return "done"


@mcp.tool()
def test_headers(
    region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})],
) -> str:
    """Has an argument that is mirrored in a header."""
    return region


@mcp.tool()
def json_schema_2020_12_tool() -> str:
    """Has a schema with much in it."""
    return "its schema is what matters"


mcp._tool_manager._tools["json_schema_2020_12_tool"].parameters = {  # no public way to give a whole schema
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


@mcp.tool()
async def test_trigger_tool_change(ctx: Context) -> str:
    """Changes the list of tools."""
    mcp.add_tool(test_simple_text, name="test_passing_tool")
    mcp.remove_tool("test_passing_tool")
    await ctx.notify_tools_changed()
    return "changed"


@mcp.tool()
async def test_trigger_prompt_change(ctx: Context) -> str:
    """Changes the list of prompts."""
    mcp.add_prompt(Prompt.from_function(test_simple_prompt, name="test_passing_prompt"))
    mcp.remove_prompt("test_passing_prompt")
    await ctx.notify_prompts_changed()
    return "changed"


# --- resources and prompts -------------------------------------------------------------------


@mcp.resource("test://static-text", mime_type="text/plain")
def static_text() -> str:
    """Text."""
    return "This is the content of the static text resource."


@mcp.resource("test://static-binary", mime_type="image/png")
def static_binary() -> bytes:
    """A picture."""
    return base64.b64decode(PIXEL)


@mcp.resource("test://watched-resource")
def watched() -> str:
    """A resource to subscribe to."""
    return "Watched resource content"


@mcp.resource("test://template/{id}/data", mime_type="application/json")
def template(id: str) -> str:
    """A resource with a variable."""
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


@mcp.prompt()
def test_simple_prompt() -> str:
    """Text."""
    return "This is a simple prompt for testing."


@mcp.prompt()
def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    """Text with arguments."""
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@mcp.prompt()
def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
    """A resource and text."""
    embedded = resource(resourceUri, "Embedded resource content for testing.")
    return [UserMessage(embedded), UserMessage("Please process the embedded resource above.")]


@mcp.prompt()
def test_prompt_with_image() -> list[UserMessage]:
    """A picture and text."""
    return [UserMessage(picture()), UserMessage("Please analyze the image above.")]


@mcp.completion()
async def complete(ref: Any, argument: types.CompletionArgument, context: Any) -> types.Completion:
    values = [each for each in ("paris", "park", "party") if each.startswith(argument.value)]
    return types.Completion(values=values, total=len(values), has_more=False)
