"""A visit to the console: who is there, in which language, and what she may do.

Every request passes through `Door.open`: the session, the same-origin and token checks of whatever
changes something, the roles of the page, and the headers of the answer.
"""

import gettext
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import structlog
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from channels.media import MediaStore
from config.database import Database
from config.texts import Language
from handoff.calls import Calls, Telephone
from handoff.console.language import LANGUAGES, preferred, translate_refusal
from handoff.console.look import Look
from handoff.desk import Desk
from handoff.staff import SESSION, Person, who

log = structlog.get_logger(__name__)

HOME = "/console"
SESSION_COOKIE = "desk_session"
VISIT_COOKIE = "desk_visit"
"""Binds the sign-in form to its browser while there is no session yet."""
LANGUAGE_COOKIE = "desk_language"
BODY_LIMIT = 512 * 1024
"""Bytes of a form; a reply of 100,000 characters fits in any language."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; media-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

NOBODY = Person(0, "", "", (), (), True)


@dataclass(frozen=True)
class ConsoleContext:
    """What the console needs of the program.

    `faq_titles(topic, ui language)` and `risk_names(type, ui language)` give names; `status` the
    live state (understanding, detail, mail); `drafts` the texts that nobody has checked yet;
    `media` holds the files of messages; `calls` and `telephone`: if counsellors can call from here.
    """

    database: Database
    desk: Desk
    media: MediaStore
    faq_titles: Callable[[str, str], str]
    risk_names: Callable[[str, str], str]
    outcomes: Mapping[str, Mapping[str, str]]
    languages: Mapping[str, Language]
    https: bool
    data_dir: Path
    status: Callable[[], Mapping[str, str]]
    drafts: Callable[[], list[Mapping[str, str]]]
    calls: Calls | None = None
    telephone: Telephone | None = None


@dataclass(frozen=True)
class Visit:
    """One request. `person` is `NOBODY` before sign-in; `token` is of the session or the visit."""

    request: Request
    context: ConsoleContext
    look: Look
    language: str
    person: Person = NOBODY
    token: str = ""
    form: FormData = field(default_factory=FormData)

    @property
    def words(self) -> gettext.NullTranslations:
        """The catalogue of the console's language."""
        return self.look.words[self.language]

    @property
    def wants_json(self) -> bool:
        """Whether a script asks, rather than a person's browser for a page."""
        return "application/json" in self.request.headers.get("accept", "")

    @cached_property
    def csrf(self) -> str:
        """What a form of this session must bring along."""
        return hmac.new(self.token.encode(), b"console form", hashlib.sha256).hexdigest()

    def text(self, name: str) -> str:
        """A field of the form, with plain line ends."""
        value = self.form.get(name)
        return value.replace("\r\n", "\n") if isinstance(value, str) else ""

    def several(self, name: str) -> list[str]:
        """All values of a field."""
        return [value for value in self.form.getlist(name) if isinstance(value, str)]

    def files(self, name: str) -> list[UploadFile]:
        """The files of a field that were really chosen."""
        listed = (file for file in self.form.getlist(name) if isinstance(file, UploadFile))
        return [file for file in listed if file.filename]

    def refusal(self, error: Exception) -> str:
        """Why the desk refused, in the language of the console."""
        return translate_refusal(str(error), self.words)

    def page(self, template: str, code: int = 200, /, **values: Any) -> Response:
        """A page, rendered."""
        return HTMLResponse(self.look.render(self, template, **values), code)

    def go(self, place: str) -> Response:
        """Send the browser on after a form."""
        return JSONResponse({"next": place}) if self.wants_json else RedirectResponse(place, 303)

    def refuse(self, status: int, sentence: str) -> Response:
        """An error, as a page or as JSON."""
        if self.wants_json:
            return JSONResponse({"error": sentence}, status)
        return self.page("error.html", status, status=status, sentence=sentence)

    def set_cookie(self, response: Response, name: str, value: str, age: int | None = None) -> None:
        """Set a cookie that only the console's pages send and no script reads."""
        response.set_cookie(
            name,
            value,
            max_age=age,
            path=HOME,
            secure=self.context.https,
            httponly=True,
            samesite="lax",
        )


