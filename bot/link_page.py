"""The page behind the link of a joining code: one button per channel, each with the code ready."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import segno
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from channels.message import Channel
from config.texts import Texts

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def link_page(channels: Mapping[str, Channel], texts: Callable[[], Texts], url: str) -> Route:
    """The route `/link/{code}`. It neither checks nor uses up the code: the channels do that."""
    pages = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)

    async def page(request: Request) -> Response:
        code = request.path_params["code"]
        if not re.fullmatch(r"[0-9]{8}", code):
            return Response(status_code=404)
        words = texts()
        language = words.preferred(request.headers.get("accept-language", ""))
        picture = segno.make(f"{url}/link/{code}").svg_inline(scale=5, border=2)
        content = pages.get_template("link_page.html").render(
            language=language,
            title=words("webchat.title", language).body,
            heading=words("link.page", language).render({"code": f"{code[:4]} {code[4:]}"}),
            scan=words("link.scan", language).body,
            ways=[
                (words(f"channel.{name}", language).body, place)
                for name, channel in channels.items()
                if (place := channel.entrance(code))
            ],
            picture=Markup(picture),  # noqa: S704 - made here, of digits and our own address
        )
        return HTMLResponse(content, headers=HEADERS)

    return Route("/link/{code}", page)
