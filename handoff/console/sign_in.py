"""Signing in and out, one's own password, and the language of the console."""

import asyncio
import re

from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse, Response

from handoff.console.language import LANGUAGES
from handoff.console.visit import (
    HOME,
    LANGUAGE_COOKIE,
    NOBODY,
    SESSION_COOKIE,
    VISIT_COOKIE,
    Visit,
    begin_session,
)
from handoff.staff import (
    FIRST_SIGN_IN,
    StaffError,
    change_password,
    check_password,
    first_password,
    sign_in,
    sign_out,
)

_PLACE = re.compile(rf"{HOME}/[a-z0-9/-]*")
_checks = asyncio.Semaphore(2)
"""Passwords that are checked at a time: each takes 64 MB and a tenth of a second of a core."""


def place(wish: str) -> str:
    """Where to go next: a page of the console and nowhere else."""
    return wish if _PLACE.fullmatch(wish) else f"{HOME}/"


def home(visit: Visit) -> str:
    """The page where this person's work is."""
    return f"{HOME}/queue" if visit.person.may("counsellor", "manager") else f"{HOME}/drafts"


async def start(visit: Visit) -> Response:
    """The console's front door leads to the work."""
    return RedirectResponse(home(visit), 303)


async def sign_in_page(visit: Visit) -> Response:
    """The form."""
    if visit.person is not NOBODY:
        return RedirectResponse(home(visit), 303)
    return _form(visit, 200, "", "", visit.request.query_params.get("next", ""))


async def enter(visit: Visit) -> Response:
    """Check name and password. The answer never tells whether there is such an account."""
    _ = visit.words.gettext
    login, password, wish = visit.text("login"), visit.text("password"), visit.text("next")
    if not login.strip() or not password:
        return _form(visit, 422, login, _("Fill in both fields."), wish)
    database = visit.context.database
    async with _checks:
        fits = await database.read(check_password, login, password)
    token = await database.write(sign_in, login, fits)
    if token is None:
        return _form(
            visit,
            403,
            login,
            _(
                "Sign-in name and password do not fit together, or there were too many attempts. "
                "Check both. After many attempts, wait a quarter of an hour."
            ),
            wish,
        )
    return begin_session(visit, token, place(wish))


async def leave(visit: Visit) -> Response:
    """Sign out."""
    await visit.context.database.write(sign_out, visit.token)
    response = RedirectResponse(f"{HOME}/sign-in", 303)
    response.delete_cookie(SESSION_COOKIE, path=HOME)
    return response


async def password_page(visit: Visit) -> Response:
    """The form for a new password."""
    return visit.page("password.html", error="", done="done" in visit.request.query_params)


async def new_password(visit: Visit) -> Response:
    """Change one's own password; the first one is then no longer kept in the data folder."""
    _ = visit.words.gettext
    old, new = visit.text("old"), visit.text("new")
    if new != visit.text("again"):
        error = _("The new password was not written the same twice.")
        return visit.page("password.html", 422, error=error, done=False)
    kept = visit.context.data_dir

    def change(session: Session) -> None:
        change_password(session, visit.person.id, old, new, visit.token)

    def forget() -> None:
        if first_password(kept) == old:
            (kept / FIRST_SIGN_IN).unlink(missing_ok=True)

    try:
        async with _checks:
            await visit.context.database.write(change)
    except StaffError as error:
        return visit.page("password.html", 422, error=visit.refusal(error), done=False)
    await asyncio.to_thread(forget)
    return RedirectResponse(f"{HOME}/password?done", 303)


async def language(visit: Visit) -> Response:
    """Switch the language of the console."""
    response = RedirectResponse(place(visit.request.query_params.get("next", "")), 303)
    code = visit.request.path_params["code"]
    if code in LANGUAGES:
        visit.set_cookie(response, LANGUAGE_COOKIE, code, 365 * 86400)
    return response


def _form(visit: Visit, status: int, login: str, error: str, wish: str) -> Response:
    response = visit.page("sign_in.html", status, login=login, error=error, next=wish)
    visit.set_cookie(response, VISIT_COOKIE, visit.token)
    return response
