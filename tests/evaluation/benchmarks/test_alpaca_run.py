"""AlpacaEval's library, with our client, against a mock of a judge."""

import json
import logging
import math
import os
import re
import sys

import numpy as np
import pytest
from mock_api import Canned, MockApi, completion, words

from mmalign.api.endpoint import Endpoint
from mmalign.api.faults import RequestError
from mmalign.evaluation.benchmarks import alpaca_run
from mmalign.evaluation.benchmarks.alpaca_eval import AlpacaEval
from mmalign.evaluation.benchmarks.alpaca_run import length_controlled
from mmalign.evaluation.steps.faults import Handling
from mmalign.evaluation.steps.records import Answer

KEY = "sk-very-secret"
NUM = 6


@pytest.fixture
def questions(tmp_path):
    rows = [
        {"instruction": f"Say {i}.", "output": f"Base {i}.", "generator": "base", "dataset": "koala"}
        for i in range(NUM)
    ]
    path = tmp_path / "alpaca_eval.json"
    path.write_text(json.dumps(rows))
    return str(path)


def answers_to(bench, text="Ours {}."):
    return [Answer(each.id, (text.format(i),), "ours") for i, each in enumerate(bench.instructions())]


def endpoint(api, **more):
    return Endpoint(model="judge", url=api.url, concurrency=1, tries=1, **more)


def ranking(body, *, better=re.compile(r"Ours")):
    """Ranks first whichever place has the text."""
    first = better.search(re.findall(r'"answer": """(.*?)"""', words(body), re.DOTALL)[0])
    return str([{"model": "model_1", "rank": 1 if first else 2}, {"model": "model_2", "rank": 2 if first else 1}])


def weighed(body, *, ours):
    """A choice of AlpacaEval 2: `ours` is the probability of our answer, wherever it stands; a fifth is elsewhere."""
    first = re.findall(r'"output": """(.*?)"""', words(body), re.DOTALL)[0].startswith("Ours")
    shares = {"m": ours if first else 1 - ours, "M": 1 - ours if first else ours}
    top = [{"token": token, "logprob": math.log(0.8 * share), "bytes": None} for token, share in shares.items()]
    content = [{"token": "m", "logprob": top[0]["logprob"], "bytes": None, "top_logprobs": top}]
    made = completion(body, "m")
    made["choices"][0]["logprobs"] = {"content": content, "refusal": None}
    return made


class Weighing(MockApi):
    """Answers with logprobs."""

    def __init__(self, ours):
        super().__init__()
        self._weigh = ours

    async def _reply(self, request):
        body = await request.json()
        self._script.append(Canned(body=weighed(body, ours=self._weigh)))
        return await super()._reply(request)


def test_preferences_come_back_through_the_drawn_order(questions, tmp_path):
    """The judge always prefers ours, and sees it first about half of the time: every preference is 2."""
    bench = AlpacaEval(questions=questions)
    with MockApi(answer=ranking) as api:
        replies = bench.judge_by_library(answers_to(bench), endpoint(api), tmp_path)
        shown_first = ["Ours" in words(body).partition("model_2")[0] for body in api.bodies]
    assert len(set(shown_first)) == 2
    found = bench.score(answers_to(bench), [replies], Handling())
    assert found.headline.official == 100
    assert (found.judge, found.model) == ("judge-mock", "ours")
    assert {(each.temperature, len(each.prompt_hash)) for each in replies} == {(0.0, 32)}
    rows = json.loads((tmp_path / "annotations.json").read_text())
    assert [row["preference"] for row in rows] == [2] * NUM
    again = bench.score(None, [bench.read_replies(rows)], Handling())
    assert again.headline.official == 100


def test_the_request_is_the_librarys(questions, tmp_path):
    bench = AlpacaEval(questions=questions)
    with MockApi(answer=ranking) as api:
        bench.judge_by_library(answers_to(bench), endpoint(api), tmp_path)
        body = api.bodies[0]
    assert (body["model"], body["temperature"], body["top_p"], body["max_completion_tokens"]) == ("judge", 0, 1, 100)
    system, user = body["messages"]
    assert system["content"] == "You are a helpful assistant, that ranks models by the quality of their answers."
    assert "logprobs" not in body
    assert user["content"].endswith("Please provide the ranking that the majority of humans would give.")


@pytest.mark.parametrize("ours", [0.75, 0.1])
def test_the_second_versions_preference_is_read_from_probabilities(questions, tmp_path, ours):
    """2 - P(m) / (P(m) + P(M)), m being the baseline's: with 0.8 * 0.75 for ours and 0.8 * 0.25 for it, 1.75."""
    bench = AlpacaEval(questions=questions, version=2)
    with Weighing(ours) as api:
        replies = bench.judge_by_library(answers_to(bench), endpoint(api), tmp_path)
        assert (api.bodies[0]["logprobs"], api.bodies[0]["top_logprobs"]) == (True, 5)
        assert (api.bodies[0]["max_completion_tokens"], api.bodies[0]["temperature"]) == (1, 1)
        bench.judge_by_library(answers_to(bench), endpoint(api), tmp_path)
        assert api.count() == NUM
    found = bench.score(None, [replies], Handling())
    assert [item.score for item in found.items] == pytest.approx([ours] * NUM)
    assert found.headline.official == pytest.approx(100 * ours)
    assert found["discrete_win_rate"].official == (100 if ours > 0.5 else 0)


