"""The page in a real browser: it loads, filters, goes by keys, and does nothing that its data asks for."""

import pytest
from browser import chromium, contrast, rgb

from mmalign.tools.inspection.command import main

pytestmark = pytest.mark.slow

TEXTS = (".lead", ".soft", ".hint", ".chip", ".answer .text", ".chosen mark", ".rejected mark", ".role", ".who")
COLOUR = "getComputedStyle(document.body).backgroundColor"
PAST = "() => { const e = document.documentElement; return e.scrollWidth - e.clientWidth }"
"""Pixels by which the page is wider than its window."""


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory, rich, hostile, tiny_llava):
    """Made by the command line, as a user makes them."""
    folder = tmp_path_factory.mktemp("pages")
    for name, shards in (("rich", rich), ("hostile", hostile)):
        options = ["--checkpoint", tiny_llava, "--limit", "0", "--html", str(folder / f"{name}.html")]
        main([str(shards), *options])
    return folder


@pytest.fixture
def page(browser, pages):
    with browser.open(pages / "rich.html") as opened:
        yield opened
    assert (browser.faults, browser.requests) == ([], [])


def shown(page):
    """Keys of the samples; the texts of those below the window are not rendered yet."""
    return [text.strip().partition("/")[2] for text in page.locator("article:not([hidden]) h3").all_text_contents()]


def test_samples_are_shown_whole(page):
    assert shown(page) == ["judged", "turns", "broken", "lone"]
    assert page.locator("#count").inner_text() == "4 samples"
    assert page.locator("#sample-2 .lost").inner_text().startswith("No picture")
    widths = page.locator("article img").evaluate_all("all => all.map(each => each.naturalWidth)")
    assert widths == [64, 64, 300]
    assert page.locator("#sample-0 details.tokens").evaluate("each => each.open") is False
    page.locator("#sample-0 details.tokens summary").click()
    assert "A red square on a white wall.</s>" in page.locator("#sample-0 .trained.chosen").inner_text()


FILTERS = [
    ("#search", "RED wall", ["judged"]),
    ("#search", "no json", ["judged"]),
    ("#search", "nowhere to be found", []),
    ("#model", "llava", ["judged"]),
    ("#judge", "gpt", ["judged"]),
    ("#source", "people", ["turns", "broken"]),
    ("#gap", "6", ["judged"]),
    ("#gap", "6.5", []),
    ("#direct", None, ["turns", "broken"]),
    ("#rows", None, ["judged", "turns"]),
    ("#invalid", None, ["judged"]),
    ("#problems", None, ["judged", "broken"]),
]


def test_filters_leave_what_fits(page):
    for control, value, keys in FILTERS:
        if value is None:
            page.check(control)
        elif control in ("#model", "#judge", "#source"):
            page.select_option(control, label=value)
        else:
            page.fill(control, value)
        assert shown(page) == keys, (control, value)
        assert page.locator("#count").inner_text() == f"{len(keys)} of 4"
        assert page.locator("#none").is_visible() == (not keys)
        page.click("#clear" if keys else "#clear-too")
        assert len(shown(page)) == 4


def test_differences_are_marked(page):
    chosen, rejected = (page.locator(f"#sample-0 .answer.{role} mark") for role in ("chosen", "rejected"))
    assert [text.strip() for text in chosen.all_inner_texts()] == ["red"]
    assert [text.strip() for text in rejected.all_inner_texts()] == ["blue"]


def test_keys_lead_through_the_samples(page):
    def at():
        return page.evaluate("document.activeElement.id")

    page.keyboard.press("j")
    assert at() == "sample-0"
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert at() == "sample-2"
    page.keyboard.press("k")
    assert at() == "sample-1"
    page.keyboard.press("d")
    assert page.locator("#sample-1 details").evaluate_all("all => all.every(each => each.open)")
    page.keyboard.press("/")
    assert at() == "search"
    page.keyboard.type("jk red")
    assert at() == "search"
    assert page.input_value("#search") == "jk red"
    page.keyboard.press("Escape")
    assert page.input_value("#search") == ""
    page.keyboard.press("Escape")
    assert at() != "search"


