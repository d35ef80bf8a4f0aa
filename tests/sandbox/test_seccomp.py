"""The filter is assembled as the file says; a small interpreter of classic BPF plays calls against it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.errors import UsageError
from gateway.sandbox.seccomp import Profile, assemble, profile_file, read_profile
from gateway.sandbox.syscalls import ARCHITECTURES, Architecture

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS, EAFNOSUPPORT, EPROTONOSUPPORT = 0x50001, 0x50026, 0x50061, 0x5005D
MASK = (1 << 64) - 1
MACHINES = tuple(ARCHITECTURES)
PROFILE = read_profile(profile_file())
PROGRAMS = {machine: assemble(PROFILE, machine) for machine in MACHINES}
CLONE_NEWUSER, SIGCHLD = 0x10000000, 17
SOCKET = {"x86_64": 41, "aarch64": 198}


def play(program: bytes, arch: int, number: int, *arguments: int) -> int:
    """Return what the filter answers to a call."""
    words = [value & MASK for value in (*arguments, *[0] * 6)][:6]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0, *words)
    at, register = 0, 0
    instructions = list(struct.iter_unpack("=HBBI", program))
    while True:
        code, yes, no, value = instructions[at]
        at += 1
        match code:
            case 0x20:
                (register,) = struct.unpack_from("<I", data, value)
            case 0x54:
                register &= value
            case 0x15:
                at += yes if register == value else no
            case 0x25:
                at += yes if register > value else no
            case 0x06:
                return value
            case _:
                raise AssertionError(f"unexpected instruction {code:#x}")


def answer(machine: str, name: str, *arguments: int) -> int:
    arch: Architecture = ARCHITECTURES[machine]
    number = SOCKET[machine] if name == "socket" else arch.numbers[name]
    return play(PROGRAMS[machine], arch.audit, number, *arguments)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_rule_without_conditions_refuses_its_calls(machine: str) -> None:
    plain = [rule for rule in PROFILE.syscalls if not rule.args]
    names = [(rule, name) for rule in plain for name in rule.names if name in ARCHITECTURES[machine].numbers]
    assert len(names) > 50
    assert {(rule.errno, name) for rule, name in names} == {
        (answer(machine, name) & 0xFFF, name) for _, name in names
    }


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("clone", (SIGCHLD,), ALLOW),
        ("clone", (0x3D0F00,), ALLOW),
        ("clone", (CLONE_NEWUSER | SIGCHLD,), EPERM),
        ("clone", (0x20000,), EPERM),
        ("clone", (1 << 40 | CLONE_NEWUSER,), EPERM),
        ("clone3", (), ENOSYS),
        ("socket", (2, 1, 6), ALLOW),
        ("socket", (2, 1, 262), ALLOW),
        ("socket", (1, 1, 1), ALLOW),
        ("socket", (2, 2, 1), EPROTONOSUPPORT),
        ("socket", (10, 2, 58), EPROTONOSUPPORT),
        ("socket", (2, 6, 33), EPROTONOSUPPORT),
        ("socket", (10, 1, 132), EPROTONOSUPPORT),
        ("socket", (2, 2, 136), EPROTONOSUPPORT),
        ("socket", (2, 2, 1 << 32 | 136), EPROTONOSUPPORT),
        ("io_uring_setup", (), ENOSYS),
        ("ioctl", (0, 0x5401), ALLOW),
        ("ioctl", (0, 0x5412), EPERM),
        ("ioctl", (0, 1 << 32 | 0x5412), EPERM),
        ("ioctl", (0, 0x541C), EPERM),
        ("socket", (1, 1, 0), ALLOW),
        ("socket", (2, 1, 0), ALLOW),
        ("socket", (10, 2, 17), ALLOW),
        ("socket", (16, 3, 0), ALLOW),
        ("socket", (16, 3, 9), EAFNOSUPPORT),
        ("socket", (17, 3, 0), EAFNOSUPPORT),
        ("socket", (38, 5, 0), EAFNOSUPPORT),
        ("socket", (40, 1, 0), EAFNOSUPPORT),
        ("socket", (1 << 32 | 40, 1, 0), EAFNOSUPPORT),
        ("socket", (1 << 32 | 3, 1, 0), EAFNOSUPPORT),
        ("mknodat", (0, 0, 0x1180), ALLOW),
        ("mknodat", (0, 0, 0x6180), EPERM),
        ("mknodat", (0, 0, 0x2180), EPERM),
    ],
)
def test_conditions_hold_on_the_bits_the_kernel_looks_at(
    machine: str, name: str, arguments: tuple[int, ...], expected: int
) -> None:
    assert answer(machine, name, *arguments) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_what_no_rule_names_is_allowed(machine: str) -> None:
    arch = ARCHITECTURES[machine]
    named = set(arch.numbers.values())
    free = [number for number in range(arch.newest + 1) if number not in named and number != SOCKET[machine]]
    odd = {number: play(PROGRAMS[machine], arch.audit, number) for number in free}
    assert {answer for answer in odd.values() if answer != ALLOW} <= {EAFNOSUPPORT}


@given(number=st.integers(0, 2**32 - 1), high=st.booleans())
def test_newer_calls_and_those_of_x32_do_not_exist(number: int, high: bool) -> None:
    arch = ARCHITECTURES["x86_64"]
    number = number | 0x40000000 if high else max(number, arch.newest + 1)
    assert play(PROGRAMS["x86_64"], arch.audit, number) == ENOSYS


@given(arch=st.integers(0, 2**32 - 1), number=st.integers(0, 500))
def test_a_call_of_another_architecture_ends_the_process(arch: int, number: int) -> None:
    foreign = arch ^ 1 if arch == ARCHITECTURES["x86_64"].audit else arch
    assert play(PROGRAMS["x86_64"], foreign, number) == KILL


def test_an_unknown_machine_is_refused() -> None:
    with pytest.raises(UsageError, match="riscv64"):
        assemble(PROFILE, "riscv64")


def test_a_system_call_without_a_number_is_refused() -> None:
    rule = {"names": ["no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}
    profile = PROFILE.model_dump(by_alias=True) | {"syscalls": [rule]}
    with pytest.raises(UsageError, match="no_such_call"):
        assemble(Profile.model_validate(profile), "x86_64")


def test_a_profile_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text('{"defaultAction": "SCMP_ACT_ALLOW", "architectures": [], "syscalls": [], "new": 1}')
    with pytest.raises(ValidationError):
        read_profile(file)
