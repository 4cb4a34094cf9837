"""`mmalign judge`: rated once, kept beside other judgments, resumable, and nothing of the key on disk."""

import inspect
import json
import logging

import pytest
from mock_api import Canned, Faults, MockApi, words

from mmalign import cli
from mmalign.api.client import Client
from mmalign.api.faults import RequestError
from mmalign.api.limits import SpendLimitError
from mmalign.data.lineage import lineage_of
from mmalign.data.reader import ShardSet
from mmalign.data.sample import Preference, Response, Sample
from mmalign.data.shards import ShardWriter
from mmalign.messages import ImageSlot, Message, Text
from mmalign.tools.judge import judge_answers
from mmalign.tools.judge_choice import judge_of

KEY = "sk-very-secret-0123456789"


@pytest.fixture(scope="module")
def shards(tmp_path_factory, png):
    """Eight samples of four answers: pictures of several sizes, two pictures, none, several turns."""
    folder = tmp_path_factory.mktemp("judging") / "in"
    with ShardWriter(folder) as writer:
        for i in range(8):
            pictures = [(png("red"),), (png("red", (3000, 100)),), (png("red"), png("blue")), ()][i % 4]
            slots = tuple(ImageSlot() for _ in pictures)
            messages = (Message("user", (*slots, Text(f"Which colour, {i}?"))),)
            if i == 5:
                messages += (Message("assistant", (Text("Let me see."),)), Message("user", (Text("So?"),)))
            answers = tuple(Response(text=f"Answer {i} {k}") for k in range(4))
            writer.write(Sample(key=f"s{i}", id=f"s{i}", messages=messages, images=pictures, responses=answers))
    return folder


@pytest.fixture
def judge(tmp_path, monkeypatch, shards):
    """Run `mmalign judge` against a mock, into OUT; returns the samples."""
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setattr(Client.__init__, "__kwdefaults__", {"structured": "auto", "first_wait_s": 0.01})

    def run(api, *options, source=shards, out=tmp_path / "out"):
        target = [f"--url={api.url}", "--model=m", "--key_env=TEST_KEY"]
        cli.main(["judge", "--judge=server", f"--shards={source}", f"--out={out}", *target, *options])
        return read(out)

    return run


def read(folder):
    found = ShardSet(str(folder))
    return [found[i] for i in range(len(found))]


def counts(folder):
    return lineage_of(ShardSet(str(folder)).manifest)[-1].counts


def test_all_answers_are_rated_in_one_call_each_and_the_place_is_kept(judge, tmp_path):
    with MockApi() as api:
        samples = judge(api)
        assert api.count() == 8
    assert [sample.key for sample in samples] == [f"s{i}" for i in range(8)]
    for sample in samples:
        assert sorted(response.place for response in sample.responses) == [0, 1, 2, 3]
        for response in sample.responses:
            assert response.judge == "m/helpsteer"
            assert response.rationale == f"It says '{response.text}'."  # each got what was said of it
            assert set(response.ratings) == {"helpfulness", "correctness", "coherence", "complexity", "verbosity"}
    assert len({tuple(r.place for r in sample.responses) for sample in samples}) > 3
    step = counts(tmp_path / "out")
    assert (step["samples"], step["answers"], step["rated"], step["invalid"], step["replies"]) == (8, 32, 32, 0, 8)
    assert step["tokens in"] > 0


def test_run_again_nothing_is_asked_and_with_other_settings_it_refuses(judge, tmp_path, capsys):
    with MockApi() as api:
        first = judge(api)
        assert judge(api) == first
        assert "is there already" in capsys.readouterr().out
        with pytest.raises(ValueError, match="seed differ"):
            judge(api, "--seed=1")
        assert api.count() == 8
        again = judge(api, "--seed=1", "--overwrite=true")
        assert api.count() == 16
        assert [s.responses[0].place for s in again] != [s.responses[0].place for s in first]
        judge(api, "--overwrite=true")
        assert api.count() == 16  # what was paid for before is there still


def test_another_judge_stands_beside_the_first(judge, tmp_path):
    with MockApi() as api:
        judge(api)
        samples = judge(api, "--name=second", "--temperature=0.5", source=tmp_path / "out", out=tmp_path / "two")
    for response in (response for sample in samples for response in sample.responses):
        assert [each.judge for each in response.all_judgments()] == ["second", "m/helpsteer"]