def test_a_judge_without_probabilities_gives_no_preference(questions, tmp_path):
    bench = AlpacaEval(questions=questions, version=2)
    with MockApi(answer=lambda body: "m") as api:
        replies = bench.judge_by_library(answers_to(bench), endpoint(api), tmp_path)
    with pytest.raises(ValueError, match=f"{NUM}: judge text without a score"):
        bench.score(None, [replies], Handling())


def test_going_on_asks_nothing_twice(questions, tmp_path):
    """The server breaks at the fourth request; what it had answered is not asked again."""
    bench = AlpacaEval(questions=questions)
    broken = [*[Canned()] * 3, Canned(status=401, body={"error": {"message": "no", "type": "x", "code": None}})]
    with MockApi(answer=ranking, script=broken) as api:
        with pytest.raises(RequestError):
            bench.judge_by_library(answers_to(bench), endpoint(api), tmp_path)
        assert api.count() == 4
        bench.judge_by_library(answers_to(bench), endpoint(api), tmp_path)
        assert api.count() == NUM + 1
        replies = bench.judge_by_library(answers_to(bench), endpoint(api), tmp_path)
        assert api.count() == NUM + 1
        assert len({each.hash for each in api.asked}) == NUM
    assert bench.score(None, [replies], Handling()).headline.official == 100


def test_nonsense_and_failures_are_kept_apart_and_counted(questions, tmp_path):
    bench = AlpacaEval(questions=questions)
    script = [Canned(status=503, body="{}")]
    with MockApi(answer=lambda body: "model_1 is best", script=script) as api:
        replies = bench.judge_by_library(answers_to(bench), endpoint(api), tmp_path)
    with pytest.raises(ValueError, match=f"{NUM - 1}: judge text without a score") as error:
        bench.score(None, [replies], Handling())
    assert "1: no reply of the judge" in str(error.value)
    said = [json.loads(each.text)["preference_raw_completion"] for each in replies if each.text]
    assert said == ["model_1 is best"] * (NUM - 1)


def test_equal_answers_are_a_draw_that_nobody_is_asked_about(questions, tmp_path):
    bench = AlpacaEval(questions=questions)
    with MockApi(answer=ranking) as api:
        replies = bench.judge_by_library(answers_to(bench, "Base {}."), endpoint(api), tmp_path)
        assert api.count() == 0
    found = bench.score(None, [replies], Handling())
    assert (found.headline.official, found["n_draws"].official) == (50, NUM)


def test_the_key_is_in_no_file_and_the_environment_as_it_was(questions, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    before, level = dict(os.environ), logging.getLogger().level
    bench = AlpacaEval(questions=questions)
    with MockApi(answer=ranking) as api:
        bench.judge_by_library(answers_to(bench), endpoint(api, key_env="MY_KEY"), tmp_path)
        assert api.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert dict(os.environ) == before
    assert logging.getLogger().level == level
    assert not any(KEY in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_without_the_library_the_extra_is_named(questions, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "alpaca_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "alpaca_eval", None)
    bench = AlpacaEval(questions=questions)
    with pytest.raises(ValueError, match=r"pip install 'mmalign\[alpaca\]'"):
        bench.judge_by_library(answers_to(bench), Endpoint(model="judge", url="http://127.0.0.1:9/v1"), tmp_path)


def test_answers_to_other_instructions_are_refused(questions, tmp_path):
    bench = AlpacaEval(questions=questions)
    with pytest.raises(ValueError, match="None of the 1 answers"):
        bench.judge_by_library([Answer("x", ("?",))], Endpoint(model="judge"), tmp_path)


def published_like(seed, num=805):
    dice = np.random.default_rng(seed)
    return [
        {
            "instruction": f"Do {i}.",
            "output_1": "x" * int(dice.integers(50, 500)),
            "output_2": "y" * int(dice.integers(50, 900)),
            "generator_1": "base",
            "generator_2": "ours",
            "annotator": "weighted_alpaca_eval_gpt4_turbo",
            "preference": float(1 + dice.random()),
        }
        for i in range(num)
    ]


@pytest.mark.slow
def test_length_control_is_the_librarys_own(monkeypatch, tmp_path):
    """Its file of the hub is made up here; each answer gets the preference that its regression predicts."""
    import pandas as pd

    dice = np.random.default_rng(1)
    gamed = pd.DataFrame(
        {
            "model": np.repeat(["concise", "verbose"], 805),
            "index": np.tile(np.arange(805), 2),
            "preference": dice.random(1610),
            "std_delta_len": dice.normal(size=1610),
            "instruction_difficulty": np.tile(dice.normal(size=805), 2),
            "not_gamed_baseline": False,
        }
    )
    gamed.to_csv(tmp_path / "df_gamed.csv", index=False)
    monkeypatch.setattr(alpaca_run, "load", lambda place: None)
    glm = alpaca_run._library("metrics.glm_winrate")
    monkeypatch.setattr(glm, "hf_hub_download", lambda **_: str(tmp_path / "df_gamed.csv"))
    rows = published_like(2)
    shares = length_controlled(rows)
    assert len(shares) == 805
    assert all(0 < share < 1 for share in shares)
    replies = AlpacaEval(version=2).read_replies(rows)
    found = AlpacaEval(version=2, length_controlled=True).score(None, [replies], Handling())
    assert found["length_controlled_win_rate"].official == pytest.approx(100 * np.mean(shares))


def test_without_the_hubs_file_there_is_no_length_control(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"tatsu-lab/alpaca_eval:df_gamed.csv.*download it"):
        length_controlled(published_like(3))
