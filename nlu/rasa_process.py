"""Rasa as a watched child of the program: installed, trained, started, restarted, ended.

Nothing in here raises into the program. While Rasa is away the desk works without it, and `state`
and `detail` say why.
"""

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import structlog

from nlu.rasa_client import RasaClient, RasaUnavailable
from nlu.train import (
    RASA_PROJECT,
    Example,
    TrainingError,
    child_environment,
    content_digest,
    install,
    log_file,
    model_path,
    newest_model,
    silent,
    train,
)

State = Literal["installing", "training", "loading", "ready", "down"]

logger = structlog.get_logger()

START_LIMIT = 120.0
"""Seconds that a started Rasa may take until it answers."""
LOOK_EVERY = 10.0
"""Seconds between two looks at a running Rasa."""
MISSED_LOOKS = 3
"""So many looks without an answer and it is taken for hung."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0
"""Seconds before the next try after a fault; doubled each time."""
FINISH = 15.0
"""Seconds that a replaced Rasa has to answer what it was asked; longer than a request may take."""


class RasaProcess:
    """Keeps one Rasa server available.

    Give `examples` (called whenever a model is made) to run Rasa here as a child, or `url` (and
    `token`) for one that runs elsewhere; then nothing is installed, trained or started.
    """

    def __init__(
        self,
        data_dir: Path,
        examples: Callable[[], Iterable[Example]] | None = None,
        *,
        url: str = "",
        token: str = "",
        environment: Path | None = None,
        model: Path | None = None,
        on_change: Callable[[State, str], None] | None = None,
    ) -> None:
        """`environment`: folder of Rasa's virtual environment, `<data_dir>/rasa-env` if not given.

        `model`: a model file to serve, whatever the examples are.

        `on_change` is told each new state and detail, for a log or a waiting person.
        """
        if examples is None and not url:
            raise ValueError("give either examples or the URL of a Rasa that runs elsewhere")
        self._data_dir = data_dir.absolute()
        self._examples = examples
        self._environment = environment
        self._fixed = model.absolute() if model else None
        self._on_change = on_change
        self._task: asyncio.Task[None] | None = None
        self._renew = asyncio.Event()
        self._ready = asyncio.Event()
        self._child: _Child | None = None
        self._served: Path | None = None
        self._elsewhere = RasaClient(url, token) if url else None
        self.state: State = "down"
        self.detail = "not started"

    @property
    def client(self) -> RasaClient | None:
        """The way to ask; None while there is no server. Ask for it anew each time."""
        if self._elsewhere is not None:
            return self._elsewhere
        return self._child.client if self._child and self.state == "ready" else None

    @property
    def pid(self) -> int | None:
        """Process id of the child, if one runs."""
        return self._child.process.pid if self._child else None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Begin in the background; returns at once."""
        if self._task is None:
            if self._elsewhere is not None:
                work = self._watch_elsewhere(self._elsewhere)
            else:
                work = self._keep_child()
            self._task = asyncio.create_task(work, name="rasa")

    async def stop(self) -> None:
        """End the child and all work in the background."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._child is not None:
            await self._child.end()
            self._child = None
        if self._elsewhere is not None:
            await self._elsewhere.close()
        self._set("down", "stopped")

    async def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until messages can be understood; False after `timeout` seconds without."""
        try:
            await asyncio.wait_for(self._ready.wait(), timeout)
        except TimeoutError:
            return False
        return True

    def renew(self) -> None:
        """The examples have changed: make a new model; the old one serves until the new one can."""
        self._renew.set()

    def _set(self, state: State, detail: str) -> None:
        detail = " ".join(detail.split())
        if (state, detail) == (self.state, self.detail):
            return
        self.state, self.detail = state, detail
        if state == "ready":
            self._ready.set()
        else:
            self._ready.clear()
        if self._on_change is not None:
            self._on_change(state, detail)

    async def _watch_elsewhere(self, client: RasaClient) -> None:
        while True:
            try:
                self._set("ready", f"Rasa elsewhere serves {await client.model()}")
            except RasaUnavailable as error:
                self._set("down", str(error))
            await asyncio.sleep(LOOK_EVERY)

    async def _keep_child(self) -> None:
        pause = FIRST_PAUSE
        while True:
            started = time.monotonic()
            try:
                await self._serve()
            except TrainingError as error:
                self._set("down", f"{error}. The desk works without it; next try in {pause:.0f} s")
            except Exception as error:  # whatever it is, the desk goes on
                logger.error("rasa_fault", kind=type(error).__name__)
                self._set("down", f"unexpected fault: {type(error).__name__}")
            if self._child is not None:
                await self._child.end()
                self._child = None
            if time.monotonic() - started > 2 * LONGEST_PAUSE:
                pause = FIRST_PAUSE  # it had been running well
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _serve(self) -> None:
        """Make a model if needed, start Rasa with it, stay until it dies.

        Raises:
            TrainingError: no model could be made, or Rasa did not start, or died.
        """
        # after a crash the same model again: that is quick, and a new one can wait
        model = self._served if self._served and self._served.exists() else await self._model()
        child = await self._start_child(model)
        why = ""
        while True:
            self._set("ready", f"Rasa serves {child.model.name}{why}")
            await self._while_alive(child, asyncio.create_task(self._renew.wait()))
            self._renew.clear()
            why = ""
            making = asyncio.create_task(self._model(quietly=True))
            try:
                await self._while_alive(child, making)
            except TrainingError:
                self._renew.set()  # first the old model again, then the new one
                raise
            try:
                model = making.result()
                if model != child.model:
                    child = await self._start_child(model)
            except Exception as error:  # whatever it is, the good model stays
                reason = str(error) if isinstance(error, TrainingError) else type(error).__name__
                logger.warning("rasa_keeps_old_model", reason=reason)
                why = f"; a newer model could not be made: {reason}"

    async def _model(self, *, quietly: bool = False) -> Path:
        """The model for today's examples; an older one if that cannot be made."""

        def tell(line: str) -> None:
            if not quietly:
                self._set("installing" if line.startswith("installing") else "training", line)

        if self._fixed is not None:
            await install(self._data_dir, tell, self._environment)
            return self._fixed
        examples = list(self._examples() if self._examples else ())
        wanted = model_path(self._data_dir, content_digest(examples))
        try:
            if wanted.exists():
                await install(self._data_dir, tell, self._environment)
            return await train(examples, self._data_dir, tell, environment=self._environment)
        except TrainingError as error:
            older = newest_model(self._data_dir)
            if older is None or quietly:
                raise
            logger.warning("rasa_uses_older_model", reason=str(error), model=older.name)
            await install(self._data_dir, tell, self._environment)
            return older

    async def _start_child(self, model: Path) -> "_Child":
        """Start a server for the model; only when it answers does it take the place of the old."""
        if self._child is None:
            self._set("loading", f"starting Rasa with {model.name}")
        python = await install(self._data_dir, silent, self._environment)
        child = await _Child.launch(python, model, self._data_dir)
        try:
            await child.until_ready()
        except BaseException:
            await child.end()
            raise
        old, self._child = self._child, child
        self._served = model
        if old is not None:  # new messages go to the new one; what the old one has begun, it ends
            try:
                await old.client.at_rest(FINISH)
            finally:
                await old.end()
        return child

    async def _while_alive(self, child: "_Child", work: asyncio.Task[Any]) -> None:
        """Wait for `work` while the child lives and answers.

        Raises:
            TrainingError: the child died or hangs; `work` is cancelled then.
        """
        missed = 0
        ended = asyncio.create_task(child.process.wait())
        try:
            while not work.done():
                await asyncio.wait(
                    {ended, work}, timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED
                )
                missed = 0 if await child.client.ready() else missed + 1
                if child.process.returncode is not None or missed >= MISSED_LOOKS:
                    code = child.process.returncode
                    raise TrainingError(
                        "Rasa hangs" if code is None else f"Rasa has ended (code {code})"
                    )
        finally:
            ended.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait({work})


