"""Result rules: what is kept back of a tool's result, before the caller sees it and before it is recorded.

They withhold and never grant: secrets of the named shapes are blotted out, and a result beyond the
cap is not shown at all. The cap is on the bytes that would be shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.core.calls import ServerError
from gateway.core.json_types import JsonObject
from gateway.core.policy.secret_shapes import redactor
from gateway.core.strict_json import dumps

__all__ = ["BoundResults", "bind_results"]


@dataclass(frozen=True, slots=True)
class BoundResults:
    """What all result rules together do to one tool's results. `max_bytes` is the smallest cap."""

    redact: Callable[[JsonObject], JsonObject] | None
    max_bytes: int | None
    place: str

    def cleaned(self, value: JsonObject) -> JsonObject:
        """Return the object without secrets of the named shapes."""
        return self.redact(value) if self.redact else value

    def withheld(self, value: JsonObject) -> str | None:
        """Return why a cleaned result is not shown, or `None`."""
        if self.max_bytes is None or (size := len(dumps(value))) <= self.max_bytes:
            return None
        return (
            f"the result has {size} bytes, and the policy shows {self.max_bytes} ({self.place}): ask for less"
        )

    def text(self, text: str) -> str:
        """Return a message without secrets, cut to the cap."""
        cleaned = str(self.cleaned({"text": text})["text"])
        return cleaned if self.max_bytes is None else _cut(cleaned, self.max_bytes)

    def error(self, error: ServerError) -> ServerError:
        """Return a server's own error likewise; data beyond the cap is dropped."""
        data = self.cleaned({"data": error.data})
        too_long = self.max_bytes is not None and len(dumps(data)) > self.max_bytes
        return ServerError(error.code, self.text(error.message), None if too_long else data["data"])


def bind_results(shapes: Sequence[str], caps: Sequence[tuple[int, str]]) -> BoundResults:
    """Return what does it all: `shapes` to redact, `caps` as bytes with their place in the file."""
    most, place = min(caps, default=(None, ""))
    return BoundResults(redactor(shapes) if shapes else None, most, place)


def _cut(text: str, most: int) -> str:
    encoded = text.encode("utf-8", "surrogatepass")
    return text if len(encoded) <= most else encoded[:most].decode("utf-8", "ignore")