Handler = Callable[[Visit], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Page:
    """A row of the console's table: `roles` None is open to all, () to everybody signed in.

    `files`: how many files its form may bring.
    """

    method: str
    path: str
    handler: Handler
    roles: tuple[str, ...] | None
    files: int = 0


@dataclass(frozen=True)
class Door:
    """Lets requests in, or not."""

    context: ConsoleContext
    look: Look

    async def open(self, page: Page, request: Request) -> Response:
        """Answer a request; each failure is a page in the console's look."""
        language = request.cookies.get(LANGUAGE_COOKIE, "")
        if language not in LANGUAGES:
            language = preferred(request.headers.get("accept-language", ""))
        visit = Visit(request, self.context, self.look, language)
        _ = visit.words.gettext
        try:
            visit = await self._visit(page, request, language)
            response = await self._answer(page, visit)
        except HTTPException as error:
            sentences = {
                400: _("The browser sent something that is no form."),
                403: _("This is not part of your work at the desk."),
                404: _("There is nothing here. It may have been closed or never existed."),
                411: _("The browser did not say how much it sends."),
                413: _("This is too long. Shorten it."),
            }
            response = visit.refuse(
                error.status_code, sentences.get(error.status_code, error.detail)
            )
        except Exception:
            number = datetime.now(UTC).strftime("%H%M%S%f")
            log.exception("console_failed", number=number, page=page.path)
            sentence = _("Something went wrong on our side (number %(number)s). Try again.")
            response = visit.refuse(500, sentence % {"number": number})
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)  # a file has a stricter policy of its own
        return response

    async def _visit(self, page: Page, request: Request, language: str) -> Visit:
        token = request.cookies.get(SESSION_COOKIE, "")
        person = await self.context.database.read(who, token) if token else None
        if person is None:
            person = NOBODY
            token = request.cookies.get(VISIT_COOKIE, "") or secrets.token_urlsafe(24)
        form = FormData()
        if request.method == "POST":
            length = request.headers.get("content-length", "")
            if not length.isdigit():
                raise HTTPException(411)
            files = 0 if person is NOBODY else page.files
            if int(length) > BODY_LIMIT + files * self.context.media.limit:
                raise HTTPException(413)
            form = await request.form(max_files=files, max_part_size=BODY_LIMIT)
        return Visit(request, self.context, self.look, language, person, token, form)

    async def _answer(self, page: Page, visit: Visit) -> Response:
        _ = visit.words.gettext
        request = visit.request
        if page.roles is not None and visit.person is NOBODY:
            live = request.headers.get("sec-fetch-dest", "document") != "document"
            if live or visit.wants_json or page.path.endswith(("/live", "/stream")):
                return visit.refuse(401, _("You are signed out. Sign in again."))
            back = f"?next={quote(request.url.path)}" if request.method == "GET" else ""
            return RedirectResponse(f"{HOME}/sign-in{back}", 303)
        if request.method == "POST":
            brought = request.headers.get("x-csrf-token") or visit.text("csrf")
            if not _same_origin(request) or not hmac.compare_digest(
                brought.encode(), visit.csrf.encode()
            ):
                return visit.refuse(
                    403, _("This page is too old, or came from elsewhere. Reload it and try again.")
                )
        if page.roles and not visit.person.may(*page.roles):
            raise HTTPException(403)
        return await page.handler(visit)


def begin_session(visit: Visit, token: str, place: str) -> Response:
    """The answer to a good password."""
    response = RedirectResponse(place, 303)
    visit.set_cookie(response, SESSION_COOKIE, token, int(SESSION.total_seconds()))
    response.delete_cookie(VISIT_COOKIE, path=HOME)
    return response


def _same_origin(request: Request) -> bool:
    """Whether a form was sent by a page of this very site.

    Browsers tell by Sec-Fetch-Site; those that do not, and plain HTTP in an office network, send
    Origin, which our own Referrer-Policy turns into `null` for simple forms. A foreign origin is
    refused; no statement leaves the decision to the token.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin", "null")
    return origin == "null" or urlsplit(origin).netloc == request.headers.get("host", "")
