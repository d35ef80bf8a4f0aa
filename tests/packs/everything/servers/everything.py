"""A server with everything that MCP offers, in both eras: what the official conformance suite calls for.

Built on the `mcp` package. Over stdio by default; `--port N` serves Streamable HTTP on loopback.
"""

# pyright: reportDeprecated=false

from __future__ import annotations

import argparse
import base64
import hmac
import json
import secrets
import warnings
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ResourceUpdated,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

warnings.simplefilter("ignore", MCPDeprecationWarning)

JsonObject: TypeAlias = dict[str, Any]
Context: TypeAlias = ServerRequestContext[Any, Any]
Params: TypeAlias = types.CallToolRequestParams
Page: TypeAlias = types.PaginatedRequestParams | None
Result: TypeAlias = types.CallToolResult | types.InputRequiredResult
Tool: TypeAlias = Callable[[Context, Params], Awaitable[Result]]

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQAAAAA="
KEY = secrets.token_bytes(32)
BUS = InMemorySubscriptionBus()
SUBSCRIBED: set[str] = set()
PAUSE = 0.05

TOOLS: dict[str, tuple[types.Tool, Tool]] = {}


def tool(*names: str, schema: JsonObject | None = None) -> Callable[[Tool], Tool]:
    """Offer a function as a tool under the names that the suite calls; its docstring is the description."""

    def register(function: Tool) -> Tool:
        shape: JsonObject = schema or {"type": "object", "properties": {}, "additionalProperties": False}
        for name in names:
            offer = types.Tool(name=name, description=function.__doc__, input_schema=shape)
            TOOLS[name] = (offer, function)
        return function

    return register


def strings(*names: str) -> JsonObject:
    properties = {name: {"type": "string"} for name in names}
    return {"type": "object", "properties": properties, "required": [*names], "additionalProperties": False}


def text(value: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=value)])


def modern(ctx: Context) -> bool:
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS


# -- content ---------------------------------------------------------------------------------------


def embedded(uri: str, mime_type: str, content: str) -> types.EmbeddedResource:
    return types.EmbeddedResource(
        resource=types.TextResourceContents(uri=uri, mime_type=mime_type, text=content)
    )


IMAGE = types.ImageContent(data=PNG, mime_type="image/png")
CONTENT: dict[str, list[types.ContentBlock]] = {
    "test_simple_text": [types.TextContent(text="This is a simple text response for testing.")],
    "test_image_content": [IMAGE],
    "test_audio_content": [types.AudioContent(data=WAV, mime_type="audio/wav")],
    "test_embedded_resource": [
        embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")
    ],
    "test_multiple_content_types": [
        types.TextContent(text="Multiple content types test:"),
        IMAGE,
        embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
    ],
    "test_error_handling": [types.TextContent(text="This tool intentionally returns an error for testing")],
}
"""Tools that return the same each time."""


def returns_content(name: str) -> None:
    result = types.CallToolResult(content=CONTENT[name], is_error=name == "test_error_handling")

    async def give(ctx: Context, params: Params) -> Result:
        """Return the same content each time."""
        return result

    tool(name)(give)


for each in CONTENT:
    returns_content(each)


@tool(
    "json_schema_2020_12_tool",
    schema={
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
    },
)
async def json_schema_2020_12_tool(ctx: Context, params: Params) -> Result:
    """Take arguments of a rich schema."""
    return text(json.dumps(params.arguments))


# -- while it runs ---------------------------------------------------------------------------------


async def log(ctx: Context, message: str) -> None:
    await ctx.session.send_log_message("info", message, related_request_id=ctx.request_id)


@tool("test_tool_with_logging", "test_logging_tool")
async def tool_with_logging(ctx: Context, params: Params) -> Result:
    """Log three messages."""
    for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await log(ctx, message)
        await anyio.sleep(PAUSE)
    return text("Tool with logging executed successfully")


@tool("test_tool_with_progress")
async def tool_with_progress(ctx: Context, params: Params) -> Result:
    """Report progress three times."""
    for progress in (0, 50, 100):
        await ctx.session.report_progress(progress, 100, f"Completed step {progress} of 100")
        await anyio.sleep(PAUSE)
    return text("done")


@tool("test_trigger_tool_change")
async def trigger_tool_change(ctx: Context, params: Params) -> Result:
    """Say that the tools changed."""
    await BUS.publish(ToolsListChanged())
    await ctx.session.send_tool_list_changed()
    return text("changed")


@tool("test_trigger_prompt_change")
async def trigger_prompt_change(ctx: Context, params: Params) -> Result:
    """Say that the prompts changed."""
    await BUS.publish(PromptsListChanged())
    await ctx.session.send_prompt_list_changed()
    return text("changed")


