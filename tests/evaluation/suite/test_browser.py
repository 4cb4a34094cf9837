"""The page in a real browser: it fits a phone, is readable at night, asks for nothing, and does nothing it is told."""

from dataclasses import replace

import pytest
from browser import chromium, contrast
from suites import FAKES, GAIN, fake_scored, write_suite

from mmalign.evaluation.steps.scored import read_scored
from mmalign.evaluation.suite.report import write_suite_report

pytestmark = pytest.mark.slow

TEXTS = (
    "h1",
    ".lead",
    ".tax p",
    ".warnings li",
    ".hint",
    ".paper .value",
    ".paper .of",
    ".chip.better",
    ".chip.worse",
    ".chip.unclear",
    ".published td",
    ".example .by",
    ".example .note",
    "nav a",
    "summary",
)
READABLE = 4.5
PAST = "() => { const e = document.documentElement; return e.scrollWidth - e.clientWidth }"
"""Pixels by which the page is wider than its window."""
OPEN_ALL = "document.querySelectorAll('details').forEach(each => each.open = true)"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """All benchmarks, pictures, a scaling curve, answers that try to be code and words that never end."""
    place = tmp_path_factory.mktemp("browser")
    folder = write_suite(
        place / "suite",
        shifts={**GAIN, "pope": -0.1},
        chatty=["pope"],
        pictures=place / "pictures",
        failed={"amber": "gone"},
    )
    path = folder / "aligned" / "mm_vet"
    scored = read_scored(path)
    hostile = "<script>alert(1)</script><img src=http://nowhere.invalid/x onerror=alert(1)>" + "endless" * 60
    items = tuple(item._replace(answer=hostile, question=hostile, note=hostile) for item in scored.items)
    replace(scored, items=items, model=hostile, lineage={"questions": "/a/very/long/path" * 20}).write(path)
    quarter = place / "quarter"
    for fake in FAKES:
        fake_scored(fake, model="fake-quarter", size=60, shift=0.02).write(quarter / fake.name)
    return write_suite_report(folder, None, place, scaling={"0.25": quarter}, paper_values=True, resamples=100)


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_page_fits_its_window(browser, page_file, width):
    """Also with everything unfolded; and nothing is asked for, printed or run."""
    with browser.open(page_file, width=width) as page:
        assert page.evaluate(PAST) <= 0
        page.evaluate(OPEN_ALL)
        assert page.evaluate(PAST) <= 0
    assert (browser.faults, browser.requests) == ([], [])


@pytest.mark.parametrize("dark", [False, True])
def test_texts_are_readable_by_day_and_night(browser, page_file, dark):
    with browser.open(page_file, dark=dark) as page:
        page.evaluate(OPEN_ALL)
        poor = {text: ratio for text in TEXTS if (ratio := contrast(page, text)) < READABLE}
    assert poor == {}


def test_on_a_phone_the_table_stands_upright(browser, page_file):
    """A line for each benchmark; base, aligned and difference beside its name."""
    with browser.open(page_file, width=375) as page:
        places = page.locator(".paper").first.evaluate(
            """card => [...card.querySelectorAll("tr:not(.wide)")].map(row => [...row.children].slice(0, 3)
                .map(cell => cell.getBoundingClientRect()).map(box => [box.left, box.top]))"""
        )
    assert len(places) == 4
    for row in places:
        assert len({left for left, _ in row}) == 1
    for cells in zip(*places, strict=True):
        assert len({round(top) for _, top in cells}) == 1


def test_pictures_are_drawn_and_links_lead_somewhere(browser, page_file):
    with browser.open(page_file) as page:
        page.evaluate(OPEN_ALL)
        assert min(page.locator("article img").evaluate_all("all => all.map(each => each.naturalWidth)")) > 0
        page.click("nav a[href='#examples']")
        assert page.locator("#examples h2").is_visible()
        lost = page.locator("details.bench").filter(has_text="POPE").first
        assert lost.locator("article").count() > 0
