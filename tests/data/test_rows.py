"""Rows and batches: a golden one by hand, limits, and that padding and neighbours change nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmalign.batch import PADDING_SEGMENT, Role
from mmalign.data.collate import Collator
from mmalign.data.reader import ShardSet
from mmalign.data.rows import Answer, EncodedAnswer, EncodedRow, Row, RowEncoder
from mmalign.data.sample import SampleError
from mmalign.data.variants import DiffusionNoise
from mmalign.data.views import Pairs

PIXELS = torch.arange(2 * 3 * 2 * 2, dtype=torch.float32).reshape(2, 3, 2, 2)


def row_of(sample):
    ((row,),) = Pairs().groups(sample, shard="000000.tar")
    return row


def test_a_batch_by_hand():
    """Two rows: a pair behind three prompt tokens, and one answer behind two, padded to 8.

    flat    0  1  2  3  4  5  6  7   8  9 10 11 12 ...
    ids     1 10 11  5  2  6  7  2   1 12  8  2  0 ...
    """
    pair = (EncodedAnswer([5, 2], Role.CHOSEN), EncodedAnswer([6, 7, 2], Role.REJECTED, truncated=True))
    batch = Collator(pad_token_id=0)(
        [
            EncodedRow("a/x", [1, 10, 11], pair, PIXELS[:2]),
            EncodedRow("a/y", [1, 12], (EncodedAnswer([8, 2], Role.ANSWER),), PIXELS[:0], weight=0.0),
        ]
    )
    assert batch.input_ids.tolist() == [[1, 10, 11, 5, 2, 6, 7, 2], [1, 12, 8, 2, 0, 0, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 4, 5], [0, 1, 2, 3, 0, 0, 0, 0]]
    assert batch.segment_ids.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 1, 1, -1, -1, -1, -1]]
    assert batch.pixel_values.equal(PIXELS)
    assert batch.row_weights.tolist() == [1, 0]
    assert batch.row_index.tolist() == [0, 0, 1]
    assert batch.roles.tolist() == [Role.CHOSEN, Role.REJECTED, Role.ANSWER]
    assert batch.truncated.tolist() == [0, 1, 0]
    assert batch.predictors.tolist() == [2, 3, 2, 5, 6, 9, 10]
    assert batch.targets.tolist() == [5, 2, 6, 7, 2, 8, 2]
    assert batch.response_index.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert batch.keys == ["a/x", "a/y"]


def test_prompts_without_answers_make_a_batch():
    batch = Collator(pad_token_id=0)([EncodedRow("a", [1, 2], (), PIXELS[:0])])
    assert (batch.num_rows, batch.num_responses, len(batch.targets)) == (1, 0, 0)


@pytest.mark.parametrize("multiple", [1, 8, 64])
def test_rows_are_padded_to_a_multiple(mixed_set, encoder, multiple):
    shard_set = ShardSet(str(mixed_set))
    rows = [encoder(row_of(shard_set[n])) for n in range(6)]
    batch = Collator(pad_token_id=0, pad_to_multiple=multiple)(rows)
    longest = int((batch.segment_ids != PADDING_SEGMENT).sum(1).max())
    assert batch.input_ids.shape[1] == -(-longest // multiple) * multiple


def test_neighbours_change_nothing_of_a_row(mixed_set, encoder, collator, template):
    """Text-only rows, several images and several turns: each row in the batch is the row alone, padding aside."""
    shard_set = ShardSet(str(mixed_set))
    rows = [encoder(row_of(shard_set[n])) for n in range(6)]
    batch, first_image = collator(rows), 0
    image_tokens = (batch.input_ids == template.image_token_id).sum(1)
    for number, row in enumerate(rows):
        alone = collator([row])
        length = int((alone.segment_ids != PADDING_SEGMENT).sum())
        for name in ("input_ids", "position_ids", "segment_ids"):
            assert getattr(batch, name)[number][:length].equal(getattr(alone, name)[0][:length])
        assert (batch.segment_ids[number][length:] == PADDING_SEGMENT).all()
        ours = batch.row_index[batch.response_index] == number
        assert batch.targets[ours].equal(alone.targets)
        width = batch.input_ids.shape[1]
        assert (batch.predictors[ours] - number * width).equal(alone.predictors)
        images = len(row.pixel_values)
        assert batch.pixel_values[first_image : first_image + images].equal(alone.pixel_values)
        assert image_tokens[number] == images * template.num_image_tokens
        first_image += images
    assert [len(row.pixel_values) for row in rows] == [1, 0, 2, 1, 0, 3]


def test_targets_are_the_answers_and_predictors_point_before_them(make_sample, encoder, collator, template):
    row = row_of(make_sample(3))
    batch = collator([encoder(row)])
    flat = batch.input_ids.flatten()
    for number, answer in enumerate(row.answers):
        ours = batch.response_index == number
        targets, predictors = batch.targets[ours], batch.predictors[ours]
        assert template.decode_response(targets.tolist()) == answer.text
        assert targets[-1] == template.eos_token_id
        assert flat[predictors[1:]].equal(targets[:-1]), "each later token is predicted by the one before"
        assert batch.segment_ids.flatten()[predictors[0]] == 0, "the first by the prompt's last"


@pytest.fixture
def long_pair(make_sample, template):
    """A row whose chosen answer is longer than its rejected one, and the lengths of prompt and answers."""
    sample = make_sample(0, totals=(12, 4))
    long = replace(sample.responses[0], text="A long answer, which goes on. " * 4)
    row = row_of(replace(sample, responses=(long, sample.responses[1])))
    lengths = [len(template.encode_response(answer.text)) for answer in row.answers]
    return row, len(template.encode_prompt(row.messages)), lengths


def test_each_answer_counts_with_the_prompt_alone(long_pair, template):
    """What is limited is prompt and one answer, as a lone run would see it, not the whole row."""
    row, prompt, (long, _) = long_pair
    encoded = RowEncoder(template, max_length=prompt + long)(row)
    assert not any(answer.truncated for answer in encoded.answers)
    with pytest.raises(SampleError, match=rf"000000.tar/s000: {prompt + long} tokens .*`data\.max_length`.*`refuse`"):
        RowEncoder(template, max_length=prompt + long - 1)(row)


def test_truncation_cuts_the_end_of_long_answers_only(long_pair, template, collator):
    row, prompt, (_, short) = long_pair
    whole = RowEncoder(template, max_length=4000)(row)
    cut = RowEncoder(template, max_length=prompt + short + 1, overlong="truncate")(row)
    assert cut.prompt == whole.prompt
    assert cut.pixel_values.equal(whole.pixel_values)
    assert cut.answers[0] == EncodedAnswer(whole.answers[0].ids[: short + 1], Role.CHOSEN, truncated=True)
    assert cut.answers[1] == whole.answers[1]
    assert collator([cut]).truncated.tolist() == [1, 0]


@pytest.mark.parametrize("overlong", ["refuse", "truncate"])
def test_a_refused_row_becomes_a_tiny_hole(long_pair, template, collator, overlong):
    """Where the prompt leaves no room for an answer, truncating refuses too: prompts and pictures are never cut."""
    row, prompt, _ = long_pair
    encoded = RowEncoder(template, max_length=prompt, overlong=overlong)(row)
    assert (encoded.weight, len(encoded.pixel_values)) == (0.0, 0)
    assert encoded.refusal.startswith("000000.tar/s000: ")
    batch = collator([encoded])
    assert batch.row_weights.tolist() == [0]
    assert batch.roles.tolist() == [Role.CHOSEN, Role.REJECTED]
    assert batch.targets.tolist() == [template.eos_token_id] * 2
    assert not (batch.input_ids == template.image_token_id).any()
    assert batch.keys == ["000000.tar/s000"]


def test_a_batch_of_holes_alone_has_no_picture(long_pair, template, collator):
    row, prompt, _ = long_pair
    encoded = RowEncoder(template, max_length=prompt, overlong="refuse")(row)
    assert collator([encoded] * 2).pixel_values.shape == (0, 3, 64, 64)


@pytest.mark.parametrize(
    ("texts", "words"),
    [(("Same.", "Same."), "chosen and rejected are the same"), (("Yes.", " "), "an answer is empty")],
)
def test_useless_answers_are_refused_by_name(encoder, texts, words):
    answers = tuple(Answer(text, role) for text, role in zip(texts, (Role.CHOSEN, Role.REJECTED), strict=True))
    with pytest.raises(SampleError, match=rf"^a\.tar/x: {words}"):
        encoder(Row("a.tar/x", (), (), answers))


def test_a_broken_picture_is_named(make_sample, encoder, picture):
    row = row_of(replace(make_sample(0), images=(picture(0)[:60],)))
    with pytest.raises(ValueError, match=r"000000\.tar/s000, picture 0: .*cannot be decoded"):
        encoder(row)


def test_special_words_in_texts_stay_text(make_sample, encoder, template, collator):
    """A user's `<image>` and an answer's `</s>` are ordinary characters."""
    sample = make_sample(0, images=0, totals=(12, 4))
    hostile = replace(sample.responses[0], text="Write <image> and </s> here.")
    row = row_of(replace(sample, responses=(hostile, sample.responses[1])))
    batch = collator([encoder(row)])
    assert not (batch.input_ids == template.image_token_id).any()
    assert (batch.targets == template.eos_token_id).sum() == 2


def with_references(row, template, *, more=0):
    """The row with two references, which say -1, -2, ... and -0.5 of every token."""
    answers = []
    for answer in row.answers:
        size = len(template.encode_response(answer.text)) + more
        values = (-np.arange(1, size + 1, dtype=np.float32), np.full(size, -0.5, np.float32))
        answers.append(answer._replace(reference_logps=values))
    return row._replace(answers=tuple(answers))


def test_what_references_say_goes_beside_the_targets(long_pair, template, collator):
    """Token by token, answer after answer; of a cut answer as much as is left of it."""
    row, prompt, (long, short) = long_pair
    batch = collator([RowEncoder(template, max_length=4000)(with_references(row, template))])
    assert batch.reference_logps.shape == (2, long + short)
    assert batch.reference_logps[0].tolist() == [*range(-1, -long - 1, -1), *range(-1, -short - 1, -1)]
    assert (batch.reference_logps[1] == -0.5).all()
    cut = RowEncoder(template, max_length=prompt + short, overlong="truncate")(with_references(row, template))
    assert collator([cut]).reference_logps[0].tolist() == [*range(-1, -short - 1, -1)] * 2


def test_log_probabilities_of_other_tokens_are_refused(long_pair, template):
    """One more than there are tokens: a store that another tokenizer made."""
    row, _, (long, _) = long_pair
    stale = with_references(row, template, more=1)
    with pytest.raises(SampleError, match=rf"^000000\.tar/s000: its chosen answer has {long} tokens.* {long + 1}\. "):
        RowEncoder(template, max_length=4000)(stale)


def test_a_variant_changes_the_pictures_and_nothing_else(make_sample, picture, encoder):
    """And is drawn anew for each picture of the row."""
    row = row_of(replace(make_sample(0, images=2), images=(picture(7), picture(7))))
    plain, noised = encoder(row), encoder(row._replace(variant=DiffusionNoise()))
    assert noised.pixel_values.shape == plain.pixel_values.shape
    assert plain.pixel_values[0].equal(plain.pixel_values[1])
    assert not noised.pixel_values[0].equal(noised.pixel_values[1])
    assert noised._replace(pixel_values=PIXELS) == plain._replace(pixel_values=PIXELS)


def test_rows_that_belong_together_are_refused_together(long_pair, template):
    """The pair is too long, the chosen answer's further row would not be."""
    row, prompt, (long, short) = long_pair
    other = row._replace(answers=(row.answers[1]._replace(role=Role.OTHER_IMAGE),))
    encoded = RowEncoder(template, max_length=prompt + short, overlong="refuse").group((row, other))
    assert [each.weight for each in encoded] == [0.0, 0.0]
    assert len({each.refusal for each in encoded}) == 1
    whole = RowEncoder(template, max_length=prompt + long).group((row, other))
    assert [each.weight for each in whole] == [1.0, 1.0]


def test_another_prompts_answer_refuses_nothing(long_pair, template):
    """However long it is: nothing is learned from it, so it is cut to the room there is."""
    row, prompt, (_, short) = long_pair
    kept = (row.answers[1], row.answers[0]._replace(role=Role.MISMATCHED))
    encoded = RowEncoder(template, max_length=prompt + short)(row._replace(answers=kept))
    assert [len(answer.ids) for answer in encoded.answers] == [short, short]
    assert not encoded.refusal