@tool("test_trigger_resource_update")
async def trigger_resource_update(ctx: Context, params: Params) -> Result:
    """Say that the watched resource changed."""
    await BUS.publish(ResourceUpdated("test://watched-resource"))
    if "test://watched-resource" in SUBSCRIBED:
        await ctx.session.send_resource_updated("test://watched-resource")
    return text("updated")


# -- asking the client, with sessions --------------------------------------------------------------


@tool("test_sampling", schema=strings("prompt"))
async def sampling(ctx: Context, params: Params) -> Result:
    """Have the client's model say something."""
    prompt = str((params.arguments or {})["prompt"])
    if modern(ctx):
        return await sample(ctx, params, "sampling", prompt)
    answer = await ctx.session.create_message(
        [types.SamplingMessage(role="user", content=types.TextContent(text=prompt))],
        max_tokens=100,
        related_request_id=ctx.request_id,
    )
    return text(f"LLM response: {answer.content.text if answer.content.type == 'text' else 'no text'}")


async def elicit(ctx: Context, message: str, properties: JsonObject, required: list[str]) -> str:
    schema = {"type": "object", "properties": properties, "required": required}
    answer = await ctx.session.elicit_form(message, schema, related_request_id=ctx.request_id)
    return f"action={answer.action}, content={json.dumps(answer.content)}"


@tool("test_elicitation", schema=strings("message"))
async def elicitation(ctx: Context, params: Params) -> Result:
    """Ask the user for a name and an address."""
    properties = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    message = str((params.arguments or {})["message"])
    if modern(ctx):
        return await form(params, "user", message, properties)
    return text("User response: " + await elicit(ctx, message, properties, ["username", "email"]))


@tool("test_elicitation_sep1034_defaults")
async def elicitation_sep1034_defaults(ctx: Context, params: Params) -> Result:
    """Ask with a default for each primitive type."""
    properties: JsonObject = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    return text("Elicitation completed: " + await elicit(ctx, "Please review", properties, []))


