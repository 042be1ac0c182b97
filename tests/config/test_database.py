"""The tables: migrations make what the program expects, on both databases."""

import asyncio
import json
import threading
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.orm import Session

import handoff.case
import handoff.contacts
import handoff.staff  # noqa: F401 - all tables
from channels.log import Message
from channels.media import Media
from config.database import Base, Database
from config.vault import vault


def test_migrations_make_the_tables_of_the_program(database: Database) -> None:
    with database._writer.connect() as connection:
        context = MigrationContext.configure(connection)
        differences = compare_metadata(context, Base.metadata)
    assert not differences


def test_a_desk_of_the_first_version_keeps_its_cases(database_url: str) -> None:
    """Cases belonged to conversations then, and belong to contacts now."""
    database = Database(database_url)
    command.upgrade(database.alembic(), "0001")
    stamp = "'2026-11-01 10:00:00'"
    rows = [
        f"insert into contact (id, created_at) values (7, {stamp})",
        "insert into conversation (id, contact_id, channel, language, language_chosen, holder,"
        f" state, stopped, created_at, lease_token) values (3, 7, 'webchat', 'vi', false, 'desk',"
        f" '{{}}', false, {stamp}, 0)",
        'insert into "case" (id, reference, conversation_id, status, queue, reason, level,'
        " urgency, risk_types, topic, language, opened_at, due_at, outcome, late) values"
        f" (1, 'ABC-DEF', 3, 'waiting', 'counselling', 'asked', 'none', 2, '[]', '', 'vi',"
        f" {stamp}, {stamp}, '', 0)",
    ]
    with database._writer.begin() as connection:
        for row in rows:
            connection.exec_driver_sql(row)
    with database._writer.begin() as connection:
        row = sa.text(
            "insert into message (id, conversation_id, author, state, language, body, choice,"
            " attachments, created_at, attempts, error) values (1, 3, 'worker', 'done', '', :body,"
            f" '', :files, {stamp}, 0, '')"
        )
        file = {"name": "payslip.pdf", "media_type": "application/pdf", "size": 9, "sha256": ""}
        sealed = vault().seal(json.dumps([file]))
        connection.execute(row, {"body": vault().seal("see the file"), "files": sealed})
    database.migrate()
    with database._writer.connect() as connection:
        found = connection.exec_driver_sql('select contact_id from "case"').scalars().all()
    [kept] = database.write_now(lambda s: list(s.scalars(sa.select(Media))))
    [message] = database.write_now(lambda s: list(s.scalars(sa.select(Message))))
    database.close()
    assert found == [7]
    assert (kept.name, kept.error, message.files) == ("payslip.pdf", "was not kept", 1)


def test_urgent_work_goes_ahead_of_other_work(tmp_path: Path) -> None:
    """A web hook is written down before the turns that wait for SQLite's one writer."""
    database = Database(f"sqlite:///{tmp_path / 'desk.sqlite3'}")
    order: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def work(_: Session, name: str) -> None:
        order.append(name)
        if name == "running":
            begun.set()
            go_on.wait(30)

    async def story() -> None:
        running = asyncio.create_task(database.write(work, "running"))
        await asyncio.to_thread(begun.wait, 30)
        turns = [asyncio.create_task(database.write(work, f"turn {n}")) for n in range(3)]
        await asyncio.sleep(0)
        hooks = [asyncio.create_task(database.write_first(work, f"hook {n}")) for n in range(2)]
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(running, *turns, *hooks)

    asyncio.run(story())
    database.close()
    assert order == ["running", "hook 0", "hook 1", "turn 0", "turn 1", "turn 2"]


def test_migrating_twice_changes_nothing(database: Database) -> None:
    database.migrate()
