"""Canaries: who she is and what she wrote is found nowhere but with those who may read it."""

import smtplib
import sqlite3
import time
from email.message import EmailMessage
from pathlib import Path

import httpx

from tests.stories.running import Chat, RunningDesk, free_port

WORDS = "kanarie-one-words my wages are not paid by Mister Sato"
SECRETS = {
    "words": b"kanarie-one",
    "mail address": b"kanarie-two",
    "name": b"Kanarie-Three",
    "subject": b"kanarie-four",
    "message id": b"kanarie-five",
}


def test_nothing_personal_in_logs_metrics_or_the_raw_database(tmp_path: Path) -> None:
    settings = {"BOT_LOG_LEVEL": "debug", "BOT_SMTP_RELAY": f"127.0.0.1:{free_port()}"}
    with RunningDesk(tmp_path / "desk", settings) as desk:
        chat = Chat(desk)
        token = chat.http.headers["authorization"].removeprefix("Bearer ").encode()
        chat.ask(WORDS)
        chat.ask("human kanarie-one")
        chat.http.post("/chat/messages", content=b'{"text": "kanarie-one"')
        mail = EmailMessage()
        mail["From"] = "Kanarie-Three <kanarie-two@example.org>"
        mail["To"] = "desk@localhost"
        mail["Subject"] = "kanarie-four"
        mail["Message-ID"] = "<kanarie-five@example.org>"
        mail.set_content("I want to die. kanarie-one")
        with smtplib.SMTP("127.0.0.1", desk.smtp_port) as client:
            client.send_message(mail)
        with smtplib.SMTP("127.0.0.1", desk.smtp_port) as client:
            client.sendmail("kanarie-two@example.org", "desk@localhost", b"\xff kanarie-one")
        _until_sending_failed(desk)  # the relay is not there: that, too, must be logged without her
        metrics = httpx.get(f"{desk.url}/metrics", trust_env=False).content
        places = {"metrics": metrics}
        for path in desk.data_dir.rglob("*"):
            if path.is_file() and path.name != "data.key":
                places[path.name] = path.read_bytes()
    places |= {path.name: path.read_bytes() for path in [desk.output, desk.data_dir / "data.key"]}
    assert b"reply_delayed" in places["output.txt"]
    assert len(places["desk.sqlite3"]) + len(places.get("desk.sqlite3-wal", b"")) > 100_000
    found = [
        f"{what} in {place}"
        for place, content in places.items()
        for what, secret in {**SECRETS, "token": token}.items()
        if secret in content
    ]
    assert not found


def _until_sending_failed(desk: RunningDesk) -> None:
    deadline = time.monotonic() + 30
    while b"reply_delayed" not in desk.output.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_erasing_leaves_the_count_and_nothing_else(tmp_path: Path) -> None:
    """`delete my data`: words and address go, also from the file; the rows stay, to be counted."""
    with RunningDesk(tmp_path / "desk") as desk:
        chat = Chat(desk)
        chat.ask(WORDS)
        chat.ask("delete my data")
        [confirmed] = chat.ask("Yes, erase", choice="/delete yes")
        assert "erased" in confirmed["text"]
    # The moment that is left for the confirmation passes; then the desk starts again.
    database = sqlite3.connect(desk.data_dir / "desk.sqlite3")
    database.execute("update conversation set erase_at = '2020-01-01 00:00:00'")
    database.commit()
    before = database.execute("select count(*) from message").fetchone()
    with desk:
        deadline = time.monotonic() + 60
        wanted = "select count(*) from conversation where address is null"
        while database.execute(wanted).fetchone() != (1,):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert chat.http.get("/chat/messages").status_code == 401
    assert database.execute("select count(*) from message").fetchone() == before
    left = "select count(*) from message where original is not null or external_id is not null"
    assert database.execute(left).fetchone() == (0,)
