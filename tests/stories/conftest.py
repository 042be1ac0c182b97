"""Desks that stories share: one with the real Rasa for the whole session, one browser."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

from config.settings import ROOT
from tests.stories.running import RunningDesk


@pytest.fixture(scope="session")
def rasa_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDesk]:
    """A desk that understands with Rasa; environment and model are kept in `var/` between runs."""
    settings = {"BOT_RASA": "true", "BOT_RASA_DIR": str(ROOT / "var")}
    with RunningDesk(tmp_path_factory.mktemp("rasa-desk"), settings) as running:
        running.wait_ready()
        yield running


@contextmanager
def chromium() -> Iterator[Browser]:
    """Headless Chromium from the system (Debian package `chromium`).

    While it is open, nothing else in this thread can run an event loop.
    """
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs Chromium: install the Debian package chromium")
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=found,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the stories of a file; those of other files need their event loops."""
    with chromium() as opened:
        yield opened
