"""The documentation is true: every command in it runs, every file in it loads, every link leads somewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.config import Config
from gateway.core.documents import read_document
from gateway.core.manifest import parse_manifest
from gateway.core.policy import compile_policy, load_policy
from gateway.core.tasks import read_task
from gateway.serve.identity import load_identity
from tests.support.markdown import ROOT, Document, blocks
from tests.support.terminal import sandgate

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SPECIFICATION.md"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_does_what_the_documentation_shows(document: Path, tmp_path: Path) -> None:
    story = Document(tmp_path)
    try:
        for block in blocks(document):
            story.play(block)
    finally:
        story.stop()
    assert story.server is None


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^|\$ )make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert named - known == set()


def written(page: str, word: str) -> dict[str, str]:
    """Return the texts of a page's blocks that carry `word`, by its value."""
    return {block.words[word]: block.text for block in blocks(ROOT / page) if word in block.words}


def test_a_clients_configuration_starts_the_gateway_over_stdio() -> None:
    [server] = json.loads(written("README.md", "mcp")["stdio"])["mcpServers"].values()
    assert server["command"] == "sandgate"
    assert sandgate(*server["args"], "--help").code == 0


def test_a_clients_configuration_over_http_names_a_route_that_is_served() -> None:
    [server] = json.loads(written("README.md", "mcp")["http"])["mcpServers"].values()
    assert server["url"] == "http://127.0.0.1:8000/packs/files/mcp"


def test_the_settings_of_the_documentation_are_settings() -> None:
    files = written("docs/operations.md", "file")
    config = read_document(files["gateway.yaml"], "gateway.yaml").parse(Config)
    assert config.limits == Config().limits
    assert load_identity(files["auth.yaml"], "auth.yaml").tokens
    assert load_identity(files["oauth.yaml"], "oauth.yaml").issuers


def test_the_task_of_the_documentation_is_a_task() -> None:
    text = written("docs/training.md", "file")["task.yaml"]
    assert read_task(text, "task.yaml")[0].id == "fix-typo"


FRAGMENTS = {
    f"{page.name}:{block.line}": block.text
    for page in DOCUMENTS
    for block in blocks(page)
    if block.language == "yaml" and "file" not in block.words
}
MANIFEST = "apiVersion: sandgate/v1\nname: x\nversion: 1.0.0\ndescription: x\n"
SERVERS = "servers: {x: {command: [x]}}\n"


@pytest.mark.parametrize("text", FRAGMENTS.values(), ids=FRAGMENTS)
def test_a_fragment_of_a_file_is_right_in_the_file_that_it_is_of(text: str) -> None:
    keys = re.findall(r"^(\w+):", text, re.MULTILINE)
    if set(keys) <= {"servers", "sandbox", "env"}:
        text = MANIFEST + text + ("" if "servers" in keys else SERVERS)
        assert parse_manifest(text, "toolpack.yaml").name == "x"
    elif set(keys) <= {"principals", "rules", "modes", "grants"}:
        policy = load_policy(
            "version: 1\n" + text + ("" if "rules" in keys else "rules: []\n"), "policy.yaml"
        )
        assert compile_policy(policy).file == "policy.yaml"
    else:
        assert read_document(text, "gateway.yaml").parse(Config).model_fields_set == set(keys)


def test_contributing_fits_on_a_page() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split()) < 700


@pytest.mark.skipif(shutil.which("make") is None, reason="this machine has no make")
def test_make_lists_its_targets() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    assert {"demo", "test"} <= {line.split()[0] for line in done.stdout.splitlines()}
