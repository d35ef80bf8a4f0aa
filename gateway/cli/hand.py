"""The conversation of `sandgate env play`: what a person writes becomes an action, what it came to is shown.

Every action goes where an agent's goes: to the episode's session.
"""

from __future__ import annotations

from collections.abc import Callable
from textwrap import indent
from typing import TYPE_CHECKING

from gateway.cli.console import Console
from gateway.cli.output import Format
from gateway.cli.step_text import decision_text, rubric_text, seen_text
from gateway.core.forms import Question, Unreadable, questions_of
from gateway.core.observations import SUBMIT_TOOL
from gateway.core.strict_json import StrictJsonError, dumps, loads
from gateway.errors import SandgateError, UsageError
from gateway.serve.openenv.wire import parse_action

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from gateway.core.episode import StepResult
    from gateway.core.json_types import JsonObject, JsonValue
    from gateway.runtime.episode_session import EpisodeSession

__all__ = ["Hand"]

HELP = """NAME or NUMBER   call a tool; its arguments are asked for, `!` gives up the form
NAME {"a": 1}    call it with these arguments
{"type": "…"}    take this action, as the wire has it
tools            the tools again         show NAME   a tool's description and schema
code [PYTHON]    run Python in the sandbox; without it, lines up to a `.` of its own
submit [ANSWER]  end the episode         state       how it stands
help             this                    quit        leave without submitting
:WORD            one of these words, where a tool is called like it"""
_BAR = "| "
_GIVE_UP = "!"
_CODE_END = "."


class _GivenUp(Exception):
    """A form that nobody wants to fill in any more."""


class Hand:
    """One person's hand in one episode, in a thread of its own; `portal` leads to the session's loop."""

    def __init__(
        self, portal: BlockingPortal, session: EpisodeSession, start: StepResult, form: Format
    ) -> None:
        self._portal = portal
        self._session = session
        self._start = start
        self._taken: list[tuple[JsonObject, StepResult]] = []
        submits = session.pack.pack.manifest.env.submit  # as a tool, which is a word here
        listed = {str(tool["name"]): tool for tool in portal.call(session.tools)}
        self._tools = {name: tool for name, tool in listed.items() if not (submits and name == SUBMIT_TOOL)}
        self._words: dict[str, Callable[[str], None]] = {
            "tools": self._list,
            "show": self._describe,
            "code": self._code,
            "submit": self._submit,
            "state": self._state,
            "help": lambda _: self._console.tell(HELP),
        }
        self._console = Console(form, [*self._tools, *self._words, "quit"])

    def play(self) -> None:
        """Take actions until the episode is over, or nobody wants to go on."""
        metadata = self._start.metadata
        self._console.tell(f"task {metadata['task']}, seed {metadata['seed']}")
        self._console.tell(f"{self._start.observation.get('prompt') or 'no task: try the tools'}\n")
        self._list("")
        while not (self._taken and self._taken[-1][1].done):
            try:
                line = self._console.ask(f"\n{len(self._taken) + 1}> ").strip()
                if line in ("quit", ":quit"):
                    break
                self._do(line)
            except (EOFError, KeyboardInterrupt):
                self._console.tell("\nleft without submitting")
                break
            except _GivenUp:
                self._console.tell("given up: nothing was called")
            except (UsageError, StrictJsonError) as error:
                self._console.tell(str(error))

    def document(self, pack: str, trajectory: str | None) -> JsonObject:
        """Return what was played, as the module of the command says."""
        last = self._taken[-1][1] if self._taken else self._start
        return {
            "pack": pack,
            "task": self._start.metadata["task"],
            "seed": self._start.metadata["seed"],
            "trajectory": trajectory,
            "steps": [
                {"step": number, "action": action, **result.wire()}
                for number, (action, result) in enumerate(self._taken, 1)
            ],
            "reward": last.reward,
            "done": last.done,
        }

    # -- what a line means

    def _do(self, line: str) -> None:
        first, _, rest = line.partition(" ")
        names = list(self._tools)
        if not line:
            return
        if line.startswith("{"):
            self._take(_object(line))
        elif first in self._tools:
            self._call(first, rest.strip())
        elif first.isdecimal() and 0 < int(first[:9]) <= len(names):
            self._call(names[int(first[:9]) - 1], rest.strip())
        elif (word := first.removeprefix(":")) in self._words:
            self._words[word](rest.strip())
        else:
            raise UsageError(f"no tool and no word {first!r}: write `help`, or `tools` for what there is")

    def _call(self, tool: str, arguments: str) -> None:
        schema = self._tools[tool].get("inputSchema")
        given = _object(arguments) if arguments else self._filled(schema if isinstance(schema, dict) else {})
        self._take({"type": "call_tool", "tool_name": tool, "arguments": given})

    def _filled(self, schema: JsonObject) -> JsonObject:
        answers = [(question.name, self._answer(question)) for question in questions_of(schema)]
        return {name: value[0] for name, value in answers if value}

    def _answer(self, question: Question) -> list[JsonValue]:
        """Return the answer, as the one entry of a list, or an empty one where it is left out."""
        if question.about:
            self._console.tell(f"  {question.about[:200]}")
        while True:
            text = self._console.ask(f"  {question.prompt()}")
            if text.strip() == _GIVE_UP:
                raise _GivenUp
            if not text.strip() and not question.required:
                return []
            if not text.strip():
                self._console.tell(f'  it is needed; `""` is an empty text, `{_GIVE_UP}` gives up the form')
                continue
            try:
                return [question.read(text.strip())]
            except Unreadable as error:
                self._console.tell(f"  {error}")

    # -- words

    def _list(self, _: str) -> None:
        for number, (name, tool) in enumerate(self._tools.items(), 1):
            described = str(tool.get("description") or "").strip().splitlines()
            self._console.tell(f"{number:>3}  {name:<28} {described[0][:90] if described else ''}".rstrip())
        self._console.tell("     a name or number calls it; `code`, `submit`, `state`, `quit`, `help`")

    def _describe(self, name: str) -> None:
        tool = self._tools.get(name)
        if tool is None:
            raise UsageError(f"no tool {name!r}: `tools` lists them, then `show NAME`")
        self._console.tell(f"{tool.get('description') or ''}\n{dumps(tool.get('inputSchema')).decode()}")

    def _code(self, text: str) -> None:
        lines = [text] if text else list[str]()
        while not text and (line := self._console.ask("  | ")) != _CODE_END:
            lines.append(line)
        self._take({"type": "code", "code": "\n".join(lines)})

    def _submit(self, text: str) -> None:
        self._take({"type": "submit", "answer": text or None})

    def _state(self, _: str) -> None:
        self._console.tell(dumps(self._portal.call(self._session.state)).decode())

    # -- taking an action

    def _take(self, action: JsonObject) -> None:
        try:
            parsed = parse_action(action)
        except SandgateError as error:
            raise UsageError(str(error)) from None
        result = self._portal.call(self._session.step, parsed)
        self._taken.append((action, result))
        # Barred, so that nothing a tool writes reads like a decision or a score.
        seen = indent(seen_text(result), _BAR, lambda _: True)
        for text in (decision_text(result), seen, rubric_text(result)):
            if text:
                self._console.tell(text)


def _object(text: str) -> JsonObject:
    value = loads(text)
    if not isinstance(value, dict):
        raise UsageError('arguments are a JSON object, such as {"path": "/workspace"}')
    return value
