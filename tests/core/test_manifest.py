"""The manifest grammar: what is read, and where each fault is said to be."""

from __future__ import annotations

import pytest

from gateway.core.fields import Regex
from gateway.core.manifest import (
    Egress,
    Manifest,
    parse_manifest,
    read_manifest,
    unsupported,
)
from gateway.errors import ConfigError

HEAD = "apiVersion: sandgate/v1\nname: demo\nversion: 1.0.0\ndescription: A pack.\n"


def manifest(rest: str) -> Manifest:
    return parse_manifest(HEAD + rest, "toolpack.yaml")


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        parse_manifest(text, "toolpack.yaml")
    return [str(problem) for problem in error.value.problems]


def test_a_full_manifest_is_read_into_typed_values():
    read = manifest(
        """servers:
  git:
    pypi: mcp-server-git==2026.10.19
    entry: mcp-server-git
    args: ["--repository", "/workspace", --depth, 3]
    env: {GIT_AUTHOR_NAME: agent}
    secrets: [GIT_TOKEN]
    startup_timeout: 500ms
    call_timeout: 2m
    prefix: null
    kinds: {path: [repo_path], url: [remote]}
    fork_server: false
  notes:
    command: [python, servers/notes.py]
    requirements: ["mcp==2.3.0"]
sandbox: {network: none, memory: 512Mi, cpu: 1, pids: 64, disk: 4MB}
workspace: {path: /workspace, seed: fixtures/repo}
policy: git-readonly.yaml
env: {tasks: tasks/, max_steps: 20, max_denials: 5, submit: true, reward_range: [0, 1.0]}
"""
    )
    git = read.servers["git"]
    assert git.args == ("--repository", "/workspace", "--depth", "3")
    assert (git.startup_timeout, git.call_timeout) == (0.5, 120.0)
    assert git.kind_of() == {"repo_path": "path", "remote": "url"}
    assert git.source == "pypi"
    assert read.servers["notes"].runs_python
    assert (read.sandbox.memory, read.sandbox.disk, read.sandbox.cpu) == (512 * 2**20, 4_000_000, 1.0)
    assert read.env.tasks == "tasks"
    assert read.env.reward_range == (0.0, 1.0)


