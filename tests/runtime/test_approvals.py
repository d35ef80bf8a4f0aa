"""The approval queue: one yes for one run of one thing, from somebody who may give it, in time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from gateway.core.approvals import ApprovalRequest, ApprovalTerms, approval_request
from gateway.core.calls import Front, Principal, Role, ToolCall
from gateway.core.decisions import Decision, DecisionCode, Effect
from gateway.core.events import Approved, Expired, Pending, Refused
from gateway.core.json_types import JsonObject
from gateway.core.records import CallIds, ToolIds
from gateway.errors import AlreadyAnswered, LedgerError, NotApprover, UnknownApproval
from gateway.runtime.approvals import MAX_PER_PRINCIPAL, MAX_WAITING, Answer, Approval, Approvals
from gateway.testing import ManualClock, MemoryLedger

BOT = Principal("bot", client="bot", roles=frozenset({Role.AGENT}))
LEAD = Principal("lead", user="lead", roles=frozenset({Role.AGENT}))
ADMIN = Principal("root", roles=frozenset({Role.ADMIN}))
STRANGER = Principal("stranger", roles=frozenset(Role) - {Role.ADMIN})


def named(*names: str) -> tuple[Callable[[Principal], bool], ...]:
    return tuple(lambda principal, name=name: principal.name == name for name in names)


def request(
    principal: Principal = BOT,
    *,
    by: tuple[str, ...] = (),
    wait: float = 30.0,
    prompt: bool = True,
    **arguments: Any,
) -> ApprovalRequest:
    return approval_request(
        ToolCall("c1", "push", arguments, Front.MCP),
        CallIds("s1", None, None, principal.name, "git"),
        ToolIds("git", "push", "0" * 64, None),
        principal=principal,
        arguments=arguments,
        decision=Decision(Effect.ASK, DecisionCode.APPROVAL_PENDING, "look at it", rule="push"),
        terms=ApprovalTerms(by=named(*by), ttl=600.0, wait=wait, prompt=prompt),
    )


@dataclass
class Desk:
    """A queue that can be answered, its clock and its ledger."""

    clock: ManualClock = field(default_factory=ManualClock)
    ledger: MemoryLedger = field(default_factory=MemoryLedger)

    def __post_init__(self) -> None:
        self.approvals = Approvals(self.ledger, self.clock)
        self.approvals.expect_answers()

    @property
    def waiting(self) -> list[JsonObject]:
        return self.approvals.listed(ADMIN)

    @property
    def only_id(self) -> str:
        (waiting,) = self.waiting
        return str(waiting["id"])

    @asynccontextmanager
    async def seeking(self, *requests: ApprovalRequest, prompt: Any = None) -> AsyncGenerator[list[Answer]]:
        """Seek for each request at once; left, all have their answers, in the order they came."""
        answers: list[Answer] = []

        async def seek(one: ApprovalRequest) -> None:
            answers.append(await self.approvals.seek(one, prompt))

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                for one in requests:
                    tasks.start_soon(seek, one)
                await anyio.wait_all_tasks_blocked()
                yield answers


@dataclass
class AskedClient:
    """A client whose user says `says`; `None`: closes the dialog."""

    says: bool | None
    waits: bool = True
    asked: list[str] = field(default_factory=list[str])

    async def ask(self, approval: Approval) -> bool | None:
        self.asked.append(approval.id)
        await checkpoint()
        return self.says


async def test_a_waiting_call_goes_on_when_somebody_says_yes_and_the_answer_is_on_record() -> None:
    desk = Desk()
    async with desk.seeking(request(branch="x")) as answers:
        shown = await desk.approvals.answer(desk.only_id, ADMIN, approve=True)
    assert answers == [Approved(str(shown["id"]), "root")]
    (record,) = desk.ledger.records
    assert (record["event"], record["call_id"], record["principal"]) == ("approval", "c1", "bot")
    decision: Any = record["decision"]
    assert (decision["code"], decision["rule"]) == ("approved", "push")
    assert f"'root' as {shown['id']}" in decision["reason"]


async def test_what_is_listed_is_what_was_asked_with_its_times() -> None:
    desk = Desk()
    assert isinstance(await desk.approvals.seek(request(branch="x", wait=0.0)), Pending)
    (shown,) = desk.waiting
    now = desk.clock.now()
    assert {key: shown[key] for key in ("principal", "tool", "arguments", "rule", "created", "expires")} == {
        "principal": "bot",
        "tool": "git.push",
        "arguments": {"branch": "x"},
        "rule": "push",
        "created": now,
        "expires": now + 600.0,
    }


async def test_a_no_ends_the_wait_and_stands_until_the_approval_would_have_run_out() -> None:
    desk = Desk()
    async with desk.seeking(request(branch="x")) as answers:
        await desk.approvals.answer(desk.only_id, ADMIN, approve=False)
    again = await desk.approvals.seek(request(branch="x"))
    assert isinstance(again, Refused)
    assert answers == [again]
    assert "'root' denied" in again.reason
    assert desk.waiting == []
    desk.clock.advance(600.0)
    assert isinstance(await desk.approvals.seek(request(branch="x", wait=0.0)), Pending)


async def test_a_call_that_nobody_answers_in_time_is_pending_and_passes_once_it_is_made_again() -> None:
    desk = Desk()
    first = await desk.approvals.seek(request(branch="x", wait=0.0))
    assert isinstance(first, Pending)
    assert first.approval == desk.only_id
    assert await desk.approvals.seek(request(branch="x", wait=0.0)) == first
    await desk.approvals.answer(desk.only_id, ADMIN, approve=True)
    assert isinstance(await desk.approvals.seek(request(branch="y", wait=0.0)), Pending)
    assert await desk.approvals.seek(request(branch="x", wait=0.0)) == Approved(first.approval, "root")
    third = await desk.approvals.seek(request(branch="x", wait=0.0))
    assert isinstance(third, Pending)
    assert third.approval != first.approval


async def test_two_equal_calls_at_once_need_two_approvals() -> None:
    desk = Desk()
    async with desk.seeking(request(branch="x"), request(branch="x")) as answers:
        await desk.approvals.answer(desk.only_id, ADMIN, approve=True)
        await anyio.wait_all_tasks_blocked()
        assert [type(answer) for answer in answers] == [Approved]
        await desk.approvals.answer(desk.only_id, ADMIN, approve=True)
    first, second = answers
    assert isinstance(first, Approved)
    assert isinstance(second, Approved)
    assert first.approval != second.approval


async def test_an_approval_is_void_when_its_time_is_over_answered_or_not() -> None:
    desk = Desk()
    first = await desk.approvals.seek(request(branch="x", wait=0.0))
    assert isinstance(first, Pending)
    await desk.approvals.answer(first.approval, ADMIN, approve=True)
    desk.clock.advance(600.0)
    second = await desk.approvals.seek(request(branch="x", wait=0.0))
    assert isinstance(second, Pending)
    assert second.approval != first.approval
    desk.clock.advance(600.0)
    with pytest.raises(UnknownApproval):
        await desk.approvals.answer(second.approval, ADMIN, approve=True)


async def test_a_call_whose_approval_runs_out_while_it_waits_is_told_so() -> None:
    desk = Desk()
    async with desk.seeking(request(branch="x")) as answers:
        desk.clock.advance(599.0)
        approval = desk.only_id
        slow = desk.ledger.append

        async def append(body: JsonObject) -> None:
            desk.clock.advance(1.0)
            await slow(body)

        desk.ledger.append = append
        await desk.approvals.answer(approval, ADMIN, approve=True)
    (answer,) = answers
    assert isinstance(answer, Expired)


async def test_admins_and_those_whom_the_rule_names_see_it_and_may_answer() -> None:
    desk = Desk()
    await desk.approvals.seek(request(by=("lead",), wait=0.0))
    assert len(desk.approvals.listed(LEAD)) == len(desk.approvals.listed(ADMIN)) == 1
    for other in (STRANGER, BOT):
        assert desk.approvals.listed(other) == []
        with pytest.raises(UnknownApproval):
            await desk.approvals.answer(desk.only_id, other, approve=True)
    assert (await desk.approvals.answer(desk.only_id, LEAD, approve=True))["state"] == "approved"


@pytest.mark.parametrize(("by", "may"), [((), True), (("root",), True), (("lead",), False)])
async def test_a_caller_approves_itself_only_where_it_is_named_or_nobody_is(
    by: tuple[str, ...], may: bool
) -> None:
    desk = Desk()
    await desk.approvals.seek(request(ADMIN, by=by, wait=0.0))
    if may:
        assert (await desk.approvals.answer(desk.only_id, ADMIN, approve=True))["state"] == "approved"
    else:
        with pytest.raises(NotApprover):
            await desk.approvals.answer(desk.only_id, ADMIN, approve=True)


async def test_an_approval_is_answered_once() -> None:
    desk = Desk()
    await desk.approvals.seek(request(wait=0.0))
    approval = desk.only_id
    await desk.approvals.answer(approval, ADMIN, approve=False)
    with pytest.raises(AlreadyAnswered):
        await desk.approvals.answer(approval, ADMIN, approve=True)


async def test_an_answer_that_cannot_be_recorded_does_not_count() -> None:
    desk = Desk()
    await desk.approvals.seek(request(wait=0.0))
    desk.ledger.healthy = False
    with pytest.raises(LedgerError):
        await desk.approvals.answer(desk.only_id, ADMIN, approve=True)
    assert isinstance(await desk.approvals.seek(request(wait=0.0)), Pending)


async def test_the_queue_is_bounded_as_a_whole_and_for_each_principal() -> None:
    desk = Desk()
    for number in range(MAX_PER_PRINCIPAL):
        assert isinstance(await desk.approvals.seek(request(wait=0.0, n=number)), Pending)
    assert isinstance(await desk.approvals.seek(request(wait=0.0, n=-1)), Refused)
    for other in range(MAX_WAITING - MAX_PER_PRINCIPAL):
        await desk.approvals.seek(request(Principal(f"p{other}"), wait=0.0))
    assert len(desk.waiting) == MAX_WAITING
    assert isinstance(await desk.approvals.seek(request(LEAD, wait=0.0)), Refused)


async def test_a_gateway_that_ends_tells_those_who_wait_and_takes_no_more() -> None:
    desk = Desk()
    async with desk.seeking(request()) as answers:
        desk.approvals.close()
    assert [type(answer) for answer in answers] == [Expired]
    assert isinstance(await desk.approvals.seek(request()), Refused)


async def test_where_nobody_can_be_asked_a_call_is_refused_at_once() -> None:
    approvals, client = Approvals(MemoryLedger(), ManualClock()), AskedClient(True)
    for asked, prompt in (
        (request(), None),
        (request(by=("lead",)), client),
        (request(prompt=False), client),
    ):
        answer = await approvals.seek(asked, prompt)
        assert isinstance(answer, Refused)
        assert "nobody can be asked" in answer.reason
    assert client.asked == []


@pytest.mark.parametrize(("says", "kind"), [(True, Approved), (False, Refused)])
async def test_the_user_at_the_client_may_answer(says: bool, kind: type[Answer]) -> None:
    desk, client = Desk(), AskedClient(says)
    async with desk.seeking(request(), prompt=client) as answers:
        pass
    assert (len(client.asked), isinstance(answers[0], kind)) == (1, True)
    (record,) = desk.ledger.records
    assert "'bot'" in str(record["decision"])


@pytest.mark.parametrize("asked", [request(by=("lead",)), request(prompt=False)])
async def test_a_client_whose_answer_would_not_count_is_not_asked(asked: ApprovalRequest) -> None:
    desk, client = Desk(), AskedClient(True)
    async with desk.seeking(asked, prompt=client) as answers:
        await desk.approvals.answer(desk.only_id, ADMIN, approve=False)
    assert client.asked == []
    assert [type(answer) for answer in answers] == [Refused]


async def test_a_dialog_that_is_closed_leaves_the_call_in_the_queue() -> None:
    desk = Desk()
    async with desk.seeking(request(), prompt=AskedClient(None)) as answers:
        assert answers == []
        await desk.approvals.answer(desk.only_id, ADMIN, approve=True)
    assert [type(answer) for answer in answers] == [Approved]


async def test_a_dialog_that_is_closed_where_there_is_no_queue_ends_the_wait() -> None:
    approvals = Approvals(MemoryLedger(), ManualClock())
    with anyio.fail_after(5):
        assert isinstance(await approvals.seek(request(), AskedClient(None)), Pending)


async def test_a_client_that_answers_with_its_next_call_is_asked_and_not_waited_for() -> None:
    desk, client = Desk(), AskedClient(None, waits=False)
    with anyio.fail_after(5):
        assert await desk.approvals.seek(request(), client) == Pending(desk.only_id)
    approval = desk.only_id
    assert client.asked == [approval]
    assert await desk.approvals.seek(request(), AskedClient(True, waits=False)) == Approved(approval, "bot")


async def test_a_caller_that_leaves_keeps_its_place_and_nobody_waits() -> None:
    desk = Desk()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(desk.approvals.seek, request())
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    await desk.approvals.answer(desk.only_id, ADMIN, approve=True)
    assert isinstance(await desk.approvals.seek(request(wait=0.0)), Approved)
