"""Every page of the console, and who may open it."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from handoff.console import sign_in, staff_pages
from handoff.console.cases import MOST_FILES, Cases
from handoff.console.look import ROOM, Look
from handoff.console.visit import ConsoleContext, Door, Page, Visit

__all__ = ["ConsoleContext", "console_routes", "pages"]

ALL = None
ANYBODY_SIGNED_IN = ()
READS = ("counsellor", "manager")
ACTS = ("counsellor",)
ADMIN = ("admin",)


def pages(cases: Cases) -> list[Page]:
    """The table: method, path below `/console`, handler, roles."""
    return [
        Page("GET", "/", sign_in.start, ANYBODY_SIGNED_IN),
        Page("GET", "/sign-in", sign_in.sign_in_page, ALL),
        Page("POST", "/sign-in", sign_in.enter, ALL),
        Page("GET", "/language/{code}", sign_in.language, ALL),
        Page("POST", "/sign-out", sign_in.leave, ANYBODY_SIGNED_IN),
        Page("GET", "/password", sign_in.password_page, ANYBODY_SIGNED_IN),
        Page("POST", "/password", sign_in.new_password, ANYBODY_SIGNED_IN),
        Page("GET", "/queue", cases.queue, READS),
        Page("GET", "/queue/live", cases.queue_live, READS),
        Page("GET", "/queue/stream", cases.queue_stream, READS),
        Page("GET", "/cases/{case:int}", cases.show, READS),
        Page("GET", "/cases/{case:int}/live", cases.live, READS),
        Page("GET", "/cases/{case:int}/stream", cases.case_stream, READS),
        Page("POST", "/cases/{case:int}/take", cases.claim, ACTS),
        Page("POST", "/cases/{case:int}/reply", cases.reply, ACTS, files=MOST_FILES),
        Page("GET", "/cases/{case:int}/files/{file:int}", cases.file, READS),
        Page("POST", "/cases/{case:int}/ways", cases.ways, ACTS),
        Page("POST", "/cases/{case:int}/part", cases.part, ACTS),
        Page("POST", "/cases/{case:int}/note", cases.note, ACTS),
        Page("POST", "/cases/{case:int}/put-back", cases.put_back, READS),
        Page("POST", "/cases/{case:int}/release", cases.release, ACTS),
        Page("POST", "/cases/{case:int}/close", cases.close, ACTS),
        Page("POST", "/cases/{case:int}/resend/{message:int}", cases.resend, ACTS),
        Page("POST", "/cases/{case:int}/call", cases.call, ACTS),
        Page("GET", "/drafts", staff_pages.drafts, ANYBODY_SIGNED_IN),
        Page("GET", "/staff", staff_pages.staff, ADMIN),
        Page("POST", "/staff", staff_pages.add, ADMIN),
        Page("POST", "/staff/{person:int}/password", staff_pages.reset, ADMIN),
        Page("POST", "/staff/{person:int}/activate", staff_pages.activate, ADMIN),
        Page("POST", "/staff/{person:int}/deactivate", staff_pages.deactivate, ADMIN),
        Page("POST", "/staff/{person:int}/phone", staff_pages.set_phone_of, ADMIN),
        Page("GET", "/phone", staff_pages.own_phone, ANYBODY_SIGNED_IN),
        Page("POST", "/phone", staff_pages.set_own_phone, ANYBODY_SIGNED_IN),
    ]


def console_routes(context: ConsoleContext) -> list[BaseRoute]:
    """The console's routes, to be mounted under `/console`."""
    door = Door(context, Look())

    def route(page: Page, methods: list[str]) -> Route:
        async def answer(request: Request) -> Response:
            return await door.open(page, request)

        return Route(page.path, answer, methods=methods)

    nowhere = Page("*", "/{rest:path}", _nowhere, ALL)
    return [
        *(route(page, [page.method]) for page in pages(Cases())),
        Mount("/static", StaticFiles(directory=ROOM / "static")),
        route(nowhere, ["GET", "POST", "PUT", "PATCH", "DELETE"]),
    ]


async def _nowhere(_: Visit) -> Response:
    raise HTTPException(404)
