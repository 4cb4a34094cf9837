"""How long a server asks to wait, and its words in our messages."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import openai
import pytest

from mmalign.api.endpoint import Endpoint
from mmalign.api.faults import REMEDIES, fault_of, plain, retry_after


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3", 3), ("0.5", 0.5), ("", 0), ("soon", 0), ("-2", 0), ("nan", 0), ("1e999", float("inf"))],
)
def test_seconds_are_read_and_nonsense_is_none(header, seconds):
    assert retry_after(header) == seconds


def test_a_date_is_read():
    assert 50 < retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)) <= 60
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_a_servers_words_reach_no_terminal_as_they_are(status):
    response = httpx2.Response(status, request=httpx2.Request("POST", "http://localhost:8000/v1"))
    error = openai.APIStatusError("no", response=response, body={"message": "Out\x1b[31m\n\u202eof \x07it."})
    said = str(fault_of(error, Endpoint(model="m", url="http://localhost:8000/v1"), lambda text: text))
    assert "Out [31m of it." in said
    assert said.isprintable()


def test_no_remedy_names_an_option_that_only_some_commands_have():
    assert not [text for text in REMEDIES.values() if {"`--max_tokens`", "`--max_side`", "`--url`"} & set(text.split())]


def test_words_of_others_stand_on_one_line():
    assert plain(" a\tb\x9b\n\n c\u200b") == "a b c"
