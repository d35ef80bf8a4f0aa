"""A toolpack's server as the MCP Registry's `server.json`: said as it is, or refused with the reason."""

from __future__ import annotations

import pytest

from gateway.core.lock import Lock, NpmLock, PypiLock, ServerLock
from gateway.core.manifest import Manifest, parse_manifest
from gateway.core.server_json import SCHEMA, server_json
from gateway.errors import UsageError

NAME = "io.github.me/pack"


def pack(servers: str, description: str = "Does one thing.") -> Manifest:
    head = f"apiVersion: sandgate/v1\nname: pack\nversion: 1.2.0\ndescription: {description}\n"
    return parse_manifest(head + f"servers: {servers}\n", "toolpack.yaml")


def refusal(servers: str, **options: str) -> str:
    with pytest.raises(UsageError) as refused:
        server_json(pack(servers), None, **{"name": NAME, **options})
    return str(refused.value)


def test_a_package_of_pypi_is_described_with_its_arguments_and_variables() -> None:
    servers = (
        '{git: {pypi: "mcp-server-git==1.0", entry: mcp_server_git, args: ["--repository", /workspace], '
        "env: {HOME: /workspace/home, LANG: C}, secrets: [TOKEN]}}"
    )
    told = server_json(pack(servers), None, name=NAME)
    assert (told["$schema"], told["name"], told["version"]) == (SCHEMA, NAME, "1.2.0")
    folder = {"description": "The folder that the server works in.", "format": "filepath", "isRequired": True}
    assert told["packages"] == [
        {
            "registryType": "pypi",
            "identifier": "mcp-server-git",
            "version": "1.0",
            "runtimeHint": "uvx",
            "transport": {"type": "stdio"},
            "packageArguments": [
                {"type": "positional", "value": "--repository"},
                {"type": "positional", "value": "{workspace}", "variables": {"workspace": folder}},
            ],
            "environmentVariables": [
                {"name": "HOME", "value": "{workspace}/home", "variables": {"workspace": folder}},
                {"name": "LANG", "value": "C"},
                {
                    "name": "TOKEN",
                    "description": "A secret of the server.",
                    "isRequired": True,
                    "isSecret": True,
                },
            ],
        }
    ]


def test_the_version_of_a_range_is_the_locked_one() -> None:
    lock = Lock(
        servers={
            "py": ServerLock(
                launch=(), package=PypiLock(name="some", version="2.3", environments={}), tools={}
            ),
            "node": ServerLock(
                launch=(), package=NpmLock(name="@a/b", version="4.5.6", packages={}), tools={}
            ),
        }
    )
    both = pack('{py: {pypi: "some>=2"}, node: {npm: "@a/b@^4"}}')
    versions: list[object] = []
    for server in ("py", "node"):
        match server_json(both, lock, name=NAME, server=server):
            case {"packages": [{"identifier": identifier, "version": version}]}:
                versions.append((identifier, version))
            case other:
                pytest.fail(f"not a package: {other}")
    assert versions == [("some", "2.3"), ("@a/b", "4.5.6")]


def test_a_server_elsewhere_is_a_remote_and_its_secrets_are_asked_for() -> None:
    header = '{Authorization: "Bearer ${TOKEN}", X-Team: blue}'
    servers = f"{{far: {{url: 'https://mcp.example.com/mcp', headers: {header}, secrets: [TOKEN]}}}}"
    assert server_json(pack(servers), None, name=NAME)["remotes"] == [
        {
            "type": "streamable-http",
            "url": "https://mcp.example.com/mcp",
            "headers": [
                {
                    "name": "Authorization",
                    "value": "Bearer {TOKEN}",
                    "variables": {"TOKEN": {"isRequired": True, "isSecret": True}},
                },
                {"name": "X-Team", "value": "blue"},
            ],
        }
    ]


def test_a_long_description_is_cut_to_what_the_registry_takes() -> None:
    told = server_json(pack('{a: {npm: "a@1.0.0"}}', "word " * 100), None, name=NAME)["description"]
    assert isinstance(told, str)
    assert len(told) <= 100
    assert told.endswith("word…")


@pytest.mark.parametrize(
    ("servers", "reason"),
    [
        ("{a: {command: [python, servers/a.py]}}", "publish it as a package first"),
        ('{a: {pypi: "a>=1"}}', "run 'sandgate toolpack lock'"),
        ('{a: {npm: "a@^1.0.0"}}', "run 'sandgate toolpack lock'"),
        ('{a: {pypi: "a[web]==1"}}', "extras"),
        ('{a: {pypi: "a==1", entry: other}}', "console script with another name"),
        ('{a: {npm: "a@1.0.0", args: ["${seed}"]}}', "which only an episode has"),
        ('{a: {npm: "a@1.0.0"}, b: {npm: "b@1.0.0"}}', "choose by --server ID"),
        (
            "{a: {url: 'https://x.example', secrets: [S], oauth: {token_url: 'https://x.example/t', "
            "client_id: me, client_secret: S}}}",
            "OAuth client credentials",
        ),
    ],
)
def test_what_the_format_cannot_say_is_refused(servers: str, reason: str) -> None:
    assert reason in refusal(servers)


def test_a_name_without_a_namespace_and_a_server_that_is_not_there_are_refused() -> None:
    one = '{a: {npm: "a@1.0.0"}}'
    assert "io.github.USER/pack" in refusal(one, name="pack")
    assert "it has a" in refusal(one, server="b")
