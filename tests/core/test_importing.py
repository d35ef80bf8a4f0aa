"""Foreign descriptions of MCP servers: what each format comes to, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from gateway.core.importing import Foreign, read_foreign
from gateway.core.manifest import parse_manifest
from gateway.errors import ConfigError

TOKEN = "ghp_" + "a1B2" * 10


def clients(**servers: object) -> Foreign:
    return read_foreign(json.dumps({"mcpServers": servers}), "mcp.json")


def one(entry: object) -> dict[str, Any]:
    """Return the one server of a client's file, having read it back as a manifest."""
    read = clients(one=entry)
    parse_manifest(yaml.safe_dump(read.manifest("pack")), "toolpack.yaml")
    return read.servers[0].spec


def refusal(document: object) -> tuple[str, str]:
    text = document if isinstance(document, str) else json.dumps(document)
    with pytest.raises(ConfigError) as raised:
        read_foreign(text, "mcp.json")
    (problem,) = raised.value.problems
    assert problem.file == "mcp.json"
    return problem.code, problem.message


def refused(entry: object) -> tuple[str, str]:
    return refusal({"mcpServers": {"one": entry}})


# -- mcpServers


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        ("npx", ["-y", "@scope/srv@1.2.3", "--x"], {"npm": "@scope/srv@1.2.3", "args": ["--x"]}),
        ("npx", ["-y", "srv@1.2.3"], {"npm": "srv@1.2.3"}),
        ("/usr/local/bin/npx", ["--yes", "srv"], {"npm": "srv"}),
        ("npx.cmd", ["-p", "srv@1.0.0", "tool", "a"], {"npm": "srv@1.0.0", "entry": "tool", "args": ["a"]}),
        ("npm", ["exec", "-y", "srv@1.0.0", "--", "a"], {"npm": "srv@1.0.0", "args": ["a"]}),
        ("uvx", ["srv==1.2.3", "-v"], {"pypi": "srv==1.2.3", "entry": "srv", "args": ["-v"]}),
        ("uvx", ["srv@1.2.3"], {"pypi": "srv==1.2.3", "entry": "srv"}),
        ("uvx", ["srv@latest"], {"pypi": "srv", "entry": "srv"}),
        ("uvx", ["--from", "srv[a]==1.0", "go"], {"pypi": "srv[a]==1.0", "entry": "go"}),
        ("uv", ["tool", "run", "--from=srv==1.0", "go"], {"pypi": "srv==1.0", "entry": "go"}),
        ("pipx", ["run", "--spec", "srv==1.0", "go"], {"pypi": "srv==1.0", "entry": "go"}),
        ("python3", ["-u", "a/s.py", "x"], {"command": ["python", "-u", "servers/one/s.py"], "args": ["x"]}),
        ("node", ["${workspaceFolder}/s.js"], {"command": ["node", "servers/one/s.js"]}),
        ("npx", ["srv@1.0.0", "${workspaceFolder}/a"], {"npm": "srv@1.0.0", "args": ["/workspace/a"]}),
    ],
)
def test_a_command_becomes_a_package_or_code_of_the_pack(
    command: str, args: list[str], expected: dict[str, object]
) -> None:
    assert one({"command": command, "args": args}) == expected


def test_what_is_no_exact_version_is_said_to_need_a_lock() -> None:
    exact = clients(one={"command": "npx", "args": ["@a/b@1.2.3-rc.1"]}).servers[0].notes
    loose = clients(one={"command": "npx", "args": ["@a/b@^1.2.3"]}).servers[0].notes
    assert (exact, ["'@a/b@^1.2.3' is not one version" in note for note in loose]) == ((), [True])


def test_secrets_are_named_and_their_values_stay_out() -> None:
    env = {
        "GITHUB_TOKEN": "abc",
        "ODD": TOKEN,
        "ASKED": "${input:x}",
        "TAKEN": "a ${HOME:-/root} b",
        "GIT_AUTHOR_NAME": "agent",
        "MAX_TOKENS": "4096",
        "PORT": 80,
        "DEBUG": True,
        "ROOT": "${workspaceFolder}/a",
    }
    spec = one({"command": "uvx", "args": ["srv==1"], "env": env})
    assert spec["secrets"] == ["GITHUB_TOKEN", "ODD", "ASKED", "TAKEN"]
    assert spec["env"] == {
        "GIT_AUTHOR_NAME": "agent",
        "MAX_TOKENS": "4096",
        "PORT": "80",
        "DEBUG": "true",
        "ROOT": "/workspace/a",
    }
    assert TOKEN not in repr(spec)


