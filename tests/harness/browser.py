"""A headless Chromium for tests of pages, by Playwright.

    with chromium() as browser:
        with browser.open(Path("page.html"), width=375, dark=True) as page:
            page.locator("article").count()
        assert browser.faults == []    # nothing in the console, no error, no dialog

Nothing is downloaded: the browser that is installed here is used, and where there is none, tests skip.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_MS = 10_000


class Browser:
    """Opens pages and remembers what went wrong on them."""

    def __init__(self, browser) -> None:
        self._browser = browser
        self.faults: list[str] = []
        """Errors, dialogs and refusals of the pages opened so far."""
        self.requests: list[str] = []
        """Addresses that were asked for, the pages themselves and their data URLs left out."""

    @contextmanager
    def open(self, address: str | Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Page]:
        """A page in a window of its own; a path is opened as a file.

        Args:
            address: A file, or an address.
            width: Of the window, in pixels.
            height: Likewise.
            dark: Whether the reader prefers dark pages.
        """
        url = address.resolve().as_uri() if isinstance(address, Path) else address
        context = self._browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("dialog", self._asked)
        page.on("request", lambda request: self._requested(request.url, url))
        page.goto(url)
        yield page
        context.close()

    def _heard(self, message) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"console: {message.text}")

    def _asked(self, dialog) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _requested(self, url: str, own: str) -> None:
        if not url.startswith("data:") and url.split("#")[0] != own.split("#")[0]:
            self.requests.append(url)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The installed browser, or a skip."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is installed")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield Browser(launched)
        launched.close()


def contrast(page: Page, selector: str) -> float:
    """Of a text and what lies behind it, as WCAG counts it."""
    texts = page.locator(selector).first.evaluate(
        """each => {
            let behind = each;
            const back = (e) => getComputedStyle(e).backgroundColor;
            while (back(behind) === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
            return [getComputedStyle(each).color, back(behind)];
        }"""
    )
    light, shade = sorted((_luminance(rgb(colour)) for colour in texts), reverse=True)
    return (light + 0.05) / (shade + 0.05)


def rgb(colour: str) -> list[float]:
    """Red, green and blue of a colour as a browser says it."""
    return [float(number) for number in colour.partition("(")[2].rstrip(")").split(",")[:3]]


def _luminance(colour: list[float]) -> float:
    parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
