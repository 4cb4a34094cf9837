"""Answers of a model here and of a server: turn by turn, each once, the same however batched or interrupted."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from mock_api import Canned, Faults, MockApi, completion, words
from peft import LoraConfig, get_peft_model

from mmalign.api.endpoint import Endpoint
from mmalign.backbone import LANGUAGE_LINEARS, load_llava
from mmalign.evaluation.steps.benchmark import Ask, Picture, Turn
from mmalign.evaluation.steps.generating import conversation, generate
from mmalign.evaluation.steps.generating_local import PolicyAnswerer
from mmalign.evaluation.steps.generating_server import EndpointAnswerer
from mmalign.evaluation.steps.records import ANSWERS_FILE, Answer
from mmalign.generate import Prompt, Sampling
from mmalign.generate import generate as generate_texts
from mmalign.messages import Message, Text
from mmalign.sampling import answers as sampling
from mmalign.sampling.asking import Said
from mmalign.sampling.policy import load_policy
from mmalign.sampling.seeds import answer_seed

TOO_LONG = {"error": {"message": "This model's maximum context length is 4096 tokens.", "code": "context_length"}}


@dataclass
class Bench:
    """The part of a benchmark that generating looks at."""

    questions: list[Ask]
    protocol: str = "test/1"
    name: ClassVar[str] = "test"
    title: ClassVar[str] = "Test"

    def asks(self):
        return self.questions

    def read_answers(self, rows):
        raise NotImplementedError

    def score(self, answers, replies, handling):
        raise NotImplementedError


@pytest.fixture
def bench(png):
    """Texts of many lengths, with and without pictures, greedy and drawn, of one turn and of two."""
    asks = []
    for number in range(9):
        pictures = (Picture(f"{number}.png", data=png(("red", "blue")[number % 2])),) if number % 3 else ()
        turns = (Turn("What? " * (1 + number), pictures), Turn(f"And {number}?"))[: 1 + number % 2]
        asks.append(Ask(f"q{number}", turns, temperature=0.7 * (number % 2), max_new_tokens=8 + number % 2))
    return Bench(asks)


@pytest.fixture(scope="module")
def policy(tiny_llava):
    return load_policy(tiny_llava)


def lines(folder):
    return [json.loads(line) for line in (folder / ANSWERS_FILE).read_text().splitlines()]


class Counting:
    """An answerer that says what it was asked, and dies before a given number of answers."""

    def __init__(self, dies_at=None, says=str.upper, name="counting", weights="1"):
        self.asked, self.dies_at, self.says = [], dies_at, says
        self.name, self.identity = name, {"weights": weights}

    def answer(self, asks, done):
        for ask in asks:
            if len(self.asked) == self.dies_at:
                raise KeyboardInterrupt
            self.asked.append(ask.id)
            done([Answer(ask.id, [self.says(turn.text) for turn in ask.turns], self.name, [], [])])


def test_answers_stand_in_the_order_of_the_questions_whatever_came_first(bench, tmp_path):
    class Backwards(Counting):
        def answer(self, asks, done):
            super().answer(list(reversed(asks)), done)

    found = generate(bench, Backwards(), tmp_path)
    assert [each.id for each in found] == [ask.id for ask in bench.questions]
    assert [line["id"] for line in lines(tmp_path)] == [ask.id for ask in bench.questions]


@pytest.mark.parametrize("dies_at", range(1, 9))
def test_what_was_answered_is_never_asked_again(bench, tmp_path, dies_at):
    first, second = Counting(dies_at), Counting()
    with pytest.raises(KeyboardInterrupt):
        generate(bench, first, tmp_path)
    seen = []
    found = generate(bench, second, tmp_path, progress=lambda *numbers: seen.append(numbers))
    assert first.asked + second.asked == [ask.id for ask in bench.questions]
    assert found == generate(bench, Counting(dies_at=0), tmp_path)
    assert (seen[0], seen[-1]) == ((dies_at, 9), (9, 9))


def test_half_a_line_of_a_killed_run_is_asked_again(bench, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        generate(bench, Counting(3), tmp_path)
    path = tmp_path / ANSWERS_FILE
    path.write_bytes(path.read_bytes()[:-10])
    second = Counting()
    generate(bench, second, tmp_path)
    assert second.asked == [f"q{i}" for i in range(2, 9)]


def test_what_failed_is_asked_again(bench, tmp_path):
    class Failing(Counting):
        def answer(self, asks, done):
            done([Answer(ask.id, [], self.name, failure="" if ask.id != "q4" else "no") for ask in asks])

    assert [each.failure for each in generate(bench, Failing(), tmp_path)].count("no") == 1
    assert lines(tmp_path)[4]["failure"] == "no"
    second = Counting()
    found = generate(bench, second, tmp_path)
    assert second.asked == ["q4"]
    assert not any(each.failure for each in found)
    assert len(lines(tmp_path)) == 9


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"answerer": Counting(weights="2")}, "weights"),
        ({"protocol": "test/2"}, "protocol"),
        ({"text": "Other?"}, "questions"),
        ({"temperature": 0.5}, "questions"),
        ({"color": "green"}, "pictures"),
    ],
)
def test_answers_of_another_model_or_to_other_questions_are_refused_by_name(bench, png, tmp_path, change, named):
    generate(bench, Counting(), tmp_path)
    ask = bench.questions[1]
    turn = ask.turns[0]._replace(text=change.get("text", ask.turns[0].text))
    if "color" in change:
        turn = turn._replace(pictures=(turn.pictures[0]._replace(data=png(change["color"])),))
    bench.questions[1] = ask._replace(
        turns=(turn, *ask.turns[1:]), temperature=change.get("temperature", ask.temperature)
    )
    bench.protocol = change.get("protocol", bench.protocol)
    answerer = change.get("answerer", Counting())
    with pytest.raises(ValueError, match=rf"{named} differ.*--overwrite true"):
        generate(bench, answerer, tmp_path)
    assert len(generate(bench, answerer, tmp_path, overwrite=True)) == 9
    assert len(answerer.asked) == 9


def test_somebody_elses_answers_are_not_dropped(bench, tmp_path):
    (tmp_path / ANSWERS_FILE).write_text('{"question_id": 1, "text": "Yes"}\n')
    with pytest.raises(ValueError, match=r"answers.identity.json beside it says"):
        generate(bench, Counting(), tmp_path)


@pytest.fixture
def faulty(png, tmp_path):
    """Ten questions: three without their picture, two with a broken one."""
    good, cut = tmp_path / "good.png", tmp_path / "cut.png"
    good.write_bytes(png("red"))
    cut.write_bytes(png("red")[:60])
    paths = {1: tmp_path / "gone.png", 2: cut, 4: tmp_path / "lost.png", 7: tmp_path / "gone.png", 8: cut}
    return Bench([Ask(f"q{i}", (Turn("?", (Picture(f"{i}.png", paths.get(i, good)),)),)) for i in range(10)])


def test_missing_and_broken_pictures_are_all_named_before_anything_is_asked(faulty, tmp_path):
    answerer = Counting()
    with pytest.raises(ValueError, match="5 of 10 questions cannot be asked") as caught:
        generate(faulty, answerer, tmp_path / "out")
    said = str(caught.value)
    assert "3: a picture is not there: q1 (No picture 1.png at" in said
    assert "2: a picture cannot be decoded: q2 (" in said
    assert "cut.png" in said
    assert "--images" in said
    assert "--on_bad count" in said
    assert answerer.asked == []
    assert not (tmp_path / "out").exists()


def test_missing_and_broken_pictures_may_be_counted(faulty, tmp_path):
    answerer = Counting()
    found = generate(faulty, answerer, tmp_path / "out", on_bad="count")
    assert [each.id for each in found if each.failure] == ["q1", "q2", "q4", "q7", "q8"]
    assert answerer.asked == ["q0", "q3", "q5", "q6", "q9"]
    assert found[1].failure.startswith("a picture is not there: No picture 1.png")
    assert found[1].turns == []


def test_questions_whose_pictures_are_mended_are_asked_and_no_other_again(faulty, tmp_path, png):
    generate(faulty, Counting(), tmp_path / "out", on_bad="count")
    for name in ("gone", "lost"):
        (tmp_path / f"{name}.png").write_bytes(png("green"))
    second, third = Counting(), Counting()
    found = generate(faulty, second, tmp_path / "out", on_bad="count")
    assert second.asked == ["q1", "q4", "q7"]
    assert [each.id for each in found if each.failure] == ["q2", "q8"]
    (tmp_path / "cut.png").write_bytes(png("green"))
    assert not any(each.failure for each in generate(faulty, third, tmp_path / "out"))
    assert third.asked == ["q2", "q8"]
    (tmp_path / "good.png").write_bytes(png("green"))
    with pytest.raises(ValueError, match="pictures differ"):
        generate(faulty, Counting(), tmp_path / "out")


def test_double_ids_and_no_questions_are_errors(tmp_path):
    ask = Ask("q", (Turn("?"),))
    with pytest.raises(ValueError, match="1 ids stand for several questions, among them q"):
        generate(Bench([ask, ask]), Counting(), tmp_path)
    with pytest.raises(ValueError, match="no questions that a model answers"):
        generate(Bench([]), Counting(), tmp_path)


def test_a_conversation_holds_what_was_said_before_and_pictures_stay_with_their_turn():
    one, two = Picture("one", data=b"1"), Picture("two", data=b"2")
    ask = Ask("q", (Turn("b"), Turn("c", (two,))), history=((Turn("a", (one,)), "A"),))
    first, second = conversation(ask, [], 0), conversation(ask, [Said("B")], 0)
    plain = [[(each.role, *each.content) for each in talk.messages] for talk in (first, second)]
    a = [("user", *Message("user", ()).content, *plain[0][0][1:]), ("assistant", Text("A"))]
    assert plain[0] == [*a, ("user", Text("b"))]
    assert plain[0][0][1].type == "image"
    assert [each[0] for each in plain[1]] == ["user", "assistant", "user", "assistant", "user"]
    assert plain[1][3:] == [("assistant", Text("B")), ("user", plain[0][0][1], Text("c"))]
    assert (first.pictures, second.pictures) == ((one,), (one, two))
    assert (first.seed, second.seed) == (answer_seed("q", 0), answer_seed("q", 1))


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_a_model_here_answers_as_it_would_one_by_one(bench, policy, tmp_path, batch_size):
    """Every turn by hand, with its own seed, its own limit, and the answers before it."""
    found = generate(bench, PolicyAnswerer(policy, batch_size=batch_size, seed=3), tmp_path)
    for ask, answer in zip(bench.questions, found, strict=True):
        said = list[Said]()
        for turn in range(len(ask.turns)):
            talk = conversation(ask, said, 3)
            images = tuple(sampling.open_image(each.read(), where="") for each in talk.pictures)
            prompt = Prompt(talk.messages, images, answer_seed(ask.id, turn, 3))
            settings = Sampling(max_new_tokens=ask.max_new_tokens, temperature=ask.temperature)
            said.append(Said(generate_texts(policy.model, policy.template, [prompt], settings)[0]))
        assert answer.turns == [each.text for each in said]
        assert answer.pictures == [[picture.name for picture in turn.pictures] for turn in ask.turns]
        assert set(answer.finish_reasons) <= {"stop", "length"}
        assert answer.model == policy.name


def test_other_seeds_give_other_answers_where_they_are_drawn(bench, policy, tmp_path):
    one, two = (generate(bench, PolicyAnswerer(policy, seed=seed), tmp_path / str(seed)) for seed in (1, 2))
    drawn = [ask.temperature > 0 for ask in bench.questions]
    assert [a.turns != b.turns for a, b in zip(one, two, strict=True)] == drawn


@pytest.mark.parametrize("dies_at", [1, 3, 6])
def test_a_model_here_goes_on_with_the_same_batches(bench, policy, tmp_path, monkeypatch, dies_at):
    """A run that dies in its k-th batch; what is padded, and so every bit, is as in a run that does not."""
    batches = []

    def counted(policy, prompts, *args, **settings):
        if len(batches) == dies_at:
            batches.append(None)
            raise KeyboardInterrupt
        batches.append([prompt.messages for prompt in prompts])
        return sampling.say(policy, prompts, *args, **settings)

    whole = generate(bench, PolicyAnswerer(policy, batch_size=2), tmp_path / "whole")
    monkeypatch.setattr("mmalign.evaluation.steps.generating_local.say", counted)
    with pytest.raises(KeyboardInterrupt):
        generate(bench, PolicyAnswerer(policy, batch_size=2), tmp_path / "killed")
    kept = {line["id"] for line in lines(tmp_path / "killed")}
    before = len(batches)
    assert generate(bench, PolicyAnswerer(policy, batch_size=2), tmp_path / "killed") == whole
    texts = [part.text for batch in batches[before:] for messages in batch for part in messages[0].content[-1:]]
    asked = {ask.id for ask in bench.questions if ask.turns[0].text in texts}
    assert not asked & kept
    assert asked | kept == {ask.id for ask in bench.questions}


def test_an_answer_has_what_room_the_context_leaves_and_a_prompt_that_does_not_fit_says_so(tiny_llava, tmp_path):
    policy = load_policy(tiny_llava)
    lengths = [len(policy.template.encode_prompt((Message("user", (Text("a" * n),)),))) for n in (10, 40, 80)]
    policy.__dict__["context"] = lengths[1] + 3
    asks = [Ask(f"q{n}", (Turn("a" * n),), max_new_tokens=6) for n in (10, 40, 80)]
    asks.append(Ask("two", (Turn("a" * 10), Turn("b" * 40)), max_new_tokens=6))
    short, cut, none, second = generate(Bench(asks), PolicyAnswerer(policy), tmp_path)
    alone = PolicyAnswerer(policy, batch_size=1)
    assert generate(Bench(asks), alone, tmp_path / "alone") == [short, cut, none, second]
    assert (short.failure, cut.failure) == ("", "")
    assert cut.finish_reasons == ["length"]
    assert f"its prompt of {lengths[2]} tokens leaves no room" in none.failure
    assert f"context of {lengths[1] + 3}" in none.failure
    assert second.failure.startswith("turn 2: its prompt of")
    assert len(second.turns) == 1


def test_an_answer_that_is_cut_by_the_context_is_the_beginning_of_the_whole_one(tiny_llava, tmp_path):
    policy, tight = load_policy(tiny_llava), load_policy(tiny_llava)
    message = Message("user", (Text("a" * 40),))
    tight.__dict__["context"] = len(policy.template.encode_prompt((message,))) + 2
    bench = Bench([Ask("long", (Turn("a" * 40),), max_new_tokens=9), Ask("short", (Turn("a"),), max_new_tokens=9)])
    whole, _ = generate(bench, PolicyAnswerer(policy), tmp_path / "whole")
    cut, _ = generate(bench, PolicyAnswerer(tight), tmp_path / "cut")
    assert whole.text.startswith(cut.text)
    assert whole.text != cut.text


def test_an_adapter_is_another_model(bench, tiny_llava, policy, tmp_path):
    torch.manual_seed(1)
    lora = LoraConfig(r=2, target_modules=LANGUAGE_LINEARS, init_lora_weights=False)
    get_peft_model(load_llava(tiny_llava, dtype=torch.float32), lora).save_pretrained(tmp_path / "run" / "adapter")
    bench = Bench(bench.questions[:2])
    base = generate(bench, PolicyAnswerer(policy), tmp_path / "out")
    aligned = PolicyAnswerer(load_policy(tiny_llava, tmp_path / "run" / "adapter"))
    with pytest.raises(ValueError, match="adapter_hash differ"):
        generate(bench, aligned, tmp_path / "out")
    assert generate(bench, aligned, tmp_path / "other") != base
    assert aligned.name.endswith("+run")


def echo(body):
    return f"{words(body)} {body['seed']}"


def ask_server(bench, api, out, *, max_side=None, **limits):
    endpoint = Endpoint(model="llava", url=api.url, **limits)
    answerer = EndpointAnswerer(endpoint, out / "replies", seed=5, max_side=max_side, first_wait_s=0.01)
    return generate(bench, answerer, out)


def test_a_server_is_asked_turn_by_turn_with_what_the_rule_says(bench, tmp_path):
    with MockApi(answer=echo) as api:
        found = ask_server(bench, api, tmp_path)
        bodies = {words(body): body for body in api.bodies}
    for number, (ask, answer) in enumerate(zip(bench.questions, found, strict=True)):
        first = ask.turns[0].text
        assert answer.turns[0] == f"{first} {answer_seed(ask.id, 0, 5)}"
        assert (bodies[first]["temperature"], bodies[first]["max_completion_tokens"]) == (
            ask.temperature,
            8 + number % 2,
        )
        if len(ask.turns) > 1:
            talk = f"{first}\n{answer.turns[0]}\nAnd {number}?"
            assert answer.turns[1] == f"{talk} {answer_seed(ask.id, 1, 5)}"
            assert [each["role"] for each in bodies[talk]["messages"]] == ["user", "assistant", "user"]
        assert answer.model == "llava"
    assert api.count() == sum(len(ask.turns) for ask in bench.questions)


def test_a_server_with_faults_is_asked_again_and_no_reply_twice(bench, tmp_path):
    with MockApi(answer=echo, faults=Faults(busy=0.3, fail=0.1)) as api:
        first = ask_server(bench, api, tmp_path, concurrency=4)
        calls, good = api.count(), api.count("good")
        assert ask_server(bench, api, tmp_path, concurrency=4) == first
        assert (api.count(), good) == (calls, sum(len(ask.turns) for ask in bench.questions))
        (tmp_path / ANSWERS_FILE).unlink()  # replies that were paid for outlive it
        assert ask_server(bench, api, tmp_path, concurrency=4) == first
        assert api.count() == calls


def test_a_question_that_the_server_does_not_take_fails_alone_and_is_tried_again(bench, tmp_path):
    with MockApi(answer=echo, script=[Canned(), Canned(400, TOO_LONG)]) as api:
        found = ask_server(bench, api, tmp_path, concurrency=1)
        failed = [each for each in found if each.failure]
        assert len(failed) == 1
        assert "maximum context length" in failed[0].failure
        assert not any(each.failure for each in ask_server(bench, api, tmp_path, concurrency=1))
        assert api.count() == sum(len(ask.turns) for ask in bench.questions) + 1


def test_answers_that_do_not_come_are_named_and_the_others_kept(bench, tmp_path):
    with MockApi(answer=echo, script=[Canned(500, {"error": {"message": "no"}})] * 2) as api:
        with pytest.raises(ValueError, match=r"2 answers did not come, among them q\d, turn 1"):
            ask_server(bench, api, tmp_path, tries=1, concurrency=1)
        assert len(lines(tmp_path)) == 7
        assert len(ask_server(bench, api, tmp_path)) == 9
        assert api.count("good") == sum(len(ask.turns) for ask in bench.questions)


def test_neither_questions_nor_servers_need_torch():
    imports = (
        "from mmalign.evaluation.steps import asked, generating, generating_server",
        "from mmalign.evaluation.benchmarks import world",
    )
    code = "\n".join(["import sys", *imports, "assert 'torch' not in sys.modules"])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


def test_a_server_that_answers_as_several_models_is_told(bench, tmp_path, caplog):
    with MockApi(answer=echo) as api:
        ask_server(bench, api, tmp_path / "one")
    assert caplog.messages == []
    said = completion({"model": "m", "messages": []}, "Yes.")
    script = [Canned(200, said | {"model": f"m-{number}\x1b"}) for number in range(2)]
    with MockApi(answer=echo, script=script) as api:
        ask_server(bench, api, tmp_path / "several", concurrency=1)
    (told,) = caplog.messages
    assert told.startswith("WARNING: 3 different models have answered (1 by m-0, 1 by m-1, ")
    assert told.isprintable()


@pytest.mark.parametrize("max_side", [0, -3])
def test_pictures_have_a_side(tmp_path, max_side):
    with pytest.raises(ValueError, match=rf"`--max_side` must be 1 or more, got {max_side}"):
        EndpointAnswerer(Endpoint(model="m", url="http://localhost:1/v1"), tmp_path, max_side=max_side)
