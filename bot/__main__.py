"""The command line: `bot --help`."""

import asyncio
import contextlib
import json
import logging
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, MutableMapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import structlog
import typer
import uvicorn
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from bot.app import (
    CHANNEL_SETTINGS,
    AlreadyRunningError,
    application,
    build,
    channels_alone,
    lock,
)
from bot.check import check_content
from bot.content import Loaded, load_content
from bot.dialogue import Heard, Situation, decide
from bot.evaluate import (
    evaluate,
    from_json,
    load_targets,
    read_labelled,
    read_understood,
    show,
    to_html,
    to_json,
)
from bot.new_topic import NewTopicError, new_topic
from bot.publish import SHORT, digest_of_files, mark_published
from channels.voice.prompts import SynthesiserError, folder_of, outdated, unvoiced, wanted
from channels.voice.prompts import make as make_prompt
from channels.voice.speech import Speech, load_sounds
from config.content import ContentError
from config.database import DatabaseUnavailableError
from config.settings import ROOT, Settings, SettingsError, describe, load_settings
from config.texts import JAPAN
from config.vault import VaultError
from nlu.faq_check import EASY
from nlu.rasa_process import RasaProcess
from nlu.train import TrainingError, content_digest, model_path, previous_model, train
from nlu.understand import Understander, Understanding