def test_a_reply_that_cannot_be_used_is_asked_for_anew_and_then_invalid_never_zero(judge, tmp_path, capsys):
    with MockApi(answer=lambda body: "[red]I give them 4 points.[/red]\x1b[2J") as api:
        samples = judge(api, "--tries_per_reply=2")
        assert api.count() == 16
        assert "could not be used: no whole JSON object" in words(api.bodies[-1])
    for response in (response for sample in samples for response in sample.responses):
        assert (response.ratings, response.judge) == ({}, "")
        assert "unusable at 2 tries, at the last: no whole JSON object" in response.judgments[0].invalid
    printed = capsys.readouterr().out
    assert "invalid: sample s0: unusable at 2 tries" in printed
    assert "\x1b[2J" not in printed
    assert counts(tmp_path / "out")["invalid"] == 32


def test_faults_on_the_way_change_nothing(judge, tmp_path):
    with MockApi() as api:
        calm = judge(api, "--name=j", "--structured=false", out=tmp_path / "calm")
    with MockApi(faults=Faults(busy=0.2, fail=0.1, hang=0.05, broken=0.2), seed=3) as api:
        stormy = judge(api, "--timeout_s=0.5", "--tries=9", "--tries_per_reply=9", "--name=j", "--structured=false")
    assert [s.responses for s in stormy] == [s.responses for s in calm]


def test_a_killed_command_asks_only_for_what_is_missing(judge, tmp_path):
    answered = Canned()
    with MockApi(script=[answered] * 5 + [Canned(401, {"error": {"message": "Key expired."}})]) as api:
        with pytest.raises(RequestError, match=r"sample 's.'.*Key expired"):
            judge(api, "--concurrency=1")
        assert not (tmp_path / "out").exists()
        samples = judge(api)
        assert api.count() == 6 + 3
    assert all(response.ratings for sample in samples for response in sample.responses)
    assert counts(tmp_path / "out")["replies"] == 8


def test_the_spend_limit_stops_by_name_and_a_higher_one_goes_on(judge, tmp_path):
    prices = ["--prices.input=1000", "--prices.output=1000"]
    with MockApi() as api:
        with pytest.raises(SpendLimitError, match="raise `--max_cost` and run the same command again"):
            judge(api, *prices, "--max_cost=9", "--max_tokens=500", "--concurrency=2")
        assert 0 < api.count() < 8
        judge(api, *prices, "--max_cost=1000", "--max_tokens=500")
        assert api.count() == 8
    assert counts(tmp_path / "out")["cost"] > 1


def test_pictures_are_sent_in_their_places_and_made_smaller_as_asked(judge):
    with MockApi() as api:
        judge(api, "--max_side=32", "--concurrency=1")
        bodies = {words(body).partition("Which colour, ")[2][:1]: body for body in api.bodies}
    parts = {i: [part["type"] for part in body["messages"][0]["content"]] for i, body in bodies.items() if i in "012"}
    assert parts == {"0": ["text", "image_url", "text"], "1": ["text", "image_url", "text"],
                     "2": ["text", "image_url", "image_url", "text"]}  # fmt: skip
    assert isinstance(bodies["3"]["messages"][0]["content"], str)


def test_an_aspect_set_of_ones_own_gives_ratings_by_its_names(judge, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "name: own\nkind: together\nscale: [1, 10]\naspects: {grounded: 'Is it there?'}\n"
        "prompt: 'Rate {{n}}: {{guide}} {{conversation}} {{responses}} {{format}}'\n"
    )
    reply = json.dumps({"ratings": [{"response": i, "grounded": 10 - i} for i in range(1, 5)]})
    with MockApi(answer=lambda body: f"I think: {reply}") as api:
        samples = judge(api, f"--aspects={path}")
        assert "grounded: Is it there?" in words(api.bodies[-1])
    for response in (response for sample in samples for response in sample.responses):
        assert response.ratings == {"grounded": 9 - response.place}
        assert response.judge == "m/own"


def longest_wins(body):
    first, second = [part.partition("]\n")[2].partition("\n[end")[0] for part in words(body).split("[Response ")[1:]]
    return json.dumps({"reason": "longer", "better": 1 if len(first) > len(second) else 2})


@pytest.fixture
def pairs(tmp_path):
    """Two answers a sample; in the last one the second is preferred by a person."""
    with ShardWriter(tmp_path / "pairs") as writer:
        for i in range(4):
            texts = ["short", "a longer one"] if i % 2 else ["the longest of all", "mid"]
            writer.write(
                Sample(
                    key=f"p{i}",
                    messages=(Message("user", (Text(f"Question {i}?"),)),),
                    responses=tuple(Response(text=text) for text in texts),
                    preference=Preference(0, 1) if i == 3 else None,
                )
            )
    return tmp_path / "pairs"


