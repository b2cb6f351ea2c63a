"""A headless browser for tests and pictures of pages: Chromium as the system has it."""

import shutil
from contextlib import contextmanager

from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# No sandbox: root, in containers too. The rest: nothing is drawn by a GPU or asked of a network.
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_browser():
    """Path of the browser.

    Raises
    ------
    FileNotFoundError
        With what to install, if there is none.
    """
    for name in BROWSERS:
        path = shutil.which(name)
        if path is not None:
            return path
    raise FileNotFoundError(
        f"none of {', '.join(BROWSERS)} is installed, which tests of pages need: on Debian, "
        "apt-get install chromium"
    )


@contextmanager
def open_browser():
    """Playwright's browser, until the end of the block."""
    path = find_browser()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()
