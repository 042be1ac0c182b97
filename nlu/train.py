"""Rasa's environment and its models: installed, trained and kept in the data folder.

A model is named after what it was made from, so nothing is trained twice, and a new one takes its
name only once it has answered some of its own examples: a broken model never replaces a good one.
"""

import asyncio
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import uv
import yaml

Example = tuple[str, str, str]
"""Intent (`faq/<topic>` or a small intent such as `greet`), language code, the question.

With the intent "" it is a text that is no question, such as a sentence of an answer: only its
language is learned. `risk/<kind>` is a message that tells of danger, `risk/harmless` of none."""

Progress = Callable[[str], None]
"""Takes one line, meant for a person who waits."""

RASA_PROJECT = Path(__file__).resolve().parent / "rasa"
KEPT_MODELS = 3
FEWEST_EXAMPLES = 4
_ERROR_LINE = re.compile(r"(error|exception|failed|does not)", re.IGNORECASE)


def silent(_line: str) -> None:
    """Progress that nobody waits for."""


class TrainingError(RuntimeError):
    """Rasa's environment or a model could not be made; the text says what failed, in one line."""


def to_rasa(intent: str) -> str:
    """An intent as Rasa stores it: there, a slash would mean a "retrieval intent"."""
    return intent.replace("/", ".", 1) or "text"


def from_rasa(name: str) -> str:
    """The opposite of `to_rasa`."""
    return name.replace(".", "/", 1)


def content_digest(examples: Iterable[Example]) -> str:
    """Sha256 (hex) over all that makes a model: examples, pipeline, components and lock."""
    digest = hashlib.sha256()
    for file in [
        RASA_PROJECT / "config.yml",
        RASA_PROJECT / "uv.lock",
        *sorted((RASA_PROJECT / "components").glob("*.py")),
    ]:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    for example in _tidy(examples):
        digest.update(json.dumps(example).encode() + b"\n")
    return digest.hexdigest()


def _tidy(examples: Iterable[Example]) -> list[Example]:
    return sorted({(intent, code, " ".join(text.split())) for intent, code, text in examples})


def model_path(data_dir: Path, digest: str) -> Path:
    """Where the model of that content is, or will be."""
    return data_dir / "models" / f"{digest[:16]}.tar.gz"


def newest_model(data_dir: Path) -> Path | None:
    """The last model that was made, whatever its content; None if there is none."""
    models = sorted((data_dir / "models").glob("*.tar.gz"), key=lambda path: path.stat().st_mtime)
    return models[-1] if models else None


def previous_model(data_dir: Path, present: Path) -> Path | None:
    """The last model that was made before another one, or beside it; None if there is none."""
    models = sorted((data_dir / "models").glob("*.tar.gz"), key=lambda path: path.stat().st_mtime)
    others = [model for model in models if model != present]
    return others[-1] if others else None


def environment_python(data_dir: Path, environment: Path | None = None) -> Path:
    """The Python of Rasa's environment, installed or not."""
    return (environment or data_dir / "rasa-env") / "bin" / "python"


async def install(data_dir: Path, progress: Progress, environment: Path | None = None) -> Path:
    """Install Rasa's environment unless it is there as locked; give its Python.

    Takes about half a minute and a download of 420 MB the first time, then nothing.

    Raises:
        TrainingError: uv failed, for instance without a network.
    """
    python = environment_python(data_dir, environment).absolute()
    folder = python.parent.parent
    locked = hashlib.sha256((RASA_PROJECT / "uv.lock").read_bytes()).hexdigest()
    mark = folder / "desk-lock"
    if python.exists() and mark.exists() and mark.read_text() == locked:
        return python
    progress("installing Rasa (once, 420 MB to download, 1.8 GB on disk)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    await run_child(
        [uv.find_uv_bin(), "sync", "--project", str(RASA_PROJECT), "--frozen", "--no-progress"],
        "Rasa could not be installed",
        progress,
        log=log_file(data_dir, "rasa-install.log"),
        environment={"UV_PROJECT_ENVIRONMENT": str(folder)},
    )
    mark.write_text(locked)
    return python


