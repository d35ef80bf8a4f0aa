"""The toolpack manifest: `toolpack.yaml` as one frozen value.

Reads text only. Whether the files it names exist is `gateway.runtime.packs`' business; what is
installed for it, `gateway.runtime.packages`'. A manifest may say more than this program can run
yet: `unsupported` lists that, so that it is refused by whoever serves it and never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Literal, TypeAlias, cast

from pydantic import AfterValidator, Field, model_validator

from gateway.core.documents import Document, read_document
from gateway.core.fields import FrozenModel, Many, PackPath, Seconds, Size, Word, only_key
from gateway.core.policy.egress import parse_host_rule
from gateway.core.seeding import SEED_MARK
from gateway.errors import ConfigError, Problem

__all__ = [
    "API_VERSION",
    "Egress",
    "EnvSpec",
    "Kind",
    "Manifest",
    "SandboxNeeds",
    "ServerSpec",
    "StandIn",
    "WorkspaceNeeds",
    "parse_manifest",
    "read_manifest",
    "unsupported",
]

API_VERSION = "sandgate/v1"
"""The manifest version this program reads."""

SOURCES = ("command", "pypi", "npm", "image", "url")
Source: TypeAlias = Literal["command", "pypi", "npm", "image", "url"]
Kind: TypeAlias = Literal["path", "url", "host", "sql", "command"]

_API_VERSION = re.compile(r"sandgate/v([0-9]{1,4})")
_TAKEN = ("/bin", "/dev", "/etc", "/lib", "/lib64", "/opt", "/proc", "/run", "/sbin", "/sys", "/tmp", "/usr")  # noqa: S108

_PYPI_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?:\[[A-Za-z0-9._, -]+\])?"
_PYPI_CLAUSE = r"(?:===?|[<>!~]=|[<>])\s*[A-Za-z0-9.!+_*-]+"
_REQUIREMENT = re.compile(rf"{_PYPI_NAME}(?:\s*{_PYPI_CLAUSE}(?:\s*,\s*{_PYPI_CLAUSE})*)?")
_NPM_PACKAGE = re.compile(
    r"(?:@[a-z0-9~_-][a-z0-9~._-]*/)?[a-z0-9~_][a-z0-9~._-]*(?:@[A-Za-z0-9^~<>=.*+ -]+)?"
)


def _matching(pattern: re.Pattern[str], example: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if pattern.fullmatch(value) is None:
            raise ValueError(f"{value!r} is not of the form {example}")
        return value

    return check


def _host_port(text: str) -> str:
    parse_host_rule(text)
    return text


_Name: TypeAlias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
_ServerId: TypeAlias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
_Argument: TypeAlias = Annotated[str, Field(pattern=r"^[^\x00-\x20\x7f]{1,128}$")]
_HeaderName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
_HeaderValue: TypeAlias = Annotated[str, Field(pattern=r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$")]
_SECRET_IN = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_OWN_HEADERS = frozenset(
    {"host", "content-type", "content-length", "accept", "connection", "transfer-encoding"}
    | {"mcp-session-id", "mcp-protocol-version", "mcp-method", "mcp-name"}
)
_EnvName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
_NoNul: TypeAlias = Annotated[str, Field(pattern=r"^[^\x00]*$")]
_Requirement: TypeAlias = Annotated[str, AfterValidator(_matching(_REQUIREMENT, "name==version"))]
_NpmPackage: TypeAlias = Annotated[str, AfterValidator(_matching(_NPM_PACKAGE, "name@version"))]
_HostPort: TypeAlias = Annotated[str, AfterValidator(_host_port)]
_FileName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.ya?ml$")]


class StandIn(FrozenModel):
    """What is different of a server in training mode.

    `command` runs in its place: its tools have to be the locked ones, and it gets no secret. `env` is
    added to its environment, over what stands there.
    """

    command: Annotated[Many[Word], Field(min_length=1)] | None = None
    env: Mapping[_EnvName, _NoNul] = Field(default_factory=dict[str, str])

    @model_validator(mode="after")
    def _says_something(self) -> StandIn:
        if self.command is None and not self.env:
            raise ValueError("'training' has a 'command' to run instead, 'env' to add, or both")
        return self


class OAuthClient(FrozenModel):
    """How the operator gets tokens for a server at a URL: OAuth client credentials.

    `client_secret` names a secret of the server.
    """

    token_url: Annotated[str, Field(pattern=r"^https?://")]
    client_id: Annotated[str, Field(min_length=1)]
    client_secret: _EnvName
    scope: str | None = None


class ServerSpec(FrozenModel):
    """One MCP server of a toolpack.

    Exactly one of `command`, `pypi`, `npm`, `image` and `url` says what it is. `startup_timeout`
    and `call_timeout` are seconds (`None`: the gateway's own). `secrets` are names; their values
    are never in a manifest. `requirements` is `None` where the server takes the default environment.
    `seeded`: it is told the episode's seed when it starts, so one that was started ahead is of that seed.
    `rehearse` are the arguments of runs in its template, ahead of all sessions; `None` for no such run.
    `headers` (with `${SECRET}` in them) and `oauth` are how the operator is known to a server at a URL.
    """

    command: Annotated[Many[Word], Field(min_length=1)] | None = None
    pypi: _Requirement | None = None
    npm: _NpmPackage | None = None
    image: Annotated[str, Field(min_length=1)] | None = None
    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    entry: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    requirements: Many[_Requirement] | None = None
    args: Many[Word] = ()
    env: Mapping[_EnvName, _NoNul] = Field(default_factory=dict[str, str])
    secrets: Many[_EnvName] = ()
    startup_timeout: Seconds = 20.0
    call_timeout: Seconds | None = None
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,31}$")] | None = None
    kinds: Mapping[Kind, Many[_Argument]] = Field(default_factory=dict[Kind, tuple[str, ...]])
    fork_server: bool = False
    seeded: bool = True
    rehearse: Many[Word] | None = None
    training: StandIn | None = None
    headers: Mapping[_HeaderName, _HeaderValue] = Field(default_factory=dict[str, str])
    oauth: OAuthClient | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ServerSpec:
        source = only_key(self.__dict__, SOURCES, "a server")
        if self.entry is not None and source not in ("pypi", "npm"):
            raise ValueError("'entry' names a console script of a pypi or npm package")
        if self.requirements is not None and not self.runs_python:
            raise ValueError("'requirements' belong to a command that starts with 'python'")
        if self.fork_server and not (self.pypi is not None or self.runs_python):
            raise ValueError(
                "'fork_server' is for Python servers: pypi packages and commands that start with 'python'"
            )
        if not self.seeded and any(SEED_MARK in word for word in self._written()):
            raise ValueError(f"{SEED_MARK} is for servers that are told the seed: leave 'seeded: false' out")
        if self.rehearse is not None and not self.fork_server:
            raise ValueError("'rehearse' is for servers with 'fork_server: true'")
        if both := sorted(set(self.secrets) & set(self.env)):
            raise ValueError(f"{both[0]} is in 'env' and in 'secrets': secrets have no value here")
        if self.training and (both := sorted(set(self.secrets) & set(self.training.env))):
            raise ValueError(f"{both[0]} is in 'training' and in 'secrets': secrets have no value here")
        _one_kind_each(self.kinds)
        _of_urls(self)
        return self

    def _written(self) -> Iterator[str]:
        """Yield what stands in the manifest of how the server is started, in training too."""
        for part in (self, self.training):
            if part is not None:
                yield from (*(part.command or ()), *part.env.values())
        yield from self.args

    def in_training(self) -> ServerSpec:
        """Return the server as it runs in training mode."""
        if self.training is None:
            return self
        env = {**self.env, **self.training.env}
        if self.training.command is None:
            return self.model_copy(update={"env": env})
        return ServerSpec(
            command=self.training.command,
            env=env,
            startup_timeout=self.startup_timeout,
            call_timeout=self.call_timeout,
            prefix=self.prefix,
            kinds=self.kinds,
            seeded=self.seeded,
        )

    @property
    def takes_seed(self) -> bool:
        """Whether it is told an episode's seed: it wants it, and it is started here."""
        return self.seeded and self.url is None

    @property
    def stands_in(self) -> bool:
        """Whether another program runs in its place in training mode."""
        return self.training is not None and self.training.command is not None

    @property
    def source(self) -> Source:
        """Which of the five sources this server has."""
        return cast("Source", only_key(self.__dict__, SOURCES, "a server"))

    @property
    def runs_python(self) -> bool:
        """Whether this is a command of the pack that runs in a Python environment the gateway makes."""
        return self.command is not None and self.command[0] == "python"

    def kind_of(self) -> dict[str, Kind]:
        """Return argument -> kind for every argument that has one."""
        return {argument: kind for kind, arguments in self.kinds.items() for argument in arguments}


def _of_urls(server: ServerSpec) -> None:
    if server.url is None:
        if server.headers or server.oauth is not None:
            raise ValueError("'headers' and 'oauth' are for servers at a 'url'")
        return
    if server.args or server.env:
        raise ValueError("a server at a 'url' has no 'args' and no 'env'")
    named = {match for value in server.headers.values() for match in _SECRET_IN.findall(value)}
    if server.oauth is not None:
        named.add(server.oauth.client_secret)
    if unnamed := sorted(named - set(server.secrets)):
        raise ValueError(f"{unnamed[0]} is not among the server's 'secrets'")
    if taken := sorted({name.lower() for name in server.headers} & _OWN_HEADERS):
        raise ValueError(f"the header {taken[0]!r} is the gateway's own to write")


def _one_kind_each(kinds: Mapping[Kind, tuple[str, ...]]) -> None:
    seen: dict[str, str] = {}
    for kind, arguments in kinds.items():
        for argument in arguments:
            if seen.setdefault(argument, kind) != kind:
                raise ValueError(
                    f"argument {argument!r} is of kind {seen[argument]!r} and {kind!r}: choose one"
                )


class Egress(FrozenModel):
    """The hosts servers need to reach, as `host[:port]` (see `policy.egress`)."""

    egress: Annotated[Many[_HostPort], Field(min_length=1)]


class SandboxNeeds(FrozenModel):
    """What the servers need. Sizes in bytes, `cpu` in cores."""

    network: Literal["none"] | Egress = "none"
    memory: Size = 512 * 2**20
    cpu: Annotated[float, Field(gt=0, le=1024, strict=False)] = 1.0
    pids: Annotated[int, Field(ge=1, le=32_768)] = 64
    disk: Size = 256 * 2**20


def _workspace_path(value: str) -> str:
    path = PurePosixPath(value)
    if not path.is_absolute() or ".." in path.parts or str(path) in ("/", "//") or "\0" in value:
        raise ValueError(f"{value!r} has to be an absolute path without '..'")
    if any(str(path) == taken or str(path).startswith(taken + "/") for taken in _TAKEN):
        raise ValueError(f"{value!r} is the system's: choose a path such as /workspace")
    return str(path)


class WorkspaceNeeds(FrozenModel):
    """Where the session's files stand inside, and the folder or archive of the pack they start as."""

    path: Annotated[str, AfterValidator(_workspace_path)] = "/workspace"
    seed: PackPath | None = None


_Range: TypeAlias = Annotated[Many[Annotated[float, Field(strict=False)]], Field(min_length=2, max_length=2)]


CodeFiles: TypeAlias = Literal["workspace", "apart", "none"]


class EnvSpec(FrozenModel):
    """How the pack is played as a training environment.

    `code` says what code as an action sees: the session's `workspace`, an empty folder of its own
    (`apart`: everything goes through the tools), or that there is no such action (`none`).
    """

    tasks: PackPath | None = None
    max_steps: Annotated[int, Field(ge=1)] = 20
    max_denials: Annotated[int, Field(ge=1)] | None = None
    time_limit: Seconds | None = None
    submit: bool = True
    code: CodeFiles = "workspace"
    reward_range: _Range = (0.0, 1.0)

    @model_validator(mode="after")
    def _ordered(self) -> EnvSpec:
        low, high = self.reward_range
        if low >= high:
            raise ValueError("'reward_range' is [lowest, highest]")
        return self


class Manifest(FrozenModel):
    """A toolpack as its author wrote it."""

    api_version: Literal["sandgate/v1"] = Field(alias="apiVersion")
    name: _Name
    version: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+){0,2}([-+.][A-Za-z0-9.+-]+)?$")]
    description: Annotated[str, Field(min_length=1, max_length=1000)]
    servers: Annotated[Mapping[_ServerId, ServerSpec], Field(min_length=1)]
    sandbox: SandboxNeeds = SandboxNeeds()
    workspace: WorkspaceNeeds = WorkspaceNeeds()
    policy: _FileName | None = None
    env: EnvSpec = EnvSpec()