class _Child:
    """One running Rasa server."""

    def __init__(self, process: asyncio.subprocess.Process, model: Path, client: RasaClient):
        self.process = process
        self.model = model
        self.client = client

    @classmethod
    async def launch(cls, python: Path, model: Path, data_dir: Path) -> "_Child":
        """Start a server on a free port of this machine, closed to others by a random token."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        token = secrets.token_urlsafe(24)
        # run in a folder of its own: Rasa looks for files around it
        folder = data_dir / "models"
        with log_file(data_dir, "rasa.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                str(python),
                str(RASA_PROJECT / "launch.py"),
                "run",
                *("--model", str(model), "--interface", "127.0.0.1", "--port", str(port)),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=child_environment({"BOT_RASA_WATCH": "1", "BOT_RASA_TOKEN": token}),
            )
        return cls(process, model, RasaClient(f"http://127.0.0.1:{port}", token))

    async def until_ready(self) -> None:
        """Wait until the model is served.

        Raises:
            TrainingError: it ended, serves another model or took too long.
        """
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline:
            if self.process.returncode is not None:
                raise TrainingError(
                    f"Rasa ended while starting (code {self.process.returncode}, see rasa.log)"
                )
            try:
                served = await self.client.model()
            except RasaUnavailable:
                await asyncio.sleep(0.2)
                continue
            if served != self.model.name:  # Rasa falls back silently to another file
                raise TrainingError(f"Rasa loaded {served} instead of {self.model.name}")
            with contextlib.suppress(RasaUnavailable):  # loads the encoder
                await self.client.parse(["the first message should not have to wait"])
            return
        raise TrainingError(f"Rasa did not answer within {START_LIMIT:.0f} s")

    async def end(self) -> None:
        """Ask it to end, then make it end."""
        await self.client.close()
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), 5)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    self.process.kill()
                await self.process.wait()
