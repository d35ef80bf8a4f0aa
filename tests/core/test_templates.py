"""Whether a URI template may have made a URI."""

from __future__ import annotations

import pytest

from gateway.core.templates import made_by


@pytest.mark.parametrize(
    ("template", "uri", "made"),
    [
        ("test://template/{id}/data", "test://template/123/data", True),
        ("test://template/{id}/data", "test://template/a/b/data", False),
        ("file:///{+path}", "file:///a/b/c.txt", True),
        ("file:///{path}", "file:///a/b/c.txt", False),
        ("db://rows{?limit,offset}", "db://rows?limit=3", True),
        ("a://x.y/{z}", "a://xxy/1", False),
        ("a://plain", "a://plain", True),
        ("a://" + "{+x}" * 65, "a://", False),
    ],
)
def test_a_template_makes_what_its_expressions_can_stand_for(template: str, uri: str, made: bool) -> None:
    assert made_by(template, uri) is made


def test_a_hostile_template_costs_no_time() -> None:
    assert not made_by("a://" + "{+x}y" * 60, "a://" + "y" * 5_000 + "z!")
