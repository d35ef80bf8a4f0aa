"""Settings: `gateway.yaml`, the environment and flags become one frozen `Config`.

The only module that reads the environment. Flag > `SANDGATE_*` > `gateway.yaml` > default; each
layer is checked by itself, so a fault names the file and line, the variable or the flag it came
from. Nothing is started, opened for writing or resolved on the network here.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    model_validator,
)

from gateway.core.documents import read_document
from gateway.core.fields import Seconds, Size
from gateway.errors import ConfigError, Problem, UsageError

__all__ = [
    "DEFAULT_FILE",
    "AuditSettings",
    "Config",
    "DeploymentSettings",
    "EgressLimits",
    "LimitSettings",
    "LogSettings",
    "PoolLimits",
    "SecretSource",
    "TracingSettings",
    "UserFolders",
    "default_state",
    "installer_environment",
    "load_config",
    "read_secret",
    "user_folders",
]

DEFAULT_FILE = "gateway.yaml"
"""Read from the current folder where no other file is named."""

PREFIX = "SANDGATE_"
SECRET_PREFIX = "SANDGATE_SECRET_"  # noqa: S105 - the name of variables, not a secret
SECRET_COMMAND_SECONDS = 30.0

Count: TypeAlias = Annotated[int, Field(ge=1)]

_Settings = TypeVar("_Settings", bound=BaseModel)


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"write a network as 10.1.0.0/16: {error}") from None
    return text


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LimitSettings(_Section):
    """What the gateway takes before it refuses with 413, 429, 503 or a typed outcome."""

    max_body: Size = 4_000_000
    max_result: Size = 10_000_000
    max_sessions: Count = 500
    max_sessions_per_principal: Count = 100
    queue: Annotated[int, Field(ge=0)] = 64
    session_idle: Seconds = 1800.0
    session_grace: Seconds = 30.0
    call_timeout: Seconds = 30.0
    client_timeout: Seconds = 300.0
    drain: Seconds = 30.0


class PoolLimits(_Section):
    """How many sessions' servers `serve` keeps ready: for each pack, and over all at most (0: none)."""

    minimum: Annotated[int, Field(ge=0)] = 1
    maximum: Annotated[int, Field(ge=0)] = 8


class SecretSource(_Section):
    """Where one named secret comes from: a variable, a file, or a command's standard output."""

    env: str | None = None
    file: Path | None = None
    command: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> SecretSource:
        if sum(value is not None for value in (self.env, self.file, self.command)) != 1:
            raise ValueError("give exactly one of env, file or command")
        return self


class DeploymentSettings(_Section):
    """What deployment mode allows beyond tool calls."""

    orchestration: StrictBool = False


class AuditSettings(_Section):
    """How much of a call the ledger shows: only its shape, or the plain argument values.

    `durability`: what a record outlives before it counts. `strict`: a power cut. `written`: the end of the
    gateway, however it ends, but not that of the machine. By default `strict` in deployment and `written`
    in training, where the power cut takes the episodes themselves along.
    """

    arguments: Literal["shape", "plain"] = "shape"
    durability: Literal["strict", "written"] | None = None


_DURABILITY = {"deployment": "strict", "training": "written"}


class EgressLimits(_Section):
    """What sandboxes that were granted hosts may use, and which networks count as public for them."""

    networks: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    session_bytes: Size = 1_000_000_000
    connections: Count = 64
    connect_timeout: Seconds = 10.0
    idle: Seconds = 300.0
    longest: Seconds = 3600.0


