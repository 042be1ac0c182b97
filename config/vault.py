"""Encryption at rest: who a worker is and what she wrote is unreadable in the database file.

Fernet (AES-128-CBC with HMAC-SHA256, from `cryptography`) seals values; a keyed hash, the blind
index, finds an address again without opening any row. Keys come from `BOT_DATA_KEY` or are made
on first start. A new key in front of the old ones rotates: old values stay readable.
"""

import hashlib
import hmac
import json
import os
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import LargeBinary, String
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

KEY_FILE = "data.key"


class VaultError(RuntimeError):
    """The keys are missing or do not fit the data."""


class Vault:
    """Seals and opens values with the newest of `keys`, opens with any of them."""

    def __init__(self, keys: list[str]) -> None:
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except (ValueError, TypeError):
            raise VaultError(
                "BOT_DATA_KEY is not a Fernet key (44 characters, URL-safe base64). "
                "Take the one that this data was written with from your backup."
            ) from None
        # The oldest key indexes, so that look-up survives a rotation.
        self._index_key = hashlib.sha256(b"blind index" + keys[-1].encode()).digest()

    def seal(self, value: str) -> bytes:
        """Encrypt a text."""
        return self.seal_bytes(value.encode("utf-8", "surrogatepass"))

    def open(self, sealed: bytes) -> str:
        """Decrypt what `seal` made.

        Raises:
            VaultError: sealed with a key that is not here.
        """
        return self.open_bytes(sealed).decode("utf-8", "surrogatepass")

    def seal_bytes(self, value: bytes) -> bytes:
        """Encrypt a file."""
        return self._fernet.encrypt(value)

    def open_bytes(self, sealed: bytes) -> bytes:
        """Decrypt what `seal_bytes` made.

        Raises:
            VaultError: sealed with a key that is not here.
        """
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken:
            raise VaultError(
                "The data was encrypted with another key. Set BOT_DATA_KEY (or restore "
                f"{KEY_FILE} in the data folder) to the key that it was written with."
            ) from None

    def index(self, *values: str) -> str:
        """Blind index of an address: same values, same 64 hex digits; not reversible."""
        message = "\x1f".join(values).encode("utf-8", "surrogatepass")
        return hmac.new(self._index_key, message, hashlib.sha256).hexdigest()

    def secret(self, purpose: str) -> str:
        """A key for another purpose (cookie signatures …), derived, so that none is kept twice."""
        return hmac.new(self._index_key, purpose.encode(), hashlib.sha256).hexdigest()


def load_vault(data_dir: Path, configured: str) -> tuple[Vault, bool]:
    """The vault of this installation, and whether its key was made just now.

    Args:
        data_dir: folder in which a missing key is made (mode 0600).
        configured: value of `BOT_DATA_KEY`, possibly empty.
    """
    if configured:
        return Vault([key.strip() for key in configured.split(",") if key.strip()]), False
    path = data_dir / KEY_FILE
    made = False
    if not path.exists():
        data_dir.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
            f.write(Fernet.generate_key().decode())
            f.flush()
            os.fsync(f.fileno())
        try:
            os.link(temporary, path)  # never replaces a key that another process just made
            made = True
        except FileExistsError:
            pass
        temporary.unlink()
    return Vault([path.read_text().strip()]), made


_vault: Vault | None = None


def use_vault(vault: Vault) -> None:
    """Set the vault with which this process reads and writes sealed columns."""
    global _vault
    _vault = vault


def vault() -> Vault:
    """The vault of this process."""
    if _vault is None:
        raise VaultError("The vault is not open yet: the program calls use_vault() first.")
    return _vault


class Sealed(TypeDecorator[str]):
    """A text column that is encrypted in the database."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> bytes | None:
        """Seal on the way in."""
        return None if value is None else vault().seal(value)

    def process_result_value(self, value: Any, _dialect: Dialect) -> str | None:
        """Open on the way out."""
        return None if value is None else vault().open(bytes(value))


class SealedJson(Sealed):
    """A JSON value that is encrypted in the database."""

    cache_ok = True

    def process_bind_param(self, value: Any, _dialect: Dialect) -> bytes | None:
        """Seal on the way in."""
        return super().process_bind_param(
            None if value is None else json.dumps(value, ensure_ascii=False), _dialect
        )

    def process_result_value(self, value: Any, _dialect: Dialect) -> Any:
        """Open on the way out."""
        text = super().process_result_value(value, _dialect)
        return None if text is None else json.loads(text)


BlindIndex = String(64)
"""Column type of `Vault.index`."""