def test_everything_but_name_and_servers_has_a_default():
    read = manifest("servers: {a: {command: [servers/a]}}\n")
    assert read.sandbox.network == "none"
    assert read.workspace.path == "/workspace"
    assert read.policy is None
    assert read.env.submit


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("servers: {}\n", "5:1: servers: Dictionary should have at least 1 item"),
        (
            "servers:\n  a: {args: []}\n",
            "6:3: servers.a: a server has exactly one of command, pypi, npm, image, url: found none",
        ),
        (
            "servers:\n  a:\n    pypi: a==1\n    npm: a@1.0.0\n",
            "6:3: servers.a: a server has exactly one of command, pypi, npm, image, url: found pypi and npm",
        ),
        ("servers: {a: {pypi: a==1, intry: a}}\n", "5:27: unknown key 'servers.a.intry'"),
        ("servers: {a: {pypi: --index=evil}}\n", "5:15: servers.a.pypi: '--index=evil' is not of the form"),
        (
            "servers: {a: {pypi: 'a @ file:///x'}}\n",
            "5:15: servers.a.pypi: 'a @ file:///x' is not of the form",
        ),
        ("servers: {a: {npm: ../x}}\n", "5:15: servers.a.npm: '../x' is not of the form name@version"),
        ("servers: {a: {npm: -g}}\n", "5:15: servers.a.npm: '-g' is not of the form"),
        ("servers: {a: {npm: 'a@file:../x'}}\n", "5:15: servers.a.npm: 'a@file:../x' is not of the form"),
        ("servers: {a: {url: 'file:///x'}}\n", "5:15: servers.a.url: String should match"),
        ("servers: {A: {pypi: a==1}}\n", "5:11: servers.A"),
        ("servers: {a: {command: []}}\n", "5:15: servers.a.command"),
        ("servers: {a: {command: python x.py}}\n", "5:15: servers.a.command: expected a list"),
        ("servers: {a: {command: [a, 1.5]}}\n", "5:28: servers.a.command.1: write it in quotes"),
        (
            "servers: {a: {command: [a], entry: a}}\n",
            "5:11: servers.a: 'entry' names a console script of a pypi or npm package",
        ),
        (
            "servers: {a: {command: [sh], requirements: [a==1]}}\n",
            "5:11: servers.a: 'requirements' belong to a command that starts with 'python'",
        ),
        (
            "servers: {a: {pypi: a==1, secrets: [T], env: {T: x}}}\n",
            "5:11: servers.a: T is in 'env' and in 'secrets'",
        ),
        (
            "servers: {a: {pypi: a==1, kinds: {path: [p], url: [p]}}}\n",
            "5:11: servers.a: argument 'p' is of kind 'path' and 'url': choose one",
        ),
        ("servers: {a: {pypi: a==1, kinds: {file: [p]}}}\n", "5:35: servers.a.kinds.file"),
        (
            "servers: {a: {pypi: a==1, startup_timeout: soon}}\n",
            "5:27: servers.a.startup_timeout: 'soon' is not",
        ),
        ("servers: {a: {pypi: a==1, startup_timeout: 0}}\n", "5:27: servers.a.startup_timeout"),
        (
            "servers: {a: {pypi: a==1, env: {A: 1}}}\n",
            "5:33: servers.a.env.A: Input should be a valid string",
        ),
        ("servers: {a: {pypi: a==1, env: {A=B: x}}}\n", "5:33: servers.a.env.A=B"),
        (
            "servers: {a: {pypi: a==1}}\nsandbox: {memory: lots}\n",
            "6:11: sandbox.memory: 'lots' is not a size",
        ),
        ("servers: {a: {pypi: a==1}}\nsandbox: {cpu: -1}\n", "6:11: sandbox.cpu"),
        ("servers: {a: {pypi: a==1}}\nsandbox: {network: host}\n", "6:11: sandbox.network"),
        (
            "servers: {a: {pypi: a==1}}\nworkspace: {path: workspace}\n",
            "6:13: workspace.path: 'workspace' has to be",
        ),
        (
            "servers: {a: {pypi: a==1}}\nworkspace: {path: /usr/x}\n",
            "6:13: workspace.path: '/usr/x' is the system's",
        ),
        (
            "servers: {a: {pypi: a==1}}\nworkspace: {seed: ../x}\n",
            "6:13: workspace.seed: '../x' has to be a relative",
        ),
        (
            "servers: {a: {pypi: a==1}}\nworkspace: {seed: /etc}\n",
            "6:13: workspace.seed: '/etc' has to be a relative",
        ),
        ("servers: {a: {pypi: a==1}}\npolicy: ../x.yaml\n", "6:1: policy"),
        ("servers: {a: {pypi: a==1}}\nenv: {max_steps: 0}\n", "6:7: env.max_steps"),
        (
            "servers: {a: {pypi: a==1}}\nenv: {reward_range: [1, 0]}\n",
            "6:1: env: 'reward_range' is [lowest, highest]",
        ),
        ("servers: {a: {pypi: a==1, fork_server: yes}}\n", "5:40: 'yes' is ambiguous"),
        *(
            (
                f"servers: {{a: {{pypi: a==1, seeded: false, {says}}}}}\n",
                "5:11: servers.a: ${seed} is for servers",
            )
            for says in ('args: ["${seed}"]', 'env: {A: "x${seed}"}', 'training: {env: {A: "${seed}"}}')
        ),
        (
            "servers: {a: {pypi: a==1, rehearse: []}}\n",
            "5:11: servers.a: 'rehearse' is for servers with 'fork_server: true'",
        ),
        ("servers: {a: {pypi: a==1}, a: {pypi: a==1}}\n", "5:28: duplicate key 'a'"),
    ],
)
def test_a_fault_is_named_with_its_place(rest: str, expected: str):
    assert any(fault.startswith(f"toolpack.yaml:{expected}") for fault in faults(HEAD + rest)), faults(
        HEAD + rest
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: x\n", "1:1: missing key 'apiVersion': write 'apiVersion: sandgate/v1'"),
        ("apiVersion: 1\n", "1:1: 'apiVersion' has to be 'sandgate/v1'"),
        (
            "name: x\napiVersion: sandgate/v2\n",
            "2:1: the manifest is 'sandgate/v2' and this program knows 'sandgate/v1'",
        ),
        ("- a\n", "1:1: a toolpack manifest is a mapping"),
        ("", "1:1: the file is empty"),
    ],
)
def test_a_version_it_does_not_know_is_the_only_thing_said(text: str, expected: str):
    (fault,) = faults(text)
    assert fault.startswith(f"toolpack.yaml:{expected}")