def parse_manifest(text: str, file: str) -> Manifest:
    """Read a manifest; raises `ConfigError` with `file:line:col` for each fault."""
    return read_manifest(text, file)[0]


def read_manifest(text: str, file: str) -> tuple[Manifest, Document]:
    """Read a manifest and keep its positions, for problems that are found later."""
    document = read_document(text, file)
    if problem := _version_problem(document):
        raise ConfigError([problem])
    return document.parse(Manifest), document


def _version_problem(document: Document) -> Problem | None:
    value = document.value
    if not isinstance(value, dict):
        return document.problem((), "manifest", "a toolpack manifest is a mapping")
    version = value.get("apiVersion")
    if version is None:
        return document.problem((), "version", f"missing key 'apiVersion': write 'apiVersion: {API_VERSION}'")
    known = _API_VERSION.fullmatch(version) if isinstance(version, str) else None
    if known is None:
        return document.problem(("apiVersion",), "version", f"'apiVersion' has to be {API_VERSION!r}")
    if int(known[1]) > 1:
        message = f"the manifest is {version!r} and this program knows {API_VERSION!r}: upgrade sandgate"
        return document.problem(("apiVersion",), "newer_version", message)
    return None


def unsupported(manifest: Manifest, document: Document) -> list[Problem]:
    """Return what this build of the program cannot run, each with its place in the manifest."""
    return list(_unsupported(manifest, document))


def _unsupported(manifest: Manifest, document: Document) -> Iterator[Problem]:
    for server_id, server in manifest.servers.items():
        at = ("servers", server_id)
        if server.source == "image":
            message = "this build runs command, pypi, npm and url servers, not 'image'"
            yield document.problem((*at, server.source), "unsupported", message)
