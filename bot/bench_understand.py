"""`bot bench`, part understanding: this desk's understanding beside stock Rasa's and others'.

How fast: the same new questions in turns to this desk's Rasa, as a turn asks it, and to stock
Rasa's own servers. How well: the questions of `tests/evaluation`, which no example resembles, to
those and to each kind of evidence by itself, all having learned from the same examples.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from rich.console import Console
from rich.table import Table

from bot.bench_stock import (
    EPOCHS,
    BenchError,
    Note,
    Question,
    Server,
    free_port,
    questions_of_topics,
    spread,
    stock_model,
    usage,
)
from bot.content import Loaded
from bot.evaluate import Labelled, Share, read_labelled
from config.settings import ROOT, Settings
from nlu.language import identify
from nlu.rasa_process import RasaProcess
from nlu.train import (
    RASA_PROJECT,
    child_environment,
    content_digest,
    from_rasa,
    install,
    model_path,
    run_child,
)
from nlu.understand import Understander

HELD_OUT = ROOT / "tests" / "evaluation"
ASKERS, SLICES, WARM_UP = 8, 6, 48
BEST = 3
TOPIC = "faq/"
FASTTEXT = {
    "lr": 1.0,
    "epoch": 100,
    "wordNgrams": 2,
    "minn": 2,
    "maxn": 5,
    "bucket": 500_000,
    "thread": 2,
    "verbose": 0,
}
"""The best of a dozen: its defaults, made for millions of examples, find one topic in two."""

Ranking = Sequence[str]
"""Topics (`faq/<topic>`), best first."""
Step = Callable[[int], None]

ROWS = {
    "messages_per_second": "messages per second",
    "p50_ms": "p50, ms",
    "p95_ms": "p95, ms",
    "cpu_ms": "CPU per message, ms",
    "own_cpu_ms": "… of it in the program itself",
    "peak_mb": "peak memory of Rasa, MB",
    "unanswered": "without an answer",
}


class Asked(Protocol):
    """Something that can be asked what a message means."""

    name: str

    @property
    def pid(self) -> int | None:
        """Its process, if it runs on this machine."""

    async def ask(self, question: Question) -> Ranking:
        """The topics of a question; empty if there was no answer."""


class DeskRasa:
    """This desk's Rasa as a child, asked by the desk's own `Understander`."""

    name = "this desk"

    def __init__(self, rasa: RasaProcess, understander: Understander) -> None:
        self._rasa, self._understander = rasa, understander

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls, settings: Settings, loaded: Loaded, note: Note
    ) -> AsyncIterator["DeskRasa"]:
        """Run it until the end of the `async with`; it is trained first, if need be."""
        rasa = RasaProcess(
            settings.rasa_home,
            loaded.faq.training,
            url=settings.rasa_url,
            token=settings.rasa_token.get_secret_value(),
            on_change=lambda state, detail: note(f"this desk: {state}: {detail}"),
        )
        async with rasa:
            while not await rasa.wait_ready(1):
                if rasa.state == "down" and rasa.detail != "not started":
                    raise BenchError(f"this desk's Rasa did not start: {rasa.detail}")
            understander = Understander(loaded.lexicon, loaded.lexical, lambda: rasa.client)
            understander.warm()
            yield cls(rasa, understander)

    @property
    def pid(self) -> int | None:
        """Of the child."""
        return self._rasa.pid

    async def ask(self, question: Question) -> Ranking:
        """As one turn does; without Rasa it would be no measurement, so that counts as none."""
        [found] = await self._understander.understand([question.text], [question.language or None])
        return [] if found.degraded else [intent for intent, _ in found.ranking]


class StockParse(Server):
    """Stock Rasa's own server, asked by `POST /model/parse`."""

    name = "stock Rasa"

    @classmethod
    async def serve(cls, python: Path, model: Path, folder: Path, name: str, note: Note) -> Self:
        """Start it, wait until it answers."""
        port = free_port()
        command = [
            *(str(python), "-m", "rasa", "run", "--enable-api", "--model", str(model)),
            *("--interface", "127.0.0.1", "--port", str(port)),
        ]
        log = folder / f"parse-{model.stem.partition('.')[0]}.log"
        server = await cls.launch(command, port, child_environment({}), log, note)
        server.name = name
        return server

    @property
    def pid(self) -> int | None:
        """Of the server."""
        return self.process.pid

    async def is_ready(self) -> str:
        """Ready when it understands something."""
        return "" if await self.ask(Question("", "en", "my salary was not paid")) else "loading"

    async def ask(self, question: Question) -> Ranking:
        """Topics by the ResponseSelector if it has one, else by DIET."""
        answer = await self.http.post("/model/parse", json={"text": question.text})
        found = answer.raise_for_status().json()
        if chosen := found.get("response_selector", {}).get("faq"):
            return [row["intent_response_key"] for row in chosen["ranking"]]
        return [from_rasa(row["name"]) for row in found.get("intent_ranking", ())]


@dataclass
class _Tally:
    seconds: float = 0.0
    cpu: float | None = 0.0
    latencies: list[float] = field(default_factory=list)
    unanswered: int = 0

    def figures(self, memory: int | None, own: float) -> dict[str, float | None]:
        """`own`: milliseconds of CPU for each message in this process."""
        count = len(self.latencies)
        latency = spread(self.latencies)
        return {
            "messages_per_second": count / self.seconds,
            "p50_ms": latency["p50"],
            "p95_ms": latency["p95"],
            "cpu_ms": None if self.cpu is None else 1000 * self.cpu / count + own,
            "own_cpu_ms": own,
            "peak_mb": None if memory is None else memory / 1e6,
            "unanswered": float(self.unanswered),
        }


@dataclass
class Understood:
    """What was measured."""

    speed: dict[str, dict[str, float | None]]
    accuracy: dict[str, dict[str, dict[str, Share]]]
    """By name, by language or "all", "top1" and "top3"."""
    encoder_asked: dict[str, float] | None
    """Shares of the questions for which this desk needed the encoder: for topic, danger, any."""
    examples: int
    held_out: int
    without: list[str]
    """What was left out, and why."""

    def as_json(self) -> dict[str, Any]:
        """For the file of figures."""
        accuracy = {
            name: {
                where: {best: share.value for best, share in shares.items()}
                for where, shares in by_language.items()
            }
            for name, by_language in self.accuracy.items()
        }
        return {
            "speed": self.speed,
            "accuracy": accuracy,
            "encoder_asked": self.encoder_asked,
            "examples": self.examples,
            "held_out": self.held_out,
        }


async def measure(
    settings: Settings,
    loaded: Loaded,
    folder: Path,
    asked: Sequence[Question],
    epochs: int,
    note: Note,
    step: Step,
) -> Understood:
    """Measure all of it; the first `WARM_UP` of the questions `asked` only warm up.

    Raises:
        BenchError: a program did not start.
        TrainingError: Rasa could not be installed or trained, or the comparison failed.
    """
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240
    held_out = _held_out(loaded)
    python = await install(settings.rasa_home, note)
    diet = await stock_model(python, loaded, folder, note, epochs)
    selector = await stock_model(python, loaded, folder, note, epochs, selector=True)
    rankings: dict[str, list[Ranking]] = {}
    async with contextlib.AsyncExitStack() as stack:
        desk: Asked = await stack.enter_async_context(DeskRasa.start(settings, loaded, note))
        servers: list[Asked] = [desk]
        for model, name in ((selector, "DIET + ResponseSelector"), (diet, "DIET alone")):
            stock = await StockParse.serve(python, model, folder, name, note)
            stack.push_async_callback(stock.stop)
            servers.append(stock)
        speed = await _speed(servers, asked, loaded, note, step)
        for server in servers:
            note(f"held-out questions to {server.name}")
            rankings[server.name] = await _all(server, held_out, step)
    note("each kind of evidence by itself")
    alone, spelled, encoder_asked = await _alone(settings, loaded, folder, held_out, asked, note)
    without = []
    try:
        alone["fastText"] = await asyncio.to_thread(_fasttext, spelled, held_out, folder)
    except ImportError:
        without.append("fastText: not installed (`uv sync` installs it for developers)")
    accuracy = {name: _shares(held_out, rows) for name, rows in {**rankings, **alone}.items()}
    count = len(questions_of_topics(loaded.faq))
    return Understood(speed, accuracy, encoder_asked, count, len(held_out), without)


def _held_out(loaded: Loaded) -> list[Labelled]:
    rows = read_labelled(sorted(HELD_OUT.glob("*.tsv")), loaded.faq.topics)
    return [row for row in rows if row.expected in loaded.faq.topics]


# -- how fast --------------------------------------------------------------------------------------


async def _speed(
    servers: Sequence[Asked], asked: Sequence[Question], loaded: Loaded, note: Note, step: Step
) -> dict[str, dict[str, float | None]]:
    tallies = {server.name: _Tally() for server in servers}
    for server in servers:
        note(f"warming up {server.name}")
        await _slice(server, asked[:WARM_UP], _Tally())
    note("the same questions to each in turns")
    for number in range(SLICES):
        part = asked[WARM_UP + number :: SLICES]
        first = number % len(servers)
        for server in (*servers[first:], *servers[:first]):
            await _slice(server, part, tallies[server.name])
            step(len(part))
    began = time.process_time()
    for question in asked:  # what the desk does besides asking Rasa
        loaded.lexicon.find(question.text)
        identify(question.text, prior=question.language)
    own = 1000 * (time.process_time() - began) / len(asked)
    figures = {}
    for server in servers:
        end = None if server.pid is None else usage(server.pid)
        memory = None if end is None else end.memory
        figures[server.name] = tallies[server.name].figures(
            memory, own if server is servers[0] else 0.0
        )
    return figures


async def _slice(server: Asked, asked: Sequence[Question], tally: _Tally) -> None:
    """Let askers ask, each its next question after the answer to its last one."""
    waiting = iter(asked)

    async def asker(waiting: Iterator[Question]) -> None:
        for question in waiting:
            began = time.perf_counter()
            tally.unanswered += not await server.ask(question)
            tally.latencies.append(1000 * (time.perf_counter() - began))

    start = None if server.pid is None else usage(server.pid)
    began = time.perf_counter()
    await asyncio.gather(*(asker(waiting) for _ in range(ASKERS)))
    tally.seconds += time.perf_counter() - began
    end = None if server.pid is None else usage(server.pid)
    if tally.cpu is None or start is None or end is None:
        tally.cpu = None
    else:
        tally.cpu += end.cpu - start.cpu


# -- how well --------------------------------------------------------------------------------------


async def _all(server: Asked, held_out: Sequence[Labelled], step: Step) -> list[Ranking]:
    """What a server makes of each; nobody tells it the language."""
    found: list[Ranking] = [()] * len(held_out)
    waiting = iter(enumerate(held_out))

    async def asker(waiting: Iterator[tuple[int, Labelled]]) -> None:
        for place, one in waiting:
            found[place] = await server.ask(Question("", "", one.text))
            step(1)

    await asyncio.gather(*(asker(waiting) for _ in range(ASKERS)))
    return [[intent for intent in row if intent.startswith(TOPIC)][:BEST] for row in found]


async def _alone(
    settings: Settings,
    loaded: Loaded,
    folder: Path,
    held_out: Sequence[Labelled],
    asked: Sequence[Question],
    note: Note,
) -> tuple[dict[str, list[Ranking]], list[tuple[str, str]], dict[str, float] | None]:
    """What `nlu/rasa/compare.py` finds, in Rasa's environment."""
    model = model_path(settings.rasa_home, content_digest(loaded.faq.training())).absolute()
    given = {
        "examples": questions_of_topics(loaded.faq),
        "held_out": [(one.language, one.text) for one in held_out],
        "vectors": str((settings.rasa_home / "models" / "vectors.npz").absolute()),
        "model": str(model) if model.exists() else None,
        "asked": [(one.language, one.text) for one in asked[WARM_UP:]],
    }
    source, target = folder / "compare-in.json", folder / "compare-out.json"
    source.write_text(json.dumps(given), encoding="utf-8")
    python = await install(settings.rasa_home, note)
    await run_child(
        [str(python), str(RASA_PROJECT / "compare.py"), *map(str, (source, target))],
        "the kinds of evidence could not be compared",
        note,
        log=folder / "compare.log",
    )
    found = json.loads(target.read_text(encoding="utf-8"))
    spelled = [(label, text) for label, text in found["spelled"]]
    return dict(found["rankings"]), spelled, found["encoder_asked"]


