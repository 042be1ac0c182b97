"""What every channel is made with."""

from collections.abc import Callable
from dataclasses import dataclass

from channels.media import MediaStore
from channels.message import Inbox
from config.database import Database
from config.settings import Settings
from config.texts import Texts


@dataclass(frozen=True, slots=True)
class ChannelContext:
    """The desk as channels see it. `texts` gives the catalogue in force, at each call anew.

    A channel's own settings and secrets stand in its own file.
    """

    inbox: Inbox
    database: Database
    settings: Settings
    texts: Callable[[], Texts]
    media: MediaStore
