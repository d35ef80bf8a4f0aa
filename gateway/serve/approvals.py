"""`/api/approvals`: what waits for a yes, and the answers. Translates; the queue says who may answer.

An answer is a POST of JSON (`StrictGate`), behind the same border as everything else: a page of another
origin can send neither.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.core.json_types import JsonValue
from gateway.core.strict_json import dumps
from gateway.errors import ClientError, LedgerError
from gateway.runtime.approvals import Approvals
from gateway.serve.gate import GateLimits, StrictGate, message_of
from gateway.serve.identity import principal_of
from gateway.serve.replies import client_error, problem

__all__ = ["approval_routes"]

_ANSWERS = {"approve": True, "deny": False}


def approval_routes(approvals: Approvals) -> list[BaseRoute]:
    """Return the routes, and tell the queue that it can be answered now."""
    approvals.expect_answers()
    http = _ApprovalsHttp(approvals)
    gated = [Middleware(StrictGate, limits=GateLimits(max_body=10_000))]
    return [
        Route("/api/approvals", http.listed),
        Route("/api/approvals/{approval}", http.answer, methods=["POST"], middleware=gated),
    ]


class _ApprovalsHttp:
    """The handlers."""

    def __init__(self, approvals: Approvals) -> None:
        self._approvals = approvals

    async def listed(self, request: Request) -> Response:
        return _json(list[JsonValue](self._approvals.listed(principal_of(request.scope))))

    async def answer(self, request: Request) -> Response:
        said = _decision(message_of(request.scope))
        if said is None:
            return problem(400, "bad_request", 'the body is {"decision": "approve"} or {"decision": "deny"}')
        principal, approval = principal_of(request.scope), request.path_params["approval"]
        try:
            return _json(await self._approvals.answer(approval, principal, approve=said))
        except ClientError as error:
            return client_error(error)
        except LedgerError as error:
            return problem(503, "audit_unavailable", str(error), {"Retry-After": "5"})


def _decision(body: JsonValue) -> bool | None:
    decision = body.get("decision") if isinstance(body, dict) and len(body) == 1 else None
    return _ANSWERS.get(decision) if isinstance(decision, str) else None


def _json(value: JsonValue) -> Response:
    return Response(dumps(value), headers={"Cache-Control": "no-store"}, media_type="application/json")
