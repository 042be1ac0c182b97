"""Every channel against its table: what comes in, what goes out, what is refused, what fails.

One runner for all. A channel is tried with the vendor's official SDK against a peer on loopback
(`vendors/`) that records and refuses as the vendor does; no secret may reach a log.
"""

import asyncio
import contextlib
import importlib
import io
import json
import logging
import pkgutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

import tests.channels.tables
from channels.message import Channel, TemporarySendError
from config.database import Database
from tests.channels.vendors import Status, Vendor
from tests.channels.world import (
    PUBLIC_URL,
    Incoming,
    Outgoing,
    RecordingInbox,
    Request,
    World,
    context,
    same,
)

TABLES: dict[str, ModuleType] = {
    module.name: importlib.import_module(f"tests.channels.tables.{module.name}")
    for module in pkgutil.iter_modules(tests.channels.tables.__path__)
}


def rows(kind: str) -> list[Any]:
    """The rows of all tables of a kind, each with its channel's name."""
    return [
        pytest.param(name, row, id=f"{name}: {row.label}")
        for name, table in TABLES.items()
        for row in getattr(table, kind, ())
    ]


def sends(row: Outgoing) -> bool:
    """Whether a row sends something that its vendor takes."""
    return row.error is None and not row.faults and bool(row.calls)


class Stage:
    """A channel with its vendor, an inbox that records, and the log of the program."""

    def __init__(self, world: World, vendor: Vendor, folder: Path, database: Database) -> None:
        self.world, self.vendor = world, vendor
        self.inbox = RecordingInbox()
        self.context = context(folder, self.inbox, database)
        self.channel: Channel = world.open(self.context, vendor)

    async def deliver(self, request: Request) -> httpx.Response:
        """Bring a request to the channel's routes over HTTP, or as `WORLD.deliver` does it."""
        deliver = getattr(self.world, "deliver", None)
        if deliver is not None:
            answer: httpx.Response = await deliver(self, request)
            return answer
        transport = httpx.ASGITransport(Starlette(routes=list(self.channel.routes())))
        async with httpx.AsyncClient(transport=transport, base_url=PUBLIC_URL) as http:
            return await http.request(
                request.method, request.path, content=request.body, headers=request.headers
            )


