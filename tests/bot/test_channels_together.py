"""What concerns all channels at once: the inbox, the page behind a joining code, the commands."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.applications import Starlette

from bot.app import Inbox
from bot.link_page import link_page
from channels.log import Message
from channels.media import MediaStore
from channels.message import InboundMessage, Receipt
from config.database import Database
from config.settings import ROOT
from tests.bot.working import LOADED
from tests.stories.peer import Peer


@pytest.fixture
def store(tmp_path: Path) -> MediaStore:
    return MediaStore(tmp_path / "media", 1000, "https://desk.example.org")


def nobody(_session: Session, _conversation: int) -> None:
    raise AssertionError("nothing was lost")


async def test_the_files_of_a_redelivery_are_not_kept_twice(
    database: Database, store: MediaStore
) -> None:
    inbox = Inbox(database, store, nobody)
    for duplicate in (False, True):
        file = await store.keep("a.txt", b"words")
        message = InboundMessage("peer", "m1", "mai", "", attachments=(file,), kind="file")
        assert (await inbox.accept(message)).duplicate is duplicate
    assert len([path for path in store.folder.rglob("*") if path.is_file()]) == 1


async def test_a_receipt_of_lost_words_is_told_to_the_desk_once(
    database: Database, store: MediaStore
) -> None:
    lost: list[int] = []

    def undelivered(_: Session, conversation: int) -> None:
        lost.append(conversation)

    inbox = Inbox(database, store, undelivered)
    await inbox.accept(InboundMessage("peer", "m1", "mai", "hello"))

    def reply(session: Session) -> int:
        heard = session.scalars(select(Message)).one()
        row = Message(
            conversation_id=heard.conversation_id,
            author="counsellor",
            state="sent",
            body="Hello",
            staff_id=7,
            created_at=heard.created_at,
        )
        session.add(row)
        session.flush()
        return row.id

    number = database.write_now(reply)
    for _ in range(2):
        await inbox.note(Receipt("peer", "failed", key=f"{number}/1", reason="30003"))
    assert lost == [1]


@pytest.mark.parametrize(
    ("path", "language", "status", "words"),
    [
        ("/link/12345678", "vi-VN,vi;q=0.9", 200, "1234 5678"),
        ("/link/12345678", "fil", 200, "Magpatuloy"),
        ("/link/12345678", "xx", 200, "Go on here"),
        ("/link/1234567", "en", 404, ""),
        ("/link/<script>", "en", 404, ""),
        ("/link/१२३४५६७८", "en", 404, ""),
    ],
)
async def test_the_page_behind_a_code(path: str, language: str, status: int, words: str) -> None:
    channels: dict[str, Any] = {"line": Peer(), "sms": Peer()}
    route = link_page(channels, lambda: LOADED.content.texts, "https://desk.example.org")
    transport = httpx.ASGITransport(Starlette(routes=[route]))
    async with httpx.AsyncClient(transport=transport, base_url="https://desk.test") as http:
        answer = await http.get(path, headers={"accept-language": language})
    assert answer.status_code == status
    assert words in answer.text
    if status == 200:
        assert re.findall(r'href="(peer:[^"]*)"', answer.text) == ["peer:12345678"] * 2
        assert "<svg" in answer.text
        assert "<script" not in answer.text


def command(tmp_path: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "BOT_DATA_DIR": str(tmp_path), **settings}
    return subprocess.run(
        [sys.executable, "-m", "bot", "channels", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=120,
        check=False,
    )


def test_a_channel_that_is_not_set_up_is_named(tmp_path: Path) -> None:
    ran = command(tmp_path, "check", "fax")
    assert ran.returncode == 1
    assert "fax" in ran.stderr
    assert "webchat, email" in ran.stderr
