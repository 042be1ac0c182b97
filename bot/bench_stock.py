"""The two programs that `bot bench` loads: this desk, and stock Rasa with its own REST channel.

Each runs as its own processes on loopback and is asked over HTTP by the same client. Stock Rasa is
trained on the FAQ's own examples, with Rasa's own components only: one intent per topic, told apart
by DIET, and one rule per intent that says the topic's answer in English.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import httpx
import yaml

from bot.content import Loaded
from config.settings import ROOT, Settings
from nlu.train import child_environment, install, nlu_yaml, run_child, to_rasa

EPOCHS = 20
"""Of DIET. Rasa's default is 100; the number changes how long training takes, not serving."""
READY_LIMIT = 3600.0
"""Seconds; the first time Rasa is installed and trained."""
ANSWER_LIMIT = 60.0
PERCENT = (50, 95, 99)

PIPELINE = {
    "recipe": "default.v1",
    "language": "xx",
    "assistant_id": "stock",
    "pipeline": [
        {"name": "WhitespaceTokenizer"},
        {"name": "CountVectorsFeaturizer"},
        {"name": "CountVectorsFeaturizer", "analyzer": "char_wb", "min_ngram": 1, "max_ngram": 4},
        {"name": "DIETClassifier", "epochs": EPOCHS, "entity_recognition": False},
    ],
    "policies": [{"name": "RulePolicy"}],
}

Note = Callable[[str], None]
"""Takes one line for a person who waits."""


class BenchError(RuntimeError):
    """Something could not be measured; the text says what, in one line."""


@dataclass(frozen=True, slots=True)
class Question:
    """A message for the measurements, and what it was made from."""

    intent: str
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tree of processes has used: seconds of CPU, bytes of memory at its peak.

    `own`: seconds of the first process alone, without its children.
    """

    cpu: float
    own: float
    memory: int


def usage(pid: int) -> Usage | None:
    """Of a process and all its descendants; None where there is no `/proc`.

    The peak is the sum of each living process's own highest resident size.
    """
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
            ticks[int(stat.parent.name)] = sum(map(int, fields[11:13]))
    if pid not in parents:
        return None
    tree = {pid}
    while more := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= more
    memory = 0
    for member in tree:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{member}/status").read_text()
            memory += int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * 1024
    second = os.sysconf("SC_CLK_TCK")
    return Usage(sum(ticks[member] for member in tree) / second, ticks[pid] / second, memory)


def spread(milliseconds: Sequence[float]) -> dict[str, float]:
    """Percentiles of latencies, and the longest."""
    ranked = sorted(milliseconds)
    row = {f"p{part}": ranked[min(len(ranked) - 1, len(ranked) * part // 100)] for part in PERCENT}
    return {**row, "longest": ranked[-1]}


def free_port() -> int:
    """A port of this machine that nobody listens on just now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Chat(Protocol):
    """One worker who writes: `send` returns when the message is acknowledged."""

    async def send(self, text: str) -> None:
        """Send a message."""

    async def answered(self) -> bool:
        """Wait for the answer; whether there was one."""


class Server:
    """A program under load: its process and a client with as many connections as it takes."""

    name = ""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.http = httpx.AsyncClient(
            base_url=url,
            timeout=ANSWER_LIMIT,
            # given up before a server closes it (uvicorn after 5 s), or a message meets that
            limits=httpx.Limits(keepalive_expiry=2),
            trust_env=False,
        )

    @classmethod
    async def launch(
        cls, command: Sequence[str], port: int, environment: dict[str, str], log: Path, note: Note
    ) -> Self:
        """Run a command in the folder of its log; wait until messages can be answered.

        Raises:
            BenchError: it ended or took too long.
        """
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=log.parent,  # where no .env is found
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        server = cls(process, f"http://127.0.0.1:{port}")
        try:
            await server._until_ready(note, log)
        except BaseException:
            await server.stop()
            raise
        return server

    async def open(self, language: str, *, listen: bool = True) -> Chat:
        """A new worker, whose page is in `language`; `listen`: she will want the answer."""
        raise NotImplementedError

    async def is_ready(self) -> str:
        """Empty when ready, else what it is doing."""
        raise NotImplementedError

    async def _until_ready(self, note: Note, log: Path) -> None:
        deadline = time.monotonic() + READY_LIMIT
        while time.monotonic() < deadline:
            if self.process.returncode is not None:
                raise BenchError(f"{self.name} ended while starting (see {log})")
            try:
                doing = await self.is_ready()
            except (httpx.HTTPError, ValueError):
                doing = "starting"
            if not doing:
                return
            note(f"{self.name}: {doing}")
            await asyncio.sleep(0.5)
        raise BenchError(f"{self.name} was not ready in {READY_LIMIT / 60:.0f} minutes (see {log})")

    async def stop(self) -> None:
        """End the program."""
        await self.http.aclose()
        if self.process.returncode is None:
            self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), 20)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()


