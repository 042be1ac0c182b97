"""The settings: from the environment (prefix `BOT_`) or a `.env` file, each with its meaning."""

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds the rooms and `faq_data/`."""


class SettingsError(ValueError):
    """A setting is wrong; the text names the variable, what is wrong and what it means."""


class Settings(BaseSettings):
    """What an operator can set. `bot settings` prints this list."""

    model_config = SettingsConfigDict(env_prefix="BOT_", env_file=".env", extra="ignore")

    http_host: str = Field("127.0.0.1", description="Address on which the web server listens.")
    http_port: int = Field(8000, ge=0, le=65535, description="Port of web chat and console.")
    smtp_host: str = Field("127.0.0.1", description="Address on which mail is received.")
    smtp_port: int = Field(8025, ge=0, le=65535, description="Port on which mail is received.")
    public_url: str = Field(
        "", description="How the desk is reached from outside, e.g. https://desk.example.org."
    )
    data_dir: Path = Field(
        Path("var"), description="Folder for database, keys, models and logs. Back it up."
    )
    database_url: str = Field(
        "",
        description="SQLAlchemy URL. Empty: SQLite in the data folder. Several processes or "
        "machines: postgresql://user:pass@host/db.",
        json_schema_extra={"secret": True},
    )
    data_key: SecretStr = Field(
        SecretStr(""),
        description="Keys that encrypt identities and words at rest (Fernet; several, comma "
        "separated, newest first). Empty: made on first start in the data folder.",
    )
    mail_address: str = Field("desk@localhost", description="The desk's own mail address.")
    smtp_relay: str = Field(
        "", description="host:port that takes outgoing mail. Empty: kept, shown in the console."
    )
    smtp_relay_user: str = Field("", description="User name at the mail relay.")
    smtp_relay_password: SecretStr = Field(SecretStr(""), description="Password at the relay.")
    smtp_relay_tls: Literal["starttls", "tls", "none"] = Field(
        "none", description="How the connection to the relay is protected."
    )
    rasa: bool = Field(
        True, description="Start Rasa as a child process. False: deterministic part only."
    )
    rasa_url: str = Field("", description="A Rasa that runs elsewhere (then none is started).")
    rasa_dir: str = Field(
        "", description="Folder for Rasa's environment and models. Empty: the data folder."
    )
    rasa_token: SecretStr = Field(SecretStr(""), description="Token of that Rasa.")
    faq_dir: Path = Field(ROOT / "faq_data", description="Folder with the FAQ topics.")
    media_dir: str = Field(
        "",
        description="Folder for files that came with messages, encrypted. Empty: in the data "
        "folder. Several machines need one that they share.",
    )
    media_limit_mb: int = Field(
        20, ge=1, le=200, description="Largest file that is taken, in megabytes."
    )
    workers: int = Field(
        8, ge=1, le=64, description="How many conversations are worked on at the same time."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="How much is logged (JSON lines on stderr; never personal data)."
    )

    @field_validator("smtp_relay")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        if value and not (":" in value and value.rpartition(":")[2].isdigit()):
            raise ValueError("give host:port, e.g. mail.example.org:587")
        return value

    @field_validator("public_url", "rasa_url")
    @classmethod
    def _http_url(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("give a whole URL, beginning with https:// or http://")
        return value.rstrip("/")

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force; PostgreSQL always by psycopg 3."""
        if not self.database_url:
            return f"sqlite:///{(self.data_dir / 'desk.sqlite3').resolve()}"
        scheme, separator, rest = self.database_url.partition("://")
        if scheme in {"postgres", "postgresql"}:
            scheme = "postgresql+psycopg"
        return f"{scheme}{separator}{rest}"

    @property
    def media_home(self) -> Path:
        """Where the files of messages are."""
        return Path(self.media_dir) if self.media_dir else self.data_dir / "media"

    @property
    def rasa_home(self) -> Path:
        """Where Rasa's environment and models are."""
        return Path(self.rasa_dir) if self.rasa_dir else self.data_dir

    @property
    def url(self) -> str:
        """Where a browser finds the desk."""
        return self.public_url or f"http://localhost:{self.http_port}"

    @property
    def https(self) -> bool:
        """Whether cookies may be limited to encrypted connections."""
        return self.url.startswith("https://")


S = TypeVar("S", bound=BaseSettings)


def load_settings() -> Settings:
    """The settings of the desk; see `load`."""
    return load(Settings)


def load(kind: type[S]) -> S:
    """Read settings of a kind (the desk's, or a channel's own) from the environment and `.env`.

    Raises:
        SettingsError: a value is wrong; all faults are named at once.
    """
    try:
        return kind()
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            if not fault["loc"]:  # about several together: it names them itself
                faults.append(fault["msg"].removeprefix("Value error, "))
                continue
            name = str(fault["loc"][0])
            known = kind.model_fields.get(name)
            meaning = f" It means: {known.description}" if known else ""
            faults.append(f"{_variable(kind, name)}: {fault['msg']}.{meaning}")
        raise SettingsError("\n".join(faults)) from None


def describe(*kinds: type[BaseSettings]) -> list[tuple[str, str, str, bool]]:
    """Every setting as (variable, meaning, default, secret)."""
    rows = []
    for kind in kinds:
        for name, field in kind.model_fields.items():
            secret = field.annotation is SecretStr or bool(
                isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("secret")
            )
            default = "" if field.annotation is SecretStr else str(field.default)
            if name == "faq_dir":
                default = "faq_data"
            rows.append((_variable(kind, name), field.description or "", default, secret))
    return rows


def _variable(kind: type[BaseSettings], name: str) -> str:
    return f"{kind.model_config.get('env_prefix', '')}{name}".upper()
