"""Files of messages: kept encrypted under the data folder, what they are told by their bytes.

A file is never executed, never trusted to be what its name says, and shown by a browser only if it
is a picture, a sound or a film. Where a vendor holds the file, it is fetched right after its
message was accepted, again and again until it is here or gone: vendors delete them soon.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import puremagic
import structlog
from itsdangerous import BadSignature, URLSafeTimedSerializer
from sqlalchemy import ForeignKey, Index, String, delete, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from channels.message import Attachment, Channel, RefusedError, RejectedError, SendError, clean
from config.database import Base, Database, announce, now
from config.vault import Sealed, vault

log = structlog.get_logger(__name__)

MOST_ATTEMPTS = 12
"""Attempts at fetching a file, over about six hours, before it counts as lost."""
AT_ONCE = 4
TIDY = 6 * 3600.0
"""Seconds between looks for files that belong to no message."""
ORPHAN_AGE = timedelta(days=1)
ORPHAN_LIFE = timedelta(days=30)
ORPHANS = "orphans"
LOOK_AGAIN = 5.0
LINK_LIFE = timedelta(days=7)
"""How long a link to a file lives that we send to a worker."""
SHOWN = re.compile(r"image/(jpeg|png|gif|webp)|audio/[\w.+-]+|video/(mp4|webm|quicktime|3gpp)")
"""What a browser may show in place; everything else is only downloaded."""
FILE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Media(Base):
    """A file of a message. `due_at`: when it is to be fetched, or removed if it was erased; empty
    once it is here or lost."""

    __tablename__ = "media"

    id: Mapped[int] = mapped_column(primary_key=True)
    message_id: Mapped[int] = mapped_column(ForeignKey("message.id"), index=True)
    conversation_id: Mapped[int]
    channel: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(Sealed)
    media_type: Mapped[str] = mapped_column(String(80))
    size: Mapped[int]
    sha256: Mapped[str] = mapped_column(Sealed)
    file: Mapped[str] = mapped_column(String(40), default="", index=True)
    source: Mapped[str] = mapped_column(Sealed, default="")
    error: Mapped[str] = mapped_column(String(200), default="")
    erased: Mapped[bool] = mapped_column(default=False)
    attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime | None] = mapped_column()

    __table_args__ = (
        Index(
            "ix_media_due",
            "due_at",
            sqlite_where=due_at.is_not(None),
            postgresql_where=due_at.is_not(None),
        ),
    )

    def attachment(self) -> Attachment:
        """The file as others see it."""
        return Attachment(
            self.name,
            self.media_type,
            self.size,
            self.sha256,
            self.file,
            self.source,
            self.error,
            self.id,
        )


class MediaStore:
    """The folder with the files. `limit`: bytes of the largest one; `url`: the desk's own URL."""

    def __init__(self, folder: Path, limit: int, url: str) -> None:
        self.folder, self.limit, self.url = folder, limit, url

    async def keep(self, name: str, data: bytes) -> Attachment:
        """Write a file down, durably.

        Raises:
            RefusedError: too big.
            OSError: the disk is full or broken; nothing of the file is left.
        """
        if len(data) > self.limit:
            raise RefusedError(f"too big: at most {self.limit // 1_048_576} MB")
        return await asyncio.to_thread(self._keep, name, data)

    def _keep(self, name: str, data: bytes) -> Attachment:
        file = secrets.token_hex(16)
        path = self._path(file)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = path.with_suffix(".part")
        try:
            with temporary.open("wb") as target:
                target.write(vault().seal_bytes(data))
                target.flush()
                os.fsync(target.fileno())
            temporary.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        media_type = sniff(data)
        digest = hashlib.sha256(data).hexdigest()
        return Attachment(file_name(name, media_type), media_type, len(data), digest, file)

    async def read(self, file: str) -> bytes:
        """The bytes of a kept file.

        Raises:
            FileNotFoundError: it was erased, or never here.
        """
        if not re.fullmatch(r"[0-9a-f]{32}", file):
            raise FileNotFoundError
        return await asyncio.to_thread(self._read, file)

    def _read(self, file: str) -> bytes:
        try:
            sealed = self._path(file).read_bytes()
        except FileNotFoundError:
            sealed = (self.folder / ORPHANS / file).read_bytes()
        return vault().open_bytes(sealed)

    def remove(self, files: Iterable[str]) -> None:
        """Remove files for good."""
        for file in files:
            if file:
                self._path(file).unlink(missing_ok=True)
                (self.folder / ORPHANS / file).unlink(missing_ok=True)

    def older(self, than: timedelta) -> list[str]:
        """The names of files, finished or not, that were written longer ago."""
        before = time.time() - than.total_seconds()
        paths = self.folder.glob("??/*") if self.folder.is_dir() else ()
        return [path.name for path in paths if path.stat().st_mtime < before]

    def set_aside(self, files: Iterable[str]) -> None:
        """Put files aside that seem to belong to no message, and remove what was put aside long
        ago. Should the database be the wrong one, nothing is lost: they are read from there."""
        aside = self.folder / ORPHANS
        aside.mkdir(parents=True, exist_ok=True, mode=0o700)
        for file in files:
            path = self._path(file)
            path.touch()
            path.rename(aside / file)
        before = time.time() - ORPHAN_LIFE.total_seconds()
        for path in aside.iterdir():
            if path.stat().st_mtime < before:
                path.unlink()

    def link(self, attachment: Attachment) -> str:
        """A URL under which whoever has it can read the file for a week."""
        return f"{self.url}/files/{_signer().dumps(attachment.file)}"

    def opened(self, token: str) -> str | None:
        """The file of a link's token, if it is ours and not too old."""
        try:
            found = _signer().loads(token, max_age=int(LINK_LIFE.total_seconds()))
        except BadSignature:
            return None
        return found if isinstance(found, str) and found else None

    def _path(self, file: str) -> Path:
        return self.folder / file[:2] / file

    def routes(self, database: Database) -> Sequence[Route]:
        """Files behind signed links."""

        async def file(request: Request) -> Response:
            name = self.opened(request.path_params["token"])
            found = None if name is None else await database.read(_by_file, name)
            return await self.response(found)

        return [Route("/files/{token}", file)]

    async def response(self, attachment: Attachment | None) -> Response:
        """A file for a browser: shown if harmless, else downloaded under its name."""
        if attachment is None or not attachment.file:
            return Response("This file is not here (any more).", 404, FILE_HEADERS)
        try:
            data = await self.read(attachment.file)
        except FileNotFoundError:
            return Response("This file is not here (any more).", 404, FILE_HEADERS)
        shown = SHOWN.fullmatch(attachment.media_type)
        place = "inline" if shown else "attachment"
        return Response(
            data,
            media_type=attachment.media_type if shown else "application/octet-stream",
            headers={
                **FILE_HEADERS,
                "Content-Disposition": f"{place}; filename*=UTF-8''{quote(attachment.name)}",
            },
        )


