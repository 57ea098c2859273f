"""A headless Chromium, driven by Playwright, that can reach this machine only."""

import shutil
import time
from contextlib import contextmanager

from playwright.sync_api import sync_playwright
from support import require, until

FLAGS = [
    "--no-sandbox",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
SECONDS = 30


@contextmanager
def chromium():
    """Start the system's Chromium; without one, skip the test, or fail it in CI."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    require(program, "Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


class Tab:
    """A page with cookies of its own; it records the URLs, warnings and errors of the page."""

    def __init__(self, browser, **options):
        """Open an empty page; the options are those of Playwright's contexts."""
        self.context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 1600}, **options}
        )
        self.context.set_default_timeout(SECONDS * 1000)
        self.page = self.context.new_page()
        self.urls, self.warnings = [], []
        self.page.on("request", lambda request: self.urls.append(request.url))
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.warnings.append(str(error)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def open(self, url):
        """Load a page, and drop the records of the page before."""
        self.forget()
        self.page.goto(url, wait_until="commit")

    def forget(self):
        """Drop what is recorded."""
        self.urls.clear()
        self.warnings.clear()

    def evaluate(self, script):
        """Return the value of a JavaScript expression in the page."""
        return self.page.evaluate(script)

    def until(self, script):
        """Wait until a JavaScript expression is true, and return its value."""
        return until(
            lambda: self.evaluate(script),
            SECONDS,
            interval=0.1,
            explain=lambda: f"{script}\n{self.warnings}",
        )

    def settle(self, quiet=1.0):
        """Wait until the page has requested nothing for `quiet` seconds."""
        seen, since = -1, time.monotonic()
        while time.monotonic() < since + quiet:
            self.page.wait_for_timeout(50)
            if len(self.urls) != seen:
                seen, since = len(self.urls), time.monotonic()

    def _note(self, message):
        if message.type in ("error", "warning", "assert"):
            self.warnings.append(message.text)
