"""Pages beside the cases: the staff's accounts (admins) and the content still in draft."""

import asyncio
import secrets
from collections import Counter

from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.responses import Response

from handoff.calls import set_phone
from handoff.console.visit import HOME, Visit
from handoff.staff import (
    FIRST_SIGN_IN,
    ROLES,
    Staff,
    StaffError,
    add_staff,
    everybody,
    reset_password,
    set_active,
)


async def staff(visit: Visit) -> Response:
    """All accounts."""
    return await _staff_page(visit)


async def add(visit: Visit) -> Response:
    """Make an account; its password is shown this once."""
    login, name = visit.text("login"), visit.text("name")
    password = visit.text("password") or _new_password()
    languages = [code for code in visit.several("languages") if code in visit.context.languages]
    try:
        await visit.context.database.write(
            add_staff, login, name, password, visit.several("roles"), languages
        )
    except StaffError as error:
        return await _staff_page(visit, 422, error=visit.refusal(error))
    return await _staff_page(visit, made=(login.strip().lower(), password))


async def reset(visit: Visit) -> Response:
    """Give somebody who forgot hers a new password, shown this once."""
    password = _new_password()

    def work(session: Session) -> str:
        return reset_password(session, _known(visit, session), password)

    login = await visit.context.database.write(work)
    if login == "admin":  # what is kept in the data folder opens nothing any more
        kept = visit.context.data_dir / FIRST_SIGN_IN
        await asyncio.to_thread(kept.unlink, missing_ok=True)
    return await _staff_page(visit, made=(login, password))


async def activate(visit: Visit) -> Response:
    """Open an account again."""
    return await _set_active(visit, active=True)


async def deactivate(visit: Visit) -> Response:
    """Close an account: its sessions end at once and its cases go back to the queue."""
    return await _set_active(visit, active=False)


async def drafts(visit: Visit) -> Response:
    """Content that no native speaker has checked, one language at a time."""
    rows = visit.context.drafts()
    counts = Counter(row["language"] for row in rows)
    wanted = visit.request.query_params.get("language", "")
    if not wanted:
        spoken = [code for code in visit.person.languages if counts[code]]
        wanted = next(iter([*spoken, *counts]), "")
    return visit.page(
        "drafts.html",
        rows=[row for row in rows if row["language"] == wanted],
        counts=counts,
        wanted=wanted,
    )


async def own_phone(visit: Visit) -> Response:
    """Where calls are put through to oneself."""
    return await _own_phone_page(visit)


async def set_own_phone(visit: Visit) -> Response:
    """Note one's own telephone, and whether one takes calls now."""
    try:
        await visit.context.database.write(
            set_phone, visit.person.id, visit.text("phone"), bool(visit.text("on_duty"))
        )
    except StaffError as error:
        return await _own_phone_page(visit, 422, visit.refusal(error))
    return await _own_phone_page(visit, done=True)


async def set_phone_of(visit: Visit) -> Response:
    """Note a colleague's telephone, and whether she takes calls now."""

    def work(session: Session) -> None:
        staff_id = _known(visit, session)
        set_phone(session, staff_id, visit.text("phone"), bool(visit.text("on_duty")))

    try:
        await visit.context.database.write(work)
    except StaffError as error:
        return await _staff_page(visit, 422, error=visit.refusal(error))
    return visit.go(f"{HOME}/staff")


async def _own_phone_page(
    visit: Visit, status: int = 200, error: str = "", done: bool = False
) -> Response:
    def read(session: Session) -> tuple[str, bool]:
        row = session.get_one(Staff, visit.person.id)
        return row.phone or "", row.on_duty

    phone, on_duty = await visit.context.database.read(read)
    if error:
        phone, on_duty = visit.text("phone"), bool(visit.text("on_duty"))
    return visit.page("phone.html", status, phone=phone, on_duty=on_duty, error=error, done=done)


async def _set_active(visit: Visit, active: bool) -> Response:
    def work(session: Session) -> None:
        staff_id = _known(visit, session)
        set_active(session, staff_id, active)
        if not active:
            _free_cases(visit, session, staff_id)

    try:
        await visit.context.database.write(work)
    except StaffError as error:
        return await _staff_page(visit, 409, error=visit.refusal(error))
    return visit.go(f"{HOME}/staff")


def _free_cases(visit: Visit, session: Session, staff_id: int) -> None:
    """Put the cases of somebody who has left back into the queue, with a note that says why."""
    _ = visit.words.gettext
    desk = visit.context.desk
    row = session.get_one(Staff, staff_id)
    why = _("The account of %(name)s was closed; the case is back in the queue.")
    for case in desk.queue(session, "claimed", limit=100_000):
        if case.claimed_by == staff_id:
            desk.put_back(session, case.id, visit.person)
            desk.note(session, case.id, visit.person, why % {"name": row.name})


def _known(visit: Visit, session: Session) -> int:
    number = int(visit.request.path_params["person"])
    if number > 2**31 - 1 or session.get(Staff, number) is None:
        raise HTTPException(404)
    return number


async def _staff_page(
    visit: Visit, status: int = 200, error: str = "", made: tuple[str, str] | None = None
) -> Response:
    people = await visit.context.database.read(everybody)
    typed = {name: visit.text(name) if error else "" for name in ("login", "name")}
    return visit.page(
        "staff.html", status, people=people, roles=ROLES, error=error, made=made, typed=typed
    )


def _new_password() -> str:
    return "-".join(secrets.token_hex(2) for _ in range(4))
