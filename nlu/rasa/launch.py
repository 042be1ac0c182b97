"""Rasa's own command line, with a few things seen to first.

`python launch.py run|train|test|data ...` does what `rasa ...` does, but

- with BOT_RASA_WATCH=1 it ends when the program that started it is gone, also after `kill -9`:
  its standard input is a pipe of that program and closes then;
- the token comes from the environment (BOT_RASA_TOKEN): a command line is readable by every user
  of the machine;
- nothing is sent to Rasa's telemetry, and `run` logs warnings only, whatever is asked for: at
  lower levels Rasa writes down what people say.

`python launch.py check <model.tar.gz> <samples.json>` loads a model as the server would and asks it
for samples ([[intent, text], ...]); it fails if fewer than 7 in 10 are right.
"""

import asyncio
import json
import os
import sys
import threading
import warnings
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ENOUGH = 0.7


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(0)


def check(model: str, samples: str) -> None:
    """Exit with a message unless the model answers its own examples."""
    from rasa.core.agent import load_agent
    from rasa.core.channels.channel import UserMessage

    from components.channel import understand

    agent = asyncio.run(load_agent(model_path=model))
    wanted = json.loads(Path(samples).read_text(encoding="utf-8"))
    answers = understand(agent.processor, [UserMessage(text) for _, text in wanted])
    right = sum(
        answer["intent"]["name"] == intent
        for (intent, _), answer in zip(wanted, answers, strict=True)
    )
    print(f"check: {right} of {len(wanted)} right")
    if right < ENOUGH * len(wanted):
        sys.exit("the model does not know its own examples")


def main() -> None:
    """Prepare, then hand over to Rasa."""
    if os.environ.get("BOT_RASA_WATCH") == "1":
        threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")
    os.environ["RASA_TELEMETRY_ENABLED"] = "false"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("SQLALCHEMY_SILENCE_UBER_WARNING", "1")
    sys.path.insert(0, str(FOLDER))
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command == "check":
        check(sys.argv[2], sys.argv[3])
        return
    if command == "run":
        for name in ("LOG_LEVEL", "LOG_LEVEL_LIBRARIES"):
            os.environ[name] = "WARNING"
        loud = {"-v", "-vv", "--verbose", "--debug"}
        sys.argv = [argument for argument in sys.argv if argument not in loud]
        sys.argv += ["--enable-api", "--credentials", str(FOLDER / "credentials.yml")]
        if token := os.environ.get("BOT_RASA_TOKEN"):
            sys.argv += ["--auth-token", token]
    from rasa.__main__ import main as rasa

    rasa()


if __name__ == "__main__":
    main()