def test_every_fault_of_a_file_is_reported_at_once():
    assert len(faults(HEAD + "servers: {a: {pypi: a==1, x: 1, y: 2}}\nsandbox: {pids: 0}\n")) == 3


def test_a_source_this_build_cannot_run_is_read_and_then_refused():
    text = HEAD + "servers:\n  a:\n    image: busybox\n"
    (problem,) = unsupported(*read_manifest(text, "toolpack.yaml"))
    assert str(problem).startswith(
        "toolpack.yaml:7:5: this build runs command, pypi, npm and url servers, not 'image'"
    )


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ("{command: [a], headers: {X: y}}", "are for servers at a 'url'"),
        ("{url: 'https://a.example/mcp', args: [x]}", "has no 'args'"),
        ("{url: 'https://a.example/mcp', headers: {X: '${KEY}'}}", "KEY is not among the server's 'secrets'"),
        ("{url: 'https://a.example/mcp', headers: {Mcp-Session-Id: x}}", "the gateway's own to write"),
    ],
)
def test_what_belongs_to_a_server_at_a_url_is_checked(server: str, said: str):
    with pytest.raises(ConfigError, match=said.replace("$", ".")):
        read_manifest(HEAD + f"servers:\n  a: {server}\n", "toolpack.yaml")


@pytest.mark.parametrize("pattern", ["docs.python.org:443", "docs.python.org", "*.example.com:8443", "*"])
def test_hosts_are_needed_by_pattern_and_port(pattern: str):
    text = HEAD + f'servers: {{a: {{pypi: a==1}}}}\nsandbox: {{network: {{egress: ["{pattern}"]}}}}\n'
    read, document = read_manifest(text, "toolpack.yaml")
    assert read.sandbox.network == Egress(egress=(pattern,))
    assert unsupported(read, document) == []


@pytest.mark.parametrize(
    "pattern", ["a.example:0", "a.example:99999", "0x7f.1:80", "[::1]:443", "a*.example", ""]
)
def test_a_pattern_that_names_no_host_is_refused(pattern: str):
    text = HEAD + f'servers: {{a: {{pypi: a==1}}}}\nsandbox: {{network: {{egress: ["{pattern}"]}}}}\n'
    assert any("egress" in fault or "host" in fault for fault in map(str, faults(text)))


def test_an_ordinary_manifest_has_nothing_unsupported():
    text = HEAD + "servers: {a: {pypi: a==1, fork_server: false, secrets: [TOKEN]}}\n"
    assert unsupported(*read_manifest(text, "toolpack.yaml")) == []


def test_a_pattern_field_says_why_it_is_none():
    from pydantic import TypeAdapter, ValidationError

    with pytest.raises(ValidationError, match=r"not an RE2 pattern: missing \)"):
        TypeAdapter(Regex).validate_python("(")
