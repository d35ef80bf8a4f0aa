"""`sandgate tools` and `sandgate call`: the one path of a call, driven from the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.options import (
    ConfigOption,
    FormatOption,
    NotIsolatedOption,
    PackArgument,
    PolicyOption,
    SandboxOption,
    StateOption,
)
from gateway.cli.output import Format, say, show
from gateway.errors import UsageError

if TYPE_CHECKING:
    from gateway.cli.wiring import Plan
    from gateway.core.calls import Outcome
    from gateway.core.json_types import JsonObject, JsonValue

__all__ = ["call", "parse_arguments", "tools"]


def tools(
    pack: PackArgument,
    policy: PolicyOption = None,
    sandbox: SandboxOption = None,
    not_isolated: NotIsolatedOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
    form: FormatOption = Format.TEXT,
) -> None:
    """List a toolpack's tools as the policy shows them."""
    import anyio

    from gateway.cli.wiring import make_plan

    flags = {"policy": policy, "sandbox": sandbox, "state": state}
    plan = make_plan([pack], flags, config_file=config, not_isolated=not_isolated, beside=True)
    listed = anyio.run(_tools, plan)
    show(
        form, {"pack": plan.packs[0][0].name, "tools": listed}, "\n".join(_tool_line(tool) for tool in listed)
    )


def call(
    pack: PackArgument,
    tool: Annotated[
        str, typer.Argument(metavar="TOOL", help="The tool's name, as 'sandgate tools' shows it.")
    ],
    args: Annotated[str, typer.Option("--args", metavar="JSON", help="The arguments, a JSON object.")] = "{}",
    policy: PolicyOption = None,
    sandbox: SandboxOption = None,
    not_isolated: NotIsolatedOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
    form: FormatOption = Format.TEXT,
) -> None:
    """Make one call in a session of its own; prints outcome and decision.

    Exits with 0 if the tool answered, 1 if the call was denied or failed or the tool reports an error.
    """
    import anyio

    from gateway.cli.wiring import make_plan

    arguments = parse_arguments(args)
    flags = {"policy": policy, "sandbox": sandbox, "state": state}
    plan = make_plan([pack], flags, config_file=config, not_isolated=not_isolated, beside=True)
    outcome = anyio.run(_call, plan, tool, arguments)
    shown = _describe(outcome)
    said = "" if shown["outcome"] == "denied" else f"{shown['text']}\n"
    show(form, shown, said + outcome.decision.sentence())
    if shown["outcome"] != "answered" or shown["result"].get("isError") is True:
        raise typer.Exit(1)


def parse_arguments(text: str) -> JsonObject:
    """Return `--args` as the strict gate reads it; raises `UsageError`."""
    from gateway.core.strict_json import StrictJsonError, loads

    try:
        value: JsonValue = loads(text)
    except StrictJsonError as error:
        raise UsageError(f"--args: {error}") from None
    if not isinstance(value, dict):
        raise UsageError('--args: give a JSON object, such as \'{"path": "/workspace"}\'')
    return value


async def _tools(plan: Plan) -> list[JsonObject]:
    from gateway.cli.wiring import open_plan
    from gateway.core.calls import LOCAL

    async with open_plan(plan, say) as gateway:
        session = await gateway.open_session(plan.packs[0][0].name, LOCAL)
        return session.tools()


async def _call(plan: Plan, tool: str, arguments: JsonObject) -> Outcome:
    from gateway.cli.wiring import open_plan
    from gateway.core.calls import LOCAL, Front, ToolCall
    from gateway.runtime.sessions import new_call_id

    async with open_plan(plan, say) as gateway:
        session = await gateway.open_session(plan.packs[0][0].name, LOCAL)
        return await gateway.call(session, ToolCall(new_call_id(), tool, arguments, Front.CLI))


def _tool_line(tool: JsonObject) -> str:
    described = str(tool.get("description") or "").strip().splitlines()
    return f"{tool['name']!s:<32} {described[0][:100] if described else ''}".rstrip()


def _describe(outcome: Outcome) -> dict[str, Any]:
    """Return the JSON form of an outcome, with the text a person is shown."""
    from gateway.core.calls import Answered, Failed
    from gateway.core.results import tool_result

    result = tool_result(outcome)
    kind = (
        "answered" if isinstance(outcome, Answered) else "failed" if isinstance(outcome, Failed) else "denied"
    )
    shown: dict[str, Any] = {"outcome": kind, "decision": outcome.decision.wire(), "result": result}
    shown["text"] = _text(result)
    if isinstance(outcome, Failed):
        shown |= {"failure": outcome.kind.value, "message": outcome.message}
    return shown


def _text(result: JsonObject) -> str:
    content = result.get("content")
    blocks = content if isinstance(content, list) else []
    return "\n".join(_block(block) for block in blocks)


def _block(block: JsonValue) -> str:
    if not isinstance(block, dict):
        return str(block)
    return str(block["text"]) if block.get("type") == "text" and "text" in block else f"[{block.get('type')}]"