app = typer.Typer(
    help="The open consultation desk: takes workers' messages, answers with published words, "
    "hands over to counsellors. Begin with `bot serve`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
faq_app = typer.Typer(help="Look after the FAQ in `faq_data/`.", no_args_is_help=True)
app.add_typer(faq_app, name="faq")
channels_app = typer.Typer(
    help="Look after the channels: LINE, Telegram, SMS, telephone, e-mail, web chat.",
    no_args_is_help=True,
)
app.add_typer(channels_app, name="channels")
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

NO_OTHERS = "  [dim]LINE, Telegram, SMS and telephone are not set up: see the README.[/]"
ACTIONS = {"answer", "suggest", "rephrase", "handoff", "emergency"}
"""What `bot understand` may say under `action`; other decisions of the dialogue are `rephrase`."""


@app.command()
def serve() -> None:
    """Run the desk: web chat, e-mail, console, workers, and Rasa as a child process.

    The first start installs Rasa's environment and trains it, which takes some minutes; messages
    are taken and answered meanwhile, more simply. Ctrl-C stops everything; starting again goes on
    where it was.
    """
    settings = _settings()
    _log(settings.log_level)
    held = lock(settings) if not settings.database_url else None
    for host, port, name in (
        (settings.http_host, settings.http_port, "BOT_HTTP_PORT"),
        (settings.smtp_host, settings.smtp_port, "BOT_SMTP_PORT"),
    ):
        if _taken(host, port):
            _fail(f"Port {port} is taken. Set {name} to another one.")
    program = build(settings, _tell_rasa)
    url = settings.url
    local = f"http://localhost:{settings.http_port}"
    out.print(f"[bold]The consultation desk is open.[/]  Data: {settings.data_dir.resolve()}")
    out.print(f"  Workers write here      {url}/chat")
    out.print(f"  …or send mail           to {settings.mail_address} at port {settings.smtp_port}")
    others = [name for name in program.channels if name not in {"webchat", "email"}]
    out.print(f"  …or use                 {', '.join(others)}" if others else NO_OTHERS)
    here = "" if url == local else f"  (on this machine {local}/console)"
    out.print(f"  Counsellors sign in     {url}/console{here}")
    if program.password:
        out.print(
            f"  First sign-in           name [bold]admin[/], password [bold]{program.password}[/]"
            "  (change it after signing in)"
        )
    if program.new_key:
        out.print(
            f"[yellow]A new key was made: {settings.data_dir / 'data.key'}. Back it up apart from "
            "the database: without it nobody can read the data again.[/]"
        )
    if not settings.smtp_relay:
        out.print(
            "[dim]No mail relay is set: answers by mail are kept and shown in the console.[/]"
        )
    server = uvicorn.Server(
        uvicorn.Config(
            application(program),
            host=settings.http_host,
            port=settings.http_port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
            proxy_headers=True,
        )
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has stopped everything by then
        server.run()
    if held is not None:
        held.close()
    if not server.started:
        _fail(f"Port {settings.http_port} is taken. Set BOT_HTTP_PORT to another one.")
    out.print("The desk is closed.")


def _taken(host: str, port: int) -> bool:
    """Whether somebody listens there already (0 takes a free one)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return port != 0
    return False


@app.command()
def status() -> None:
    """Show how the running desk is: understanding, mail, and cases waiting."""
    settings = _settings()
    state = _state(settings)
    if state is None:
        _fail(f"No desk answers at {_state_url(settings)}. Start it with `bot serve`.")
    colour = "green" if state["status"] == "ready" else "yellow"
    rows = {"desk": f"[{colour}]{state['status']}[/]"}
    if "understanding" in state:
        cases = state["cases"]
        rows |= {
            "understanding": escape(f"{state['understanding']}: {state['detail']}"),
            "content": escape(_content(state, settings)),
            "mail": "leaves by the relay"
            if state["mail"] == "sent"
            else "kept here (BOT_SMTP_RELAY is not set)",
            "channels": state.get("channels", ""),
            "cases": f"{cases.get('waiting', 0)} waiting, {cases.get('claimed', 0)} with "
            f"counsellors, {cases.get('released', 0)} with the bot, "
            f"{cases.get('overdue', 0)} overdue",
        }
    for name, value in rows.items():  # no table: a pipe would have it cut at 80 characters
        out.print(f"{name:<14} {value}")
    if "understanding" not in state:  # its database is away
        raise typer.Exit(1)


def _content(state: dict[str, Any], settings: Settings) -> str:
    """Which content the desk serves since when, and whether the files say something else."""
    since = datetime.fromisoformat(state["content_since"]).astimezone(JAPAN)
    line = f"{state['content']}, since {since:%Y-%m-%d %H:%M}"
    if state["content_refused"]:
        return f"{line}; what was published last is refused: {state['content_refused']}"
    if state["content"] != digest_of_files(settings.faq_dir)[:SHORT]:
        return f"{line}; the files were edited since (`bot faq publish`)"
    return line


def _state_url(settings: Settings) -> str:
    return f"http://127.0.0.1:{settings.http_port}/readyz"


def _state(settings: Settings) -> dict[str, Any] | None:
    """What the running desk says of itself, or None if none answers."""
    try:
        found: dict[str, Any] = httpx.get(_state_url(settings), timeout=5, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return None
    return found


@app.command("settings")
def show_settings() -> None:
    """List every setting with its meaning and default. They come from the environment or `.env`."""
    table = Table("variable", "meaning", "default", "secret")
    for name, meaning, default, secret in describe(Settings, *CHANNEL_SETTINGS):
        table.add_row(name, meaning, default, "yes" if secret else "")
    out.print(table)


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="A message as a worker would write it.")],
) -> None:
    """Ask one question here on the terminal and see what the desk would say and do."""
    loaded = load_content(_settings().faq_dir)
    [(understanding, decision)] = list(_understand_all([question], loaded))
    for spoken in decision.say:
        language = spoken.language or decision.language or "en"
        text = loaded.content.text(spoken.text_id, language)
        known = {**loaded.content.texts.params(language), "when": "…", "reference": "…"}
        out.print(text.render(text.needed(known)), style="bold" if "faq/" in text.id else "")
        for label, _ in spoken.buttons:
            out.print(f"  [ {loaded.content.text(label, language).body} ]", markup=False)
        out.print()
    top = ", ".join(f"{topic} {sure:.2f}" for topic, sure in understanding.topics[:3])
    kinds = ", ".join(understanding.risk.types)
    risk = understanding.risk.level + (f" ({kinds})" if kinds else "")
    out.print(
        f"[dim]→ {decision.action} · language {understanding.language} "
        f"{understanding.language_confidence:.2f} · risk {risk} · topics {top or 'none'}"
        f"{' · degraded: Rasa is away' if understanding.degraded else ''}[/]"
    )


@app.command()
def understand(
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="One JSON object a line (the only form so far).")
    ] = True,
) -> None:
    """Read one message a line from stdin; print what was understood, one JSON object a line.

    Each message is judged by itself, as the first of a conversation. Keys: text, language,
    language_confidence, topic, confidence, topics (five pairs), risk, risk_types, action.
    """
    _ = jsonl
    loaded = load_content(_settings().faq_dir)
    raw = sys.stdin.buffer.read().decode("utf-8", "replace")
    texts = [line.rstrip("\r") for line in raw.split("\n")]
    if texts and not texts[-1]:
        texts.pop()
    for row in _rows(texts, loaded):
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")


@app.command("evaluate")
def evaluate_now(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Labelled files: lines “expected⇥language⇥message”. Left out: those of the tests."
        ),
    ] = None,
    understood: Annotated[
        Path | None,
        typer.Option(help="Judge this output of `bot understand --jsonl` instead of asking Rasa."),
    ] = None,
    compare: Annotated[
        str,
        typer.Option(
            help="Show what has changed against an earlier `--json` report, another model file, or "
            "`previous`: the model before this one."
        ),
    ] = "",
    html: Annotated[Path | None, typer.Option(help="Write a page with plots here.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures here.")
    ] = None,
) -> None:
    """Measure how well messages are understood: language, topic, danger, what is not ours.

    Expected is a topic's id, `out_of_scope`, `emergency` or `high` (or `high/arrest`), `harmless`,
    or `-` where only the language counts. Trains the present content first if that was not done.
    Fails (exit code 1) where a figure misses the target in `config/evaluation.yaml`.
    """
    settings = _settings()
    loaded = load_content(settings.faq_dir)
    targets = load_targets()
    paths = files or sorted((ROOT / "tests" / "evaluation").glob("*.tsv"))
    labelled = read_labelled(paths, loaded.faq.topics)
    texts = [one.text for one in labelled]
    present = model_path(settings.rasa_home, content_digest(loaded.faq.training()))
    if understood is not None:
        now = evaluate(labelled, read_understood(understood), targets, understood.name)
    else:
        now = evaluate(labelled, _rows(texts, loaded), targets, present.name)
    before = None
    if compare.endswith(".json"):
        before = from_json(Path(compare))
    elif compare:
        last = previous_model(settings.rasa_home, present)
        if compare == "previous" and last is None:
            _fail("There is no model before this one yet: nothing to compare with.")
        other = last if last and compare == "previous" else Path(compare)
        before = evaluate(labelled, _rows(texts, loaded, other), targets, other.name)
    show(out, now, before)
    if html is not None:
        html.write_text(to_html(now, before), encoding="utf-8")
    if json_file is not None:
        json_file.write_text(to_json(now), encoding="utf-8")
    if now.missed:
        raise typer.Exit(1)


@app.command("train")
def train_now() -> None:
    """Install Rasa's environment if needed and train it for the present FAQ (result is kept)."""
    settings = _settings()
    _log(settings.log_level)
    out.print(f"The model for this FAQ is {_train(load_content(settings.faq_dir), settings)}.")


def _train(loaded: Loaded, settings: Settings) -> Path:
    with _progress() as progress:
        task = progress.add_task("beginning", total=None)
        return asyncio.run(
            train(
                loaded.faq.training(),
                settings.rasa_home,
                lambda line: progress.update(task, description=line),
            )
        )


Name = Annotated[
    str, typer.Argument(help="One channel, e.g. `line`. Left out: all that are set up.")
]


@channels_app.command("check")
def check_channels(name: Name = "") -> None:
    """Look at each channel: secrets, web hook, permissions. Says what to do about each fault.

    Changes nothing, and may run while the desk does.
    """
    _on_channels(name, setup=False)


@channels_app.command("setup")
def set_up_channels(name: Name = "") -> None:
    """Set web hooks, commands and menus at the vendors that have an API for it.

    Repeating it does no harm. Needs `BOT_PUBLIC_URL` where a vendor is to call the desk.
    """
    _on_channels(name, setup=True)


@channels_app.command("prompts")
def make_prompts(
    language: Annotated[
        str, typer.Argument(help="e.g. `my`. Left out: all in which Twilio has no voice.")
    ] = "",
    listed: Annotated[
        bool, typer.Option("--list", help="Only print what is to be recorded, as TSV.")
    ] = False,
) -> None:
    """Make the recordings that callers hear in languages without a voice at Twilio.

    What is missing is spoken by a machine (espeak-ng), as a placeholder that is marked as such.
    Let a speaker of the language record the words of `--list`, and put the files (8 kHz, mono,
    16 bit, named as listed) into the folder: they are used at once and never overwritten.
    """
    settings = _settings()
    content = load_content(settings.faq_dir).content
    folder = folder_of(settings.data_dir)
    speech = Speech(load_sounds(), content.all_texts, lambda: content.texts, folder, settings.url)
    codes = [language] if language else unvoiced(speech)
    if unknown := set(codes) - set(speech.sounds.languages):
        _fail(f"There is no language “{unknown.pop()}”.")
    for code in codes:
        prompts = wanted(speech, code)
        if listed:
            for prompt in prompts:
                words = " ".join(prompt.words.split())
                out.print(f"{prompt.path.name}\t{prompt.state}\t{words}", markup=False)
            continue
        with _progress(bar=True) as progress:
            task = progress.add_task(code, total=len(prompts))
            for prompt in prompts:
                if prompt.state == "missing":
                    try:
                        make_prompt(speech, prompt)
                    except SynthesiserError as error:
                        progress.stop()
                        _fail(str(error))
                progress.advance(task)
        prompts = wanted(speech, code)
        counts = Counter(prompt.state for prompt in prompts)
        parts = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
        out.print(f"[bold]{code}[/]  {len(prompts)} prompts: {parts}.  {folder / code}")
        for prompt in prompts:
            if prompt.state == "wrong format":
                out.print(f"  [red]no[/]  {prompt.path.name} is not 8 kHz, mono, 16 bit WAV")
        for path in outdated(speech, prompts, code):
            out.print(f"  [dim]outdated: {path.name} (its words are not said any more)[/]")


def _on_channels(name: str, *, setup: bool) -> None:
    settings = _settings()
    _log("error")

    async def work() -> bool:
        async with channels_alone(settings) as channels:
            if name and name not in channels:
                known = ", ".join(channels)
                _fail(
                    f"The channel “{name}” is not set up. These are: {known}. See `bot settings`."
                )
            well = True
            for channel in [channels[name]] if name else channels.values():
                out.print(f"[bold]{channel.name}[/]")
                with _progress() as progress:
                    progress.add_task("asking the vendor", total=None)
                    findings = await (channel.setup() if setup else channel.check())
                for finding in findings:
                    mark = "[green]ok[/] " if finding.ok else "[red]no[/] "
                    detail = f": {finding.detail}" if finding.detail else ""
                    out.print(f"  {mark} {escape(finding.what + detail)}")
                    if not finding.ok:
                        out.print(f"      → {escape(finding.remedy)}")
                if not findings:
                    out.print("  [dim]nothing to do[/]")
                well = well and all(finding.ok for finding in findings)
            return well

    if not asyncio.run(work()):
        raise typer.Exit(1)


@faq_app.command("check")
def check(
    easy: Annotated[
        bool, typer.Option("--easy", help="Show all that is hard in texts of easy Japanese.")
    ] = False,
) -> None:
    """Check all that the desk says: FAQ, other texts, directory, figures, risk words.

    Each finding names its file, line and remedy, one a line. **Mistakes** keep content from being
    published (exit code 1); **warnings** do not (exit code 0).
    """
    if not _checked(easy=easy):
        raise typer.Exit(1)


@faq_app.command("new")
def new(
    topic: Annotated[str, typer.Argument(help="Its id, which never changes, e.g. `wage_unpaid`.")],
    category: Annotated[str, typer.Option(help="work, residence, money, life or service.")],
) -> None:
    """Write the file of a new topic, with all languages to fill in."""
    try:
        path = new_topic(_settings().faq_dir, topic, category)
    except NewTopicError as error:
        _fail(str(error))
    out.print(f"Written: {path}", markup=False)
    out.print(
        "1. Fill in the source, and for each language title, answer and examples.\n"
        "2. `bot faq check` says what is left. The desk leaves the topic out until then.\n"
        "3. Take out the line `publish: false`, then run `bot faq publish`.",
        markup=False,
    )


@faq_app.command("publish")
def publish(
    train_first: Annotated[
        bool,
        typer.Option(
            "--train/--no-train",
            help="Make the model first; else the desk makes it afterwards, by itself.",
        ),
    ] = True,
) -> None:
    """Check the content, train the understanding, and let the running desk take both over.

    The desk goes on meanwhile. With any mistake, nothing is published and it keeps what it has.
    Editing files alone changes nothing in a running desk.
    """
    settings = _settings()
    _log("error")
    digest = digest_of_files(settings.faq_dir)
    if not _checked():
        _fail("Nothing was published. Mend the mistakes, then publish again.")
    if train_first and settings.rasa and not settings.rasa_url:
        _train(load_content(settings.faq_dir), settings)
    if digest_of_files(settings.faq_dir) != digest:
        _fail("The files were edited meanwhile, so nothing was published. Publish again.")
    mark_published(settings.data_dir, digest)
    state: dict[str, Any] | None = None
    deadline = time.monotonic() + 60
    with _progress() as progress:
        progress.add_task("the desk takes it over", total=None)
        while time.monotonic() < deadline:
            state = _state(settings)
            if state is None or digest[:SHORT] in {
                state.get("content"),
                state.get("content_asked"),
            }:
                break
            time.sleep(0.5)
    if state is None:
        out.print("Published. No desk is running here; it begins with this when it starts.")
    elif state.get("content") == digest[:SHORT]:
        out.print(f"[green]Published.[/] The desk now speaks by {digest[:SHORT]}.")
        if settings.rasa or settings.rasa_url:
            out.print("The new model follows as soon as it is loaded; `bot status` shows it.")
    else:
        asked = state.get("content_asked") == digest[:SHORT]
        why = state["content_refused"] if asked else "it has not looked at it in time; see its log"
        _fail(f"The desk keeps its old content: {why}")


def _checked(*, easy: bool = False) -> bool:
    """Check all content and print what is found; whether it may be published."""
    faq_dir = _settings().faq_dir
    report = check_content(faq_dir)
    for group, lines in report.warnings.items():
        if not lines:
            continue
        out.print(f"[yellow]{len(lines)} warnings: {group}[/]")
        if group == EASY and not easy:
            out.print("[dim]`bot faq check --easy` shows them.[/]")
            continue
        for line in lines:
            out.print(line, markup=False)
    if report.mistakes:
        out.print(f"[red]{len(report.mistakes)} mistakes[/]")
        for line in report.mistakes:
            out.print(line, markup=False)
    if report.drafts:
        columns = list(dict.fromkeys(language for _, language in report.drafts))
        table = Table("drafts", *columns, box=None)
        for kind in dict.fromkeys(kind for kind, _ in report.drafts):
            table.add_row(kind, *(str(report.drafts[kind, language]) for language in columns))
        out.print(table)
        out.print("[dim]No native speaker has checked these; the console lists them.[/]")
    warnings = sum(map(len, report.warnings.values()))
    colour = "red" if report.mistakes else "green"
    out.print(f"[{colour}]{len(report.mistakes)} mistakes, {warnings} warnings in {faq_dir}.[/]")
    return not report.mistakes


@app.command()
def bench(
    messages: Annotated[int, typer.Option(help="Messages per measurement.")] = 300,
    parts: Annotated[
        str, typer.Option(help="Which parts, with commas between.")
    ] = "stock,understanding,acknowledge,growth",
    epochs: Annotated[
        int,
        typer.Option(min=1, help="Epochs of stock Rasa's DIET; ResponseSelector gets half more."),
    ] = 20,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for the figures, as JSON.")
    ] = None,
) -> None:
    """Measure this desk: beside stock Rasa, under load, and as its log grows; figures and ratios.

    **stock**: the same questions to this desk and to stock Rasa's own REST channel, in turns.
    **understanding**: how fast and how well messages are understood, by this desk, by stock Rasa
    (DIET, with and without ResponseSelector), and by n-grams, embedding and fastText alone.
    **acknowledge**: how fast 50 senders hear that their messages are kept.
    **growth**: what a message costs with 1,000 to 200,000 messages in the log.
    The first time Rasa is installed and the models are trained: some minutes each.
    """
    from bot.bench import run
    from bot.bench_stock import BenchError

    _log("error")
    try:
        wanted = [part.strip() for part in parts.split(",")]
        run(_settings(), messages, out, wanted, json_file, epochs)
    except BenchError as error:
        _fail(str(error))


def _rows(texts: list[str], loaded: Loaded, model: Path | None = None) -> list[dict[str, Any]]:
    """The lines of `bot understand --jsonl`, as dictionaries."""
    rows = []
    for text, (understanding, decision) in zip(
        texts, _understand_all(texts, loaded, model), strict=True
    ):
        topics = [[topic, round(sure, 4)] for topic, sure in understanding.topics[:5]]
        rows.append(
            {
                "text": text,
                "language": understanding.language,
                "language_confidence": round(understanding.language_confidence, 4),
                "topic": topics[0][0] if topics else None,
                "confidence": topics[0][1] if topics else 0.0,
                "topics": topics,
                "risk": understanding.risk.level,
                "risk_types": list(understanding.risk.types),
                "action": decision.action if decision.action in ACTIONS else "rephrase",
            }
        )
    return rows


def _understand_all(
    texts: list[str], loaded: Loaded, model: Path | None = None
) -> Iterator[tuple[Understanding, Any]]:
    """Understand and decide, with Rasa started for it; `model`: another than this content's."""
    settings = _settings()
    _log("error")
    content = loaded.content

    async def work() -> list[Understanding]:
        progress = _progress()
        task = progress.add_task("starting", total=None)
        rasa = RasaProcess(
            settings.rasa_home,
            loaded.faq.training,
            url=settings.rasa_url,
            token=settings.rasa_token.get_secret_value(),
            model=model,
            on_change=lambda state, detail: progress.update(task, description=f"{state}: {detail}"),
        )
        try:
            if settings.rasa or settings.rasa_url:
                with progress:
                    await rasa.start()
                    deadline = time.monotonic() + 1800
                    while not await rasa.wait_ready(1) and time.monotonic() < deadline:
                        if rasa.state == "down":
                            break
                if rasa.state != "ready":
                    err.print(f"Rasa is away ({rasa.detail}); understood without it.")
            understander = Understander(loaded.lexicon, loaded.lexical, lambda: rasa.client)
            found: list[Understanding] = []
            with _progress(bar=True) as bar:
                reading = bar.add_task("understanding", total=len(texts))
                for start in range(0, len(texts), 32):
                    part = texts[start : start + 32]
                    found += await understander.understand(part, [None] * len(part))
                    bar.advance(reading, len(part))
            return found
        finally:
            await rasa.stop()

    for text, understanding in zip(texts, asyncio.run(work()), strict=True):
        heard = Heard(text, command=content.texts.command(text))
        situation = Situation(state={"greeted": True})
        yield (
            understanding,
            decide(heard, understanding, situation, content.library, content.limits),
        )


def _progress(bar: bool = False) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        *((BarColumn(), MofNCompleteColumn()) if bar else ()),
        TimeElapsedColumn(),
        console=err,
        transient=True,
    )


def _tell_rasa(state: str, detail: str) -> None:
    """Say on the terminal what Rasa is doing."""
    colour = {"ready": "green", "down": "red"}.get(state, "cyan")
    out.print(f"  Understanding           [{colour}]{state}[/]: {detail}")


def _settings() -> Settings:
    return load_settings()


def _log(level: str) -> None:
    """JSON lines on stderr, with ids and counts, never with words or addresses."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=8)
            ),
            _without_values,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    for noisy in ("mail.log", "httpx", "alembic", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def _without_values(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Keep the kind of an exception and where it was, not its text: that may quote a message."""
    for part in event.get("exception") or ():
        part["exc_value"] = ""
        part.pop("exc_notes", None)
        for group in part.get("exceptions") or ():
            group.clear()
    return event


def _fail(message: str) -> NoReturn:
    err.print(message, style="red", markup=False)
    raise typer.Exit(1)


def main() -> None:
    """Run the command line; known faults end with one clear message instead of a traceback."""
    try:
        app()
    except (
        AlreadyRunningError,
        ContentError,
        DatabaseUnavailableError,
        SettingsError,
        TrainingError,
        VaultError,
    ) as error:
        err.print(str(error), style="red", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
