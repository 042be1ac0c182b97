"""The vendors in tests: a real HTTP server on loopback that the official SDKs talk to.

It records what it takes, refuses what the vendor would refuse, and fails as it is told to.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.stories.running import free_port


@dataclass(frozen=True)
class Status:
    """The vendor answers this instead of doing anything."""

    code: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"


@dataclass(frozen=True)
class Slow:
    """The vendor does it, and answers only after so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Cut:
    """The vendor does it, and the connection breaks before its answer has arrived."""


Fault = Status | Slow | Cut


@dataclass(frozen=True)
class Call:
    """A call that reached the vendor; `status` is what it answered."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    status: int


class Vendor:
    """A vendor's API. `routes` do what the vendor does; calls meet `faults` first, in order.

    `always`: a fault for all calls, until it is taken away. `calls` is everything that came.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self.port = free_port()
        self.calls: list[Call] = []
        self.faults: list[Fault | None] = []
        self.always: Fault | None = None
        self._app: ASGIApp = Starlette(routes=list(routes))
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fail(self, *faults: Fault | None) -> None:
        """Let the next calls meet these faults, in order; None: this one is well."""
        self.faults += faults

    # -- up and down --------------------------------------------------------------------------

    def start(self) -> None:
        """Be reachable (again)."""
        config = uvicorn.Config(
            self,
            host="127.0.0.1",
            port=self.port,
            log_config=None,
            access_log=False,  # the vendor's log is not the desk's, where addresses are looked for
        )
        self._server = server = uvicorn.Server(config)
        self._thread = threading.Thread(target=server.run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < deadline, "the vendor's peer did not start"
            time.sleep(0.01)

    def stop(self) -> None:
        """Be unreachable: connections are refused. What was recorded stays."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join(20)
            self._server = self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- a call -------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        body = await request.body()
        fault = self.faults.pop(0) if self.faults else self.always
        sent: list[Message] = []
        if isinstance(fault, Status):
            answer = Response(fault.body, fault.code, fault.headers, "application/json")
            await answer(scope, receive, _into(sent))
        else:

            async def again() -> Message:
                return {"type": "http.request", "body": body, "more_body": False}

            with contextlib.suppress(Exception):
                await self._app(scope, again, _into(sent))
        status = sent[0]["status"] if sent else 500
        self.calls.append(
            Call(
                request.method,
                request.url.path,
                request.url.query,
                dict(request.headers),
                body,
                status,
            )
        )
        if isinstance(fault, Slow):
            await asyncio.sleep(fault.seconds)
        if isinstance(fault, Cut):  # a body shorter than promised: the connection is dropped
            headers = [(b"content-length", b"1000000")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            raise ConnectionAbortedError("cut")
        for message in sent:
            await send(message)


def _into(sent: list[Message]) -> Any:
    async def keep(message: Message) -> None:
        sent.append(message)

    return keep