class LogSettings(_Section):
    """What is logged, and how: lines for people or JSON. Calls are logged at `info`."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "warning"


class TracingSettings(_Section):
    """Where OpenTelemetry spans are sent (OTLP over HTTP, `.../v1/traces`), and under which name."""

    endpoint: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = None
    service: Annotated[str, Field(min_length=1)] = "sandgate"


class Config(_Section):
    """Everything an operator can set. Paths are absolute once `load_config` returned it."""

    mode: Literal["training", "deployment"] = "deployment"
    sandbox: str = "bubblewrap"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    policy: Path | None = None
    auth: Path | None = None
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    public_url: Annotated[str, Field(pattern=r"^https?://[^\s/?#\"]+$")] | None = None
    state: Path = Path()
    cache: Path = Path()
    limits: LimitSettings = LimitSettings()
    pool: PoolLimits = PoolLimits()
    secrets: dict[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")], SecretSource] = {}
    deployment: DeploymentSettings = DeploymentSettings()
    audit: AuditSettings = AuditSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()
    egress: EgressLimits = EgressLimits()

    @property
    def synced(self) -> bool:
        """Whether a record of the ledger counts only once the disk has it."""
        return (self.audit.durability or _DURABILITY[self.mode]) == "strict"


_PLAIN = ("mode", "sandbox", "host", "port", "policy", "auth", "workers", "public_url", "state", "cache")
_VARIABLES: dict[str, tuple[str, ...]] = {
    **{PREFIX + name.upper(): (name,) for name in _PLAIN},
    **{PREFIX + name.upper(): ("limits", name) for name in LimitSettings.model_fields},
    **{f"{PREFIX}POOL_{name.upper()}": ("pool", name) for name in PoolLimits.model_fields},
    PREFIX + "DEPLOYMENT_ORCHESTRATION": ("deployment", "orchestration"),
    **{f"{PREFIX}AUDIT_{name.upper()}": ("audit", name) for name in AuditSettings.model_fields},
    **{f"{PREFIX}LOG_{name.upper()}": ("log", name) for name in LogSettings.model_fields},
    **{f"{PREFIX}TRACING_{name.upper()}": ("tracing", name) for name in TracingSettings.model_fields},
}
"""Which variable sets what."""
_OTHER_VARIABLES = {PREFIX + "CONFIG"}


def load_config(
    flags: Mapping[str, object] | None = None,
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Return the settings in force; raises `ConfigError` with every fault of the first faulty layer.

    `flags` are top-level settings by name; `None` values count as not given. `file` must exist;
    without it `SANDGATE_CONFIG` names one, else `gateway.yaml` is read where it exists.
    """
    environ = _environ() if environ is None else environ
    config = Config(state=default_state(environ), cache=_xdg(environ, "XDG_CACHE_HOME", ".cache"))
    for layer in (_from_file(file, environ), _from_environment(environ), _from_flags(flags or {})):
        config = _over(config, layer)
    return config


def default_state(environ: Mapping[str, str] | None = None) -> Path:
    """Return the state folder that is used where none is set."""
    return _xdg(_environ() if environ is None else environ, "XDG_STATE_HOME", ".local/state")


@dataclass(frozen=True, slots=True)
class UserFolders:
    """Where this user's programs keep their settings; `appdata` exists on Windows only."""

    home: Path
    here: Path
    config: Path
    codex: Path
    appdata: Path | None = None


def user_folders(environ: Mapping[str, str] | None = None) -> UserFolders:
    """Return the folders in which other programs look for their settings."""
    environ = _environ() if environ is None else environ
    home, appdata = Path(environ.get("HOME") or Path.home()), environ.get("APPDATA")
    config = Path(environ.get("XDG_CONFIG_HOME", ""))
    return UserFolders(
        home,
        here=Path.cwd(),
        config=config if config.is_absolute() else home / ".config",
        codex=Path(environ.get("CODEX_HOME") or home / ".codex"),
        appdata=Path(appdata) if appdata else None,
    )


def _environ() -> Mapping[str, str]:
    return os.environ  # noqa: TID251 - this module is the reader


def _xdg(environ: Mapping[str, str], name: str, fallback: str) -> Path:
    # The XDG rule: a relative value is as good as none.
    base = Path(environ.get(name, ""))
    return (base if base.is_absolute() else Path(environ.get("HOME", "/")) / fallback) / "sandgate"


def _over(base: _Settings, layer: _Settings) -> _Settings:
    """Return `base` with what `layer` sets, section by section."""
    update: dict[str, Any] = {}
    for name in layer.model_fields_set:
        below, above = getattr(base, name), getattr(layer, name)
        if isinstance(above, BaseModel):
            above = _over(below, above)
        update[name] = above
    return base.model_copy(update=update)


def _absolute(config: Config, base: Path) -> Config:
    """Return `config` with the paths it sets made absolute below `base`."""
    paths = {
        name: value for name in config.model_fields_set if isinstance(value := getattr(config, name), Path)
    }
    secrets = {
        name: SecretSource(file=base / source.file.expanduser()) if source.file else source
        for name, source in config.secrets.items()
    }
    update: dict[str, Any] = {name: base / value.expanduser() for name, value in paths.items()}
    return config.model_copy(update=update | ({"secrets": secrets} if secrets else {}))