@pytest.fixture(scope="module")
def vendors() -> Iterator[dict[str, Vendor]]:
    """All vendors, running."""
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(table.WORLD.vendor())
            for name, table in TABLES.items()
            if hasattr(table, "WORLD")
        }


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'desk.sqlite3'}")
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Everything that is logged, at the most talkative level."""
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(lines))
    yield lines
    structlog.reset_defaults()
    root.removeHandler(handler)
    root.setLevel(level)


@contextlib.asynccontextmanager
async def staged(
    name: str, vendors: dict[str, Vendor], folder: Path, database: Database
) -> AsyncIterator[Stage]:
    vendor = vendors[name]
    vendor.calls.clear()
    vendor.faults.clear()
    stage = Stage(TABLES[name].WORLD, vendor, folder, database)
    async with stage.channel.lifespan():
        vendor.calls.clear()  # what a channel asks when it begins is not what is looked at
        yield stage


@pytest.mark.parametrize(("name", "row"), rows("INCOMING"))
async def test_incoming(
    name: str,
    row: Incoming,
    vendors: dict[str, Vendor],
    tmp_path: Path,
    database: Database,
    written: io.StringIO,
) -> None:
    request = row.request() if callable(row.request) else row.request
    async with staged(name, vendors, tmp_path, database) as stage:
        answer = await stage.deliver(request)
        assert answer.status_code == row.status, answer.text
        assert len(stage.inbox.messages) == len(row.messages), stage.inbox.messages
        for wanted, message in zip(row.messages, stage.inbox.messages, strict=True):
            assert same(wanted, message), f"{wanted} is not in {message}"
        notices = row.notices() if callable(row.notices) else row.notices
        assert list(stage.inbox.notices) == list(notices)
        if row.answer is not None:
            assert row.answer(answer), answer.text
        if row.messages:  # the same delivery again is the same message
            again = await stage.deliver(request)
            assert again.status_code == row.status
            assert len(stage.inbox.messages) == len(row.messages)
        nothing_leaked(stage, written)


@pytest.mark.parametrize(("name", "row"), rows("OUTGOING"))
async def test_outgoing(
    name: str,
    row: Outgoing,
    vendors: dict[str, Vendor],
    tmp_path: Path,
    database: Database,
    written: io.StringIO,
) -> None:
    async with staged(name, vendors, tmp_path, database) as stage:
        messages = list(row.messages)
        if row.files:
            kept = [await stage.context.media.keep(*file) for file in row.files]
            numbered = tuple(replace(one, id=n) for n, one in enumerate(kept, 1))
            messages[-1] = replace(messages[-1], attachments=numbered)
        stage.vendor.fail(*row.faults)
        if row.error is None:
            ids = await stage.channel.send(messages)
            assert len(ids) == len(messages)
            if row.ids is not None:
                assert list(ids) == list(row.ids)
        else:
            with pytest.raises(row.error) as raised:
                await stage.channel.send(messages)
            assert raised.type is row.error
        calls = list(stage.vendor.calls)
        assert len(calls) == len(row.calls), calls
        for call, check in zip(calls, row.calls, strict=True):
            assert check(call.method, call.path, stage.world.body(call.body)), call
        nothing_leaked(stage, written)


@pytest.mark.parametrize("name", [name for name, table in TABLES.items() if table.INCOMING])
async def test_a_message_that_cannot_be_kept_is_not_acknowledged(
    name: str, vendors: dict[str, Vendor], tmp_path: Path, database: Database
) -> None:
    """A full disk: the vendor must hear an error, so that it delivers again."""
    async with staged(name, vendors, tmp_path, database) as stage:
        stage.inbox.broken = OSError(28, "No space left on device")
        request = stage.world.hears("mai", "help", "k1")
        with contextlib.suppress(OSError):  # the program turns what is raised into a 500
            assert (await stage.deliver(request)).status_code >= 500
        stage.inbox.broken = None
        assert (await stage.deliver(request)).status_code < 300
        assert [message.text for message in stage.inbox.messages] == ["help"]


@pytest.mark.parametrize("name", [n for n, t in TABLES.items() if any(map(sends, t.OUTGOING))])
async def test_a_vendor_that_is_down_is_tried_again(
    name: str, vendors: dict[str, Vendor], tmp_path: Path, database: Database
) -> None:
    row = next(row for row in TABLES[name].OUTGOING if sends(row))
    async with staged(name, vendors, tmp_path, database) as stage:
        stage.vendor.always = Status(503)
        try:
            with pytest.raises(TemporarySendError):
                await stage.channel.send(list(row.messages))
        finally:
            stage.vendor.always = None


@pytest.mark.parametrize("name", [name for name, table in TABLES.items() if table.INCOMING])
async def test_checks_name_a_remedy_for_each_fault(
    name: str, vendors: dict[str, Vendor], tmp_path: Path, database: Database
) -> None:
    async with staged(name, vendors, tmp_path, database) as stage:
        for always in (None, Status(401), Status(503)):
            stage.vendor.always = always
            try:
                findings = await stage.channel.check()
            finally:
                stage.vendor.always = None
            assert findings
            assert all(finding.ok or finding.remedy for finding in findings), findings
            if always is not None:
                assert not all(finding.ok for finding in findings)


# -- rubbish ---------------------------------------------------------------------------------------

RUBBISH = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@st.composite
def spoilt(draw: st.DrawFn, payload: Any) -> Any:
    """A JSON payload in which some values are replaced, dropped or doubled."""
    if draw(st.integers(0, 9)) == 0:
        return draw(RUBBISH)
    if isinstance(payload, dict):
        kept = {
            key: draw(spoilt(value)) for key, value in payload.items() if draw(st.integers(0, 9))
        }
        return kept | (draw(st.dictionaries(st.text(max_size=5), RUBBISH, max_size=1)))
    if isinstance(payload, list):
        return [draw(spoilt(value)) for value in payload]
    return payload


FUZZED = [name for name, table in TABLES.items() if getattr(table, "PAYLOADS", None)]


@pytest.mark.parametrize("name", FUZZED)
async def test_no_payload_makes_a_fault_or_loses_its_neighbour(
    name: str, vendors: dict[str, Vendor], tmp_path: Path, database: Database
) -> None:
    """`PAYLOADS`: good JSON bodies. `WORLD.signed(payload)` gives the signed request, with a good
    message beside it where the vendor delivers several together, and that neighbour's text."""
    table = TABLES[name]
    async with staged(name, vendors, tmp_path, database) as stage:
        loop = asyncio.get_running_loop()

        @given(st.data())
        @settings(
            max_examples=150,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def fuzz(data: st.DataObject) -> None:
            payload = data.draw(spoilt(data.draw(st.sampled_from(table.PAYLOADS))))
            stage.inbox.messages.clear()
            stage.inbox.known.clear()
            request, neighbour = table.WORLD.signed(payload)
            answer = asyncio.run_coroutine_threadsafe(stage.deliver(request), loop).result(30)
            assert answer.status_code < 500, json.dumps(payload)
            if neighbour:
                assert neighbour in [m.text for m in stage.inbox.messages], json.dumps(payload)

        await asyncio.to_thread(fuzz)


def nothing_leaked(stage: Stage, written: io.StringIO) -> None:
    """No secret, no word and no address of a worker is in the log."""
    log = written.getvalue()
    addresses = [message.address for message in stage.inbox.messages]
    words = [message.text for message in stage.inbox.messages if len(message.text) > 8]
    for secret in (*stage.world.secrets, *addresses, *words):
        assert not secret or secret not in log, f"{secret!r} is in the log"
