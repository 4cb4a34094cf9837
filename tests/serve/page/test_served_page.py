"""The page of the real command: a person votes, and the votes are a set that can be trained on."""

import base64
import time
import urllib.request

import pytest
from playwright.sync_api import expect

from mmalign.data.reader import ShardSet
from mmalign.data.views import Pairs
from mmalign.tools.inspection.command import main as inspect

pytestmark = pytest.mark.slow
TIMEOUT_S = 180


def until(what):
    deadline = time.monotonic() + TIMEOUT_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def answers(url):
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as response:
            return response.status == 200
    except OSError:  # not up, or 503
        return False


def test_votes_of_the_real_server_become_pairs(browser, start, tiny_adapters, tiny_llava, tmp_path, talk, capsys):
    votes = tmp_path / "votes"
    server = start(f"--votes={votes}", f"--adapter=dpo={tiny_adapters['dpo']}", "--max_new_tokens=12")
    picture = tmp_path / "red.png"
    picture.write_bytes(base64.b64decode(talk.data_url().partition(",")[2]))
    until(lambda: answers(server.url))
    with browser.open(server.url) as page:
        page.set_default_timeout(TIMEOUT_S * 1000)
        page.get_by_role("radio", name="Compare").check()
        expect(page.locator("#first option")).to_have_count(2)
        page.click("summary")
        page.locator("#temperature").fill("1")
        page.keyboard.press("Escape")
        page.set_input_files("#files", picture)
        expect(page.locator("#pictures img")).to_have_count(1)
        for turn in range(2):
            page.fill("#text", "What do you see?")
            page.locator("#text").press("Enter")
            page.click(".vote [value=right]")
            expect(page.locator(".verdict").nth(turn)).to_contain_text("Your vote is stored.")
    shards = votes / "shards"
    until(lambda: (shards / "manifest.arrow").exists() and len(ShardSet(str(shards))) == 2)
    samples = ShardSet(str(shards))
    assert [sample.images for sample in (samples[0], samples[1])] == [(picture.read_bytes(),)] * 2
    assert [len(sample.messages) for sample in (samples[0], samples[1])] == [1, 3]
    assert samples[0].preference == (1, 0)
    assert {response.model for response in samples[0].responses} == {"base", "dpo"}
    ((row,),) = Pairs().groups(samples[0])
    assert row.answers[0].text == samples[0].responses[1].text
    inspect([str(shards), "--checkpoint", tiny_llava, "--limit", "1"])
    assert "chosen directly, by a person" in capsys.readouterr().out
