"""Turns `sandboxes/seccomp/*.json` into the filter program that `bwrap` loads.

The file is a deny list in Docker's format. Refused besides it: other architectures (the process is
killed), x32 and calls newer than this program knows (ENOSYS). An assembler of its own keeps
libseccomp out of the dependencies; it knows the four actions and operators the files use.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.data import data_folder
from gateway.errors import UsageError

from .syscalls import ARCHITECTURES, Architecture

__all__ = ["Profile", "assemble", "profile_file", "read_profile"]

# Instructions of classic BPF that are used here, and where seccomp_data keeps what they load.
LOAD, JUMP_EQ, JUMP_GT, AND, RETURN = 0x20, 0x15, 0x25, 0x54, 0x06
NUMBER, ARCH, ARGUMENTS = 0, 4, 16
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
ENOSYS = 38
LOW, HIGH = 0xFFFFFFFF, 32

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, value."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Comparison(_Model):
    """What one argument must be for a rule to apply; for MASKED_EQ `value` is the mask."""

    index: int = Field(ge=0, le=5)
    value: int = Field(ge=0, lt=1 << 64)
    value_two: int = Field(default=0, ge=0, lt=1 << 64, alias="valueTwo")
    op: Literal["SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"]


class Rule(_Model):
    """Calls that fail with `errno` where all of `args` hold."""

    names: tuple[str, ...] = Field(min_length=1)
    action: Literal["SCMP_ACT_ERRNO"]
    errno: int = Field(alias="errnoRet", gt=0, lt=4096)
    args: tuple[Comparison, ...] = ()
    comment: str = ""


class Profile(_Model):
    """A seccomp file."""

    comment: str = ""
    default: Literal["SCMP_ACT_ALLOW"] = Field(alias="defaultAction")
    architectures: tuple[str, ...]
    syscalls: tuple[Rule, ...]

    def without(self, *names: str) -> Profile:
        """Return this profile with these calls let through."""
        rules = (rule.model_copy(update={"names": _others(rule.names, names)}) for rule in self.syscalls)
        return self.model_copy(update={"syscalls": tuple(rule for rule in rules if rule.names)})


def _others(names: tuple[str, ...], taken: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in taken)


def profile_file(name: str = "default") -> Path:
    """Return the file of the profile `name`, in a checkout or an installed wheel."""
    file = data_folder("sandboxes") / "seccomp" / f"{name}.json"
    if not file.is_file():
        raise UsageError(f"{file} is missing: install sandgate again")
    return file


def read_profile(file: Path) -> Profile:
    """Parse a profile. Raises `pydantic.ValidationError` for anything it does not know."""
    return Profile.model_validate_json(file.read_bytes())


def assemble(profile: Profile, machine: str) -> bytes:
    """Return the program for `machine` (as `os.uname` names it). Raises `UsageError` for an unknown one."""
    arch = ARCHITECTURES.get(machine)
    if arch is None or arch.docker not in profile.architectures:
        raise UsageError(f"sandboxes need x86_64 or aarch64, this machine is {machine}")
    program = [*_prologue(arch)]
    for rule in profile.syscalls:
        for name in rule.names:
            if name in arch.numbers:
                program += _refuse(arch.numbers[name], rule)
            elif not any(name in other.numbers for other in ARCHITECTURES.values()):
                raise UsageError(f"seccomp profile: no number is known for system call {name!r}")
    program.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _prologue(arch: Architecture) -> Iterator[Instruction]:
    yield (LOAD, 0, 0, ARCH)
    yield (JUMP_EQ, 1, 0, arch.audit)
    yield (RETURN, 0, 0, KILL)
    yield (LOAD, 0, 0, NUMBER)
    yield (JUMP_GT, 0, 1, arch.newest)  # x32 calls carry a high bit and are caught by the same test
    yield (RETURN, 0, 0, ERRNO | ENOSYS)


def _refuse(number: int, rule: Rule) -> list[Instruction]:
    """Return: if the call is `number` and all comparisons hold, return its errno; else go on after it."""
    body = [instruction for one in _groups(rule.args) for instruction in one]
    return [
        (LOAD, 0, 0, NUMBER),
        (JUMP_EQ, 0, len(body) + 1, number),
        *_with_exits(body),
        (RETURN, 0, 0, ERRNO | rule.errno),
    ]


FAIL = 0xFF
"""Stands in a jump for "past the end of this rule" until the length is known."""


def _with_exits(body: list[Instruction]) -> Iterator[Instruction]:
    for position, (code, yes, no, value) in enumerate(body):
        beyond = len(body) - position
        yield (code, beyond if yes == FAIL else yes, beyond if no == FAIL else no, value)


def _groups(comparisons: Iterable[Comparison]) -> Iterator[list[Instruction]]:
    for one in comparisons:
        low = ARGUMENTS + 8 * one.index  # both architectures are little-endian
        yield _comparison(one, low, low + 4)


def _comparison(one: Comparison, low: int, high: int) -> list[Instruction]:
    value_low, value_high = one.value & LOW, one.value >> HIGH
    match one.op:
        case "SCMP_CMP_EQ":
            return [
                (LOAD, 0, 0, high), (JUMP_EQ, 0, FAIL, value_high),
                (LOAD, 0, 0, low), (JUMP_EQ, 0, FAIL, value_low),
            ]  # fmt: skip
        case "SCMP_CMP_NE":
            return [
                (LOAD, 0, 0, high), (JUMP_EQ, 0, 2, value_high),
                (LOAD, 0, 0, low), (JUMP_EQ, FAIL, 0, value_low),
            ]  # fmt: skip
        case "SCMP_CMP_GT":
            return [
                (LOAD, 0, 0, high), (JUMP_GT, 3, 0, value_high), (JUMP_EQ, 0, FAIL, value_high),
                (LOAD, 0, 0, low), (JUMP_GT, 0, FAIL, value_low),
            ]  # fmt: skip
        case "SCMP_CMP_MASKED_EQ":
            return [
                (LOAD, 0, 0, high), (AND, 0, 0, value_high), (JUMP_EQ, 0, FAIL, one.value_two >> HIGH),
                (LOAD, 0, 0, low), (AND, 0, 0, value_low), (JUMP_EQ, 0, FAIL, one.value_two & LOW),
            ]  # fmt: skip