class MediaFetcher:
    """Fetches what vendors hold, until cancelled; `wake` makes it look at once."""

    def __init__(
        self, database: Database, store: MediaStore, channels: Mapping[str, Channel]
    ) -> None:
        self.database, self.store, self.channels = database, store, channels
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look now."""
        self._woken.set()

    async def run(self) -> None:
        """Fetch what is due, again and again; now and then remove what belongs to no message."""
        tidied = -TIDY
        while True:
            self._woken.clear()
            try:
                if time.monotonic() - tidied > TIDY:
                    tidied = time.monotonic()
                    await self.tidy()
                due = await self.database.write(_due, AT_ONCE) if await self._any() else []
                await asyncio.gather(*(self._fetch(one) for one in due))
            except Exception:
                log.exception("media_failed")
                due = []
            if not due:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN):
                        await self._woken.wait()

    async def tidy(self) -> None:
        """Put files aside whose message was never written down: the desk died in between."""
        old = await asyncio.to_thread(self.store.older, ORPHAN_AGE)
        for start in range(0, len(old), 500):
            part = old[start : start + 500]
            known = await self.database.read(_known, part)
            orphans = [name for name in part if name not in known]
            await asyncio.to_thread(self.store.set_aside, orphans)

    async def _any(self) -> bool:
        due = select(Media.id).where(Media.due_at.is_not(None)).limit(1)
        return await self.database.read(lambda session: session.scalar(due)) is not None

    async def _fetch(self, job: "_Job") -> None:
        number, channel, source, name, tried, erased = job
        if erased:
            self.store.remove([source])
            await self.database.write(_gone, number)
            return
        try:
            if channel not in self.channels:
                raise RejectedError(f"the channel {channel} is not set up")
            found, data = await self.channels[channel].fetch(source)
            kept = await self.store.keep(name or found, data)
        except (RejectedError, RefusedError) as error:
            await self.database.write(_lost, number, str(error))
        except Exception as error:
            reason = str(error) if isinstance(error, SendError) else type(error).__name__
            log.warning("media_delayed", media=number, reason=reason)
            if tried >= MOST_ATTEMPTS:
                await self.database.write(_lost, number, reason)
        else:
            if not await self.database.write(_here, number, kept):
                self.store.remove([kept.file])  # erased meanwhile


def sniff(data: bytes) -> str:
    """What a file is, by its bytes and nothing else."""
    if data[:4] == b"OggS" and any(sound in data[:64] for sound in (b"OpusHead", b"\x01vorbis")):
        return "audio/ogg"  # voice notes; Ogg alone may hold a film
    try:
        found = puremagic.magic_string(data)
    except (puremagic.PureError, ValueError):
        found = []
    if data.startswith(b"#!AMR"):  # voice notes of old phones, which the library does not name
        return "audio/amr"
    named = next((match.mime_type for match in found if match.mime_type), "")
    if named:
        return {"audio/wave": "audio/wav"}.get(named, named)[:80]
    try:
        data.decode()
    except UnicodeDecodeError:
        return "application/octet-stream"
    return "text/plain"


def file_name(name: str, media_type: str) -> str:
    """A name without folders, controls and tricks of direction, of at most 100 characters."""
    last = re.split(r"[/\\]", clean(name))[-1]
    kept = "".join(char for char in last if char.isprintable()).strip(" .")
    stem, dot, ending = kept.rpartition(".")
    if dot and len(ending) <= 8:
        return f"{stem[:90]}.{ending}" if stem else f"file.{ending}"
    return kept[:100] or f"file.{media_type.rpartition('/')[2].partition('+')[0][:8]}"


def add(
    session: Session,
    message_id: int,
    conversation_id: int,
    channel: str,
    attachments: Iterable[Attachment],
) -> None:
    """Write down the files of a message that is being kept."""
    for one in attachments:
        wanted = bool(one.source) and not one.file and not one.error
        session.add(
            Media(
                message_id=message_id,
                conversation_id=conversation_id,
                channel=channel,
                name=one.name[:200],
                media_type=one.media_type[:80],
                size=min(one.size, 2**31 - 1),  # as the vendor says; the column holds no more
                sha256=one.sha256,
                file=one.file,
                source=one.source,
                error=one.error[:200],
                due_at=now(session) if wanted else None,
            )
        )
        if wanted:
            announce(session, "media")


def of_messages(session: Session, ids: Sequence[int]) -> dict[int, tuple[Attachment, ...]]:
    """The files of messages, by message."""
    found: dict[int, tuple[Attachment, ...]] = {}
    if ids:
        wanted = select(Media).where(Media.message_id.in_(ids), ~Media.erased).order_by(Media.id)
        for row in session.scalars(wanted):
            found[row.message_id] = (*found.get(row.message_id, ()), row.attachment())
    return found


def find(
    session: Session, number: int, conversation_ids: Collection[int] | None = None
) -> Attachment | None:
    """A file by its id, if it belongs to one of the conversations (None: any)."""
    row = session.get(Media, number)
    if row is None or row.erased:
        return None
    if conversation_ids is not None and row.conversation_id not in conversation_ids:
        return None
    return row.attachment()


def _by_file(session: Session, file: str) -> Attachment | None:
    row = session.scalar(select(Media).where(Media.file == file, ~Media.erased))
    return None if row is None else row.attachment()


def drop(session: Session, message_ids: Any) -> None:
    """Erase the files of messages (ids, or a subquery of ids); the fetcher removes their bytes."""
    session.execute(
        update(Media)
        .where(Media.message_id.in_(message_ids))
        .values(name="", sha256="", source="", error="", erased=True, due_at=now(session))
    )
    announce(session, "media")


def _signer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(vault().secret("links to files"), "file")


_Job = tuple[int, str, str, str, int, bool]


def _due(session: Session, limit: int) -> list[_Job]:
    """Take up to `limit` files that are due; each is due again later, should we die over it."""
    stamp = now(session)
    rows = session.scalars(
        select(Media)
        .where(Media.due_at <= stamp)
        .order_by(Media.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    jobs: list[_Job] = []
    for row in rows:
        row.attempts += 1
        row.due_at = stamp + timedelta(seconds=max(60, min(3600, 5 * 2**row.attempts)))
        source = row.file if row.erased else row.source
        jobs.append((row.id, row.channel, source, row.name, row.attempts, row.erased))
    return jobs


def _known(session: Session, files: Sequence[str]) -> set[str]:
    return set(session.scalars(select(Media.file).where(Media.file.in_(files))))


def _gone(session: Session, number: int) -> None:
    session.execute(delete(Media).where(Media.id == number, Media.erased))


def _here(session: Session, number: int, kept: Attachment) -> bool:
    row = session.get(Media, number, with_for_update=True)
    if row is None or row.erased or row.due_at is None:
        return False
    row.name, row.media_type, row.size = kept.name, kept.media_type, kept.size
    row.sha256, row.file, row.due_at, row.error = kept.sha256, kept.file, None, ""
    announce(session, f"conversation:{row.conversation_id}")
    return True


def _lost(session: Session, number: int, reason: str) -> None:
    row = session.get(Media, number, with_for_update=True)
    if row is not None and not row.erased and row.due_at is not None:
        row.due_at, row.error = None, reason[:200]
        log.error("media_lost", media=number, reason=reason)
        announce(session, f"conversation:{row.conversation_id}")
