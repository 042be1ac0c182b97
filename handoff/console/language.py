"""The console's own languages: English in the code and templates, Japanese in `ja.po`.

`python -m handoff.console.collect` collects the English again and updates both catalogues.
"""

import gettext
import io
import re

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

from config.facts import CONFIG

LANGUAGES = {"ja": "日本語", "en": "English"}
FOLDER = CONFIG / "locale" / "console"


def N_(sentence: str) -> str:  # noqa: N802 - gettext's own name for “translated later”
    """Mark a sentence for the catalogue."""
    return sentence


REASONS = {
    "asked": N_("asked for a person"),
    "risk": N_("words of danger"),
    "unsure": N_("the bot was unsure"),
    "topic": N_("topic for a person"),
    "no_text": N_("no text to answer with"),
    "other_language": N_("language that the bot does not speak"),
    "failed": N_("technical failure"),
    "attachment": N_("sent a file"),
    "undelivered": N_("our words did not arrive"),
    "call": N_("called"),
}
LEVELS = {"emergency": N_("Emergency"), "high": N_("High risk"), "none": N_("No danger seen")}
CHANNELS = {
    "webchat": N_("Web chat"),
    "email": N_("E-mail"),
    "line": "LINE",
    "telegram": "Telegram",
    "sms": "SMS",
    "voice": N_("Telephone"),
}
KINDS = {
    "sticker": N_("sticker"),
    "place": N_("place"),
    "contact": N_("contact card"),
    "voicemail": N_("voice message"),
    "start": N_("opened the conversation"),
    "withdrawn": N_("taken back"),
}
STATES = {
    "queued": N_("on its way"),
    "sent": N_("sent"),
    "delivered": N_("delivered"),
    "read": N_("read"),
    "kept": N_("kept, not sent"),
    "failed": N_("not sent"),
}
EVENTS = {
    "opened": N_("Case opened"),
    "escalated": N_("Danger raised"),
    "reopened": N_("Asked for a person again"),
    "viewed": N_("%(by)s read the case"),
    "claimed": N_("%(by)s took the case"),
    "replied": N_("%(by)s replied"),
    "noted": N_("%(by)s wrote a note"),
    "put_back": N_("%(by)s put the case back"),
    "released": N_("%(by)s gave the conversation back to the bot"),
    "closed": N_("%(by)s closed the case"),
    "resent": N_("%(by)s sent a message again"),
    "file_opened": N_("%(by)s opened a file"),
    "ways_noted": N_("%(by)s noted where and when to write to her"),
    "joined": N_("She joined her channels with a code"),
    "unjoined": N_("The joining was undone; the case is open again"),
    "parted": N_("%(by)s parted the joined channels"),
    "promise_missed": N_("The promised time has passed; a new one was given"),
    "call_started": N_("The worker called and asked for a person"),
    "call_rang": N_("%(by)s was rung"),
    "call_connected": N_("%(by)s spoke with the worker by telephone"),
    "call_missed": N_("%(by)s called the worker; nobody answered"),
    "call_ended": N_("The worker's call ended"),
    "call_asked": N_("%(by)s asked for a call to the worker"),
    "voicemail": N_("The worker left a recording"),
    "callback_due": N_("The worker is to be called back"),
    "callback_tried": N_("%(by)s called the worker"),
}
ROLE_NAMES = {
    "counsellor": N_("Counsellor"),
    "editor": N_("Editor"),
    "manager": N_("Manager"),
    "admin": N_("Admin"),
}
UNDERSTANDING = {
    "installing": N_("being installed"),
    "training": N_("learning"),
    "loading": N_("starting"),
    "down": N_("not running"),
    "off": N_("switched off"),
}
REFUSALS = (
    N_("%(holder)s already has this case."),
    N_("%(holder)s has this case."),
    N_("This case is closed."),
    N_("There is no such case."),
    N_("Take the case first."),
    N_("Write something first."),
    N_("The worker asked for no more messages. Wait until she writes again."),
    N_("The worker had her data erased; there is nobody to write to."),
    N_("Choose how the case ended."),
    N_("Choose one of her channels."),
    N_("Write times as 09:00."),
    N_("These conversations were not joined."),
    N_("This message needs no second sending."),
    N_("Give a sign-in name and a name."),
    N_("Choose at least one role of %(roles)s."),
    N_("The sign-in name %(login)s is taken."),
    N_("The present password is not right."),
    N_("This is the last admin. Make another one first."),
    N_("The password needs at least %(length)s characters."),
    N_("Write down your own telephone number first (menu: My telephone)."),
    N_("No telephone number of the worker is known."),
    N_("It is not her safe time now. Confirm that you call all the same."),
    N_("Your telephone is being rung already. Wait a moment."),
    N_("Write the telephone number as 090-1234-5678 or +81 90 1234 5678."),
    N_("Calls need a telephone number."),
)
"""What `DeskError` and `StaffError` say; a test holds this list against their sources."""

_HOLE = re.compile(r"%\\\((\w+)\\\)s|%\((\w+)\)s")


def translations() -> dict[str, gettext.NullTranslations]:
    """The console's catalogues by language."""
    compiled = io.BytesIO()
    with (FOLDER / "ja.po").open("rb") as file:
        write_mo(compiled, read_po(file, locale="ja"))
    compiled.seek(0)
    return {"en": gettext.NullTranslations(), "ja": gettext.GNUTranslations(compiled)}


def translate_refusal(sentence: str, words: gettext.NullTranslations) -> str:
    """What the desk answered in English, in the language of the console."""
    for known in REFUSALS:
        pattern = _HOLE.sub(lambda hole: f"(?P<{hole[1] or hole[2]}>.+?)", re.escape(known))
        found = re.fullmatch(pattern, sentence)
        if found:
            return words.gettext(known) % found.groupdict()
    return sentence


def preferred(header: str) -> str:
    """The console's language that an Accept-Language header likes best; English if none."""
    wishes: list[tuple[float, str]] = []
    for part in header.split(","):
        tag, _, quality = part.partition(";")
        number = re.fullmatch(r"\s*q=([01](?:\.\d{0,3})?)\s*", quality)
        wishes.append((float(number[1]) if number else 1.0, tag.strip().lower()[:2]))
    return next((tag for _, tag in sorted(wishes, key=lambda w: -w[0]) if tag in LANGUAGES), "en")
