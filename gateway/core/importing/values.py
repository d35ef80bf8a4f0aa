"""Values of foreign configurations: which are secrets, which lead out of the workspace, what they mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, urlsplit

from gateway.core.importing.model import CODE, WORKSPACE, Refusal
from gateway.core.json_types import JsonValue
from gateway.core.policy.secret_shapes import secret_finder

__all__ = [
    "MARK",
    "SHOWN_CODE",
    "check_url",
    "check_words",
    "env_value",
    "filled",
    "header_value",
    "looks_secret",
    "secret_name",
]

MARK = re.compile(r"\$\{([^{}]*)\}")
"""What a client would put something else in for."""
SHOWN_CODE = f"/opt/pack/{CODE}"
"""Where a sandbox shows the pack's own code."""

_SECRET_NAME = re.compile(
    r"(?i)token|secret|passw|passphrase|pwd|credential|auth(?!or)|cookie|bearer|private|dsn"
    r"|connection_?str|key(?:s|_?id)?(?:$|[_.-])|(?:^|[_.-])pat(?:$|[_.-])"
)
_AMOUNT_NAME = re.compile(r"(?i)max|min|limit|count|num|size|ttl|timeout|expir")
_AMOUNT = re.compile(r"[0-9]{1,9}")
_RANDOM = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])[A-Za-z0-9_+/=.~-]{24,}|[0-9a-fA-F-]{32,}")
_SCHEME = re.compile(r"(?i)((?:bearer|basic|token) +).+", re.DOTALL)
_FLAG = re.compile(r"--?([A-Za-z][A-Za-z0-9_.-]*)(?:=(.*))?", re.DOTALL)
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SEEN = (WORKSPACE, SHOWN_CODE, "/tmp", "/dev/null")  # noqa: S108 - a sandbox's own
_EVALUATES = re.compile(
    r"LD_.*|DYLD_.*|NODE_OPTIONS|BASH_ENV|ENV|PYTHONSTARTUP|PYTHONINSPECT|PERL5OPT|RUBYOPT|JAVA_TOOL_OPTIONS"
)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


@cache
def _known_shape() -> Callable[[JsonValue], bool]:
    return secret_finder()


def looks_secret(name: str, value: str) -> bool:
    """Whether a value is to be kept out of files, by what it is called or how it looks."""
    if _AMOUNT_NAME.search(name) and _AMOUNT.fullmatch(value):
        return False
    return bool(_SECRET_NAME.search(name) or _RANDOM.fullmatch(value)) or _known_shape()(value)


def secret_name(text: str) -> str:
    """Return the name of a secret for something that was asked for by another one."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_").upper()[:128]
    return name if _ENV_NAME.fullmatch(name) else f"S_{name}"[:128]


def filled(text: str, known: Mapping[str, str]) -> str:
    """Return `text` with what is known put in; raises `Refusal` for anything that a person has to say."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in known:
            asked = f"${{{match[1].partition(':-')[0]}}}"
            message = (
                f"{asked} is asked of a person or taken from this machine, which only 'env' and 'headers' "
                "can be: write what it stands for, if it is no secret, or use a variable of 'env'"
            )
            raise Refusal("secret", message)
        return known[match[1]]

    return MARK.sub(value, text)


def env_value(name: str, value: str, known: Mapping[str, str]) -> str | None:
    """Return what a variable is in the manifest, `None` for a secret. Raises `Refusal`."""
    if _ENV_NAME.fullmatch(name) is None:
        raise Refusal("format", f"{name!r} is no name of a variable")
    if _EVALUATES.fullmatch(name):
        raise Refusal("script", f"the variable {name} has other code run than the server's: leave it out")
    if looks_secret(name, value) or any(mark not in known for mark in MARK.findall(value)):
        return None
    text = filled(value, known)
    if looks_secret(name, text):  # what was put in may be one
        return None
    _check_places(text, f"the variable {name}")
    return text


def header_value(server: str, name: str, value: str) -> tuple[str, list[str]]:
    """Return what a header is in the manifest, and the secrets it names."""
    named: list[str] = []

    def mark(match: re.Match[str]) -> str:
        _, _, last = match[1].rpartition(":") if ":-" not in match[1] else match[1].partition(":-")[::-1]
        named.append(secret_name(last))
        return f"${{{named[-1]}}}"

    text = MARK.sub(mark, value)
    rest = re.sub(r"(?i)^(?:bearer|basic|token)\b", "", MARK.sub("", value)).strip()
    whole = looks_secret("", rest) if named else looks_secret(name, value)
    if not whole:
        return text, named
    scheme = _SCHEME.fullmatch(value)
    secret = secret_name(f"{server}_{name}")
    return f"{scheme[1] if scheme else ''}${{{secret}}}", [secret]


def check_words(words: Sequence[str]) -> None:
    """Refuse arguments that hold a secret or name a place outside of the workspace; never quotes a secret."""
    flag = ""
    for number, word in enumerate(words, 1):
        match = _FLAG.fullmatch(word)
        name, value = (match[1], match[2]) if match else (flag, word)
        if value and looks_secret(name, value):
            called = f"--{name}" if name else f"number {number}"
            message = (
                f"the argument {called} looks like a secret, and arguments stand in the pack for all to see: "
                "let the server take it from a variable, in 'env'"
            )
            raise Refusal("secret", message)
        if value:
            _check_places(value, "the argument")
        flag = match[1] if match and match[2] is None else ""


def check_url(url: str) -> None:
    """Refuse an address with a secret in it, or one that is not of HTTP."""
    if MARK.search(url):
        raise Refusal("secret", "the url holds something that a person is asked for: send it as a header")
    try:
        parts = urlsplit(url)
        names = parse_qsl(parts.query, keep_blank_values=True)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known, names, parts = False, [], urlsplit("")
    if not known:
        raise Refusal("transport", "the url is not one of http or https")
    if parts.username is not None or any(looks_secret(*pair) for pair in names) or _known_shape()(url):
        raise Refusal("secret", "the url looks as if it held a secret: send it as a header")


def _check_places(text: str, what: str) -> None:
    for part in [text] if _ADDRESS.match(text) else re.split(r"[:,;=]", text):
        if _leads_out(part.strip()) or _DRIVE.match(text):
            message = (
                f"{what} names {text!r}, which is outside of the workspace: tools see {WORKSPACE} and "
                "nothing else that is here. Write a path in it, and have the pack's 'workspace: {seed: …}' "
                "give the files"
            )
            raise Refusal("mount", message)


def _leads_out(text: str) -> bool:
    if text.startswith(("file:", "~", "\\\\")):
        return True
    path = PurePosixPath(text)
    if ".." in path.parts:
        return True
    seen = any(path == PurePosixPath(place) or PurePosixPath(place) in path.parents for place in _SEEN)
    return path.is_absolute() and not seen
