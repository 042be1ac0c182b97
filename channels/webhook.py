"""What all web hooks need: the raw bytes with a limit, and the URL that the vendor called."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from channels.message import RefusedError


async def raw_body(request: Request, limit: int, within: float = 30.0) -> bytes:
    """The bytes as they came, which is what a signature covers.

    Raises:
        RefusedError: more than `limit` bytes, longer than `within` seconds, or the connection
            broke.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(within):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise RefusedError(f"too big: at most {limit} bytes")
    except ClientDisconnect:
        raise RefusedError("the connection broke") from None
    except TimeoutError:
        raise RefusedError(f"too slow: at most {within:.0f} seconds") from None
    return bytes(body)


def called_url(request: Request, public_url: str) -> str:
    """The URL as the vendor called it, also behind a proxy: `public_url` with path and query."""
    query = request.url.query
    return public_url.rstrip("/") + request.url.path + (f"?{query}" if query else "")
