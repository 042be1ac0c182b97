"""Files of messages: kept, told by their bytes, fetched until they are here, erased for good."""

import asyncio
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update
from starlette.applications import Starlette

from channels.log import Conversation, Message, accept, erase
from channels.media import (
    MOST_ATTEMPTS,
    Media,
    MediaFetcher,
    MediaStore,
    file_name,
    find,
    sniff,
)
from channels.message import (
    Attachment,
    InboundMessage,
    RefusedError,
    RejectedError,
    TemporarySendError,
)
from config.database import Database, now
from tests.stories.peer import Peer

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 64


@pytest.fixture
def store(tmp_path: Path) -> MediaStore:
    return MediaStore(tmp_path / "media", 1000, "https://desk.example.org")


class Holding(Peer):
    """A vendor that holds files; `answers` are what it gives to the next calls."""

    def __init__(self, *answers: tuple[str, bytes] | Exception) -> None:
        super().__init__()
        self.answers = list(answers)
        self.asked: list[str] = []

    async def fetch(self, source: str) -> tuple[str, bytes]:
        self.asked.append(source)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def heard(database: Database, *files: Attachment) -> None:
    message = InboundMessage("peer", "m1", "mai", "", kind="file", attachments=files)
    database.write_now(accept, message)


def rows(database: Database) -> list[Media]:
    return database.write_now(lambda s: list(s.scalars(select(Media).order_by(Media.id))))


async def fetch_all(database: Database, store: MediaStore, peer: Holding) -> None:
    """Let the fetcher work until nothing is due, pauses being over at once."""
    fetcher = MediaFetcher(database, store, {"peer": peer})
    task = asyncio.create_task(fetcher.run())
    try:
        async with asyncio.timeout(60):
            while any(row.due_at for row in rows(database)):
                stamp = database.write_now(now)
                late = stamp - timedelta(seconds=1)
                later = update(Media).where(Media.due_at > stamp).values(due_at=late)
                if peer.answers or any(row.erased for row in rows(database)):
                    database.write_now(lambda s, later=later: s.execute(later))
                fetcher.wake()
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def on_disk(store: MediaStore) -> list[Path]:
    return [path for path in store.folder.rglob("*") if path.is_file()]


# -- keeping ---------------------------------------------------------------------------------------


async def test_a_file_is_kept_encrypted_and_read_again(store: MediaStore) -> None:
    kept = await store.keep("payslip.png", PNG)
    assert (kept.name, kept.media_type, kept.size) == ("payslip.png", "image/png", len(PNG))
    [path] = on_disk(store)
    assert PNG not in path.read_bytes()
    assert await store.read(kept.file) == PNG
    store.remove([kept.file])
    with pytest.raises(FileNotFoundError):
        await store.read(kept.file)


async def test_what_is_too_big_or_finds_no_room_leaves_nothing(
    store: MediaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RefusedError):
        await store.keep("big", b"0" * 1001)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        await store.keep("a", b"0")
    assert on_disk(store) == []


@pytest.mark.parametrize("file", ["", "..", "../../etc/passwd", "/etc/passwd", "a" * 31, "A" * 32])
async def test_no_other_file_is_read(store: MediaStore, file: str) -> None:
    with pytest.raises(FileNotFoundError):
        await store.read(file)


KINDS: list[tuple[bytes, str]] = [
    (PNG, "image/png"),
    (b"\xff\xd8\xff\xe0\x00\x10JFIF" + b"0" * 20, "image/jpeg"),
    (b"RIFF\x00\x00\x00\x00WAVEfmt ", "audio/wav"),
    (b"OggS" + b"\0" * 30, "audio/ogg"),
    (b"#!AMR\n123", "audio/amr"),
    (b"%PDF-1.4\n", "application/pdf"),
    (b"<html><script>", "text/html"),
    (b"hello", "text/plain"),
    ("給料明細".encode(), "text/plain"),
    (b"", "text/plain"),
    (b"\xff\x00\xfe\x80rubbish", "application/octet-stream"),
]


@pytest.mark.parametrize(("data", "kind"), KINDS, ids=[row[1] for row in KINDS])
def test_bytes_tell_what_a_file_is(data: bytes, kind: str) -> None:
    assert sniff(data) == kind


NAMES: list[tuple[str, str]] = [
    ("payslip.pdf", "payslip.pdf"),
    ("../../etc/passwd", "passwd"),
    ("C:\\Users\\mai\\給料.pdf", "給料.pdf"),
    ("evil\u202egpj.exe", "evilgpj.exe"),
    ("a\r\nSet-Cookie: x.png", "aSet-Cookie: x.png"),
    ("", "file.jpeg"),
    ("...", "file.jpeg"),
    ("x" * 300 + ".pdf", "x" * 90 + ".pdf"),
]


@pytest.mark.parametrize(("given_name", "name"), NAMES)
def test_names_are_made_harmless(given_name: str, name: str) -> None:
    assert file_name(given_name, "image/jpeg") == name


