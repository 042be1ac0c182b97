"""An editor changes what the running desk says: by files, a check and one command; no restart."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from config.settings import ROOT
from tests.stories.running import Chat, RunningDesk

OLD = "The rules first, then what you can do now."
NEW = "First what you can do now, then the rules."


@pytest.fixture
def faq(tmp_path: Path) -> Path:
    """A copy of the FAQ with a sentence to look for."""
    copy = tmp_path / "faq"
    shutil.copytree(ROOT / "faq_data", copy)
    said(copy, OLD)
    return copy


def said(faq: Path, sentence: str) -> None:
    """Let the English answer on unpaid wages be this sentence."""
    path = faq / "topics" / "wage_unpaid.yaml"
    text = path.read_text("utf-8")
    head, _, rest = text.partition("\n  en:\n")
    before, _, answer = rest.partition("    answer: |\n")
    _, _, after = answer.partition("\n    sms:")
    kept = f"{head}\n  en:\n{before}    answer: |\n      {sentence}\n    sms:{after}"
    path.write_text(kept, "utf-8")


def bot(desk: RunningDesk, *command: str) -> subprocess.CompletedProcess[str]:
    settings = {
        "BOT_DATA_DIR": str(desk.data_dir),
        "BOT_HTTP_PORT": str(desk.http_port),
        "BOT_RASA": "false",
        **desk.environment,
    }
    return subprocess.run(
        [sys.executable, "-m", "bot", *command],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def heard(desk: RunningDesk) -> str:
    """All that a new worker hears when she asks."""
    chat = Chat(desk, "en")
    chat.ask("hello", at_least=3)
    return "\n".join(m["text"] for m in chat.ask("Unpaid wages", choice="/topic wage_unpaid"))


def test_published_content_is_said_without_a_restart_and_broken_content_is_not(
    tmp_path: Path, faq: Path
) -> None:
    with RunningDesk(tmp_path / "data", {"BOT_FAQ_DIR": str(faq)}) as desk:
        assert desk.process is not None
        pid = desk.process.pid
        assert OLD in heard(desk)
        first = desk.state()["content"]
        waiting = Chat(desk, "en")  # a conversation that goes on over the change
        waiting.ask("hello", at_least=3)

        said(faq, NEW)
        time.sleep(4)
        assert OLD in heard(desk)  # editing alone changes nothing
        assert "edited since" in bot(desk, "status").stdout

        published = bot(desk, "faq", "publish")
        assert published.returncode == 0, published.stdout + published.stderr
        assert "The desk now speaks by" in published.stdout
        assert NEW in heard(desk)
        answer = waiting.ask("Unpaid wages", choice="/topic wage_unpaid")
        assert NEW in "\n".join(m["text"] for m in answer)
        second = desk.state()["content"]
        assert second != first
        status = bot(desk, "status").stdout
        assert second in status
        assert "edited since" not in status

        said(faq, "Call {tel:nobody}.")
        refused = bot(desk, "faq", "publish")
        assert refused.returncode == 1
        assert "wage_unpaid.yaml:" in refused.stdout
        assert "{tel:nobody} is not in directory.yaml" in refused.stdout
        assert "Nothing was published" in refused.stderr

        # Even a mark that somebody set by other means does not make it take broken content.
        (desk.data_dir / "published").write_text("0" * 64)
        deadline = time.monotonic() + 30
        while not desk.state()["content_refused"]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert "{tel:nobody}" in desk.state()["content_refused"]
        assert "refused" in bot(desk, "status").stdout
        assert NEW in heard(desk)
        assert desk.state()["content"] == second

        said(faq, OLD)
        assert bot(desk, "faq", "publish").returncode == 0
        assert OLD in heard(desk)
        assert not desk.state()["content_refused"]
        assert desk.process.pid == pid
        assert desk.process.poll() is None


def test_without_a_desk_publishing_says_so(tmp_path: Path, faq: Path) -> None:
    published = bot(RunningDesk(tmp_path / "data", {"BOT_FAQ_DIR": str(faq)}), "faq", "publish")
    assert published.returncode == 0, published.stdout + published.stderr
    assert "No desk is running" in published.stdout
