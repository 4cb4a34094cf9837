"""`mmalign evaluate generate` through the real command line: a model here, a server, kills, useless options."""

import json
import os
import subprocess
import sys
import time
from typing import get_args

import pytest
from mock_api import MockApi, words

from mmalign.cli import main
from mmalign.template import TemplateName
from mmalign.tools.evaluation.generate import TemplateChoice

pytestmark = pytest.mark.slow

SIZES = ("--describe=2", "--yes_no=3", "--text=5", "--other=5")
NUM = 15


def generate(out, *more):
    return main(["evaluate", "generate", "world", "--out", str(out), *SIZES, *more])


def lines(folder):
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def start(out, *more):
    """The command as a person starts it."""
    command = [sys.executable, "-m", "mmalign.cli", "evaluate", "generate", "world", "--out", str(out), *SIZES, *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def kill_when(process, is_time):
    """SIGKILL as soon as something has happened."""
    limit = time.monotonic() + 300
    while not is_time():
        assert process.poll() is None, process.stdout.read().decode()
        assert time.monotonic() < limit
        time.sleep(0.005)
    process.kill()
    process.communicate()


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output.decode()


def test_the_template_names_are_those_of_the_library():
    assert get_args(TemplateChoice) == get_args(TemplateName)


def test_a_model_here_answers_and_is_not_asked_again(tmp_path, capsys, monkeypatch):
    generate(tmp_path, "--batch_size=5")
    first = lines(tmp_path)
    assert "15 answers of embedded, 0 failed, 0 cut at their limit" in capsys.readouterr().out
    assert len(first) == NUM
    identity = json.loads((tmp_path / "answers.identity.json").read_text())
    assert identity["checkpoint"] == "embedded"
    assert identity["protocol"] == "world/heldout-2-3-5-5"
    monkeypatch.setattr("mmalign.evaluation.steps.generating_local.say", None)
    generate(tmp_path, "--batch_size=2")
    assert lines(tmp_path) == first
    with pytest.raises(ValueError, match=r"template differ.*--overwrite true"):
        generate(tmp_path, "--template=vicuna_v1")


def test_a_model_here_that_is_killed_goes_on(tmp_path):
    """What was answered before the kill is marked; the second start leaves it as it is."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    generate(whole)
    path = killed / "answers.jsonl"
    kill_when(start(killed, "--batch_size=3"), lambda: path.is_file() and path.read_bytes().count(b"\n") >= 3)
    before = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    path.write_text("".join(json.dumps(each | {"turns": ["marked"]}) + "\n" for each in before))
    finish(start(killed, "--batch_size=3"))
    kept = {each["id"] for each in before}
    assert 3 <= len(kept) < NUM
    for expected, found in zip(lines(whole), lines(killed), strict=True):
        assert found == (expected | {"turns": ["marked"]} if found["id"] in kept else expected)


def test_a_server_whose_client_is_killed_is_asked_nothing_twice(tmp_path):
    """Only what was under way at a kill, which nobody could keep, is asked again."""
    concurrency = 2
    with MockApi(answer=lambda body: f"Yes, {len(words(body))}.", latency_s=0.2) as api:
        options = (f"--server={api.url}", "--model=mock", f"--concurrency={concurrency}")
        asked_again = 0
        for calls in (4, 9):
            kill_when(start(tmp_path, *options), lambda calls=calls: api.count() >= calls)
            time.sleep(0.5)  # what was under way is over
            kept = {json.loads(line)["id"].split("-")[0] for line in replies(tmp_path)}
            begun = len(api.asked)
        finish(start(tmp_path, *options))
        asked_again = sum(each.hash in kept for each in api.asked[begun:])
        assert asked_again == 0
        assert NUM <= api.count() <= NUM + 2 * concurrency
        finish(start(tmp_path, *options))
        assert api.count() <= NUM + 2 * concurrency
    assert [line["model"] for line in lines(tmp_path)] == ["mock"] * NUM


def replies(folder):
    return (folder / "replies" / "answers" / "replies.jsonl").read_bytes().split(b"\n")[:-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--server=http://localhost:1/v1", "--model=m", "--batch_size=4"], r"--batch_size: of a model here"),
        (["--server=http://localhost:1/v1", "--model=m", "--adapter=x"], r"--adapter: of a model here"),
        (["--server=http://localhost:1/v1"], r"Which model shall be asked"),
        (["--max_side=64", "--tries=2"], r"--max_side, --tries: only with `--server`"),
        (["--batch_size=0"], r"--batch_size` must be 1 or more"),
        (["--attributes={verbosity: 0}"], r"none of SteerLM"),
    ],
)
def test_options_that_do_nothing_or_cannot_be_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        generate(tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_one_process_is_enough(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="leave torchrun out"):
        generate(tmp_path / "out")


def test_no_answer_at_all_is_an_error_that_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mmalign.sampling.policy.Policy.context", 3)
    with pytest.raises(ValueError, match="None of the 15 questions was answered"):
        generate(tmp_path)
    assert "leaves no room for an answer in the model's context of 3" in capsys.readouterr().out
    assert len(lines(tmp_path)) == NUM
