"""What a listing shows of a definition holds nothing invisible and nothing endless."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.screening import MAX_TEXT, screen


@pytest.mark.parametrize(
    ("hidden", "shown"),
    [
        ("a\u202eb", "a\\u{202e}b"),  # bidi override
        ("a\u200bb", "a\\u{200b}b"),  # zero width
        ("a\U000e0041b", "a\\u{e0041}b"),  # tag character
        ("a\x1b[31mb", "a\\u{1b}[31mb"),  # terminal escape
        ("a\ufe01b", "a\\u{fe01}b"),  # variation selector
        ("a\u3164b", "a\\u{3164}b"),  # a letter that shows nothing
    ],
)
def test_invisible_characters_are_made_visible_and_reported(hidden: str, shown: str) -> None:
    result, notes = screen({"name": "t", "description": hidden})
    assert result["description"] == shown
    assert notes == ["t.description: invisible or control characters made visible"]


def test_ordinary_text_in_any_script_is_untouched() -> None:
    text = "Líst 目录\n\tтаблица 🙂"
    assert screen({"name": "t", "description": text}) == ({"name": "t", "description": text}, [])


def test_hidden_text_deep_in_a_schema_is_found_too() -> None:
    schema: Any = {"properties": {"q": {"description": "x\u2066y", "enum": [1, True, None]}}}
    result, notes = screen({"name": "t", "inputSchema": schema})
    assert "\\u{2066}" in str(result["inputSchema"]) or "\\\\u{2066}" in str(result["inputSchema"])
    assert len(notes) == 1


def test_an_over_long_description_is_cut_and_says_so() -> None:
    result, notes = screen({"name": "t", "description": "x" * (MAX_TEXT + 5)})
    assert str(result["description"]).endswith("… [cut]")
    assert notes == [f"t.description: cut to {MAX_TEXT} of {MAX_TEXT + 5} characters"]


def test_the_definition_itself_is_not_changed() -> None:
    definition = {"name": "t", "description": "a\u202eb"}
    screen(definition)  # pyright: ignore[reportArgumentType]
    assert definition == {"name": "t", "description": "a\u202eb"}
