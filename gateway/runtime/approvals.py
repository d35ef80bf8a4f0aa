"""The approval queue: calls that wait for somebody's yes. Bounded, in memory; answers are in the ledger.

An approval is for one run of exactly what was shown. It is pending until answered, spent by the call
that runs on it, and void once its time is over or the gateway ends. Judges no call.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import anyio

from gateway.core.approvals import DICE, ApprovalRequest, Drawn
from gateway.core.calls import Principal, Role
from gateway.core.events import Approved, Expired, Pending, Refused
from gateway.core.json_types import JsonObject
from gateway.core.records import approval_record
from gateway.errors import AlreadyAnswered, LedgerError, NotApprover, UnknownApproval
from gateway.runtime.clock import Clock
from gateway.runtime.ledger import Ledger

__all__ = ["MAX_PER_PRINCIPAL", "MAX_WAITING", "Answer", "Approval", "Approvals", "Prompt"]

logger = logging.getLogger(__name__)

MAX_WAITING = 256
"""Approvals kept at a time, answered ones included."""
MAX_PER_PRINCIPAL = 32

Answer = Approved | Refused | Expired | Pending


@dataclass(slots=True, eq=False)
class Approval:
    """One approval and its answer (`None`: pending). Times in unix seconds; `until` is monotonic."""

    id: str
    request: ApprovalRequest
    created: float
    expires: float
    until: float
    approved: bool | None = None
    by: str = ""
    spent: bool = False
    claimed: bool = False
    answered: anyio.Event = field(default_factory=anyio.Event)

    def shown(self) -> JsonObject:
        """Return what `/api/approvals` shows."""
        request = self.request
        state = {None: "pending", True: "approved", False: "denied"}[self.approved]
        return {
            "id": self.id,
            "state": state,
            "principal": request.principal.name,
            "pack": request.ids.pack,
            "tool": f"{request.tool.server}.{request.tool.tool}",
            "arguments": request.arguments,
            "arguments_sha256": request.arguments_sha256,
            "rule": request.decision.rule,
            "reason": request.decision.reason,
            "created": self.created,
            "expires": self.expires,
        }

    def event(self, now: float) -> Answer:
        """Return what a call that waits for it is told at `now` (monotonic seconds)."""
        if now >= self.until:
            return Expired(f"{self.id} ran out before the call could run: call again to ask anew")
        if self.approved is None:
            return Pending(self.id)
        return Approved(self.id, self.by) if self.approved else Refused(f"{self.by!r} denied {self.id}")


class Prompt(Protocol):
    """Puts an approval to whoever sits at the client that called.

    `waits`: the call waits for the answer. Otherwise it ends as pending where `ask` has no answer yet: the
    same call made again may bring it.
    """

    @property
    def waits(self) -> bool:
        """Whether `ask` takes as long as the answer does."""
        ...

    async def ask(self, approval: Approval) -> bool | None:
        """Return yes or no; `None` where there was no answer, or none yet."""
        ...


class Approvals:
    """The approvals of one gateway."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._by_id: dict[str, Approval] = {}
        self._by_binding: dict[str, Approval] = {}
        self._closed = False
        self._answerable = False

    # -- for calls

    async def seek(self, request: ApprovalRequest, prompt: Prompt | None = None) -> Answer:
        """Return the answer for a call, within its rule's `wait`; an approval that is returned is spent."""
        if (drawn := request.terms.drawn) is not None:
            return await self._record_drawn(request, drawn)
        if not self._answerable and (prompt is None or not _may_prompt(request)):
            return Refused("nobody can be asked: this gateway has no queue that somebody could answer")
        approval = self._join(request)
        with anyio.move_on_after(request.terms.wait):
            while isinstance(approval, Approval):
                await self._answer_of(approval, prompt)
                if not approval.spent:
                    break
                approval = self._join(request)  # another call ran on it: this one needs its own
        if isinstance(approval, Approval) and approval.spent:
            approval = self._join(request)
        return self._take(approval)

    async def _record_drawn(self, request: ApprovalRequest, drawn: Drawn) -> Answer:
        """Return what dice say, once that is durable: a training policy has them answer at once."""
        try:
            with anyio.CancelScope(shield=True):
                await self._record(request, drawn.id, DICE, approve=drawn.approve)
        except LedgerError as error:
            return Refused(str(error))
        return Approved(drawn.id, DICE) if drawn.approve else Refused(f"the {DICE} denied {drawn.id}")

    def _join(self, request: ApprovalRequest) -> Approval | Refused:
        """Return the approval that is bound to this very call, made if there is none."""
        self._drop_expired()
        approval = self._by_binding.get(request.binding)
        if approval is not None:
            return approval
        if self._closed:
            return Refused("the gateway is shutting down: nobody is asked any more")
        own = sum(other.request.principal.name == request.principal.name for other in self._by_id.values())
        if own >= MAX_PER_PRINCIPAL or len(self._by_id) >= MAX_WAITING:
            return Refused("too many calls wait for an approval: have those answered first")
        return self._add(request)

    def _add(self, request: ApprovalRequest) -> Approval:
        now, ttl = self._clock.now(), request.terms.ttl
        approval = Approval(
            id="appr_" + secrets.token_hex(8),
            request=request,
            created=now,
            expires=now + ttl,
            until=self._clock.monotonic() + ttl,
        )
        self._by_id[approval.id] = self._by_binding[request.binding] = approval
        return approval

    async def _answer_of(self, approval: Approval, prompt: Prompt | None) -> None:
        """Return once it is answered, or its time is over, or whoever was asked answers later."""
        left = max(0.0, approval.until - self._clock.monotonic())
        with anyio.move_on_after(left):
            if prompt is None or approval.approved is not None or not _may_prompt(approval.request):
                await approval.answered.wait()
            elif prompt.waits:
                await self._prompted(approval, prompt)
            elif (said := await prompt.ask(approval)) is not None:
                await self._settle_own(approval, approve=said)

    async def _prompted(self, approval: Approval, prompt: Prompt) -> None:
        """Ask the client; an answer from elsewhere counts as well, the first one decides."""
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                said = await prompt.ask(approval)
                if said is not None:
                    await self._settle_own(approval, approve=said)
                elif not self._answerable:
                    tasks.cancel_scope.cancel()

            tasks.start_soon(ask)
            await approval.answered.wait()
            tasks.cancel_scope.cancel()

    def _take(self, approval: Approval | Refused) -> Answer:
        if isinstance(approval, Refused):
            return approval
        answer = approval.event(self._clock.monotonic())
        if isinstance(answer, Approved):
            approval.spent = True
        if not isinstance(answer, Pending | Refused):
            self._forget(approval)
        return answer

    # -- for those who answer

    def expect_answers(self) -> None:
        """Take note that somebody can reach `answer`; before, only a calling client's user can be asked."""
        self._answerable = True

    def listed(self, viewer: Principal) -> list[JsonObject]:
        """Return what waits for an answer and is for this principal to see, oldest first."""
        self._drop_expired()
        return [
            entry.shown() for entry in self._by_id.values() if entry.approved is None and _sees(viewer, entry)
        ]

    @property
    def waiting(self) -> int:
        """How many wait for an answer."""
        now = self._clock.monotonic()
        return sum(entry.approved is None and now < entry.until for entry in self._by_id.values())

    async def answer(self, approval_id: str, principal: Principal, *, approve: bool) -> JsonObject:
        """Decide; returns the approval once that is durable.

        Raises `UnknownApproval`, `NotApprover`, `AlreadyAnswered`, or `LedgerError`: then it is not decided.
        """
        self._drop_expired()
        approval = self._by_id.get(approval_id)
        if approval is None or not _sees(principal, approval):
            raise UnknownApproval(approval_id)
        caller = approval.request.principal
        if principal.name == caller.name and not approval.request.terms.counts_from_caller(principal):
            raise NotApprover
        if approval.approved is not None or approval.claimed:
            raise AlreadyAnswered(approval.id)
        await self._settle(approval, principal.name, approve=approve)
        return approval.shown()

    async def _settle_own(self, approval: Approval, *, approve: bool) -> None:
        if approval.approved is not None or approval.claimed:
            return
        try:
            await self._settle(approval, approval.request.principal.name, approve=approve)
        except LedgerError as error:
            logger.warning("the answer to approval %s does not count: %s", approval.id, error)

    async def _settle(self, approval: Approval, by: str, *, approve: bool) -> None:
        request = approval.request
        approval.claimed = True  # no second answer while the first is on its way to the disk
        try:
            with anyio.CancelScope(shield=True):
                await self._record(request, approval.id, by, approve=approve)
                approval.approved, approval.by = approve, by
                approval.answered.set()
        finally:
            approval.claimed = False

    async def _record(self, request: ApprovalRequest, approval: str, by: str, *, approve: bool) -> None:
        verdict = request.verdict(approval, by, approved=approve)
        await self._ledger.append(
            approval_record(call=request.call, verdict=verdict, ids=request.ids, tool=request.tool)
        )

    # -- lifetime

    def close(self) -> None:
        """Void every approval; calls that wait are told at once."""
        self._closed = True
        for approval in list(self._by_id.values()):
            approval.until = self._clock.monotonic()
            approval.answered.set()
            self._forget(approval)

    def _drop_expired(self) -> None:
        for approval in list(self._expired(self._clock.monotonic())):
            self._forget(approval)

    def _expired(self, now: float) -> Iterator[Approval]:
        return (approval for approval in self._by_id.values() if now >= approval.until)

    def _forget(self, approval: Approval) -> None:
        self._by_id.pop(approval.id, None)
        if self._by_binding.get(approval.request.binding) is approval:
            del self._by_binding[approval.request.binding]


def _sees(principal: Principal, approval: Approval) -> bool:
    return Role.ADMIN in principal.roles or approval.request.terms.names(principal)


def _may_prompt(request: ApprovalRequest) -> bool:
    return request.terms.prompt and request.terms.counts_from_caller(request.principal)
