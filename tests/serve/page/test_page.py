"""The page in headless Chromium: what a person sees and does, by mouse and by keyboard."""

import base64
import hashlib
import json

import pytest
from browser import contrast, rgb
from playwright.sync_api import expect

pytestmark = pytest.mark.slow
PAST = "() => { const e = document.documentElement; return e.scrollWidth - e.clientWidth }"
"""Pixels by which the page is wider than its window."""
PASTE = """async ([name, kind, size, event]) => {
    const canvas = new OffscreenCanvas(...size);
    canvas.getContext("2d").fillRect(0, 0, 5, 5);
    const blob = kind.startsWith("image/") ? await canvas.convertToBlob({ type: kind }) : new Blob(["GIF89a"]);
    const transfer = new DataTransfer();
    transfer.items.add(new File([blob], name, { type: kind }));
    const init = { bubbles: true, cancelable: true, clipboardData: transfer, dataTransfer: transfer };
    const made = event === "paste" ? new ClipboardEvent(event, init) : new DragEvent(event, init);
    document.activeElement.dispatchEvent(made);
}"""


def paste(page, name="cat.png", kind="image/png", size=(40, 30), event="paste"):
    """A picture from the clipboard, or dropped."""
    page.evaluate(PASTE, [name, kind, list(size), event])


def say(page, words):
    expect(page.locator("#first option").first).to_be_attached()
    page.locator("#text").focus()
    page.keyboard.type(words)
    page.keyboard.press("Enter")


def answers(page):
    return page.locator(".turn.model .text")


def test_a_conversation_with_a_pasted_picture(browser, serve_page):
    with serve_page() as server, browser.open(server.url) as page:
        paste(page)
        expect(page.locator("#pictures img")).to_have_count(1)
        say(page, "What is it?")
        expect(answers(page)).to_have_text("A red circle.")
        expect(page.locator("#pictures img")).to_have_count(0)
        expect(page.locator(".user .shown img")).to_have_count(1)
        say(page, "Sure?")
        expect(answers(page)).to_have_count(2)
        expect(page.locator("#send")).to_be_visible()
        first, second = server.jobs
        assert first.prompt.pictures == second.prompt.pictures
        assert [message.role for message in second.prompt.messages] == ["user", "assistant", "user"]
        assert second.prompt.messages[1].content[0].text == "A red circle."
        page.click("#new")
        expect(page.locator(".turn")).to_have_count(0)
        say(page, "Anew")
        expect(answers(page)).to_have_text("A red circle.")
        assert len(server.jobs[-1].prompt.messages) == 1


def test_an_answer_is_seen_while_it_is_written_and_escape_stops_it(browser, serve_page):
    with serve_page() as server, browser.open(server.url) as page:
        server.pause = 0.1
        server.answers["base"] = "word " * 500
        say(page, "Talk")
        expect(answers(page)).to_contain_text("word word")
        expect(page.locator("#log")).to_have_attribute("aria-busy", "true")
        expect(page.locator("#stop")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator(".note")).to_have_text("Stopped.")
        expect(page.locator("#log")).to_have_attribute("aria-busy", "false")
        page.wait_for_timeout(300)
        assert len(server.cancelled) == 1
        server.answers["base"] = "Done."
        say(page, "Go on")
        expect(answers(page).nth(1)).to_have_text("Done.")
        assert server.jobs[-1].prompt.messages[1].content[0].text.startswith("word word")


def test_model_and_settings_reach_the_server(browser, serve_page):
    with serve_page() as server, browser.open(server.url) as page:
        expect(page.locator("#first option")).to_have_count(3)
        assert page.locator("#attributes").is_hidden()
        page.select_option("#first", "steer")
        page.click("summary")
        expect(page.locator("#attributes input")).to_have_count(5)
        page.locator("#temperature").fill("0.3")
        page.locator("#tokens").fill("12")
        page.locator("#attributes input[name=verbosity]").fill("0")
        assert page.locator("#temperature-value").inner_text() == "0.3"
        page.keyboard.press("Escape")
        say(page, "Hello")
        expect(answers(page)).to_have_text("Red.")
        (job,) = server.jobs
        assert (job.model, job.temperature, job.max_new_tokens) == ("steer", 0.3, 12)
        assert job.prompt.attributes["verbosity"] == 0
        page.click("summary")
        page.locator("#tokens").fill("1000")
        page.keyboard.press("Escape")
        say(page, "More")
        expect(page.locator("#problem")).to_contain_text("from 1 to 100")