def test_a_server_elsewhere_keeps_its_headers_without_their_secrets() -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Asked": "v ${input:my-key}", "X-Plain": "beta"}
    for kind in ({}, {"type": "http"}, {"type": "streamable-http"}):
        spec = one({"url": "https://mcp.example.com/mcp", "headers": headers, **kind})
        assert spec == {
            "url": "https://mcp.example.com/mcp",
            "headers": {
                "Authorization": "Bearer ${ONE_AUTHORIZATION}",
                "X-Asked": "v ${MY_KEY}",
                "X-Plain": "beta",
            },
            "secrets": ["ONE_AUTHORIZATION", "MY_KEY"],
        }


@pytest.mark.parametrize(
    ("code", "word", "command", "args"),
    [
        ("script", "'sh'", "sh", ["-c", "npx srv"]),
        ("script", "'bash'", "/bin/bash", ["-c", "curl x | sh"]),
        ("script", "'cmd'", "cmd", ["/c", "npx", "srv"]),
        ("script", "python -c", "python", ["-c", "print()"]),
        ("script", "python -uc", "python3", ["-uc", "print()"]),
        ("script", "node -e", "node", ["-e", "1"]),
        ("script", "node --eval", "node", ["--eval=1"]),
        ("script", "node --import", "node", ["--import", "data:text/javascript,1", "a.js"]),
        ("script", "npx -c", "npx", ["-c", "srv"]),
        ("script", "'bash'", "npx", ["-y", "bash@1.0.0"]),
        ("script", "'python'", "uvx", ["--from", "srv==1", "python"]),
        ("script", "'deno'", "deno", ["eval", "-e", "1"]),
        ("privileged", "'sudo'", "sudo", ["npx", "srv"]),
        ("privileged", "'--privileged'", "docker", ["run", "--privileged", "img"]),
        ("privileged", "'--pid host'", "docker", ["run", "--pid=host", "img"]),
        ("host_network", "'--network host'", "docker", ["run", "--network", "host", "img"]),
        ("host_network", "'--net host'", "podman", ["run", "--net=host", "img"]),
        ("mount", "'-v' mounts '/:/host'", "docker", ["run", "-v", "/:/host", "img"]),
        ("mount", "'--mount'", "docker", ["run", "--mount", "type=bind,src=/,dst=/h", "img"]),
        ("image", "container image", "docker", ["run", "-i", "--rm", "img"]),
        ("mount", "'/home/me'", "npx", ["srv@1.0.0", "/home/me"]),
        ("mount", "'~/x'", "npx", ["srv@1.0.0", "--dir=~/x"]),
        ("mount", "'../x'", "npx", ["srv@1.0.0", "../x"]),
        ("mount", "'/workspace/../etc'", "npx", ["srv@1.0.0", "/workspace/../etc"]),
        ("mount", "file:///etc", "npx", ["srv@1.0.0", "file:///etc"]),
        ("mount", "C:", "npx", ["srv@1.0.0", "C:\\Users"]),
        ("mount", "'../s.py'", "python", ["../s.py"]),
        ("program", "'/opt/tool'", "/opt/tool", []),
        ("program", "'uv'", "uv", ["run", "srv"]),
        ("source", "npx --registry", "npx", ["--registry", "https://x", "srv"]),
        ("source", "uvx --index", "uvx", ["--index", "https://x", "srv"]),
        ("source", "uvx --with", "uvx", ["--with", "other", "srv"]),
        ("source", "git+https", "uvx", ["git+https://example.com/x"]),
        ("source", "github:a/b", "npx", ["github:a/b"]),
        ("source", "python -m", "python", ["-m", "srv"]),
        ("secret", "${input:x}", "npx", ["srv@1.0.0", "${input:x}"]),
        ("secret", "${seed}", "npx", ["srv@1.0.0", "${seed}"]),
        ("secret", "--api-key", "npx", ["srv@1.0.0", "--api-key", "hunter2"]),
        ("secret", "--token", "npx", ["srv@1.0.0", "--token=hunter2"]),
        ("secret", "number 1", "npx", ["srv@1.0.0", TOKEN]),
        ("secret", "${T}", "npx", ["srv@1.0.0", f"${{T:-{TOKEN}}}"]),
        ("source", "what it names", "uvx", [f"git+https://{TOKEN}@example.com/x"]),
        ("format", "names no package", "npx", ["-y"]),
    ],
)
def test_a_command_that_cannot_be_kept_safe_is_refused_by_name(
    code: str, word: str, command: str, args: list[str]
) -> None:
    found, message = refused({"command": command, "args": args})
    assert (found, message.startswith("server 'one': "), word in message) == (code, True, True), message
    assert TOKEN not in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("code", "word", "entry"),
    [
        ("transport", "'sse'", {"type": "sse", "url": "https://example.com/sse"}),
        ("transport", "'http'", {"type": "http", "command": "npx"}),
        ("transport", "http or https", {"url": "ftp://example.com"}),
        ("transport", "http or https", {"url": "https://example.com:99999/"}),
        ("secret", "the url", {"url": "https://u:p@example.com/"}),
        ("secret", "the url", {"url": "https://example.com/?api_key=1"}),
        ("secret", "the url", {"url": "https://example.com/${input:x}"}),
        ("secret", "envFile", {"command": "npx", "args": ["srv"], "envFile": ".env"}),
        ("mount", "'cwd'", {"command": "npx", "args": ["srv"], "cwd": "/home/me"}),
        ("mount", "the variable DATA", {"command": "npx", "args": ["srv"], "env": {"DATA": "/home/me"}}),
        ("script", "NODE_OPTIONS", {"command": "npx", "args": ["srv"], "env": {"NODE_OPTIONS": "-r x"}}),
        ("script", "LD_PRELOAD", {"command": "npx", "args": ["srv"], "env": {"LD_PRELOAD": "x.so"}}),
        ("format", "'command' or 'url'", {"args": []}),
        ("format", "'args'", {"command": "npx", "args": "srv"}),
        ("format", "'env'", {"command": "npx", "args": ["srv"], "env": {"A": []}}),
        ("format", "not an object", []),
    ],
)
def test_an_entry_that_cannot_be_kept_safe_is_refused_by_name(code: str, word: str, entry: object) -> None:
    found, message = refused(entry)
    assert (found, word in message) == (code, True), message