@given(st.text(max_size=400))
def test_no_name_is_empty_or_long(name: str) -> None:
    made = file_name(name, "image/jpeg")
    assert 0 < len(made) <= 100
    assert "/" not in made


# -- fetching --------------------------------------------------------------------------------------

WANTED = Attachment("photo", "", source="vendor:7")


async def test_what_the_vendor_holds_is_fetched(database: Database, store: MediaStore) -> None:
    heard(database, WANTED)
    peer = Holding(TemporarySendError("down"), ValueError("a fault"), ("x.png", PNG))
    await fetch_all(database, store, peer)
    [row] = rows(database)
    assert (row.media_type, row.size, row.error, row.attempts) == ("image/png", len(PNG), "", 3)
    assert await store.read(row.file) == PNG
    assert peer.asked == ["vendor:7"] * 3


GONE: list[tuple[str, Sequence[tuple[str, bytes] | Exception], str]] = [
    ("gone at the vendor", [RejectedError("gone")], "gone"),
    ("too big", [("x", b"0" * 2000)], "too big: at most 0 MB"),
    ("never reachable", [TemporarySendError("down")] * MOST_ATTEMPTS, "down"),
    ("a fault of ours", [KeyError("secret")] * MOST_ATTEMPTS, "KeyError"),
]


@pytest.mark.parametrize(("answers", "error"), [r[1:] for r in GONE], ids=[r[0] for r in GONE])
async def test_a_file_that_does_not_come_says_why(
    database: Database,
    store: MediaStore,
    answers: Sequence[tuple[str, bytes] | Exception],
    error: str,
) -> None:
    heard(database, WANTED)
    await fetch_all(database, store, Holding(*answers))
    [row] = rows(database)
    assert (row.file, row.error, row.due_at) == ("", error, None)
    assert on_disk(store) == []


async def test_erasing_removes_the_bytes(database: Database, store: MediaStore) -> None:
    kept = await store.keep("payslip.png", PNG)
    heard(database, kept, WANTED)
    database.write_now(erase, 1)
    assert database.write_now(find, 1) is None, "at once, not only when the bytes are gone"
    await fetch_all(database, store, Holding())
    assert rows(database) == []
    assert on_disk(store) == []


async def test_a_file_that_arrives_after_the_erasure_is_not_kept(
    database: Database, store: MediaStore
) -> None:
    heard(database, WANTED)

    class Late(Holding):
        async def fetch(self, source: str) -> tuple[str, bytes]:
            if self.answers:
                database.write_now(erase, 1)
            return await super().fetch(source)

    await fetch_all(database, store, Late(("x.png", PNG)))
    assert rows(database) == []
    assert on_disk(store) == []


async def test_what_belongs_to_no_message_is_put_aside_and_later_removed(
    database: Database, store: MediaStore
) -> None:
    """The desk died between keeping a file and writing its message down."""
    kept, orphan, fresh = [await store.keep(name, PNG) for name in ("a", "b", "c")]
    heard(database, kept)
    yesterday = time.time() - 90_000
    for path in on_disk(store):
        if path.name != fresh.file:
            os.utime(path, (yesterday, yesterday))
    await MediaFetcher(database, store, {}).tidy()
    places = {path.name: path.parent.name for path in on_disk(store)}
    assert places == {
        kept.file: kept.file[:2],
        fresh.file: fresh.file[:2],
        orphan.file: "orphans",
    }
    assert await store.read(orphan.file) == PNG, "should the database be the wrong one"
    month_ago = time.time() - 31 * 86_400
    os.utime(store.folder / "orphans" / orphan.file, (month_ago, month_ago))
    await MediaFetcher(database, store, {}).tidy()
    assert orphan.file not in {path.name for path in on_disk(store)}


# -- links -----------------------------------------------------------------------------------------


async def test_a_link_opens_its_file_and_no_other(database: Database, store: MediaStore) -> None:
    kept = await store.keep("form.html", b"<html><script>alert(1)</script>")
    heard(database, kept)
    found = database.write_now(find, 1)
    assert found is not None
    link = store.link(found)
    transport = httpx.ASGITransport(Starlette(routes=list(store.routes(database))))
    async with httpx.AsyncClient(transport=transport) as http:
        good = await http.get(link)
        assert good.content == b"<html><script>alert(1)</script>"
        assert good.headers["content-disposition"].startswith("attachment")
        assert good.headers["content-type"] == "application/octet-stream"
        assert (await http.get(link[:-1])).status_code == 404
        assert (await http.get("https://desk.example.org/files/1")).status_code == 404
        database.write_now(erase, 1)
        assert (await http.get(link)).status_code == 404


def test_the_log_counts_files(database: Database) -> None:
    heard(database, WANTED, WANTED)
    [message] = database.write_now(lambda s: list(s.scalars(select(Message))))
    [conversation] = database.write_now(lambda s: list(s.scalars(select(Conversation))))
    assert (message.files, message.kind) == (2, "file")
    assert {row.conversation_id for row in rows(database)} == {conversation.id}
