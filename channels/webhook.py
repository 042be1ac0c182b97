"""What all web hooks need: the raw bytes with a limit, and the URL that the vendor called."""

from starlette.requests import ClientDisconnect, Request

from channels.message import RefusedError


async def raw_body(request: Request, limit: int) -> bytes:
    """The bytes as they came, which is what a signature covers.

    Raises:
        RefusedError: more than `limit` bytes, or the connection broke.
    """
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise RefusedError(f"too big: at most {limit} bytes")
    except ClientDisconnect:
        raise RefusedError("the connection broke") from None
    return bytes(body)


def called_url(request: Request, public_url: str) -> str:
    """The URL as the vendor called it, also behind a proxy: `public_url` with path and query."""
    query = request.url.query
    return public_url.rstrip("/") + request.url.path + (f"?{query}" if query else "")
