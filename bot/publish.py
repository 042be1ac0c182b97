"""Publishing: how edited content reaches a running desk without a restart.

`bot faq publish` checks the content and writes its digest into `<data>/published`. The running desk
looks at that file every two seconds, loads the content beside its work and takes it over at once;
content that is broken, or was edited again meanwhile, is left alone and the old one stays. Editing
files changes nothing by itself.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog

from bot.content import Loaded, load_content
from config.content import ContentError
from config.facts import CONFIG

log = structlog.get_logger(__name__)

LOOK_EVERY = 2.0
"""Seconds between two looks at the mark."""
LISTS = ("commands", "dialogue", "directory", "figures", "languages", "risk")
"""What of `config/*.yaml` is content; the rest (hours, voices) is read at the start only."""
SHORT = 12
"""Letters of a digest that are shown."""


def digest_of_files(faq_dir: Path) -> str:
    """SHA-256 (hex) of all files that `load_content` reads."""
    digest = hashlib.sha256()
    files = [
        *faq_dir.glob("*/*.yaml"),
        *(CONFIG / f"{name}.yaml" for name in LISTS),
        *(CONFIG / "locale" / "desk").glob("*.po*"),
    ]
    for name, path in sorted((f"{path.parent.name}/{path.name}", path) for path in files):
        digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def mark_published(data_dir: Path, digest: str) -> None:
    """Tell the desk of this data folder, running or started later, that content is published."""
    data_dir.mkdir(parents=True, exist_ok=True)
    fresh = data_dir / "published.new"
    fresh.write_text(digest + "\n")
    fresh.replace(data_dir / "published")


@dataclass
class Publications:
    """Which content the desk serves, and the look-out for the next.

    `use` is given content that was loaded well, and puts it in the place of the old.
    """

    data_dir: Path
    faq_dir: Path
    use: Callable[[Loaded], Awaitable[None]]
    digest: str
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    asked: str = ""
    """Digest of what was last looked at, taken over or not."""
    refused: str = ""
    """Why that was not taken over; "" if it was."""

    def __post_init__(self) -> None:
        self._seen = self._look()

    async def watch(self) -> None:
        """Take over what is published, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            mark = self._look()
            if mark is None or mark == self._seen:
                continue
            try:
                await self._take_over()
            except Exception:  # such as a database that is away: the next look tries again
                log.exception("content_not_taken_over")
                continue
            self._seen = mark

    async def _take_over(self) -> None:
        wanted = (self.data_dir / "published").read_text().strip()
        try:
            loaded = await asyncio.to_thread(self._load, wanted)
        except ContentError as error:
            count = len(error.mistakes)
            self.asked = wanted
            self.refused = error.mistakes[0] + (f" (and {count - 1} more)" if count > 1 else "")
            log.warning("content_refused", digest=wanted[:SHORT], reason=self.refused)
            return
        await self.use(loaded)
        self.digest = self.asked = wanted
        self.since, self.refused = datetime.now(UTC), ""
        log.info("content_taken_over", digest=wanted[:SHORT], topics=len(loaded.faq.topics))

    def _load(self, wanted: str) -> Loaded:
        """Load exactly what was published: neither older files nor files half edited."""
        before = digest_of_files(self.faq_dir)
        loaded = load_content(self.faq_dir, teach=False)
        if not before == digest_of_files(self.faq_dir) == wanted:
            raise ContentError(["the files were edited after they were published. Publish again."])
        loaded.teach_languages(now=True)  # a second's work, here beside the work of the desk
        return loaded

    def _look(self) -> tuple[int, int] | None:
        try:
            found = (self.data_dir / "published").stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino
