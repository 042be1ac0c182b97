"""`bot bench`: the project's own benchmark. It prints figures and ratios and never passes or fails.

Four parts: the same questions to this program and to stock Rasa in turns; how fast and how well
each of them understands; how fast messages are acknowledged while many write; what a message costs
as the log grows. Figures depend on the machine, so each table has ratios, and what is compared is
measured in alternating slices.
"""

import asyncio
import json
import os
import platform
import random
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from bot import bench_log, bench_understand
from bot.bench_stock import (
    EPOCHS,
    BenchError,
    Chat,
    Desk,
    Note,
    Question,
    Server,
    Stock,
    Usage,
    spread,
    usage,
)
from bot.bench_understand import figure
from bot.content import Loaded, load_content
from config.settings import Settings

PARTS = ("stock", "understanding", "acknowledge", "growth")
SEED = 72
SENDERS, SLICES, WARM_UP = 8, 6, 24
CROWD, EACH, QUIET = 50, 5, 60
"""Senders who do not wait for answers; messages of each in one conversation; messages of a single
sender to compare with."""
DRAIN_LIMIT = 900.0
"""Seconds in which the crowd's messages must have had their turns."""

Step = Callable[[int], None]
"""Tells the display how many more messages are through."""

COMPARED = {
    "messages_per_second": "messages per second",
    "p50_ms": "answer p50, ms",
    "p95_ms": "answer p95, ms",
    "cpu_ms": "CPU per message, ms",
    "own_cpu_ms": "… of it outside the Rasa beside it",
    "peak_mb": "peak memory, MB",
    "unanswered": "without an answer",
}


def run(
    settings: Settings,
    messages: int,
    out: Console,
    parts: Sequence[str] = PARTS,
    json_file: Path | None = None,
    epochs: int = EPOCHS,
) -> dict[str, Any]:
    """Measure `parts` with `messages` each, print tables to `out`, give the figures back.

    Everything is made in `<data_dir>/bench`; only stock Rasa's models are kept there. `epochs`: of
    stock Rasa's training.

    Raises:
        BenchError: an unknown part, too few messages, or a program that does not start.
        TrainingError: Rasa could not be installed or trained.
    """
    if unknown := set(parts) - set(PARTS):
        raise BenchError(f"No such part: {', '.join(sorted(unknown))}. Parts: {', '.join(PARTS)}.")
    if messages < SLICES * SENDERS:
        raise BenchError(f"Too few messages to measure: at least {SLICES * SENDERS} are needed.")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bench = _Bench(settings, load_content(settings.faq_dir), messages, epochs, out, progress)
        try:
            asyncio.run(bench.run(parts))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        except httpx.HTTPError as error:
            raise BenchError(f"a program under load gave no answer: {error!r}") from error
    if json_file is not None:
        json_file.write_text(json.dumps(bench.results, indent=2) + "\n")
        out.print(f"[dim]The figures are in {json_file}.[/]")
    return bench.results


def questions(loaded: Loaded, count: int, seed: int) -> list[Question]:
    """Questions of the FAQ, each with its own small typing error, so that no cache has seen it."""
    rng = random.Random(seed)  # noqa: S311 - to be the same each time
    known = [row for row in loaded.faq.examples if row[0].startswith("faq/") and len(row[2]) > 5]
    made: dict[str, Question] = {}
    while len(made) < count:
        intent, language, words = rng.choice(known)
        at = rng.randrange(1, len(words) - 2)
        words = words[:at] + words[at + 1] + words[at] + words[at + 2 :]
        words += rng.choice(("", "?", "!!", "...", " 🙏", f" {rng.randrange(2, 1000)}"))
        made.setdefault(words, Question(intent, language, words))
    return list(made.values())


@dataclass
class _Tally:
    """What one program did in all its slices."""

    seconds: float = 0.0
    cpu: float | None = 0.0
    own: float = 0.0
    latencies: list[float] = field(default_factory=list)
    unanswered: int = 0

    def figures(self, memory: int | None) -> dict[str, float | None]:
        count = len(self.latencies)
        latency = spread(self.latencies)
        return {
            "messages_per_second": count / self.seconds,
            "p50_ms": latency["p50"],
            "p95_ms": latency["p95"],
            "cpu_ms": None if self.cpu is None else 1000 * self.cpu / count,
            "own_cpu_ms": None if self.cpu is None else 1000 * self.own / count,
            "peak_mb": None if memory is None else memory / 1e6,
            "unanswered": float(self.unanswered),
        }


