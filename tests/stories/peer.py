"""The world outside in tests: a vendor that can fail, and a mail relay that remembers."""

import asyncio
import email.policy
import threading
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any, ClassVar, Self

from aiosmtpd.controller import Controller
from starlette.routing import BaseRoute

from channels.message import Finding, Limits, OutboundMessage, RejectedError
from tests.stories.running import free_port


class Peer:
    """A channel that records what is sent; its first calls end as `failures` say (None: well)."""

    name: ClassVar[str] = "peer"

    def __init__(
        self, *failures: Exception | None, buttons: int = 20, chars: int = 10_000, group: int = 5
    ) -> None:
        self.limits = Limits(chars, buttons, group)
        self.failures = list(failures)
        self.calls: list[list[OutboundMessage]] = []
        self.typing: list[str] = []

    def routes(self) -> Sequence[BaseRoute]:
        return []

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def send(self, messages: Sequence[OutboundMessage]) -> Sequence[str]:
        if self.failures and (failure := self.failures.pop(0)):
            raise failure
        self.calls.append(list(messages))
        return [f"vendor {message.key}" for message in messages]

    async def busy(self, address: str, _thread: dict[str, Any]) -> None:
        self.typing.append(address)

    async def fetch(self, _source: str) -> tuple[str, bytes]:
        raise RejectedError("nothing is held here")

    def entrance(self, words: str) -> str:
        return f"peer:{words}"

    async def check(self) -> list[Finding]:
        return []

    async def setup(self) -> list[Finding]:
        return []

    @property
    def sent(self) -> list[OutboundMessage]:
        return [message for call in self.calls for message in call]

    @property
    def said(self) -> list[str]:
        return [message.text for message in self.sent]


class Relay:
    """A real SMTP server that keeps every mail it has taken, in order.

    It says so only after `slow` seconds: whoever dies meanwhile does not know that it was taken.
    """

    def __init__(self, slow: float = 0) -> None:
        self.slow = slow
        self.mails: list[EmailMessage] = []
        self.address = f"127.0.0.1:{free_port()}"
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        host, _, port = self.address.partition(":")
        self._server = Controller(self, hostname=host, port=int(port))
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        mail = BytesParser(policy=email.policy.default).parsebytes(envelope.content)
        assert isinstance(mail, EmailMessage)
        with self._lock:
            self.mails.append(mail)
        await asyncio.sleep(self.slow)
        return "250 OK"
