"""A fault of one job stays its own; one of the whole process ends it."""

import dataclasses
import threading

import pytest
import torch

from mmalign.serve.messages import Cancel, Ended, Job, Piece
from mmalign.serve.worker import batch
from mmalign.serve.worker import prompts as preparing
from mmalign.serve.worker.batch import _RoomyLayer
from mmalign.serve.worker.prompts import BROKEN
from mmalign.serve.worker.writing import NO_MEMORY


class Poison:
    """Has the model fail whenever one of its rows is at this length."""

    def __init__(self, driven, length, error):
        self.model = driven.engine._writing.model.llava.model.language_model
        self.length, self.error = length, error

    def __enter__(self):
        def fail(module, args, kwargs, output):
            # Behind all layers: they have taken the token into the cache already.
            places = kwargs.get("position_ids")  # not given where a prompt is read
            last = [kwargs["inputs_embeds"].shape[1] - 1] if places is None else places[:, -1].tolist()
            if self.length in last:
                raise self.error

        self.handle = self.model.register_forward_hook(fail, with_kwargs=True)

    def __exit__(self, *_):
        self.handle.remove()


GOOD = [f"good number {i}" for i in range(7)]


def test_a_row_that_breaks_the_step_fails_alone(driven, prompts):
    """One bad and seven good: the seven are byte-identical to what they are alone."""
    alone = [driven.answer(prompts.ask(text, max_new_tokens=20)).texts for text in GOOD]
    bad = prompts.ask("bad " * 40, max_new_tokens=20)
    length = driven.answer(bad).begun.prompt_tokens
    with Poison(driven, length + 5, RuntimeError("boom")):
        for i, text in enumerate(GOOD[:4]):
            driven.take(str(i), prompts.ask(text, max_new_tokens=20))
        driven.take("bad", bad)
        for i, text in enumerate(GOOD[4:], 4):
            driven.take(str(i), prompts.ask(text, max_new_tokens=20))
        driven.finish()
    assert driven.said["bad"][-1] == BROKEN
    assert sum(isinstance(event, Piece) for event in driven.said["bad"]) > 0
    assert [driven.whole(str(i)).texts for i in range(7)] == alone


def test_all_answers_of_a_job_fail_together(driven, prompts):
    """Nothing of the job comes after its error, and its rows are free."""
    length = driven.answer(prompts.ask()).begun.prompt_tokens
    with Poison(driven, length + 2, RuntimeError("boom")):
        driven.take("bad", prompts.ask(seeds=(1, 2, 3), temperature=1.0))
        driven.finish()
    assert driven.said["bad"].count(BROKEN) == 1
    assert driven.said["bad"][-1] == BROKEN


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("boom"), 500), (torch.OutOfMemoryError("CUDA out of memory"), 503)]
)
def test_a_prompt_that_cannot_be_read_fails_alone(driven, prompts, error, status):
    alone = driven.answer(prompts.ask("other", max_new_tokens=20)).texts
    bad = prompts.ask("bad " * 40)
    last = driven.answer(bad).begun.prompt_tokens - 1
    with Poison(driven, last, error):
        driven.take("other", prompts.ask("other", max_new_tokens=20))
        driven.step()
        driven.take("bad", bad)
        driven.finish()
    assert driven.said["bad"][-1].status == status
    assert len(driven.said["bad"]) == 1
    assert driven.whole("other").texts == alone


def test_a_device_that_is_broken_ends_the_process(driven, prompts):
    """No row can be served any more; the process that is started anew can."""
    length = driven.answer(prompts.ask()).begun.prompt_tokens
    with Poison(driven, length + 2, torch.AcceleratorError("device-side assert", -1)):
        driven.take("only", prompts.ask())
        with pytest.raises(torch.AcceleratorError):
            driven.finish()
    driven.take("only", Cancel())
    driven.finish()


def test_logits_that_are_not_finite_are_an_error_and_no_token(driven, prompts, monkeypatch):
    alone = driven.answer(prompts.ask("other", max_new_tokens=20)).texts
    bad = prompts.ask("bad " * 40)
    long = driven.answer(bad).begun.prompt_tokens + 2
    step = driven.engine._writing.batch.step

    def spoilt():
        logits = step()
        for row, logit in zip(driven.engine._writing.batch.rows, logits, strict=True):
            if row.length > long:
                logit[7] = torch.nan
        return logits

    monkeypatch.setattr(driven.engine._writing.batch, "step", spoilt)
    driven.take("other", prompts.ask("other", max_new_tokens=20))
    driven.take("bad", bad)
    driven.finish()
    assert driven.said["bad"][-1] == BROKEN
    assert driven.whole("other").texts == alone