@pytest.mark.parametrize("choice", ["left", "right", "tie", "both_bad"])
def test_a_comparison_is_blind_until_its_vote(browser, serve_page, tmp_path, choice):
    with serve_page() as server, browser.open(server.url) as page:
        page.get_by_role("radio", name="Compare").check()
        page.select_option("#second", "dpo")
        expect(page.locator("#stored")).to_contain_text("stored on this server")
        paste(page)
        expect(page.locator("#pictures img")).to_have_count(1)
        say(page, "What is it?")
        expect(page.locator(".vote")).to_be_visible()
        assert sorted(answers(page).all_inner_texts()) == ["A red circle.", "It is red."]
        left, right = answers(page).all_inner_texts()
        names = {"A red circle.": "base", "It is red.": "dpo"}
        assert [name for name in ("base", "dpo") if name in page.locator("#log").inner_text()] == []
        page.click(f".vote [value={choice}]")
        expect(page.locator(".verdict")).to_contain_text(f"Left was {names[left]}, right was {names[right]}.")
        assert page.locator(".sides .who").all_inner_texts() == [f"Left: {names[left]}", f"Right: {names[right]}"]
        (line,) = (tmp_path / "votes/journal.jsonl").read_text().splitlines()
        vote = json.loads(line)
        assert (vote["choice"], len(vote["pictures"])) == (choice, 1)
        assert [response["text"] for response in vote["responses"]] == [left, right]
        page.get_by_role("radio", name="Chat").check()
        say(page, "Sure?")
        expect(answers(page).nth(2)).to_have_text("A red circle.")
        told = server.jobs[-1].prompt.messages[1].content[0].text
        assert told == (right if choice == "right" else left)


def test_without_a_folder_votes_only_tell_the_names(browser, serve_page):
    with serve_page(votes=None) as server, browser.open(server.url) as page:
        page.get_by_role("radio", name="Compare").check()
        expect(page.locator("#stored")).to_have_text("Votes are not stored on this server.")
        say(page, "What is it?")
        page.click(".vote [value=left]")
        expect(page.locator(".verdict")).to_contain_text("Left was")
        assert "stored" not in page.locator(".verdict").inner_text()


def test_a_full_folder_is_said_behind_the_names(browser, serve_page):
    with serve_page(votes_max_bytes=1) as server, browser.open(server.url) as page:
        page.get_by_role("radio", name="Compare").check()
        say(page, "What is it?")
        page.click(".vote [value=left]")
        expect(page.locator(".verdict")).to_contain_text("Left was")
        expect(page.locator(".verdict")).to_contain_text("Your vote could not be stored.")


def test_everything_is_done_by_keyboard_alone(browser, serve_page):
    with serve_page() as server, browser.open(server.url) as page:
        expect(page.locator("#first option")).to_have_count(3)
        page.keyboard.type("one")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("two")
        assert page.input_value("#text") == "one\ntwo"
        page.keyboard.press("Enter")
        expect(answers(page)).to_have_text("A red circle.")

        def step_to(selector, key="Tab"):
            for _ in range(30):
                page.keyboard.press(key)
                if page.evaluate(f"document.activeElement.matches('{selector}')"):
                    outline = "getComputedStyle(document.activeElement.type === 'radio' ? document.activeElement."
                    outline += "nextElementSibling : document.activeElement).outlineStyle"
                    assert page.evaluate(outline) == "solid" or selector == "#text"
                    return
            pytest.fail(f"{selector} cannot be reached")

        step_to(".copy", "Shift+Tab")
        step_to("summary", "Shift+Tab")
        page.keyboard.press("Enter")
        step_to("#temperature")
        page.keyboard.press("ArrowRight")
        assert page.input_value("#temperature") == "0.8"
        page.keyboard.press("Escape")
        assert not page.evaluate("document.querySelector('#settings').open")
        step_to("#mode input", "Shift+Tab")
        page.keyboard.press("ArrowRight")
        expect(page.locator("#second")).to_be_visible()
        step_to("#second")
        page.keyboard.press("ArrowDown")
        step_to("#add")
        step_to("#text")
        page.keyboard.type("Again")
        page.keyboard.press("Enter")
        expect(page.locator(".vote")).to_be_visible()
        step_to(".vote [value=right]", "Shift+Tab")
        page.keyboard.press("Enter")
        expect(page.locator(".verdict")).to_be_visible()
        assert page.evaluate("document.activeElement.id") == "text"
        assert page.locator("button:not([aria-label])").evaluate_all(
            "all => all.every(each => each.textContent.trim())"
        )


HOSTILE = '<img src=x onerror="alert(1)"><script>alert(2)</script> \u202e evil [x](javascript:alert(3)) &lt;b&gt;'


def test_hostile_texts_and_names_are_shown_as_they_are(browser, serve_page):
    with serve_page() as server, browser.open(server.url) as page:
        server.answers["base"] = HOSTILE
        paste(page, name=HOSTILE)
        expect(page.locator("#pictures img")).to_have_count(1)
        say(page, HOSTILE)
        expect(page.locator("#send")).to_be_visible()
        expect(answers(page)).to_have_text(HOSTILE)
        assert page.locator("#log script, #log .text *, #log [onerror], #log a").count() == 0
        assert page.locator("#log img").count() == 1
        paste(page, name=f"{HOSTILE}.gif", kind="text/plain")
        expect(page.locator("#problem")).to_contain_text("only PNG, JPEG and WebP")
        assert "\u202e" not in page.locator("#problem").inner_text()


