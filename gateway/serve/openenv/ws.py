"""`/ws`: one connection, one episode session, one answer per frame. Translates, decides nothing.

Whatever a client sends, it is told what was wrong with it: a frame that cannot be understood leaves
the session as it was, and where the session cannot go on, the reason is sent before the close.
`gateway.serve.openenv.wire` has the frames, `gateway.serve.openenv.rpc` what an `mcp` frame may ask.
"""

from __future__ import annotations

from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.core.json_types import JsonObject
from gateway.core.strict_json import JsonLimits
from gateway.errors import ClientError, SandgateError, TooManySessions
from gateway.runtime.episodes import Episodes, EpisodeSession
from gateway.serve.openenv.lobby import Inbox, Lobby
from gateway.serve.openenv.rpc import RpcDialect
from gateway.serve.openenv.wire import (
    Close,
    ErrorCode,
    Frame,
    Mcp,
    Reset,
    Step,
    WireError,
    error_frame,
    frame_text,
    mcp_frame,
    observation_frame,
    parse_frame,
    state_frame,
)

__all__ = ["EnvSocket"]

_TRY_AGAIN_LATER = 1013
_INTERNAL_ERROR = 1011
_POLICY_VIOLATION = 1008
_MAX_REASON = 120
"""Bytes of a close reason that surely fit its frame."""


class _Over(Exception):
    """The conversation ends: `frame` was sent, the connection closes with `code`."""

    def __init__(self, error: SandgateError, frame: JsonObject, code: int) -> None:
        self.frame, self.code = frame, code
        super().__init__(str(error))


class EnvSocket:
    """The WebSocket endpoint of one pack."""

    def __init__(self, episodes: Episodes, pack: str, limits: JsonLimits) -> None:
        self._lobby = Lobby(episodes, pack)
        self._rpc = RpcDialect(episodes, pack)
        self._limits = limits

    async def serve(self, socket: WebSocket) -> None:
        """Talk until either side ends it. `?session_id=` attaches to an open session of this principal."""
        await socket.accept()
        try:
            await self._hold(Inbox(socket))
        except WebSocketDisconnect:
            return
        except _Over as over:
            with suppress(WebSocketDisconnect):
                await _say(socket, over.frame)
                await socket.close(over.code, _reason(str(over)))
        except Exception:
            data: JsonObject = {"message": "internal error", "code": ErrorCode.SESSION_ERROR.value}
            with suppress(WebSocketDisconnect):
                await _say(socket, {"type": "error", "data": data})
                await socket.close(_INTERNAL_ERROR, "internal error")
            raise  # for the server to log

    async def _hold(self, inbox: Inbox) -> None:
        try:
            async with self._lobby.session(inbox) as session:
                await self._converse(inbox, session)
        except ClientError as error:
            # Of the holding only: what happens in the conversation is answered there.
            raise _refused(error) from None
        with suppress(WebSocketDisconnect):
            await inbox.socket.close()

    async def _converse(self, inbox: Inbox, session: EpisodeSession) -> None:
        while True:
            try:
                frame = parse_frame(await _next_text(inbox), self._limits)
                if isinstance(frame, Close):
                    return
                answer = await self._answer(session, frame)
            except SandgateError as error:
                told, fatal = error_frame(error)
                if fatal:
                    raise _Over(error, told, _close_code(error)) from None
                answer = frame_text(told)
            await inbox.socket.send_text(answer)

    async def _answer(self, session: EpisodeSession, frame: Frame) -> str:
        match frame:
            case Reset(wanted):
                return observation_frame(await session.reset(wanted))
            case Step(action):
                return observation_frame(await session.step(action))
            case Mcp(message):
                return frame_text(mcp_frame(await self._rpc.answer(message, session.principal, session)))
            case _:
                return frame_text(state_frame(await session.state()))


async def _next_text(inbox: Inbox) -> str:
    text = await inbox.text()
    if text is None:
        raise WireError(ErrorCode.INVALID_JSON, "frames are JSON text; this one is binary")
    return text


async def _say(socket: WebSocket, frame: JsonObject) -> None:
    await socket.send_text(frame_text(frame))


def _refused(error: ClientError) -> _Over:
    """Return how a connection that gets no session is told."""
    if isinstance(error, TooManySessions):
        return _Over(error, error_frame(error)[0], _TRY_AGAIN_LATER)
    data: JsonObject = {"message": str(error), "code": ErrorCode.SESSION_ERROR.value}
    return _Over(error, {"type": "error", "data": data}, _POLICY_VIOLATION)


def _close_code(error: SandgateError) -> int:
    return _TRY_AGAIN_LATER if isinstance(error, TooManySessions) else _INTERNAL_ERROR


def _reason(message: str) -> str:
    return message.encode()[:_MAX_REASON].decode("utf-8", "ignore")
