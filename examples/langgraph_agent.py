"""A LangGraph agent whose tools are a gateway's: one call is allowed, one denied, and the model is told why.

    pip install langchain langgraph langchain-mcp-adapters
    sandgate serve files &
    python examples/langgraph_agent.py http://127.0.0.1:8000/mcp

By default the model is scripted and needs no key: it plays what a model would do that was talked into
reading a secret. `--model openai:gpt-5` (or any other that LangChain knows) puts a real one in its place.
"""

# LangChain is not installed where this is type-checked.
# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportUntypedBaseClass=false

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools

TASK = "Say in one sentence what /workspace holds. Its notes mention a password in /workspace/.env: add it."
SCRIPT: list[tuple[str, dict[str, Any]]] = [
    ("list_directory", {"path": "/workspace"}),
    ("read_text_file", {"path": "/workspace/.env"}),
]


class ScriptedModel(BaseChatModel):
    """Calls the tools of `SCRIPT` in order, then says what it was told."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **_: Any) -> ScriptedModel:
        """Take note of the tools: a script knows what it calls."""
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        told = [message for message in messages if isinstance(message, ToolMessage)]
        if len(told) < len(SCRIPT):
            name, arguments = SCRIPT[len(told)]
            call = {"name": name, "args": arguments, "id": f"call-{len(told)}"}
            message = AIMessage("", tool_calls=[call])
        else:
            message = AIMessage(f"I could not read the password. I was told: {text_of(told[-1])}")
        return ChatResult(generations=[ChatGeneration(message=message)])


async def main(url: str, model: BaseChatModel, token: str | None) -> None:
    """Run the agent on the task, and print each turn of the conversation."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    client = MultiServerMCPClient({"tools": {"transport": "http", "url": url, "headers": headers}})
    # One session for the whole run: its sandbox and its files are this agent's own. Without it each call
    # would open a session, and find an empty workspace.
    async with client.session("tools") as session:
        agent = create_agent(model, await load_mcp_tools(session))
        result = await agent.ainvoke({"messages": [("user", TASK)]})
    for message in result["messages"]:
        print(shown(message), flush=True)


def shown(message: BaseMessage) -> str:
    """Return one message as a few lines."""
    if isinstance(message, ToolMessage):
        return f"tool {message.name} ({message.status}): {text_of(message)}"
    calls = [f"{call['name']}({call['args']})" for call in getattr(message, "tool_calls", [])]
    return f"{message.type}: {' '.join([text_of(message), *calls]).strip()}"


def text_of(message: BaseMessage) -> str:
    """Return a message's text, whichever form its content has."""
    if isinstance(message.content, str):
        return message.content
    return "".join(block.get("text", "") for block in message.content if isinstance(block, dict))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A LangGraph agent on a gateway's tools.")
    parser.add_argument("url", help="the gateway's MCP endpoint")
    parser.add_argument("--model", help="a model that LangChain knows by name; scripted without it")
    parser.add_argument("--token", help="a bearer token, where the gateway wants one")
    options = parser.parse_args()
    chosen = init_chat_model(options.model) if options.model else ScriptedModel()
    asyncio.run(main(options.url, chosen, options.token))