def test_a_large_picture_is_made_smaller_and_a_small_one_stays_as_it_is(browser, serve_page, talk, tmp_path):
    with serve_page() as server, browser.open(server.url) as page:
        data = base64.b64decode(talk.data_url().partition(",")[2])
        small = tmp_path / "small.png"
        small.write_bytes(data)
        page.set_input_files("#files", small)
        expect(page.locator("#pictures img")).to_have_count(1)
        paste(page, "large.png", size=(4000, 3000), event="drop")
        expect(page.locator("#pictures img")).to_have_count(2)
        say(page, "Look")
        expect(answers(page)).to_have_text("A red circle.")
        kept, made = server.jobs[0].prompt.pictures
        assert hashlib.sha256(kept).digest() == hashlib.sha256(data).digest()
        assert page.locator(".shown img").nth(1).evaluate("each => [each.naturalWidth, each.naturalHeight]") == [
            2048,
            1536,
        ]
        assert made.startswith(b"\xff\xd8\xff")


def test_too_many_pictures_are_refused_in_words(browser, serve_page):
    with serve_page(max_images=1) as server, browser.open(server.url) as page:
        expect(page.locator("#first option")).to_have_count(3)
        paste(page)
        expect(page.locator("#pictures img")).to_have_count(1)
        paste(page)
        expect(page.locator("#problem")).to_contain_text("1 pictures")
        page.get_by_label("Remove cat.png").click()
        expect(page.locator("#pictures img")).to_have_count(0)


def test_an_error_is_said_and_the_message_is_back_in_its_box(browser, serve_page):
    with serve_page() as server, browser.open(server.url) as page:
        expect(page.locator("#first option")).to_have_count(3)
        server.front.link.models = {"other": server.front.link.models["base"]}
        paste(page)
        expect(page.locator("#pictures img")).to_have_count(1)
        say(page, "Hello")
        expect(page.locator("#problem")).to_contain_text("There is no model 'base' here.")
        assert page.input_value("#text") == "Hello"
        assert page.locator("#pictures img").count() == 1
        assert page.locator(".turn").count() == 0
        browser.faults.clear()  # Chromium tells of the 404


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_texts_stand_out_in_light_and_in_dark(browser, serve_page, dark):
    with serve_page() as server, browser.open(server.url, dark=dark) as page:
        assert (sum(rgb(page.evaluate("getComputedStyle(document.body).backgroundColor"))) < 200) == dark
        texts = ["h1", ".lead", "#empty-more", ".mode span", "#send", "#new", "summary", ".hint", ".field"]
        for selector in texts:
            assert contrast(page, selector) >= 4.5, selector
        page.get_by_role("radio", name="Compare").check()
        say(page, "What is it?")
        expect(page.locator(".vote")).to_be_visible()
        for selector in [".user .text", ".who", ".sides .text", ".vote button", ".vote legend", ".copy"]:
            assert contrast(page, selector) >= 4.5, selector
        page.click(".vote [value=tie]")
        paste(page, "a.gif", "text/plain")
        page.click("summary")
        for selector in [".verdict", "#problem", ".slider", "#tokens"]:
            assert contrast(page, selector) >= 4.5, selector


def test_a_telephone_needs_no_scrolling_sideways(browser, serve_page):
    with serve_page() as server, browser.open(server.url, width=375, height=667) as page:
        server.answers |= {"base": "unbreakable" * 40, "dpo": "a\n" * 40}
        assert page.evaluate(PAST) <= 0
        page.get_by_role("radio", name="Compare").check()
        paste(page, size=(1000, 100))
        expect(page.locator("#pictures img")).to_have_count(1)
        say(page, "word" * 100)
        expect(page.locator(".vote")).to_be_visible()
        assert page.evaluate(PAST) <= 0
        assert page.locator("#log").evaluate("e => e.scrollWidth - e.clientWidth") <= 0
        page.click(".vote [value=left]")
        expect(page.locator(".verdict")).to_be_visible()
        page.click("summary")
        assert page.evaluate(PAST) <= 0
        box = page.locator(".panel").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 375


def test_a_key_is_asked_for_once_and_kept_in_the_tab(browser, serve_page):
    key = "a-key-of-people"
    keys = (hashlib.sha256(key.encode()).hexdigest(),)
    with serve_page(keys=keys, page="public") as server, browser.open(server.url) as page:
        expect(page.locator("#key-dialog")).to_be_visible()
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-why")).to_contain_text("did not take this key")
        page.fill("#key", key)
        page.keyboard.press("Enter")
        expect(page.locator("#first option")).to_have_count(3)
        say(page, "Hello")
        expect(answers(page)).to_have_text("A red circle.")
        page.reload()
        expect(page.locator("#first option")).to_have_count(3)
        assert page.locator("#key-dialog").is_hidden()
        assert page.evaluate("localStorage.length + document.cookie.length") == 0
        browser.faults[:] = [fault for fault in browser.faults if "401" not in fault]  # Chromium tells of them
