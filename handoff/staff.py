"""Staff: who may sign in to the console, and what each may do."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import JSON, ForeignKey, String, delete, func, select, text, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from config.database import Base, now
from config.vault import Sealed

ROLES = ("counsellor", "editor", "manager", "admin")
SESSION = timedelta(hours=12)
PASSWORD_LENGTH = 10
"""Characters that a password must have at least."""

FIRST_SIGN_IN = "first-sign-in.txt"

_hasher = PasswordHasher()
_NOBODY = _hasher.hash("nobody's password")


class StaffError(ValueError):
    """Something about an account is refused; the text is for the person at the console."""


class Staff(Base):
    """An account. `locked_until`: after repeated wrong passwords. `phone`: where calls are put
    through to her while she is `on_duty` (E.164)."""

    __tablename__ = "staff"

    id: Mapped[int] = mapped_column(primary_key=True)
    login: Mapped[str] = mapped_column(String(80), unique=True)
    name: Mapped[str] = mapped_column(String(80))
    password_hash: Mapped[str] = mapped_column(String(200))
    password_changed: Mapped[bool] = mapped_column(default=False)
    roles: Mapped[list[str]] = mapped_column(JSON)
    languages: Mapped[list[str]] = mapped_column(JSON)
    active: Mapped[bool] = mapped_column(default=True)
    failures: Mapped[int] = mapped_column(default=0)
    locked_until: Mapped[datetime | None]
    phone: Mapped[str | None] = mapped_column(Sealed)
    on_duty: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]


class StaffSession(Base):
    """A signed-in browser. Only a hash of its token is kept."""

    __tablename__ = "staff_session"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    staff_id: Mapped[int] = mapped_column(ForeignKey("staff.id"))
    expires_at: Mapped[datetime]


@dataclass(frozen=True, slots=True)
class Person:
    """The signed-in member of staff, as routes see it."""

    id: int
    login: str
    name: str
    roles: tuple[str, ...]
    languages: tuple[str, ...]
    password_changed: bool

    def may(self, *roles: str) -> bool:
        """Whether she has one of the roles; an admin has all."""
        return "admin" in self.roles or any(role in self.roles for role in roles)


def add_staff(
    session: Session,
    login: str,
    name: str,
    password: str,
    roles: Iterable[str],
    languages: Iterable[str] = (),
) -> int:
    """Make an account and return its id.

    Raises:
        StaffError: the sign-in name is taken or empty, the password too short, a role unknown.
    """
    login, name, roles = _login(login), name.strip(), list(roles)
    if not login or not name:
        raise StaffError("Give a sign-in name and a name.")
    if not roles or any(role not in ROLES for role in roles):
        raise StaffError(f"Choose at least one role of {', '.join(ROLES)}.")
    _check(password)
    if session.scalar(select(Staff.id).where(Staff.login == login)) is not None:
        raise StaffError(f"The sign-in name {login} is taken.")
    row = Staff(
        login=login[:80],
        name=name[:80],
        password_hash=_hasher.hash(password),
        roles=roles,
        languages=list(languages),
        created_at=now(session),
    )
    session.add(row)
    session.flush()
    return row.id


def first_account(session: Session, data_dir: Path) -> None:
    """Make the account `admin` when there is none at all.

    Its password is kept in `data_dir` first: a crash in between must not lock everybody out.
    """
    if session.get_bind().dialect.name == "postgresql":  # several programs may start at once
        session.execute(text("lock table staff in share row exclusive mode"))
    if session.scalar(select(func.count()).select_from(Staff)):
        return
    password = "-".join(secrets.token_hex(2) for _ in range(4))
    path = data_dir / FIRST_SIGN_IN
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(password)
    add_staff(session, "admin", "Admin", password, ROLES)


def first_password(data_dir: Path) -> str | None:
    """The first password while nobody has changed it."""
    path = data_dir / FIRST_SIGN_IN
    return path.read_text() if path.exists() else None


def check_password(session: Session, login: str, password: str) -> bool:
    """Whether a password fits. Slow on purpose, so it is no part of a transaction that writes."""
    kept = session.scalar(select(Staff.password_hash).where(Staff.login == _login(login)))
    with contextlib.suppress(VerificationError, InvalidHashError):
        return _hasher.verify(kept or _NOBODY, password)
    return False


def sign_in(session: Session, login: str, fits: bool) -> str | None:
    """Begin a session after `check_password`; returns its token, or None.

    The tenth wrong password in a row locks the account for a quarter of an hour.
    """
    stamp = now(session)
    row = session.scalar(select(Staff).where(Staff.login == _login(login)))
    if row is None or not row.active or (row.locked_until and row.locked_until > stamp):
        return None
    if not fits:
        row.failures += 1
        if row.failures % 10 == 0:
            row.locked_until = stamp + timedelta(minutes=15)
        return None
    row.failures, row.locked_until = 0, None
    session.execute(delete(StaffSession).where(StaffSession.expires_at < stamp))
    token = secrets.token_urlsafe(32)
    session.add(StaffSession(token_hash=_hash(token), staff_id=row.id, expires_at=stamp + SESSION))
    return token


def who(session: Session, token: str) -> Person | None:
    """The member of staff of a session, if it is still good."""
    row = session.execute(
        select(Staff)
        .join(StaffSession, StaffSession.staff_id == Staff.id)
        .where(StaffSession.token_hash == _hash(token), StaffSession.expires_at > now(session))
        .where(Staff.active)
    ).scalar()
    return None if row is None else _person(row)


def sign_out(session: Session, token: str) -> None:
    """End a session."""
    session.execute(delete(StaffSession).where(StaffSession.token_hash == _hash(token)))


def change_password(session: Session, staff_id: int, old: str, new: str, token: str) -> None:
    """Set a new password and end all sessions of the account but the one of `token`.

    Raises:
        StaffError: the old one is wrong or the new one too short.
    """
    row = session.get_one(Staff, staff_id)
    try:
        _hasher.verify(row.password_hash, old)
    except VerificationError:
        raise StaffError("The present password is not right.") from None
    _check(new)
    row.password_hash, row.password_changed = _hasher.hash(new), True
    _end_sessions(session, staff_id, but=token)


def reset_password(session: Session, staff_id: int, new: str) -> str:
    """Give a colleague who forgot hers a new password, to be changed; returns her sign-in name.

    Raises:
        StaffError: it is too short.
    """
    row = session.get_one(Staff, staff_id)
    _check(new)
    row.password_hash, row.password_changed = _hasher.hash(new), False
    row.failures, row.locked_until = 0, None
    _end_sessions(session, staff_id)
    return row.login


def set_active(session: Session, staff_id: int, active: bool) -> None:
    """Open or close an account; closing ends its sessions at once.

    Raises:
        StaffError: it is the last active admin.
    """
    if not active:
        others = [
            other
            for other in session.scalars(select(Staff).where(Staff.active, Staff.id != staff_id))
            if "admin" in other.roles
        ]
        if not others:
            raise StaffError("This is the last admin. Make another one first.")
        _end_sessions(session, staff_id)
    session.execute(update(Staff).where(Staff.id == staff_id).values(active=active))


def everybody(session: Session) -> list[Staff]:
    """All accounts, by name."""
    return list(session.scalars(select(Staff).order_by(Staff.name)))


def _person(row: Staff) -> Person:
    return Person(
        row.id, row.login, row.name, tuple(row.roles), tuple(row.languages), row.password_changed
    )


def _login(login: str) -> str:
    return login.strip().lower()


def _end_sessions(session: Session, staff_id: int, but: str = "") -> None:
    session.execute(
        delete(StaffSession).where(
            StaffSession.staff_id == staff_id, StaffSession.token_hash != _hash(but)
        )
    )


def _check(password: str) -> None:
    if len(password) < PASSWORD_LENGTH:
        raise StaffError(f"The password needs at least {PASSWORD_LENGTH} characters.")


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