# -- this program ----------------------------------------------------------------------------------


class DeskChat:
    """A web chat: posts messages, hears the answer on the stream that was opened before."""

    def __init__(
        self, http: httpx.AsyncClient, headers: dict[str, str], stream: httpx.Response | None
    ) -> None:
        self._http, self._headers, self._stream = http, headers, stream

    async def send(self, text: str) -> None:
        """Post the message; it is durable when this returns."""
        body = {"id": uuid.uuid4().hex, "text": text}
        answer = await self._http.post("/chat/messages", json=body, headers=self._headers)
        answer.raise_for_status()

    async def answered(self) -> bool:
        """Wait for what the bot says first."""
        if self._stream is None:
            return False
        try:
            async for line in self._stream.aiter_lines():
                if line.startswith("data:") and json.loads(line[5:])["author"] == "bot":
                    return True
        finally:
            await self._stream.aclose()
        return False


class Desk(Server):
    """This program: `bot serve` with its own empty data folder and its real Rasa."""

    name = "this program"

    @classmethod
    async def start(cls, settings: Settings, folder: Path, note: Note) -> Self:
        """Start it on free ports and wait until it understands with Rasa (if that is on)."""
        shutil.rmtree(folder, ignore_errors=True)  # an empty database each time
        folder.mkdir(parents=True)  # noqa: ASYNC240
        port = free_port()
        values = {
            "BOT_HTTP_PORT": str(port),
            "BOT_SMTP_PORT": str(free_port()),
            "BOT_DATA_DIR": str(folder),
            "BOT_RASA": str(settings.rasa),
            "BOT_RASA_URL": settings.rasa_url,
            "BOT_RASA_TOKEN": settings.rasa_token.get_secret_value(),
            "BOT_RASA_DIR": str(settings.rasa_home.absolute()),
            "BOT_FAQ_DIR": str(settings.faq_dir.absolute()),
            "BOT_WORKERS": str(settings.workers),
            "BOT_LOG_LEVEL": "error",
            "PYTHONPATH": str(ROOT),
        }
        command = (sys.executable, "-m", "bot", "serve")
        environment = child_environment(values)
        return await cls.launch(command, port, environment, folder / "desk.log", note)

    async def is_ready(self) -> str:
        """Ready when Rasa serves, too, unless that is off."""
        state = (await self.http.get("/readyz")).raise_for_status().json()
        if state["status"] == "ready" or state["understanding"] == "off":
            return ""
        return f"{state['understanding']}: {state['detail']}"

    async def open(self, language: str, *, listen: bool = True) -> DeskChat:
        """A new session of the web chat and its stream of events."""
        body = {"language": language}
        answer = (await self.http.post("/chat/session", json=body)).raise_for_status()
        headers = {"authorization": f"Bearer {answer.json()['token']}"}
        stream = None
        if listen:
            request = self.http.build_request("GET", "/chat/stream", headers=headers)
            stream = (await self.http.send(request, stream=True)).raise_for_status()
        return DeskChat(self.http, headers, stream)

    async def turns(self) -> int:
        """How many messages have had their turn, as `/metrics` counts."""
        lines = (await self.http.get("/metrics")).raise_for_status().text.splitlines()
        counts = [line for line in lines if line.startswith("desk_turns_total{")]
        return int(sum(float(line.rpartition(" ")[2]) for line in counts))


