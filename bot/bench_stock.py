"""The two programs that `bot bench` loads: this desk, and stock Rasa with its own REST channel.

Each runs as its own processes on loopback and is asked over HTTP by the same client. Stock Rasa is
trained on the FAQ's own examples, with Rasa's own components only: one intent per topic, told apart
by DIET, and one rule per intent that says the topic's answer in English. Or, where only its
understanding is measured, topics are told apart by a ResponseSelector after DIET.
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
from nlu.faq import Faq
from nlu.train import (
    RASA_PROJECT,
    Example,
    child_environment,
    install,
    nlu_yaml,
    run_child,
    to_rasa,
)

EPOCHS = 20
"""Of DIET; half as many again of ResponseSelector. Rasa's defaults are 100 and 300; the number
changes how long training takes and how well messages are understood, not how fast."""
BATCH = 64
READY_LIMIT = 3600.0
"""Seconds; the first time Rasa is installed and trained."""
ANSWER_LIMIT = 60.0
PERCENT = (50, 95, 99)

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
    async def start(
        cls, settings: Settings, loaded: Loaded, folder: Path, note: Note, epochs: int = EPOCHS
    ) -> Self:
        """Train it unless that is done for this content, start it, wait until it answers."""
        folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240
        python = await install(settings.rasa_home, note)
        model = await stock_model(python, loaded, folder, note, epochs)
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


def questions_of_topics(faq: Faq) -> list[Example]:
    """What this program's classifier of topics learns from: stock Rasa learns from no less."""
    rows = (row for row in faq.training() if row[0] and not row[0].startswith("risk/"))
    return list(dict.fromkeys(rows))


async def stock_model(
    python: Path,
    loaded: Loaded,
    folder: Path,
    note: Note,
    epochs: int = EPOCHS,
    *,
    selector: bool = False,
) -> Path:
    """The stock model for this content: trained now, unless it was before.

    `selector`: topics are one "retrieval intent" whose answers a ResponseSelector tells apart.
    """
    examples = questions_of_topics(loaded.faq)
    intents = sorted({intent for intent, _, _ in examples})
    files = {"config.yml": _yaml(_config(epochs, selector=selector)), "nlu.yml": nlu_yaml(examples)}
    if selector:
        files["domain.yml"] = _yaml(_selector_domain(intents, loaded))
        # in Rasa's files a slash makes a retrieval intent
        files["nlu.yml"] = files["nlu.yml"].replace("\n- intent: faq.", "\n- intent: faq/")
        command = ("train", "nlu", "--nlu", "nlu.yml")
    else:
        files["domain.yml"] = _yaml(_domain(intents, loaded))
        files["rules.yml"] = _yaml({"version": "3.1", "rules": list(map(_rule, intents))})
        command = ("train", "--data", "nlu.yml", "rules.yml")
    digest = hashlib.sha256("\0".join(files.values()).encode()).hexdigest()[:16]
    model = folder / f"{digest}.tar.gz"
    if model.exists():
        return model
    work = folder / "training"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for name, text in files.items():
        (work / name).write_text(text, encoding="utf-8")
    what = "stock Rasa with ResponseSelector" if selector else "stock Rasa"
    note(f"training {what} on {len(examples)} examples (once for this content, minutes)")
    await run_child(
        [
            *(str(python), "-m", "rasa", *command, "--config", "config.yml"),
            *("--domain", "domain.yml", "--out", ".", "--fixed-model-name", "model"),
        ],
        f"{what} could not be trained",
        lambda line: note(f"{what}: {line}"),
        log=folder / "train.log",
        cwd=work,
        environment={"PYTHONPATH": str(RASA_PROJECT), "RASA_MAX_CACHE_SIZE": "0"},
    )
    (work / "model.tar.gz").replace(model)
    shutil.rmtree(work)
    return model


def _config(epochs: int, *, selector: bool) -> dict[str, Any]:
    """Rasa's own components only, as its documentation has them.

    But for the size of a batch, which by default grows to 256: small ones learn more in the time.
    """
    learning = {"epochs": epochs, "batch_size": BATCH}
    pipeline: list[dict[str, Any]] = [
        {"name": "WhitespaceTokenizer"},
        {"name": "CountVectorsFeaturizer"},
        {"name": "CountVectorsFeaturizer", "analyzer": "char_wb", "min_ngram": 1, "max_ngram": 4},
        {"name": "DIETClassifier", **learning, "entity_recognition": False},
    ]
    if selector:
        learning["epochs"] += epochs // 2
        pipeline += [{"name": "ResponseSelector", **learning, "retrieval_intent": "faq"}]
    return {
        "recipe": "default.v1",
        "language": "xx",
        "assistant_id": "stock",
        # Ours, but it only reads the same files in a second where Rasa's own reader takes four
        # minutes. What is learned from them does not change.
        "importers": [{"name": "components.importer.QuickImporter"}],
        "pipeline": pipeline,
        "policies": [] if selector else [{"name": "RulePolicy"}],
    }


def _domain(intents: Sequence[str], loaded: Loaded) -> dict[str, Any]:
    return {
        "version": "3.1",
        "intents": [to_rasa(intent) for intent in intents],
        "responses": {_utter(intent): [{"text": _said(intent, loaded)}] for intent in intents},
        "session_config": {"session_expiration_time": 60, "carry_over_slots_to_new_session": True},
    }


def _selector_domain(intents: Sequence[str], loaded: Loaded) -> dict[str, Any]:
    topics = [intent for intent in intents if intent.startswith("faq/")]
    return {
        "version": "3.1",
        "intents": ["faq", *(intent for intent in intents if intent not in topics)],
        "responses": {f"utter_{topic}": [{"text": _said(topic, loaded)}] for topic in topics},
    }


def _said(intent: str, loaded: Loaded) -> str:
    text = loaded.content.all_texts.get((intent, "en"))
    return text.body if text else intent


def _utter(intent: str) -> str:
    return "utter_" + intent.replace("/", "_")


def _rule(intent: str) -> dict[str, Any]:
    return {"rule": intent, "steps": [{"intent": to_rasa(intent)}, {"action": _utter(intent)}]}


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=10_000)