@dataclass
class _Bench:
    settings: Settings
    loaded: Loaded
    messages: int
    epochs: int
    out: Console
    progress: Progress
    results: dict[str, Any] = field(default_factory=dict)

    def _task(self, name: str, total: int | None = None) -> tuple[Note, Step]:
        task = self.progress.add_task(name, total=total)

        def note(line: str) -> None:
            self.progress.update(task, description=line)

        def step(count: int) -> None:
            self.progress.advance(task, count)

        return note, step

    async def run(self, parts: Sequence[str]) -> None:
        """Run parts; two of them share one running desk."""
        # a polite kill ends the programs under load, too
        if task := asyncio.current_task():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        folder = self.settings.data_dir.absolute() / "bench"
        load = os.getloadavg()[0]
        self.results["machine"] = (
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
            f"load {load:.1f} before"
        )
        self.out.print(f"[dim]{self.results['machine']}[/]")
        if load > 0.5:
            self.out.print(
                "[yellow]Other programs are busy on this machine: times will be too long. Trust "
                "ratios between what is measured in turns, and CPU per message.[/]"
            )
        if "understanding" in parts:
            if self.settings.rasa or self.settings.rasa_url:
                await self._understanding(folder / "stock")
            else:
                self.out.print("Part understanding is left out: Rasa is switched off (BOT_RASA).")
        if {"stock", "acknowledge"} & set(parts):
            note, _ = self._task("starting this program")
            desk = await Desk.start(self.settings, folder / "desk", note)
            try:
                if "stock" in parts and (self.settings.rasa or self.settings.rasa_url):
                    await self._stock(desk, folder / "stock", note)
                elif "stock" in parts:
                    self.out.print("Part stock is left out: Rasa is switched off (BOT_RASA).")
                if "acknowledge" in parts:
                    await self._acknowledge(desk)
            finally:
                await desk.stop()
            shutil.rmtree(folder / "desk", ignore_errors=True)
        if "growth" in parts:
            await self._growth(folder / "growth")

    async def _stock(self, desk: Desk, folder: Path, note: Note) -> None:
        """The same questions to this program and to stock Rasa, in alternating slices."""
        stock = await Stock.start(self.settings, self.loaded, folder, note, self.epochs)
        try:
            _, step = self._task("this program and stock Rasa in turns", 2 * self.messages)
            asked = questions(self.loaded, self.messages + WARM_UP, SEED)
            both: tuple[Server, Server] = (desk, stock)
            tallies = {server.name: _Tally() for server in both}
            for server in both:
                await _slice(server, asked[:WARM_UP], _Tally())
            for number in range(SLICES):
                part = asked[WARM_UP + number :: SLICES]
                for server in both if number % 2 == 0 else both[::-1]:
                    await _slice(server, part, tallies[server.name])
                    step(len(part))
            used = {server.name: usage(server.process.pid) for server in both}
        finally:
            await stock.stop()
        figures = {
            name: tally.figures(None if (end := used[name]) is None else end.memory)
            for name, tally in tallies.items()
        }
        self.results["stock"] = figures
        ours, theirs = figures[desk.name], figures[stock.name]
        table = Table(
            *("", desk.name, stock.name, "ratio"),
            title=f"{SENDERS} senders, each waits for its answer",
        )
        for key, label in COMPARED.items():
            a, b = ours[key], theirs[key]
            table.add_row(label, figure(a), figure(b), f"{a / b:.2f}" if a and b else "-")
        self.out.print(table)
        self.out.print(
            "Ratio: this program divided by stock Rasa. Each message is the first of its worker "
            "and has a typing error of its own. "
            "What this program does in addition for each message: it writes the message, the turn "
            "and the answer to disk, encrypted and flushed, before it acknowledges or speaks; "
            "looks for danger in ten languages; finds the language; answers in it; notes the "
            "delivery; and the answer is heard on a stream of events. "
            "Stock Rasa keeps everything in memory and answers in English "
            f"(DIET, {self.epochs} epochs, one intent and one rule per topic).\n"
        )

    async def _understanding(self, folder: Path) -> None:
        """How fast and how well messages are understood, beside stock Rasa and others."""
        note, step = self._task("understanding")
        asked = questions(self.loaded, self.messages + bench_understand.WARM_UP, SEED + 3)
        found = await bench_understand.measure(
            self.settings, self.loaded, folder, asked, self.epochs, note, step
        )
        self.results["understanding"] = found.as_json()
        bench_understand.show(self.out, found, self.epochs)

    async def _acknowledge(self, desk: Desk) -> None:
        """How long a worker's page waits for "it is kept": alone, and in a crowd."""
        total = -(-max(self.messages, 1000) // (CROWD * EACH)) * CROWD * EACH
        _, step = self._task(f"acknowledgement, {CROWD} senders", total + QUIET)
        asked = questions(self.loaded, total + QUIET, SEED + 1)
        quiet: list[float] = []
        for question in asked[:QUIET]:
            chat = await desk.open(question.language)
            quiet.append(await _timed(chat.send(question.text)))
            await chat.answered()
            step(1)
        shares = [asked[QUIET + number :: CROWD] for number in range(CROWD)]
        chats = [
            [await desk.open(one.language, listen=False) for one in share[::EACH]]
            for share in shares
        ]
        crowd: list[float] = []

        async def sender(share: Sequence[Question], own: Sequence[Chat]) -> None:
            for number, question in enumerate(share):
                crowd.append(await _timed(own[number // EACH].send(question.text)))
                step(1)

        before, start = await desk.turns(), usage(desk.process.pid)
        began = time.perf_counter()
        await asyncio.gather(*map(sender, shares, chats))
        kept = time.perf_counter() - began
        while await desk.turns() < before + total:
            if time.perf_counter() - began > DRAIN_LIMIT:
                raise BenchError(f"some messages had no turn within {DRAIN_LIMIT / 60:.0f} minutes")
            await asyncio.sleep(0.1)
        turned, end = time.perf_counter() - began, usage(desk.process.pid)
        cpu = 1000 * (end.cpu - start.cpu) / total if start and end else None
        rows = {"one sender who waits for answers": spread(quiet)}
        rows[f"{CROWD} senders who do not wait"] = spread(crowd)
        self.results["acknowledge"] = {
            **rows,
            "messages": total,
            "acknowledged_per_second": total / kept,
            "turns_per_second": total / turned,
            "cpu_ms": cpu,
        }
        table = Table("acknowledged after, ms", *spread(quiet), title="Acknowledgement under load")
        for label, row in rows.items():
            table.add_row(label, *map(figure, row.values()))
        alone, many = rows.values()
        table.add_row("ratio", *(f"{many[key] / alone[key]:.1f}" for key in alone))
        self.out.print(table)
        self.out.print(
            f"{total} messages: {total / kept:.0f} per second acknowledged, that is, kept on disk; "
            f"{total / turned:.0f} per second had their turn, with {figure(cpu)} ms of CPU each. "
            "The longest acknowledgement took "
            f"{many['longest'] / 2000:.2f} of the two seconds that LINE allows. The senders run on "
            "the same machine.\n"
        )

    async def _growth(self, folder: Path) -> None:
        """What a message costs in logs of different sizes."""
        note, step = self._task("filling logs")
        asked = questions(self.loaded, self.messages + bench_log.WARM_UP, SEED + 2)
        rows = await bench_log.growth(self.loaded, asked, folder, note, step)
        self.results["growth"] = rows
        table = Table(
            *("database", "messages in log", "ms per message", "ratio", "accept p50, ms"),
            *("accept p95, ms", "statements", "commits"),
            title="Cost of a message as the log grows",
        )
        for row in rows:
            table.add_row(
                *(row["database"], f"{row['messages_in_log']:,}"),
                *(figure(row["ms_per_message"]), f"{row['ratio']:.2f}"),
                *(figure(row["accept_p50_ms"]), figure(row["accept_p95_ms"])),
                *(f"{row['statements']:.1f}", f"{row['commits']:.1f}"),
            )
        self.out.print(table)
        self.out.print(
            "Accept, claim, load, turn, commit and delivery, without understanding; "
            f"{bench_log.SENDERS} messages arrive at a time and as many conversations are worked "
            "on. Ratio: to the first row of the database. Statements and commits are per message.\n"
        )


async def _slice(server: Server, asked: Sequence[Question], tally: _Tally) -> None:
    """Let senders ask, each its next question after the answer to its last one."""
    waiting = iter([(await server.open(one.language), one.text) for one in asked])
    start: Usage | None = usage(server.process.pid)
    began = time.perf_counter()

    async def sender(waiting: Iterator[tuple[Chat, str]]) -> None:
        for chat, words in waiting:
            asked_at = time.perf_counter()
            await chat.send(words)
            tally.unanswered += not await chat.answered()
            tally.latencies.append(1000 * (time.perf_counter() - asked_at))

    await asyncio.gather(*(sender(waiting) for _ in range(SENDERS)))
    tally.seconds += time.perf_counter() - began
    await asyncio.sleep(0.3)  # what is still noted after the answer counts as CPU, and is over now
    end = usage(server.process.pid)
    if tally.cpu is None or start is None or end is None:
        tally.cpu = None
    else:
        tally.cpu += end.cpu - start.cpu
        tally.own += end.own - start.own


async def _timed(work: Awaitable[object]) -> float:
    """Milliseconds until it is done."""
    began = time.perf_counter()
    await work
    return 1000 * (time.perf_counter() - began)
