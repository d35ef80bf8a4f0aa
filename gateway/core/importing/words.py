"""From the words that start a server elsewhere to what a manifest says: a package, or code of the pack."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from gateway.core.importing.model import CODE, WORKSPACE, Refusal
from gateway.core.importing.values import SHOWN_CODE, check_words, looks_secret

__all__ = ["Launch", "launch_of_words", "refuse_container"]

_SHELLS = frozenset(
    ("ash", "bash", "busybox", "cmd", "csh", "dash", "fish", "ksh", "powershell", "pwsh", "sh", "tcsh", "zsh")
)
_CONTAINERS = frozenset(["docker", "podman", "nerdctl", "finch"])
_INTERPRETERS = frozenset(
    (
        "bun",
        "bunx",
        "deno",
        "node",
        "nodejs",
        "perl",
        "php",
        "python",
        "python3",
        "ruby",
        "ts-node",
        "tsx",
        "zx",
    )
)
_RAISES = frozenset(["doas", "pkexec", "run0", "su", "sudo"])
_EVALUATES = frozenset(
    (
        "-c",
        "-e",
        "-p",
        "-pe",
        "-ep",
        "-r",
        "-E",
        "--eval",
        "--print",
        "--require",
        "--import",
        "--loader",
        "-",
    )
)
_PYTHON = re.compile(r"python(?:3(?:\.[0-9]+)?)?|py")
_PYTHON_FLAG = re.compile(r"-[BbdEIOqRsSuv]+")
_PYPI = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(\[[A-Za-z0-9._, -]+\])?(.*)")
_PYPI_VERSION = re.compile(r"(?:===?|[<>!~]=|[<>])[A-Za-z0-9.!+_*,<>=~-]+")
_NPM = re.compile(
    r"(?P<name>@[a-z0-9~_-][a-z0-9~._-]*/[a-z0-9~_][a-z0-9~._-]*|[a-z0-9~_][a-z0-9~._-]*)(?:@.+)?"
)
_NPM_VERSION = re.compile(r"@[A-Za-z0-9^~<>=.*+-]+")

_NPM_EXACT = r".+@[0-9]+\.[0-9]+\.[0-9]+(?:[-+][A-Za-z0-9.+-]+)?"
_PYPI_EXACT = r".*={2,3}[^*,]+"


@dataclass(frozen=True, slots=True)
class Launch:
    """How a server is started: a manifest's keys for it, and the project's file that it is, if any."""

    source: Mapping[str, str | list[str]]
    args: tuple[str, ...] = ()
    code: str | None = None
    place: str | None = None
    notes: tuple[str, ...] = ()


def launch_of_words(server: str, words: Sequence[str]) -> Launch:
    """Return what starts a server, from its command and arguments; raises `Refusal`."""
    program = _program(words[0])
    rest = list(words[1:])
    match program:
        case "npx" | "bunx" | "pnpx":
            launch = _npm(program, rest)
        case "npm" | "pnpm" | "yarn" | "bun" if rest[:1] in (["exec"], ["x"], ["dlx"]):
            launch = _npm(f"{program} {rest[0]}", rest[1:])
        case "uvx":
            launch = _pypi("uvx", rest, "--from")
        case "uv" if rest[:2] == ["tool", "run"]:
            launch = _pypi("uv tool run", rest[2:], "--from")
        case "pipx" if rest[:1] == ["run"]:
            launch = _pypi("pipx run", rest[1:], "--spec")
        case "node" | "nodejs":
            launch = _script(server, "node", rest, (".js", ".mjs", ".cjs"))
        case _ if _PYTHON.fullmatch(program):
            launch = _script(server, "python", rest, (".py",))
        case _:
            raise _refused_program(words[0], program, rest)
    check_words(launch.args)
    return launch


def _program(word: str) -> str:
    name = PurePosixPath(word.replace("\\", "/")).name
    return re.sub(r"\.(?:exe|cmd|bat|ps1)$", "", name.lower())


def _refused_program(word: str, program: str, rest: Sequence[str]) -> Refusal:
    if program in _SHELLS:
        return Refusal(
            "script",
            f"{program!r} evaluates a script, which could start anything: write the command that it starts",
        )
    if program in _RAISES:
        return Refusal("privileged", f"{program!r} starts it with other rights: write the command without it")
    if program in _CONTAINERS:
        return refuse_container(program, rest)
    if program in _INTERPRETERS and any(flag in _EVALUATES or flag.startswith("--eval=") for flag in rest):
        return Refusal(
            "script", f"{program!r} evaluates a script that its arguments hold: use a file of the project"
        )
    if program == "uv":
        message = "'uv' is taken as 'uvx' and 'uv tool run' only: name the package as 'uvx NAME==VERSION'"
        return Refusal("program", message)
    return Refusal(
        "program",
        f"{word!r} is a program of this machine, which sandboxes do not show: start it as a package (npx, "
        "uvx, pipx run) or as a file of the project (python FILE.py, node FILE.js)",
    )


def refuse_container(program: str, rest: Sequence[str]) -> Refusal:
    """Return why a container is not imported: what it asks for that is not safe, else that it is an image."""
    unsafe = list(_container_faults(rest))
    if unsafe:
        return unsafe[0]
    return Refusal(
        "image",
        f"{program!r} starts a container image, and this build runs packages, code and urls, not images: "
        "import the server's npm or PyPI package",
    )


def _container_faults(words: Sequence[str]) -> Iterator[Refusal]:
    for number, word in enumerate(words):
        following = words[number + 1] if number + 1 < len(words) else ""
        flag, _, value = word.partition("=")
        value = value or following
        if flag in ("--privileged", "--cap-add", "--device", "--security-opt", "--gpus"):
            yield Refusal(
                "privileged", f"{flag!r} gives more than a sandbox does: a server gets no such rights"
            )
        elif flag in ("--pid", "--ipc", "--uts", "--userns", "--cgroupns") and value == "host":
            yield Refusal(
                "privileged", f"'{flag} host' leaves the sandbox: a server gets namespaces of its own"
            )
        elif flag in ("--network", "--net") and (value == "host" or value.startswith("container:")):
            yield Refusal(
                "host_network",
                f"'{flag} {value}' is the machine's own network: a server reaches the hosts that the pack's "
                "'sandbox: {network: {egress: […]}}' needs and the policy grants, and no other",
            )
        elif flag in ("--mount", "--volume", "--volumes-from", "-v", "--tmpfs") or re.match(r"-v.", word):
            yield Refusal(
                "mount",
                f"{flag!r} mounts {word[2:] if re.match(r'-v.', word) else value!r}: a server sees the "
                f"workspace {WORKSPACE} and no other folder of this machine",
            )


# -- packages


def _flags(
    program: str, words: list[str], takes: Mapping[str, str], plain: frozenset[str]
) -> tuple[dict[str, str], list[str]]:
    """Return flags that come before what is run, by what they mean, and the rest; refuses all others."""
    found: dict[str, str] = {}
    while words and words[0].startswith("-"):
        flag, equals, value = words[0].partition("=")
        if words[0] == "--":
            words = words[1:]
        elif flag in takes:
            if not equals and len(words) == 1:
                raise Refusal("format", f"{program} {flag} lacks its value")
            if takes[flag] in found:
                raise Refusal("source", f"{program} {flag} stands there twice: a server is one package")
            found[takes[flag]] = value if equals else words[1]
            words = words[1 if equals else 2 :]
        elif words[0] in plain:
            words = words[1:]
        elif flag in ("-c", "--call", "-e"):
            raise Refusal("script", f"{program} {flag} evaluates a script: name the package's own program")
        else:
            message = (
                f"{program} {flag} is not carried over: packages come, by their exact versions, from where "
                "this machine's pip and npm are configured to get them, and alone; leave it out"
            )
            raise Refusal("source", message)
    return found, words


def _npm(program: str, words: list[str]) -> Launch:
    plain = frozenset({"-y", "--yes", "-q", "--quiet", "--silent", "--prefer-offline", "--bun"})
    found, rest = _flags(program, words, {"-p": "package", "--package": "package"}, plain)
    if not rest:
        raise Refusal("format", f"{program} names no package")
    spec = found.get("package", rest[0])
    match = _NPM.fullmatch(spec)
    if match is None or (match["name"] != spec and not _NPM_VERSION.fullmatch(spec[len(match["name"]) :])):
        raise _unpinnable(spec, "NAME@VERSION")
    entry = rest[0] if "package" in found else None
    _refuse_interpreter(entry or match["name"])
    source: dict[str, str | list[str]] = {"npm": spec, "entry": entry} if entry else {"npm": spec}
    args = rest[2:] if rest[1:2] == ["--"] and program.startswith("npm ") else rest[1:]
    return Launch(source, tuple(args), notes=_not_exact(spec, _NPM_EXACT))


def _pypi(program: str, words: list[str], naming: str) -> Launch:
    takes = {naming: "package", "--python": "python", "-p": "python"}
    plain = frozenset(
        {"-q", "--quiet", "--isolated", "--no-cache", "--offline", "-U", "--upgrade", "--refresh"}
    )
    found, rest = _flags(program, words, takes, plain)
    if not rest:
        raise Refusal("format", f"{program} names no package")
    spec = found.get("package", rest[0])
    match = _PYPI.fullmatch(spec.replace(" ", ""))
    version = match[3] if match else ""
    if version.startswith("@"):
        version = "" if version == "@latest" else f"=={version[1:]}"
    if match is None or (version and not _PYPI_VERSION.fullmatch(version)):
        raise _unpinnable(spec, "NAME==VERSION")
    entry = rest[0] if "package" in found else match[1]
    _refuse_interpreter(entry)
    requirement = f"{match[1]}{match[2] or ''}{version}"
    notes = (f"{program} --python is not followed: servers run on this machine's Python",) * (
        "python" in found
    )
    exact = _not_exact(requirement, _PYPI_EXACT)
    return Launch({"pypi": requirement, "entry": entry}, tuple(rest[1:]), notes=(*notes, *exact))


def _not_exact(spec: str, pattern: str) -> tuple[str, ...]:
    if re.fullmatch(pattern, spec):
        return ()
    return (
        f"{spec!r} is not one version: what 'toolpack lock' finds is pinned, and nothing is served without",
    )


def _unpinnable(spec: str, form: str) -> Refusal:
    shown = "what it names" if looks_secret("", spec) else repr(spec)
    return Refusal("source", f"{shown} is no package of an index that can be pinned: write {form}")


def _refuse_interpreter(program: str) -> None:
    if program in _SHELLS | _INTERPRETERS:
        raise Refusal(
            "script", f"the package's program {program!r} evaluates whatever it is told: name the server"
        )


# -- code


def _script(server: str, program: str, words: Sequence[str], endings: tuple[str, ...]) -> Launch:
    rest = list(words)
    flags: list[str] = []
    while rest and rest[0].startswith("-"):
        flag = rest[0].partition("=")[0]
        evaluates = re.match(r"-(?:[A-Za-z]*c|\Z)", flag) if program == "python" else flag in _EVALUATES
        if evaluates:
            message = f"{program} {flag} evaluates a script or has code run before the server's"
            raise Refusal("script", f"{message}: use a file of the project")
        if program == "python" and flag == "-m":
            message = "python -m names a module and not the package it comes from: write uvx NAME==VERSION"
            raise Refusal("source", message)
        if program != "python" or _PYTHON_FLAG.fullmatch(rest[0]) is None:
            raise Refusal("program", f"{program} {flag} is not carried over: leave it out")
        flags.append(rest.pop(0))
    if not rest or not rest[0].endswith(endings):
        raise Refusal("program", f"{program} has to name a file that ends with {' or '.join(endings)}")
    code, inside = rest[0], f"{SHOWN_CODE}/"
    if ".." in PurePosixPath(code).parts:
        raise Refusal("mount", f"{code!r} leads out of the project: use a file of it")
    if code.startswith(inside):  # of a bundle, all of whose files are brought along
        return Launch({"command": [program, *flags, f"{CODE}/{code.removeprefix(inside)}"]}, tuple(rest[1:]))
    place = f"{CODE}/{server}/{PurePosixPath(code).name}"
    note = f"only {code!r} itself was copied: what else it imports has to be put beside {place}"
    return Launch({"command": [program, *flags, place]}, tuple(rest[1:]), code, place, (note,))