def test_a_picture_that_cannot_be_decoded_fails_alone(driven, prompts):
    bad = dataclasses.replace(prompts.conversations(2)[1], pictures=(b"no picture",))
    driven.take("bad", Job(model="base", prompt=bad, seeds=(0,)))
    driven.take("good", prompts.ask())
    driven.finish()
    assert driven.said["bad"] == [BROKEN]
    assert driven.whole("good").end == Ended()


class Crowded:
    """Has a step of more rows than this find no memory, and remembers what was running."""

    def __init__(self, driven, most):
        self.model, self.most, self.tried = driven.engine._writing.model.llava.model.language_model, most, []

    def __enter__(self):
        def fail(module, args, kwargs, output):
            if kwargs.get("position_ids") is not None:
                self.tried.append(len(kwargs["position_ids"]))
                if self.tried[-1] > self.most:
                    raise torch.OutOfMemoryError("CUDA out of memory")

        self.handle = self.model.register_forward_hook(fail, with_kwargs=True)
        return self

    def __exit__(self, *_):
        self.handle.remove()


def test_where_memory_ends_the_newest_job_gives_way(driven, prompts):
    """The others go on together, as if it had not come."""
    alone = [driven.answer(prompts.ask(text, max_new_tokens=20)).texts for text in GOOD[:3]]
    with Crowded(driven, 3) as crowded:
        for i, text in enumerate(GOOD[:3]):
            driven.take(str(i), prompts.ask(text, max_new_tokens=20))
        driven.take("newest", prompts.ask(seeds=(1, 2), max_new_tokens=20, temperature=1.0))
        driven.finish()
    assert driven.said["newest"][-1] == NO_MEMORY
    assert driven.said["newest"].count(NO_MEMORY) == 1
    assert [driven.whole(str(i)).texts for i in range(3)] == alone
    after = crowded.tried[crowded.tried.index(5) :]
    assert after[:2] == [5, 3], "tried again at once, together"
    assert 5 not in after[1:]


def test_a_job_that_has_no_memory_alone_is_given_up(driven, prompts):
    with Crowded(driven, 0):
        assert driven.answer(prompts.ask()).end == NO_MEMORY
    assert driven.answer(prompts.ask()).end == Ended()


def test_keys_without_memory_for_their_values_change_nothing(monkeypatch):
    keys, values, more = torch.rand(1, 2, 5, 4), torch.rand(1, 2, 5, 4), torch.rand(1, 2, 1, 4)
    layer = _RoomyLayer.of(keys, values)
    made, real = [], batch._with_room

    def once(states, width):
        made.append(width)
        if len(made) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(states, width)

    monkeypatch.setattr(batch, "_with_room", once)
    with pytest.raises(torch.OutOfMemoryError):
        layer.update(more, more)
    found = layer.update(more, more)
    assert torch.equal(found[0], torch.cat([keys, more], 2))
    assert torch.equal(found[1], torch.cat([values, more], 2))


def test_a_row_that_leaves_leaves_the_others_their_room(driven, prompts, monkeypatch):
    """Else the next token would copy all a second time."""
    copies, real = [], batch._with_room
    monkeypatch.setattr(batch, "_with_room", lambda *args: (copies.append(1), real(*args))[1])
    for i, text in enumerate(GOOD):
        driven.take(str(i), prompts.ask(text, max_new_tokens=8 + i))
    driven.finish()
    assert all(isinstance(driven.said[str(i)][-1], Ended) for i in range(len(GOOD)))
    assert not copies


class Panic(BaseException):
    """As pyo3 raises where Rust panics."""


def test_a_panic_where_prompts_are_prepared_ends_the_process(engine_of, prompts, monkeypatch):
    """Else every later job would wait for ever, beside a worker that looks well."""
    driven, ended = engine_of(), threading.Event()
    monkeypatch.setattr(preparing.os, "_exit", lambda status: ended.set() if status else None)

    def panic(messages):
        raise Panic

    monkeypatch.setattr(driven.engine._reader._template, "encode_prompt", panic)
    driven.engine.take("only", prompts.ask())
    assert ended.wait(10)