@tool("test_elicitation_sep1330_enums")
async def elicitation_sep1330_enums(ctx: Context, params: Params) -> Result:
    """Ask with each kind of enumeration."""
    options = ["option1", "option2", "option3"]
    titled = [{"const": f"value{n}", "title": f"Option {n}"} for n in (1, 2, 3)]
    properties: JsonObject = {
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    return text("Elicitation completed: " + await elicit(ctx, "Please choose", properties, []))


@tool("test_list_roots")
async def list_roots(ctx: Context, params: Params) -> Result:
    """Ask which folders the client works on."""
    return text(" ".join(str(root.uri) for root in (await ctx.session.list_roots()).roots))


@tool("test_client_capabilities")
async def client_capabilities(ctx: Context, params: Params) -> Result:
    """Say what the client declared that it can do."""
    declared = ctx.session.client_capabilities or types.ClientCapabilities()
    return text(declared.model_dump_json(by_alias=True, exclude_none=True))


# -- asking the client, without sessions -----------------------------------------------------------


def form_request(message: str, properties: JsonObject) -> types.ElicitRequest:
    schema: JsonObject = {"type": "object", "properties": properties, "required": [*properties]}
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def sampling_request(prompt: str, max_tokens: int = 100) -> types.CreateMessageRequest:
    message = types.SamplingMessage(role="user", content=types.TextContent(text=prompt))
    return types.CreateMessageRequest(
        params=types.CreateMessageRequestParams(messages=[message], max_tokens=max_tokens)
    )


def roots_request() -> types.ListRootsRequest:
    return types.ListRootsRequest(params=types.RequestParams())


def ask(state: str | None = None, /, **requests: types.InputRequest) -> types.InputRequiredResult:
    return types.InputRequiredResult(
        input_requests=requests, request_state=None if state is None else sealed(state)
    )


def sealed(state: str) -> str:
    mac = hmac.digest(KEY, state.encode(), "sha256").hex()
    return base64.urlsafe_b64encode(f"{mac}:{state}".encode()).decode()


def opened(params: types.InputResponseRequestParams) -> str:
    """Return the state that a retry brings back, or refuse it."""
    try:
        state = base64.urlsafe_b64decode(params.request_state or "").decode().partition(":")[2]
    except ValueError:
        state = ""
    if not hmac.compare_digest(sealed(state), params.request_state or ""):
        raise MCPError(types.INVALID_PARAMS, "requestState was tampered with")
    return state


def responses(params: types.InputResponseRequestParams) -> dict[str, types.InputResponse]:
    return dict(params.input_responses or {})


def accepted(answer: types.InputResponse | None) -> JsonObject | None:
    if isinstance(answer, types.ElicitResult) and answer.action == "accept":
        return dict(answer.content or {})
    return None


async def form(params: Params, key: str, message: str, properties: JsonObject) -> Result:
    answer = responses(params).get(key)
    if not isinstance(answer, types.ElicitResult):
        return ask(**{key: form_request(message, properties)})
    return text(f"User response: action={answer.action}, content={json.dumps(answer.content)}")


async def sample(ctx: Context, params: Params, key: str, prompt: str) -> Result:
    answer = responses(params).get(key)
    if not isinstance(answer, types.CreateMessageResult | types.CreateMessageResultWithTools):
        return ask(**{key: sampling_request(prompt)})
    content = answer.content
    return text(f"LLM response: {content.text if isinstance(content, types.TextContent) else 'no text'}")


NAME: JsonObject = {"name": {"type": "string"}}


@tool("test_input_required_result_elicitation", "test_streaming_elicitation")
async def input_required_result_elicitation(ctx: Context, params: Params) -> Result:
    """Ask for a name."""
    answer = accepted(responses(params).get("user_name"))
    if answer is None or "name" not in answer:
        return ask(user_name=form_request("What is your name?", NAME))
    return text(f"Hello, {answer['name']}!")


@tool("test_input_required_result_sampling")
async def input_required_result_sampling(ctx: Context, params: Params) -> Result:
    """Ask the client's model."""
    return await sample(ctx, params, "capital_question", "What is the capital of France?")


@tool("test_input_required_result_list_roots")
async def input_required_result_list_roots(ctx: Context, params: Params) -> Result:
    """Ask for the client's roots."""
    answer = responses(params).get("client_roots")
    if not isinstance(answer, types.ListRootsResult):
        return ask(client_roots=roots_request())
    return text(" ".join(str(root.uri) for root in answer.roots))


@tool("test_input_required_result_request_state", "test_input_required_result_tampered_state")
async def input_required_result_request_state(ctx: Context, params: Params) -> Result:
    """Ask with a state that has to come back whole."""
    if params.request_state is None:
        return ask("confirming", confirm=form_request("Please confirm", {"ok": {"type": "boolean"}}))
    return text(f"state-ok: {opened(params)}")


@tool("test_input_required_result_multiple_inputs")
async def input_required_result_multiple_inputs(ctx: Context, params: Params) -> Result:
    """Ask three things at once."""
    requests: dict[str, types.InputRequest] = {
        "user_name": form_request("What is your name?", NAME),
        "greeting": sampling_request("Generate a greeting", 50),
        "client_roots": roots_request(),
    }
    if requests.keys() - responses(params).keys():
        return ask("several", **requests)
    return text(f"all here, {opened(params)}")


@tool("test_input_required_result_multi_round")
async def input_required_result_multi_round(ctx: Context, params: Params) -> Result:
    """Ask twice, one after the other."""
    if params.request_state is None:
        return ask("round 1", step1=form_request("Step 1: What is your name?", NAME))
    if opened(params) == "round 1":
        color: JsonObject = {"color": {"type": "string"}}
        return ask("round 2", step2=form_request("Step 2: What is your favorite color?", color))
    return text("both rounds are over")


@tool("test_input_required_result_capabilities")
async def input_required_result_capabilities(ctx: Context, params: Params) -> Result:
    """Ask only what the client says it can answer."""
    can = ctx.session.client_capabilities or types.ClientCapabilities()
    requests: dict[str, types.InputRequest] = {}
    if can.sampling is not None:
        requests["greeting"] = sampling_request("Generate a greeting")
    if can.elicitation is not None:
        requests["user_name"] = form_request("What is your name?", NAME)
    if not requests or responses(params):
        return text("nothing to ask")
    return ask(**requests)


@tool("test_missing_capability")
async def missing_capability(ctx: Context, params: Params) -> Result:
    """Need a client that samples."""
    can = ctx.session.client_capabilities
    if can is None or can.sampling is None:
        data: JsonObject = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(types.MISSING_REQUIRED_CLIENT_CAPABILITY, "this tool needs sampling", data)
    return text("fine")


# -- resources -------------------------------------------------------------------------------------

RESOURCES = [
    types.Resource(uri="test://static-text", name="static-text", mime_type="text/plain"),
    types.Resource(uri="test://static-binary", name="static-binary", mime_type="image/png"),
    types.Resource(uri="test://watched-resource", name="watched-resource", mime_type="text/plain"),
]
TEMPLATE = types.ResourceTemplate(
    uri_template="test://template/{id}/data", name="template", mime_type="application/json"
)


def contents(uri: str) -> types.TextResourceContents | types.BlobResourceContents | None:
    if uri == "test://static-binary":
        return types.BlobResourceContents(uri=uri, mime_type="image/png", blob=PNG)
    if uri in ("test://static-text", "test://watched-resource"):
        return types.TextResourceContents(uri=uri, mime_type="text/plain", text=f"The content of {uri}.")
    head, _, tail = uri.removeprefix("test://template/").partition("/")
    if uri.startswith("test://template/") and tail == "data":
        value = {"id": head, "templateTest": True, "data": f"Data for ID: {head}"}
        return types.TextResourceContents(uri=uri, mime_type="application/json", text=json.dumps(value))
    return None


async def list_resources(ctx: Context, params: Page) -> types.ListResourcesResult:
    return types.ListResourcesResult(resources=RESOURCES)


async def list_templates(ctx: Context, params: Page) -> types.ListResourceTemplatesResult:
    return types.ListResourceTemplatesResult(resource_templates=[TEMPLATE])


async def read_resource(ctx: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    found = contents(params.uri)
    if found is None:
        raise MCPError(types.INVALID_PARAMS, "Resource not found", {"uri": params.uri})
    return types.ReadResourceResult(contents=[found], ttl_ms=0, cache_scope="private")


async def subscribe(ctx: Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
    SUBSCRIBED.add(params.uri)
    return types.EmptyResult()


async def unsubscribe(ctx: Context, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
    SUBSCRIBED.discard(params.uri)
    return types.EmptyResult()


# -- prompts ---------------------------------------------------------------------------------------


def prompt(name: str, *required: str) -> types.Prompt:
    arguments = [types.PromptArgument(name=argument, required=True) for argument in required]
    return types.Prompt(name=name, description=f"The prompt {name}.", arguments=arguments)


PROMPTS = [
    prompt("test_simple_prompt"),
    prompt("test_prompt_with_arguments", "arg1", "arg2"),
    prompt("test_prompt_with_embedded_resource", "resourceUri"),
    prompt("test_prompt_with_image"),
    prompt("test_input_required_result_prompt"),
]


def said(*blocks: types.ContentBlock) -> types.GetPromptResult:
    return types.GetPromptResult(
        messages=[types.PromptMessage(role="user", content=block) for block in blocks]
    )


async def list_prompts(ctx: Context, params: Page) -> types.ListPromptsResult:
    return types.ListPromptsResult(prompts=PROMPTS)


async def get_prompt(
    ctx: Context, params: types.GetPromptRequestParams
) -> types.GetPromptResult | types.InputRequiredResult:
    arguments = params.arguments or {}
    match params.name:
        case "test_simple_prompt":
            return said(types.TextContent(text="This is a simple prompt for testing."))
        case "test_prompt_with_arguments":
            both = f"arg1='{arguments.get('arg1')}', arg2='{arguments.get('arg2')}'"
            return said(types.TextContent(text=f"Prompt with arguments: {both}"))
        case "test_prompt_with_embedded_resource":
            uri = arguments.get("resourceUri", "")
            block = embedded(uri, "text/plain", "Embedded resource content for testing.")
            return said(block, types.TextContent(text="Please process the embedded resource above."))
        case "test_prompt_with_image":
            return said(IMAGE, types.TextContent(text="Please analyze the image above."))
        case "test_input_required_result_prompt":
            answer = accepted(responses(params).get("user_context"))
            if answer is None:
                question = "What context should the prompt use?"
                return ask(user_context=form_request(question, {"context": {"type": "string"}}))
            return said(types.TextContent(text=f"Context: {answer.get('context')}"))
        case _:
            raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.name}")


async def complete(ctx: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
    names = ["paris", "park", "party"]
    values = [name for name in names if name.startswith(params.argument.value)]
    return types.CompleteResult(completion=types.Completion(values=values, total=len(values), has_more=False))


async def set_level(ctx: Context, params: types.SetLevelRequestParams) -> types.EmptyResult:
    return types.EmptyResult()


# -- the server ------------------------------------------------------------------------------------


async def list_tools(ctx: Context, params: Page) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[definition for definition, _ in TOOLS.values()])


async def call_tool(ctx: Context, params: Params) -> Result:
    if params.name not in TOOLS:
        raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
    return await TOOLS[params.name][1](ctx, params)


def build() -> Server[Any]:
    return Server(
        "everything",
        version="1.0.0",
        instructions="A server for tests.",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
        on_subscribe_resource=subscribe,
        on_unsubscribe_resource=unsubscribe,
        on_subscriptions_listen=ListenHandler(BUS),
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_completion=complete,
        on_set_logging_level=set_level,
    )


async def serve_stdio(server: Server[Any]) -> None:
    changes = NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options(changes))


def serve_http(server: Server[Any], port: int) -> None:
    import uvicorn

    uvicorn.run(server.streamable_http_app(), host="127.0.0.1", port=port, log_level="warning")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    port = parser.parse_args().port
    server = build()
    if port is None:
        anyio.run(serve_stdio, server)
    else:
        serve_http(server, port)


if __name__ == "__main__":
    main()