def _fasttext(
    spelled: Sequence[tuple[str, str]], held_out: Sequence[Labelled], folder: Path
) -> list[Ranking]:
    """fastText's own supervised classifier, on the same examples in all their spellings."""
    import fasttext

    lines = folder / "fasttext.txt"
    prefix = "__label__"
    lines.write_text("".join(f"{prefix}{label} {text}\n" for label, text in spelled), "utf-8")
    model = fasttext.train_supervised(str(lines), **FASTTEXT)
    texts = [" ".join(one.text.lower().split()) for one in held_out]
    labels, _ = model.predict(texts, k=len(model.labels))
    topics = ([label.removeprefix(prefix) for label in row] for row in labels)
    return [[label for label in row if label.startswith(TOPIC)][:BEST] for row in topics]


def _shares(
    held_out: Sequence[Labelled], rankings: Sequence[Ranking]
) -> dict[str, dict[str, Share]]:
    counts: dict[tuple[str, str], list[int]] = {}
    for one, ranking in zip(held_out, rankings, strict=True):
        wanted = f"{TOPIC}{one.expected}"
        for best, hit in (("top1", [*ranking[:1]] == [wanted]), ("top3", wanted in ranking[:3])):
            for where in ("all", one.language):
                count = counts.setdefault((where, best), [0, 0])
                count[0] += hit
                count[1] += 1
    places = ["all", *sorted({where for where, _ in counts} - {"all"})]
    return {where: {b: Share(*counts[where, b]) for b in ("top1", "top3")} for where in places}


# -- tables ----------------------------------------------------------------------------------------


def show(out: Console, found: Understood, epochs: int) -> None:
    """Print both tables."""
    desk, *others = found.speed
    table = Table(
        *("", desk, *(column for name in others for column in (name, "ratio"))),
        title=f"Understanding alone: {ASKERS} askers, each waits for its answer",
    )
    for key, label in ROWS.items():
        ours = found.speed[desk][key]
        cells = [figure(ours)]
        for name in others:
            theirs = found.speed[name][key]
            cells += [figure(theirs), f"{ours / theirs:.2f}" if ours and theirs else "-"]
        table.add_row(label, *cells)
    out.print(table)
    share = found.encoder_asked
    out.print(
        "Ratio: this desk divided by stock Rasa. Each question has a typing error of its own. This "
        "desk is asked as a turn asks it: language and words of danger are looked for in the "
        "program itself, topic and danger in its Rasa, sentence by sentence where there are "
        "several; stock Rasa, by `POST /model/parse`, finds the topic only."
        + (
            ""
            if share is None
            else f" The encoder was needed for {100 * share['any']:.0f} %: for the topic of "
            f"{100 * share['topic']:.0f} %, for danger in {100 * share['danger']:.0f} %."
        )
        + "\n"
    )
    places = list(found.accuracy[desk])
    table = Table(
        *("top-1 / top-3", *places),
        title=f"Right topic among the first, in %, of {found.held_out} questions held out",
    )
    for name, shares in found.accuracy.items():
        cells = [
            " / ".join(_percent(shares[where][b]) for b in ("top1", "top3")) for where in places
        ]
        table.add_row(name, *cells, style="bold" if name == desk else "")
    out.print(table)
    out.print(
        f"All learned from the same {found.examples} examples (DIET {epochs} epochs, "
        f"ResponseSelector {epochs + epochs // 2}). From “n-grams of this desk” on each has all "
        "spellings of the examples, as this desk has; n-grams and embedding are told the language, "
        "which this desk has to find. Only topics are ranked."
    )
    if epochs < EPOCHS:
        out.print(
            f"[yellow]Stock Rasa has not learned all it could: {epochs} epochs of DIET, where "
            f"{EPOCHS} are usual here. Its times are right, its accuracy is not.[/]"
        )
    for line in found.without:
        out.print(f"Left out: {line}.")
    out.print()


def figure(value: float | None) -> str:
    """A figure of a table."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


def _percent(share: Share) -> str:
    return "-" if share.value is None else f"{100 * share.value:.1f}"