def test_pairs_are_shown_in_both_orders_and_a_consistent_verdict_is_the_preference(judge, pairs, tmp_path):
    with MockApi(answer=longest_wins) as api:
        samples = judge(api, "--aspects=pairwise", source=pairs)
        assert api.count() == 8
    assert [s.preference for s in samples] == [(0, 1), (1, 0), (0, 1), (0, 1)]  # the last: a person's stays
    assert [[r.ratings["wins"] for r in s.responses] for s in samples] == [[1, 0], [0, 1], [1, 0], [0, 1]]
    assert samples[0].responses[0].rationale == (
        "better than 1 (shown as 1): longer\nbetter than 1 (shown as 2): longer"
    )
    assert counts(tmp_path / "out")["preferences set"] == 3


def test_a_judge_that_always_says_the_first_prefers_nothing(judge, pairs):
    with MockApi(answer=lambda body: '{"reason": "", "better": 1}') as api:
        samples = judge(api, "--aspects=pairwise", source=pairs)
    assert [s.preference for s in samples[:3]] == [None] * 3
    assert {r.ratings["wins"] for s in samples for r in s.responses} == {0.5}


@pytest.mark.parametrize("status", [200, 401, 500])
def test_the_key_is_in_nothing_that_was_written(judge, tmp_path, capsys, caplog, status):
    caplog.set_level(logging.DEBUG)
    said = ""
    with MockApi(
        answer=lambda body: f"Your key is {KEY}.",
        script=[Canned(status, {"error": {"message": f"Bad key {KEY}", "code": KEY}})] * 8 if status != 200 else [],
    ) as api:
        try:
            judge(api, "--tries=1", "--tries_per_reply=1", "--concurrency=1")
        except ValueError as error:
            said = f"{error} {error!r}"
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in written
    assert KEY not in said + "".join(capsys.readouterr()) + caplog.text


def test_the_key_can_lie_in_a_file(judge, tmp_path, monkeypatch):
    monkeypatch.delenv("TEST_KEY")
    (tmp_path / "key").write_text(f"{KEY}\n")
    with MockApi() as api:
        with pytest.raises(ValueError, match="variable TEST_KEY must hold the API key"):
            judge(api)
        judge(api, f"--key_file={tmp_path / 'key'}")
        assert api.headers[-1]["Authorization"] == f"Bearer {KEY}"


def test_a_server_without_a_key_gets_none_of_another(judge, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with MockApi() as api:
        judge(api, "--key_env=")
        assert KEY not in json.dumps(api.headers[-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judge=world", "--model=gpt-4o"], "`--judge world` does not obey --model"),
        (["--judge=reward", "--noise=0.1"], "does not obey --noise"),
        (["--judge=world", "--seed=3"], "leave `--seed` out, or give `--noise`"),
        (["--judge=openai", "--aspects=pairwise", "--seed=3"], "leave `--seed 3` out"),
        (["--judge=openai", "--url=http://localhost:1/v1"], "does not obey --url"),
        (["--judge=server", "--model=m"], "needs `--url`"),
        (["--judge=server", "--url=http://localhost:1/v1"], "Which model"),
        (["--judge=server", "--url=http://me:pw@localhost:1/v1", "--model=m"], "no user, password or query"),
        (["--judge=server", "--url=localhost:1", "--model=m"], "must be an address"),
        (["--judge=gemini"], "variable GEMINI_API_KEY"),
        (["--judge=openai", "--max_cost=3"], "needs the model's prices"),
        (["--judge=openai", "--concurrency=0"], "must be above 0"),
        (["--judge=openai", "--tries_per_reply=0"], "must be 1 or more"),
        (["--judge=openai", "--aspects=nice"], "neither one of helpsteer, pairwise, ultrafeedback nor a file"),
    ],
)
def test_options_that_make_no_sense_are_refused_with_what_to_do(options, message, shards, tmp_path, monkeypatch):
    for name in ("GEMINI_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        cli.main(["judge", *options, f"--shards={shards}", f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_the_embedded_model_is_asked_about_things_it_knows_and_others_about_sentences(tiny_llava):
    """On sentences it was never trained: most of its verdicts are neither yes nor no."""
    options = {name: each.default for name, each in inspect.signature(judge_answers).parameters.items()}
    assert judge_of("claims", options).settings()["claims"] == "world"
    assert judge_of("claims", options | {"claims": "sentences"}).settings()["claims"] == "sentences"
    others = options | {"checkpoint": str(tiny_llava)}
    assert judge_of("claims", others).settings()["claims"] == "sentences"


def test_the_world_is_judged_exactly(tmp_path):
    cli.main(["judge", "--judge=world", "--shards=world-heldout", f"--out={tmp_path / 'out'}"])
    given, found = ShardSet("shards/world-heldout")[0], read(tmp_path / "out")[0]
    rated = [
        (new.ratings, old.ratings) for new, old in zip(found.responses, given.responses, strict=True) if old.ratings
    ]
    assert rated
    assert all(new == old for new, old in rated)
    assert found.responses[0].judge == "mmalign-world-exact"