def _from_file(file: Path | None, environ: Mapping[str, str]) -> Config:
    named = file or (Path(environ[PREFIX + "CONFIG"]) if environ.get(PREFIX + "CONFIG") else None)
    path = named or Path(DEFAULT_FILE)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if named is None:
            return Config()
        raise UsageError(f"{path}: no such file: check --config or {PREFIX}CONFIG") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    return _absolute(read_document(text, str(path)).parse(Config), path.absolute().parent)


def _from_environment(environ: Mapping[str, str]) -> Config:
    ours = {name: text for name, text in environ.items() if name.startswith(PREFIX)}
    unknown = [
        name
        for name in ours
        if name not in _VARIABLES and name not in _OTHER_VARIABLES and not name.startswith(SECRET_PREFIX)
    ]
    if unknown:
        raise ConfigError([Problem(name, 0, 0, "unknown_variable", _unknown(name)) for name in unknown])
    values: dict[str, Any] = {}
    for name, path in _VARIABLES.items():
        if name in ours:
            section = values if len(path) == 1 else values.setdefault(path[0], {})
            section[path[-1]] = _boolean(ours[name]) if path[-1] == "orchestration" else ours[name]
    names: dict[tuple[int | str, ...], str] = {path: name for name, path in _VARIABLES.items()}
    return _validated(values, lambda path: names.get(path, PREFIX + "*"))


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, [*_VARIABLES, *_OTHER_VARIABLES], n=1)
    return f"unknown variable: did you mean {near[0]}?" if near else "unknown variable: unset it"


def _boolean(text: str) -> object:
    return {"true": True, "false": False}.get(text.lower(), text)


def _from_flags(flags: Mapping[str, object]) -> Config:
    given = {name: value for name, value in flags.items() if value is not None}
    return _validated(given, lambda path: "--" + str(path[0]).replace("_", "-"))


def _validated(values: dict[str, Any], source: Callable[[tuple[int | str, ...]], str]) -> Config:
    try:
        return _absolute(Config.model_validate(values), Path.cwd())
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise ConfigError(
            [
                Problem(source(fault["loc"]), 0, 0, fault["type"], fault["msg"].removeprefix("Value error, "))
                for fault in faults
            ]
        ) from None


def read_secret(config: Config, name: str, environ: Mapping[str, str] | None = None) -> str:
    """Return a secret's value; raises `UsageError` that says which one is missing and where to put it."""
    environ = _environ() if environ is None else environ
    source = config.secrets.get(name)
    if source is None:
        return _variable(environ, SECRET_PREFIX + name, name)
    if source.env is not None:
        return _variable(environ, source.env, name)
    value = _file_secret(source.file, name) if source.file else _command_secret(source.command or (), name)
    if not value:
        raise UsageError(f"secret {name} is empty: its {'file' if source.file else 'command'} gives nothing")
    return value


def _variable(environ: Mapping[str, str], variable: str, name: str) -> str:
    value = environ.get(variable)
    if not value:
        raise UsageError(
            f"secret {name} is missing: set {variable}, or name its source under secrets in {DEFAULT_FILE}"
        )
    return value


def _file_secret(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"secret {name}: {path} cannot be read: {error}") from None


def _command_secret(command: tuple[str, ...], name: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, check=True, timeout=SECRET_COMMAND_SECONDS, text=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError) as error:
        raise UsageError(f"secret {name}: its command failed: {_how(error)}; run it by hand") from None
    return done.stdout.rstrip("\n")


def _how(error: Exception) -> str:
    """Say how a command failed, and nothing of what it wrote: that may hold the secret."""
    match error:
        case subprocess.CalledProcessError(returncode=code):
            return f"it ended with exit code {code}"
        case subprocess.TimeoutExpired():
            return f"it took longer than {SECRET_COMMAND_SECONDS} s"
        case OSError():
            return f"it could not be started: {error.strerror}"
        case _:
            return "it wrote something that is not UTF-8"


_INSTALLER_NAMES = re.compile(
    r"PATH|HOME|LANG|LC_ALL|TMPDIR|(HTTPS?|ALL|NO|FTP)_PROXY|(https?|all|no|ftp)_proxy"
    r"|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|NODE_EXTRA_CA_CERTS|PIP_.+|(npm_config|NPM_CONFIG)_.+"
)


def installer_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the part of the environment that pip and npm may see: no secret of the gateway among it."""
    environ = _environ() if environ is None else environ
    return {name: value for name, value in environ.items() if _INSTALLER_NAMES.fullmatch(name)}