def test_every_refused_server_is_told_and_none_is_left_out() -> None:
    bad = {"command": "sh", "args": ["-c", "x"]}
    text = json.dumps({"mcpServers": {"a": bad, "b": {"command": "npx", "args": ["srv"]}, "c": bad}})
    with pytest.raises(ConfigError) as raised:
        read_foreign(text, "mcp.json")
    assert [problem.message[:10] for problem in raised.value.problems] == ["server 'a'", "server 'c'"]
    assert [server.id for server in read_foreign(text, "mcp.json", ["b"]).servers] == ["b"]
    with pytest.raises(ConfigError, match="no server 'd'; there are: a, b, c"):
        read_foreign(text, "mcp.json", ["d"])


def test_what_a_client_permits_is_told_and_permits_nothing() -> None:
    srv: dict[str, object] = {"command": "npx", "args": ["srv@1.0.0"]}
    read = clients(
        **{"My Srv": {**srv, "autoApprove": ["*"]}, "my-srv": srv, "off": {**srv, "disabled": True}}
    )
    assert [server.id for server in read.servers] == ["my-srv", "my-srv-2"]
    assert "not carried over: autoApprove" in read.servers[0].notes
    assert read.notes == ("server 'off' is off there, and was left out",)


# -- VS Code


def test_a_file_of_vs_code_may_have_comments() -> None:
    text = """{
      // asked once
      "inputs": [{"type": "promptString", "id": "key", "password": true}],
      "servers": { /* one */
        "web": {"type": "http", "url": "https://example.com/mcp", "headers": {"X-Key": "${input:key}"},},
        "own": {"type": "stdio", "command": "python", "args": ["${workspaceFolder}/s.py"]},
      }
    }"""
    web, own = read_foreign(text, "mcp.json").servers
    assert web.spec["headers"] == {"X-Key": "${KEY}"}
    assert (own.spec["command"], own.code) == (["python", "servers/own/s.py"], "/workspace/s.py")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"mcpServers": {}}',
        '{"mcpServers": {"a": {}, "a": {}}}',
        '{"mcpServers": {}, "servers": {}}',
        '{"command": "npx"}',
    ],
)
def test_what_is_none_of_the_formats_is_refused(text: str) -> None:
    assert refusal(text)[0] == "format"


# -- server.json


