"""One person on several channels: linked by a code that she carries from one to the other herself.

Linking moves a conversation to the other's contact; it can be undone, by her or by a counsellor.
Nothing is ever merged on likeness of names or numbers.
"""

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from config.database import Base
from config.vault import BlindIndex


class LinkCode(Base):
    """A code that was shown in a conversation; only its blind index is kept."""

    __tablename__ = "link_code"

    id: Mapped[int] = mapped_column(primary_key=True)
    code_index: Mapped[str] = mapped_column(BlindIndex, unique=True)
    conversation_id: Mapped[int] = mapped_column(ForeignKey("conversation.id"))
    expires_at: Mapped[datetime]


class ContactLink(Base):
    """A conversation that was moved to another contact, and how to move it back."""

    __tablename__ = "contact_link"

    id: Mapped[int] = mapped_column(primary_key=True)
    conversation_id: Mapped[int] = mapped_column(ForeignKey("conversation.id"), index=True)
    from_contact_id: Mapped[int] = mapped_column(ForeignKey("contact.id"))
    to_contact_id: Mapped[int] = mapped_column(ForeignKey("contact.id"))
    proof: Mapped[str] = mapped_column(String(12))
    staff_id: Mapped[int | None] = mapped_column(ForeignKey("staff.id"))
    at: Mapped[datetime]
    undone_at: Mapped[datetime | None]
