"""The tables: migrations make what the program expects, on both databases."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import handoff.case
import handoff.contacts
import handoff.staff  # noqa: F401 - all tables
from config.database import Base, Database


def test_migrations_make_the_tables_of_the_program(database: Database) -> None:
    with database._writer.connect() as connection:
        context = MigrationContext.configure(connection)
        differences = compare_metadata(context, Base.metadata)
    assert not differences


def test_migrating_twice_changes_nothing(database: Database) -> None:
    database.migrate()