def registry(**parts: object) -> dict[str, object]:
    return {"name": "io.example/My-Server", "description": "A\nserver.", "version": "1.4.0", **parts}


def package(kind: str = "npm", **parts: object) -> dict[str, object]:
    return {
        "registryType": kind,
        "identifier": "srv",
        "version": "1.4.0",
        "transport": {"type": "stdio"},
        **parts,
    }


def from_registry(**parts: object) -> Foreign:
    read = read_foreign(json.dumps(registry(**parts)), "server.json")
    parse_manifest(yaml.safe_dump(read.manifest("pack")), "toolpack.yaml")
    return read


def test_a_registry_entry_becomes_its_first_package_that_runs() -> None:
    arguments = [
        {"type": "named", "name": "--mode", "value": "fast"},
        {"type": "named", "name": "--left", "description": "may be left out"},
        {"type": "positional", "value": "{root}/a", "variables": {"root": {"default": "/workspace"}}},
    ]
    environment = [
        {"name": "API_KEY", "isSecret": True},
        {"name": "TENANT", "isRequired": True},
        {"name": "REGION", "default": "eu"},
        {"name": "EXTRA"},
    ]
    oci = {"registryType": "oci", "identifier": "example/srv", "version": "1.4.0"}
    npm = package(packageArguments=arguments, environmentVariables=environment, runtimeHint="npx")
    read = from_registry(packages=[oci, npm])
    assert (read.name, read.version, read.description) == ("my-server", "1.4.0", "A server.")
    assert read.servers[0].spec == {
        "npm": "srv@1.4.0",
        "args": ["--mode", "fast", "/workspace/a"],
        "env": {"REGION": "eu"},
        "secrets": ["API_KEY", "TENANT"],
    }
    assert ["packages[0]" in note for note in read.notes] == [True]
    assert [note for note in read.servers[0].notes if "EXTRA" in note]


def test_a_path_that_a_person_would_choose_is_the_workspace() -> None:
    chosen = {"format": "filepath", "isRequired": True}
    arguments = [
        {"type": "positional", **chosen},
        {"type": "named", "name": "--in", "value": "{place}/a", "variables": {"place": chosen}},
    ]
    (server,) = from_registry(packages=[package(packageArguments=arguments)]).servers
    assert server.spec["args"] == ["/workspace", "--in", "/workspace/a"]
    assert ["would choose" in note for note in server.notes] == [True]


def test_a_registry_entry_may_be_a_python_package_or_a_remote() -> None:
    assert from_registry(packages=[package("pypi")]).servers[0].spec["pypi"] == "srv==1.4.0"
    header = {"name": "Authorization", "value": "Bearer {token}", "variables": {"token": {"isSecret": True}}}
    remote = {"type": "streamable-http", "url": "https://example.com/mcp", "headers": [header]}
    assert from_registry(remotes=[remote]).servers[0].spec == {
        "url": "https://example.com/mcp",
        "headers": {"Authorization": "Bearer ${TOKEN}"},
        "secrets": ["TOKEN"],
    }


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        ("transport", {"remotes": [{"type": "sse", "url": "https://example.com"}]}),
        (
            "transport",
            {"packages": [package(transport={"type": "streamable-http", "url": "http://localhost"})]},
        ),
        ("image", {"packages": [package("oci")]}),
        (
            "privileged",
            {
                "packages": [
                    package("oci", runtimeArguments=[{"type": "named", "name": "--privileged", "value": ""}])
                ]
            },
        ),
        (
            "host_network",
            {
                "packages": [
                    package("oci", runtimeArguments=[{"type": "named", "name": "--network", "value": "host"}])
                ]
            },
        ),
        (
            "mount",
            {
                "packages": [
                    package("oci", runtimeArguments=[{"type": "named", "name": "-v", "value": "/:/h"}])
                ]
            },
        ),
        ("script", {"packages": [package(runtimeArguments=[{"type": "named", "name": "-c", "value": "x"}])]}),
        ("mount", {"packages": [package(packageArguments=[{"type": "positional", "value": "/etc"}])]}),
        (
            "secret",
            {
                "packages": [
                    package(packageArguments=[{"type": "positional", "value": "x", "isSecret": True}])
                ]
            },
        ),
        ("secret", {"packages": [package(packageArguments=[{"type": "positional", "isRequired": True}])]}),
        ("source", {"packages": [package("nuget")]}),
        ("source", {"packages": [package("mcpb")]}),
        ("program", {"packages": [package(runtimeHint="bash")]}),
        ("format", {"packages": []}),
    ],
)
def test_a_registry_entry_that_cannot_be_kept_safe_is_refused(code: str, parts: dict[str, object]) -> None:
    assert refusal(registry(**parts))[0] == code


