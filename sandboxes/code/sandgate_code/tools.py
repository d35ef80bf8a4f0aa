"""Runs inside a sandbox: the tools as Python functions, in the namespace of the code."""

import importlib
import inspect
import json
import keyword


def explain(*asked):
    """Print the documentation of a function, such as a tool."""
    importlib.import_module("pydoc").help(*asked)


def offer(line, namespace, tools):
    """Put the tools into the namespace as functions, in the place of those there were."""
    for name in namespace.pop("__tools__", ()):
        namespace.pop(name, None)

    def list_tools():
        """Return the tools there are: name, description, input_schema and the function's name."""
        return [
            {
                "name": tool["name"],
                "description": tool["description"],
                "input_schema": tool["schema"],
                "function": tool["function"],
            }
            for tool in tools
        ]

    def call_tool(tool_name, arguments):
        """Call a tool by its name, as an action does."""
        return line.call(tool_name, arguments)

    functions = {tool["function"]: function(line, tool) for tool in tools}
    functions |= {"list_tools": list_tools, "call_tool": call_tool}
    namespace.update(functions, __tools__=tuple(functions))


def function(line, tool):
    """Return a tool as a Python function: arguments by name, or in the order of its signature."""
    schema = tool["schema"] if isinstance(tool["schema"], dict) else {}
    properties = schema.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    required = [name for name in schema.get("required") or [] if name in properties]
    names = [*required, *(name for name in properties if name not in required)]
    positional = [name for name in names if name.isidentifier() and not keyword.iskeyword(name)]

    def call(*values, **arguments):
        if len(values) > len(positional):
            raise TypeError(
                f"{tool['function']}() takes {len(positional)} arguments, {len(values)} were given"
            )
        for name, value in zip(positional, values, strict=False):
            if name in arguments:
                raise TypeError(f"{tool['function']}() got two values for {name!r}")
            arguments[name] = value
        return line.call(tool["name"], arguments)

    call.__name__ = call.__qualname__ = tool["function"]
    call.__doc__ = documentation(tool, properties, required)
    call.__signature__ = inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=inspect.Parameter.empty if name in required else None,
            )
            for name in positional
        ]
    )
    return call


def documentation(tool, properties, required):
    """Return a tool's description and what it takes, argument by argument."""
    lines = [tool["description"] or tool["name"]]
    for name, schema in properties.items():
        schema = schema if isinstance(schema, dict) else {}
        kind = schema.get("type", "any")
        kind = kind if isinstance(kind, str) else json.dumps(kind)
        kind = kind if name in required else f"{kind}, optional"
        lines.append(f"    {name} ({kind}): {schema.get('description', '')}".rstrip(": "))
    return "\n".join(lines)
