"""The real program as a child process, and a worker who writes to it over HTTP."""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from config.settings import ROOT


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class RunningDesk:
    """`bot serve` in a process group of its own."""

    data_dir: Path
    environment: dict[str, str] = field(default_factory=dict)
    http_port: int = field(default_factory=free_port)
    smtp_port: int = field(default_factory=free_port)
    process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def output(self) -> Path:
        return self.data_dir / "output.txt"

    def start(self, patience: float = 60) -> None:
        """Start, and wait until messages are taken."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        settings = {
            "BOT_DATA_DIR": str(self.data_dir),
            "BOT_HTTP_PORT": str(self.http_port),
            "BOT_SMTP_PORT": str(self.smtp_port),
            "BOT_RASA": "false",
            **self.environment,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bot", "serve"],
            cwd=ROOT,
            env={**os.environ, **settings},
            stdout=self.output.open("a"),
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        deadline = time.monotonic() + patience
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the desk did not start:\n{self.output.read_text()}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return self.state()["status"] in {"ready", "degraded"}
        except (httpx.HTTPError, ValueError, KeyError):
            return False

    def state(self) -> dict[str, Any]:
        """What /readyz says."""
        answer = httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False)
        found: dict[str, Any] = answer.json()
        return found

    def wait_ready(self, patience: float = 1500) -> None:
        """Wait until Rasa understands, too."""
        deadline = time.monotonic() + patience
        while self.state()["status"] != "ready":
            if time.monotonic() > deadline:
                raise AssertionError(f"Rasa did not come: {self.state()}")
            time.sleep(0.5)

    def stop(self) -> int | None:
        """Ctrl-C, as its user; returns the exit code."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
            self.process.wait(timeout=30)
        return self.process.returncode

    def kill(self) -> None:
        """`kill -9` of the whole group."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=10)

    def password(self) -> str:
        """The first sign-in's password."""
        return (self.data_dir / "first-sign-in.txt").read_text()


class Chat:
    """A worker in the web chat."""

    def __init__(self, desk: RunningDesk, language: str = "en") -> None:
        self.http = httpx.Client(base_url=desk.url, timeout=20, trust_env=False)
        token = self.http.post("/chat/session", json={"language": language}).json()["token"]
        self.http.headers["authorization"] = f"Bearer {token}"
        self.seen = 0

    def write(self, text: str, choice: str = "", key: str = "") -> httpx.Response:
        """Send a message."""
        body = {"id": key or str(uuid.uuid4()), "text": text, "choice": choice}
        return self.http.post("/chat/messages", json=body)

    def history(self) -> list[dict[str, Any]]:
        """The whole conversation."""
        answer = self.http.get("/chat/messages", params={"after": 0})
        listed: list[dict[str, Any]] = answer.json()["messages"]
        return listed

    def hear(self, at_least: int = 1, patience: float = 30) -> list[dict[str, Any]]:
        """What the desk said since the last time, once it has said something."""
        deadline = time.monotonic() + patience
        while True:
            answer = self.http.get("/chat/messages", params={"after": self.seen})
            new = [m for m in answer.json()["messages"] if m["author"] != "worker"]
            if len(new) >= at_least:
                self.seen = new[-1]["id"]
                return new
            if time.monotonic() > deadline:
                raise AssertionError(f"the desk stayed silent; so far {self.history()}")
            time.sleep(0.05)

    def ask(self, text: str, choice: str = "", at_least: int = 1) -> list[dict[str, Any]]:
        """Write, then hear."""
        assert self.write(text, choice).status_code == 202
        return self.hear(at_least)