async def train(
    examples: Iterable[Example],
    data_dir: Path,
    progress: Progress = silent,
    *,
    environment: Path | None = None,
    force: bool = False,
) -> Path:
    """The model for these examples: made now, unless it is there already. Gives its path.

    About 20 seconds for a few hundred examples, some minutes for ten languages of the whole FAQ;
    sentences seen in an earlier training are not encoded again. Nothing is trained twice, except
    with `force`.

    Raises:
        TrainingError: too few examples, or training failed; older models are left as they were.
    """
    rows = _tidy(examples)
    target = model_path(data_dir, content_digest(rows))
    if target.exists() and not force:
        target.touch()  # it is the newest again
        return target
    intents = {intent for intent, _, _ in rows} - {""}
    if len(rows) < FEWEST_EXAMPLES or len(intents) < 2:
        raise TrainingError("nothing to train: at least two intents with two examples are needed")
    python = await install(data_dir, progress, environment)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="training-", dir=target.parent))
    log = log_file(data_dir, "rasa-train.log")
    try:
        (work / "nlu.yml").write_text(nlu_yaml(rows), encoding="utf-8")
        (work / "samples.json").write_text(json.dumps(samples(rows)), encoding="utf-8")
        progress(f"training on {len(rows)} example questions")
        await run_child(
            [
                *(str(python), str(RASA_PROJECT / "launch.py"), "train", "nlu"),
                *("--nlu", "nlu.yml", "--config", str(RASA_PROJECT / "config.yml")),
                *("--out", ".", "--fixed-model-name", "model"),
            ],
            "training failed",
            progress,
            log=log,
            cwd=work,
            environment={
                "RASA_CACHE_DIRECTORY": str(work / "cache"),
                "RASA_MAX_CACHE_SIZE": "0",
                "BOT_RASA_VECTORS": str((data_dir / "models" / "vectors.npz").absolute()),
            },
        )
        if not (work / "model.tar.gz").exists():
            raise TrainingError(f"training failed: no model was written. See {log}")
        progress("checking the new model")
        await run_child(
            [str(python), str(RASA_PROJECT / "launch.py"), "check", "model.tar.gz", "samples.json"],
            "the new model was refused",
            progress,
            log=log,
            cwd=work,
        )
        (work / "model.tar.gz").replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _forget_old_models(target)
    progress(f"model {target.name} is ready")
    return target


def nlu_yaml(examples: Sequence[Example]) -> str:
    """Training data in Rasa's format, with the language of each example as metadata."""
    intents: defaultdict[str, list[dict[str, object]]] = defaultdict(list)
    for intent, code, text in [e for e in examples if e[0]] + _joined(examples):
        plain = text.translate({ord("["): "(", ord("]"): ")", ord("{"): "(", ord("}"): ")"})
        intents[to_rasa(intent)].append({"text": plain + "\n", "metadata": {"language": code}})
    content = [{"intent": intent, "examples": rows} for intent, rows in intents.items()]
    return yaml.safe_dump({"version": "3.1", "nlu": content}, allow_unicode=True, sort_keys=False)


def _joined(examples: Sequence[Example], longest: int = 900) -> list[Example]:
    """The texts that are no questions, a few to one example: Rasa reads its data slowly."""
    blocks: list[Example] = []
    for _, code, text in (example for example in examples if not example[0]):
        if blocks and blocks[-1][1] == code and len(blocks[-1][2]) + len(text) < longest:
            blocks[-1] = ("", code, f"{blocks[-1][2]} {text}")
        else:
            blocks.append(("", code, text))
    return blocks


def samples(examples: Sequence[Example], most: int = 60) -> list[tuple[str, str]]:
    """A few questions spread over all intents and languages, as (Rasa's intent, text)."""
    questions = [e for e in examples if e[0] and not e[0].startswith("risk/")]
    step = max(1, len(questions) // most)
    return [(to_rasa(intent), text) for intent, _, text in questions[::step]]


def log_file(data_dir: Path, name: str, most_bytes: int = 1_000_000) -> Path:
    """A log in the data folder; when it has grown too large the old one moves to `<name>.1`."""
    path = data_dir / "logs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > most_bytes:
        path.replace(path.with_name(name + ".1"))
    return path


def child_environment(extra: dict[str, str]) -> dict[str, str]:
    """What a child of ours sees: no setting and no secret of the program."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("BOT_") and name not in {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"}
    }
    return {**kept, "PYTHONUNBUFFERED": "1", "RASA_TELEMETRY_ENABLED": "false", **extra}


async def run_child(
    command: Sequence[str],
    failure: str,
    progress: Progress,
    *,
    log: Path,
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
) -> None:
    """Run a command to its end, its output to a log, its stages to `progress`.

    It ends when this program ends, and when the task is cancelled.

    Raises:
        TrainingError: it could not be started or failed; `failure` and the telling line.
    """
    try:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=cwd,
            env=child_environment({"BOT_RASA_WATCH": "1", **(environment or {})}),
            limit=1_000_000,
        )
    except OSError as error:
        raise TrainingError(f"{failure}: {error.strerror or error}") from None
    last = telling = ""
    output = child.stdout or asyncio.StreamReader()  # asked for above, so never the latter
    try:
        with log.open("a", encoding="utf-8", buffering=1) as out:  # line by line
            async for raw in output:
                line = raw.decode("utf-8", "replace").rstrip()
                out.write(line + "\n")
                if line.strip():
                    last = line.strip()
                    telling = last if _ERROR_LINE.search(last) else telling
                if stage := _stage(line):
                    progress(stage)
        code = await child.wait()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if code:
        raise TrainingError(f"{failure}: {(telling or last)[:300]} (more in {log})")


def _stage(line: str) -> str:
    if found := re.search(r"Starting to train component '(\w+)'", line):
        return f"training {found[1]}"
    if found := re.search(r"encoded (\d+ of \d+)", line):
        return f"encoding sentences: {found[1]}"
    return ""


def _forget_old_models(newest: Path) -> None:
    models = sorted(newest.parent.glob("*.tar.gz"), key=lambda path: path.stat().st_mtime)
    for model in models[:-KEPT_MODELS]:
        if model != newest:
            model.unlink(missing_ok=True)