# -- stock Rasa ------------------------------------------------------------------------------------


class StockChat:
    """A sender of Rasa's REST channel: the HTTP response is the answer."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http, self._sender, self._said = http, uuid.uuid4().hex, False

    async def send(self, text: str) -> None:
        """Post the message; the answer comes with the response."""
        body = {"sender": self._sender, "message": text}
        answer = (await self._http.post("/webhooks/rest/webhook", json=body)).raise_for_status()
        self._said = bool(answer.json())

    async def answered(self) -> bool:
        """Whether it said anything."""
        return self._said


class Stock(Server):
    """Stock Rasa: `rasa run` with `rest:` as its only channel."""

    name = "stock Rasa"

    @classmethod
    async def start(cls, settings: Settings, loaded: Loaded, folder: Path, note: Note) -> Self:
        """Train it unless that is done for this content, start it, wait until it answers."""
        folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240
        python = await install(settings.rasa_home, note)
        model = await _model(python, loaded, folder, note)
        (folder / "credentials.yml").write_text("rest:\n")
        port = free_port()
        command = [
            *(str(python), "-m", "rasa", "run", "--model", str(model)),
            *("--interface", "127.0.0.1", "--port", str(port)),
            *("--credentials", "credentials.yml"),
        ]
        return await cls.launch(command, port, child_environment({}), folder / "run.log", note)

    async def is_ready(self) -> str:
        """Ready when it says something."""
        chat = await self.open("en")
        await chat.send("hello")
        return "" if await chat.answered() else "loading"

    async def open(self, language: str, *, listen: bool = True) -> StockChat:
        """A sender that it has not seen."""
        _ = language, listen
        return StockChat(self.http)


async def _model(python: Path, loaded: Loaded, folder: Path, note: Note) -> Path:
    """The stock model for this content: trained now, unless it was before."""
    examples = [example for example in loaded.faq.examples if example[0]]
    files = {
        "config.yml": _yaml(PIPELINE),
        "domain.yml": _yaml(_domain(sorted({intent for intent, _, _ in examples}), loaded)),
        "nlu.yml": nlu_yaml(examples),
    }
    digest = hashlib.sha256("\0".join(files.values()).encode()).hexdigest()[:16]
    model = folder / f"{digest}.tar.gz"
    if model.exists():
        return model
    work = folder / "training"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    intents = {intent for intent, _, _ in examples}
    files["rules.yml"] = _yaml({"version": "3.1", "rules": [_rule(i) for i in sorted(intents)]})
    for name, text in files.items():
        (work / name).write_text(text, encoding="utf-8")
    note(f"training stock Rasa on {len(examples)} examples (once for this content, minutes)")
    await run_child(
        [
            *(str(python), "-m", "rasa", "train", "--config", "config.yml"),
            *("--domain", "domain.yml", "--data", "nlu.yml", "rules.yml"),
            *("--out", ".", "--fixed-model-name", "model"),
        ],
        "stock Rasa could not be trained",
        lambda line: note(f"stock Rasa: {line}"),
        log=folder / "train.log",
        cwd=work,
    )
    (work / "model.tar.gz").replace(model)
    shutil.rmtree(work)
    return model


def _domain(intents: Sequence[str], loaded: Loaded) -> dict[str, Any]:
    said = {intent: loaded.content.all_texts.get((intent, "en")) for intent in intents}
    return {
        "version": "3.1",
        "intents": [to_rasa(intent) for intent in intents],
        "responses": {
            _utter(intent): [{"text": text.body if text else intent}]
            for intent, text in said.items()
        },
        "session_config": {"session_expiration_time": 60, "carry_over_slots_to_new_session": True},
    }


def _utter(intent: str) -> str:
    return "utter_" + intent.replace("/", "_")


def _rule(intent: str) -> dict[str, Any]:
    return {"rule": intent, "steps": [{"intent": to_rasa(intent)}, {"action": _utter(intent)}]}


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=10_000)