def test_the_toolbar_covers_no_sample_that_a_key_led_to(browser, pages):
    with browser.open(pages / "rich.html", height=500) as page:
        for _ in range(2):
            page.keyboard.press("j")
        bar, card = (page.locator(each).bounding_box() for each in ("#toolbar", "#sample-1"))
        assert bar["y"] == 0
        assert card["y"] >= bar["height"]


def test_the_focus_is_seen(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(2):
        page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_a_picture_is_enlarged_and_closed(page):
    page.locator("#sample-1 .picture").nth(1).click()
    assert page.locator("dialog").is_visible()
    assert page.locator("dialog img").bounding_box()["width"] >= 300
    page.keyboard.press("Escape")
    assert page.locator("dialog").is_hidden()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_is_as_dark_as_its_reader_wants_and_can_be_read(browser, pages, dark):
    with browser.open(pages / "rich.html", dark=dark) as page:
        assert is_dark(page.evaluate(COLOUR)) == dark
        for selector in (
            ".lead",
            ".soft",
            ".hint",
            ".chip",
            ".answer .text",
            ".chosen mark",
            ".rejected mark",
            ".role",
        ):
            assert contrast(page, selector) >= 4.5, selector
        page.click("#theme")
        page.click("#theme")
        assert is_dark(page.evaluate(COLOUR))
        page.evaluate("document.documentElement.dataset.theme = 'light'")
        assert not is_dark(page.evaluate(COLOUR))


def is_dark(colour):
    return sum(rgb(colour)) < 200


@pytest.mark.parametrize("name", ["rich", "hostile"])
def test_a_telephone_needs_no_scrolling_sideways(browser, pages, name):
    with browser.open(pages / f"{name}.html", width=375, height=700) as page:
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert page.evaluate(PAST) <= 0
        assert page.locator("#filters").is_hidden()
        page.click("#more")
        assert page.locator("#filters").is_visible()
        assert page.evaluate(PAST) <= 0


def test_nobodys_text_does_anything(browser, pages):
    browser.faults.clear()
    with browser.open(pages / "hostile.html") as page:
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        for key in ("j", "d", "k", "/"):
            page.keyboard.press(key)
        page.keyboard.type("<img src=x onerror=alert(1)>")
        page.click("#clear-too")
        page.locator(".picture").first.click()
        page.wait_for_timeout(200)
        assert page.evaluate("typeof window.hit") == "undefined"
        assert page.locator("article").count() == 2
        assert page.locator("article script, article svg:not(.bar), article a:not([href^='#'])").count() == 0
        assert page.locator("body > footer").is_visible()
        text = page.locator("article").first.inner_text()
        assert "<script>window.hit = 1; alert(1)</script>" in text
        assert "U+202E" in text
        assert "\u202e" not in page.content()
    assert (browser.faults, browser.requests) == ([], [])


def test_a_script_that_got_in_all_the_same_would_not_run(browser, pages):
    """The policy is a second wall: here markup is put in by hand, as a bug would."""
    with browser.open(pages / "rich.html") as page:
        page.evaluate(
            """() => {
                document.body.insertAdjacentHTML("beforeend", '<img src="data:," onerror="window.hit = 1">');
                const script = document.createElement("script");
                script.textContent = "window.hit = 2";
                document.body.append(script);
                document.body.insertAdjacentHTML("beforeend", '<img src="http://127.0.0.1:9/x.png">');
            }"""
        )
        page.wait_for_timeout(200)
        assert page.evaluate("typeof window.hit") == "undefined"
    assert any("Content Security Policy" in fault for fault in browser.faults)
    browser.faults.clear()
    browser.requests.clear()
