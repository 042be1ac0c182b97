"""Links that take up a conversation in the web chat: signed, expiring, short enough for an SMS."""

import hashlib

from itsdangerous import BadSignature, HMACAlgorithm, TimestampSigner

from config.vault import vault


class _Short(HMACAlgorithm):
    """88 bits of an HMAC. The last letter of eleven bytes in base64 is never "-" or "_", which
    telephones leave out when they make a link of a text."""

    def get_signature(self, key: bytes, value: bytes) -> bytes:
        return super().get_signature(key, value)[:11]


def _signer(purpose: str) -> TimestampSigner:
    return TimestampSigner(
        vault().secret("resume links"), purpose, algorithm=_Short(hashlib.sha256)
    )


def resume_token(conversation_id: int, purpose: str = "resume") -> str:
    """A token of about 25 letters, from now on; it is worth nothing for another purpose."""
    return _signer(purpose).sign(str(conversation_id)).decode()


def resumed(token: str, max_age_seconds: int, purpose: str = "resume") -> int | None:
    """The conversation of a token, or None if it is not ours or too old."""
    try:
        found = _signer(purpose).unsign(token, max_age=max_age_seconds)
    except BadSignature:
        return None
    return int(found)