# -- MCPB


def bundle(kind: str = "node", config: object = None, **parts: object) -> dict[str, object]:
    server = {"type": kind, "entry_point": "server/index.js", "mcp_config": config}
    return {
        "manifest_version": "0.3",
        "name": "Hello",
        "version": "0.2",
        "description": "x",
        "server": server,
        **parts,
    }


def test_a_bundle_becomes_code_of_the_pack() -> None:
    config: dict[str, object] = {
        "command": "node",
        "args": ["${__dirname}/server/index.js", "${user_config.folders}", "${user_config.tags}"],
        "env": {
            "KEY": "${user_config.key}",
            "LEVEL": "${user_config.level}",
            "MAYBE": "${user_config.maybe}",
            "HOME_AT": "${user_config.home}",
        },
        "platform_overrides": {"linux": {"env": {}}},
    }
    options = {
        "folders": {"type": "directory", "multiple": True, "default": ["${HOME}/Desktop"]},
        "tags": {"type": "string", "multiple": True, "default": ["a", "b"]},
        "key": {"type": "string", "sensitive": True},
        "level": {"type": "number", "default": 3},
        "maybe": {"type": "string"},
        "home": {"type": "string", "default": "${HOME}"},
    }
    plain = {key: value for key, value in config.items() if key != "platform_overrides"}
    read = read_foreign(json.dumps(bundle(config=plain, user_config=options)), "manifest.json")
    assert (read.name, read.version, read.whole) == ("hello", "0.2", True)
    assert read.servers[0].spec == {
        "command": ["node", "servers/server/index.js"],
        "args": ["/workspace", "a", "b"],
        "env": {"LEVEL": "3"},
        "secrets": ["KEY", "HOME_AT"],
    }
    overridden = read_foreign(json.dumps(bundle(config=config, user_config=options)), "manifest.json")
    assert "env" not in overridden.servers[0].spec


@pytest.mark.parametrize("option", [{}, {"sensitive": True}, {"type": "file"}])
def test_a_secret_that_a_bundle_has_by_default_stays_out(option: dict[str, object]) -> None:
    options = {"x": {"type": "string", "default": TOKEN, **option}}
    config = {"command": "node", "args": ["${__dirname}/x.js"], "env": {"X": "${user_config.x}"}}
    read = read_foreign(json.dumps(bundle(config=config, user_config=options)), "manifest.json")
    assert TOKEN not in repr(read)


def test_a_bundle_of_python_or_of_a_program_has_its_own_packages() -> None:
    own = {"PYTHONPATH": "${__dirname}/lib"}
    config = {"command": "python3", "args": ["${__dirname}/main.py"], "env": own}
    spec = read_foreign(json.dumps(bundle("python", config)), "manifest.json").servers[0].spec
    assert spec == {
        "command": ["python", "servers/main.py"],
        "env": {"PYTHONPATH": "/opt/pack/servers/lib"},
        "requirements": [],
    }
    binary = bundle("binary", {"command": "${__dirname}/server/run", "args": ["x"]})
    assert read_foreign(json.dumps(binary), "manifest.json").servers[0].spec == {
        "command": ["servers/server/run"],
        "args": ["x"],
    }


@pytest.mark.parametrize(
    ("code", "kind", "config"),
    [
        ("program", "uv", {"command": "uv", "args": ["run"]}),
        ("script", "node", {"command": "node", "args": ["-e", "1"]}),
        ("script", "binary", {"command": "bash", "args": ["${__dirname}/run.sh"]}),
        ("source", "node", {"command": "node", "args": ["index.js"]}),
        ("mount", "node", {"command": "node", "args": ["${__dirname}/../x.js"]}),
        ("secret", "node", {"command": "node", "args": ["${__dirname}/x.js", "${user_config.key}"]}),
        ("secret", "node", {"command": "node", "args": ["${__dirname}/x.js", "${HOME}/x"]}),
        ("format", "node", None),
    ],
)
def test_a_bundle_that_cannot_be_kept_safe_is_refused(code: str, kind: str, config: object) -> None:
    assert (
        refusal(bundle(kind, config, user_config={"key": {"type": "string", "sensitive": True}}))[0] == code
    )
