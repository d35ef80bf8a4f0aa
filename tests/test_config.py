"""Settings: which layer wins, and where a fault is said to stand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gateway.config import Config, default_state, installer_environment, load_config, read_secret
from gateway.errors import ConfigError, UsageError

HOME = {"HOME": "/home/x"}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, name: str = "gateway.yaml") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def faults(error: pytest.ExceptionInfo[ConfigError]) -> list[str]:
    return [str(problem) for problem in error.value.problems]


def test_without_any_setting_the_defaults_hold() -> None:
    config = load_config(environ=HOME)
    assert (config.mode, config.sandbox, config.host, config.port) == (
        "deployment",
        "bubblewrap",
        "127.0.0.1",
        8000,
    )
    assert config.state == Path("/home/x/.local/state/sandgate")
    assert (config.pool.minimum, config.pool.maximum) == (1, 8)
    assert config.cache == Path("/home/x/.cache/sandgate")
    assert config.limits.max_body == 4_000_000
    assert config.limits.session_idle == 1800


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default() -> None:
    write("port: 1111\nhost: localhost\nmode: training\nlimits: {max_sessions: 5, drain: 1m}\n")
    environ = HOME | {"SANDGATE_PORT": "2222", "SANDGATE_HOST": "127.0.0.2", "SANDGATE_MAX_SESSIONS": "6"}
    config = load_config({"port": 3333, "host": None}, environ=environ)
    assert (config.port, config.host, config.mode) == (3333, "127.0.0.2", "training")
    assert (config.limits.max_sessions, config.limits.drain, config.limits.queue) == (6, 60.0, 64)


def test_limits_are_written_as_people_write_them() -> None:
    write("limits: {max_body: 2MB, max_result: 1Mi, session_idle: 10m, call_timeout: 2.5}\n")
    limits = load_config(environ=HOME).limits
    assert (limits.max_body, limits.max_result, limits.session_idle, limits.call_timeout) == (
        2_000_000,
        2**20,
        600,
        2.5,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mode: training\nlimts: {}\n", "gateway.yaml:2:1: unknown key 'limts'"),
        ("limits:\n  max_boddy: 1\n", "gateway.yaml:2:3: unknown key 'limits.max_boddy'"),
        ("limits: {max_body: lots}\n", "gateway.yaml:1:10: limits.max_body: 'lots' is not a size"),
        ("mode: production\n", "gateway.yaml:1:1: mode: Input should be 'training' or 'deployment'"),
        ("port: 70000\n", "gateway.yaml:1:1: port: Input should be less than or equal to 65535"),
        ("port: 1\nport: 2\n", "gateway.yaml:2:1: duplicate key 'port'"),
        (
            "secrets: {TOKEN: {env: A, file: b}}\n",
            "gateway.yaml:1:11: secrets.TOKEN: give exactly one of env, file",
        ),
    ],
)
def test_a_fault_in_the_file_is_told_with_its_place(text: str, message: str) -> None:
    write(text)
    with pytest.raises(ConfigError) as error:
        load_config(environ=HOME)
    assert faults(error)[0].startswith(message)


def test_a_fault_in_the_environment_names_the_variable() -> None:
    with pytest.raises(ConfigError) as error:
        load_config(environ=HOME | {"SANDGATE_MAX_BODY": "lots", "SANDGATE_PORT": "http"})
    assert sorted(line.split(":")[0] for line in faults(error)) == ["SANDGATE_MAX_BODY", "SANDGATE_PORT"]


def test_an_unknown_variable_of_ours_is_an_error() -> None:
    with pytest.raises(ConfigError) as error:
        load_config(environ=HOME | {"SANDGATE_PROT": "1", "SANDGATE_SECRET_X": "fine"})
    assert faults(error) == ["SANDGATE_PROT: unknown variable: did you mean SANDGATE_PORT?"]


def test_a_fault_in_a_flag_names_the_flag() -> None:
    with pytest.raises(ConfigError) as error:
        load_config({"mode": "both"}, environ=HOME)
    assert faults(error) == ["--mode: Input should be 'training' or 'deployment'"]


def test_a_named_file_has_to_exist() -> None:
    with pytest.raises(UsageError, match=r"other.yaml: no such file"):
        load_config(file=Path("other.yaml"), environ=HOME)
    with pytest.raises(UsageError, match=r"other.yaml: no such file"):
        load_config(environ=HOME | {"SANDGATE_CONFIG": "other.yaml"})


def test_paths_are_relative_to_where_they_are_written(empty_folder: Path) -> None:
    Path("etc").mkdir()
    file = write("auth: auth.yaml\nstate: ~/s\nsecrets: {TOKEN: {file: token}}\n", "etc/gateway.yaml")
    config = load_config({"policy": Path("p.yaml")}, file=file, environ=HOME)
    assert config.auth == empty_folder / "etc" / "auth.yaml"
    assert config.policy == empty_folder / "p.yaml"
    assert config.state == Path("~/s").expanduser()
    assert config.secrets["TOKEN"].file == empty_folder / "etc" / "token"


def test_a_relative_xdg_folder_counts_as_none() -> None:
    assert default_state({"HOME": "/h", "XDG_STATE_HOME": "here"}) == Path("/h/.local/state/sandgate")
    assert default_state({"HOME": "/h", "XDG_STATE_HOME": "/s"}) == Path("/s/sandgate")


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().port = 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    "source",
    [
        "{env: ELSEWHERE}",
        "{file: secret.txt}",
        f"{{command: [{sys.executable}, -c, 'print(\"s3cret\")']}}",
    ],
)
def test_a_secret_comes_from_a_variable_a_file_or_a_command(source: str) -> None:
    write("s3cret\n", "secret.txt")
    write(f"secrets: {{TOKEN: {source}}}\n")
    environ = HOME | {"ELSEWHERE": "s3cret"}
    assert read_secret(load_config(environ=environ), "TOKEN", environ) == "s3cret"


@pytest.mark.parametrize("source", ["{file: empty.txt}", "{command: ['true']}"])
def test_an_empty_secret_is_refused_since_it_would_be_found_everywhere(source: str) -> None:
    write("\n", "empty.txt")
    write(f"secrets: {{TOKEN: {source}}}\n")
    with pytest.raises(UsageError, match="secret TOKEN is empty"):
        read_secret(load_config(environ=HOME), "TOKEN", HOME)


def test_a_secret_without_a_source_comes_from_its_own_variable() -> None:
    environ = HOME | {"SANDGATE_SECRET_TOKEN": "s3cret"}
    assert read_secret(load_config(environ=environ), "TOKEN", environ) == "s3cret"


@pytest.mark.parametrize(
    "source", [None, "{env: ELSEWHERE}", "{file: none}", "{command: ['false']}", "{command: [/none]}"]
)
def test_a_missing_secret_is_named_and_its_command_is_not_quoted(source: str | None) -> None:
    if source:
        write(f"secrets: {{TOKEN: {source}}}\n")
    with pytest.raises(UsageError, match="secret TOKEN"):
        read_secret(load_config(environ=HOME), "TOKEN", HOME)


def test_installers_see_paths_and_proxies_and_no_secret() -> None:
    environ = HOME | {
        "PATH": "/bin",
        "https_proxy": "http://proxy:1",
        "PIP_CERT": "/c",
        "npm_config_cafile": "/c",
        "SANDGATE_SECRET_TOKEN": "s3cret",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
    }
    seen = installer_environment(environ)
    assert set(seen) == {"HOME", "PATH", "https_proxy", "PIP_CERT", "npm_config_cafile"}


def test_egress_names_networks_and_budgets() -> None:
    write("egress: {networks: [10.1.0.0/16, 'fd00::/8'], session_bytes: 1MB, idle: 1m}\n")
    egress = load_config(environ=HOME).egress
    assert (egress.networks, egress.session_bytes, egress.idle) == (("10.1.0.0/16", "fd00::/8"), 10**6, 60.0)


@pytest.mark.parametrize("network", ["10.1.2.3/16", "everything", "10.0.0.0/64"])
def test_a_network_that_is_none_is_refused_at_its_place(network: str) -> None:
    write(f"egress: {{networks: [{network}]}}\n")
    with pytest.raises(ConfigError, match=r"gateway.yaml:1:\d+: .*10\.1\.0\.0/16"):
        load_config(environ=HOME)


@pytest.mark.parametrize(
    ("text", "synced"),
    [
        ("mode: deployment\n", True),
        ("mode: training\n", False),
        ("mode: training\naudit: {durability: strict}\n", True),
        ("mode: deployment\naudit: {durability: written}\n", False),
    ],
)
def test_records_outlive_a_power_cut_in_deployment_and_where_that_is_asked_for(
    text: str, synced: bool
) -> None:
    write(text)
    assert load_config(environ=HOME).synced is synced
