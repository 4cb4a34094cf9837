"""Half of the chosen answer stays, the rest is written without the picture."""

import pytest

from mmalign.contrast.chance import seed_for
from mmalign.contrast.dropout_ntp import DropoutNTP, blind_prompt, finish_blind
from mmalign.generate import Prompt, Sampling, generate
from mmalign.messages import Message, Text

SETTINGS = DropoutNTP(max_new_tokens=8)


def made(policy, positives, size=4, settings=SETTINGS):
    return {p.sample.key: r for p, r in finish_blind(policy, positives, settings, batch_size=size)}


def test_half_of_the_words_stay(policy, positive):
    """Rounded down; the rest is what the model writes behind them to the question alone."""
    response = made(policy, [positive("There is a  red ball.")])["one"]
    opened = (Message("user", (Text("What do you see?"),)), Message("assistant", (Text("There is"),)))
    prompt = Prompt(opened, seed=seed_for(0, "test/one, decoding"))
    (rest,) = generate(policy.model, policy.template, [prompt], Sampling(max_new_tokens=8, temperature=0.7))
    assert response.text.removeprefix("There is").removeprefix(" ") == rest
    assert response.sampling == {
        "method": "dropout_ntp",
        "of": 1,
        "kept_words": 2,
        "temperature": 0.7,
        "seed": 0,
        "checkpoint_hash": policy.identity["checkpoint_hash"],
    }


def test_the_picture_is_not_there_at_all(policy, positive):
    one = blind_prompt(positive("A.", "red", "blue"), SETTINGS)
    assert one.images == ()
    assert one.messages == (Message("user", (Text("What do you see?"),)),)
    texts = {made(policy, [positive("A red ball.", color)])["one"].text for color in ("red", "blue")}
    assert len(texts) == 1


def test_a_word_by_itself_is_written_anew(policy, positive):
    assert made(policy, [positive("Yes")])["one"].sampling["kept_words"] == 0


def test_batch_size_changes_nothing(policy, positive):
    positives = [positive("A red circle. " * (1 + i), name=str(i)) for i in range(5)]
    assert made(policy, positives, 1) == made(policy, positives, 2) == made(policy, positives)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"keep": 1.0}, "--keep"), ({"temperature": -1.0}, "--temperature"), ({"max_new_tokens": 0}, "--max_new_tokens")],
)
def test_settings_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        DropoutNTP(**wrong)
