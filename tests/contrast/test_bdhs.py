"""BDHS is Algorithm 1: true sentences before, random cuts, a hidden picture, another round where too much is alike."""

from dataclasses import replace

import pytest

from mmalign.contrast.bdhs import BDHS, Attempt, hide, open_sentences, rewrite
from mmalign.contrast.chance import seed_for
from mmalign.contrast.sentences import END
from mmalign.generate import Sampling, cut_behind, generate, generate_ids
from mmalign.messages import Message, Text

SETTINGS = BDHS(max_new_tokens=10)
ANSWER = "Yes, there is a red circle here. It lies on a blue square. No star"


class Constant:
    """Finds any two texts equally alike."""

    name = "constant"

    def __init__(self, value):
        self.value = value

    def __call__(self, one, other):
        return self.value


@pytest.fixture
def written(policy, positive):
    """`written(settings, alike)`: the rejected answer to one sample."""

    def write(settings=SETTINGS, alike=0.5, *, color="red", answer=ANSWER):
        ((_, response),) = rewrite(policy, [positive(answer, color)], settings, Constant(alike), batch_size=4)
        return response

    return write


def test_sentences_are_completed_one_by_one_behind_the_true_ones(policy, positive, written):
    """The batch equals a loop over sentences that asks transformers for each by itself."""
    attempt = Attempt(positive(ANSWER))
    hidden, whole = hide(policy, attempt, SETTINGS), ""
    sampling = Sampling(max_new_tokens=10, temperature=1.0)
    before = ["", "Yes, there is a red circle here.", "Yes, there is a red circle here. It lies on a blue square."]
    for number, sentence in enumerate(open_sentences(attempt, 0)):
        assert sentence.before == before[number]
        opening = f"{before[number]}{sentence.first}"
        messages = (*hidden.messages, Message("assistant", (Text(opening),))) if opening else hidden.messages
        seed = seed_for(0, f"test/one, round 1, decoding {number}")
        (ids,) = generate_ids(policy.model, policy.template, [hidden._replace(messages=messages, seed=seed)], sampling)
        start = policy.template.encode_response(opening)[:-1] if opening else []
        text = policy.template.decode_response([*start, *ids])[len(opening) :]
        whole += sentence.first + cut_behind(END, text)
    assert written().text == whole


def test_every_sentence_is_cut_between_words_and_loses_at_least_one(positive):
    """Over 200 rounds each cut of `A b c d.` comes up, about equally often."""
    answer = positive("A b c d.")
    cuts = [open_sentences(Attempt(answer, number), 0)[0] for number in range(200)]
    found = {first: sum(each.first == first for each in cuts) for first in ("", "A", "A b", "A b c")}
    assert sum(found.values()) == 200
    assert all(30 <= count <= 70 for count in found.values())


def test_yes_and_no_are_turned_round_half_the_time_and_kept(positive):
    """Only the first word of a sentence; of an answer of one word nothing else is left."""
    answer, short = positive("Yes, it is. Not it."), positive("Yes.")
    rounds = [open_sentences(Attempt(answer, number), 0) for number in range(200)]
    turned = [first.first for first, _ in rounds if first.first.startswith("No,")]
    assert 70 <= len(turned) <= 130
    assert {"No,", "No, it"} == set(turned)
    assert not any(second.first.startswith(" Yes") for _, second in rounds)
    single = {open_sentences(Attempt(short, number), 0)[0][1:] for number in range(40)}
    assert single == {("", False), ("No.", True)}


def test_an_answer_that_is_turned_round_whole_needs_no_model(positive, policy):
    answers = dict.fromkeys(
        response.text
        for seed in range(12)
        for _, response in rewrite(
            policy, [positive("Yes.")], replace(SETTINGS, seed=seed), Constant(0.5), batch_size=1
        )
    )
    assert "No." in answers


@pytest.mark.parametrize(("rho", "hidden"), [(0.0, 0), (1.0, 32), (0.99, None)])
def test_rho_is_the_chance_of_an_image_token_to_be_masked(policy, positive, rho, hidden):
    """Of all pictures together; at 0.99 within four standard errors over 100 rounds."""
    two = positive("A.", "red", "blue")
    counts = [len(hide(policy, Attempt(two, number), replace(SETTINGS, rho=rho)).hidden) for number in range(100)]
    assert (
        set(counts) == {hidden} if hidden is not None else abs(sum(counts) / 3200 - 0.99) < 4 * (0.0099 / 3200) ** 0.5
    )


def test_with_everything_masked_the_picture_does_not_matter(written):
    masked = replace(SETTINGS, rho=1.0)
    assert written(masked, color="red").text == written(masked, color="blue").text
    seen = replace(SETTINGS, rho=0.0)
    assert written(seen, color="red").text != written(seen, color="blue").text


def test_noise_changes_the_picture_instead(policy, positive):
    noisy = BDHS(hide="noise", steps=900)
    one, other = (hide(policy, Attempt(positive("A."), number), noisy) for number in (1, 2))
    assert one.hidden == ()
    assert len({picture.tobytes() for picture in (*one.images, *other.images, *positive("A.").prompt.images)}) == 3


def test_what_is_too_much_alike_is_tried_again_and_at_last_written_freely(policy, positive, written):
    """Equal counts as too much; the last round is a plain answer to the hidden picture, whatever its similarity."""
    assert written(alike=0.9699).sampling["iteration"] == 1
    last = written(alike=0.97)
    assert (last.sampling["iteration"], last.sampling["guided"], last.sampling["similarity"]) == (5, False, 0.97)
    attempt = Attempt(positive(ANSWER), 5)
    prompt = hide(policy, attempt, SETTINGS)._replace(seed=seed_for(0, "test/one, round 5, decoding"))
    assert [last.text] == generate(
        policy.model, policy.template, [prompt], Sampling(max_new_tokens=10, temperature=1.0)
    )


def test_a_single_round_is_guided(written):
    only = written(replace(SETTINGS, rounds=1), alike=1.0)
    assert (only.sampling["iteration"], only.sampling["guided"]) == (1, True)


def test_rounds_differ_and_seeds_differ(written):
    texts = {written(replace(SETTINGS, rounds=2, seed=seed), alike).text for seed in (0, 1) for alike in (0.5, 1.0)}
    assert len(texts) == 4


def test_batches_and_neighbours_change_nothing(policy, positive):
    """The same answers one at a time, or three at a time, though rounds mix."""
    names = ["a", "b", "c", "d"]

    class ByLength(Constant):
        def __call__(self, one, other):
            return 0.5 if len(one) % 2 else 1.0

    def run(size):
        positives = [positive(ANSWER, name=name) for name in names]
        return {
            p.sample.key: (r.text, r.sampling)
            for p, r in rewrite(policy, positives, SETTINGS, ByLength(0), batch_size=size)
        }

    alone = run(1)
    assert set(alone) == set(names)
    assert len({sampling["iteration"] for _, sampling in alone.values()}) > 1
    assert alone == run(3)


def test_provenance_says_all_that_was_drawn_and_found(policy, written):
    assert written().sampling == {
        "method": "bdhs",
        "of": 1,
        "hide": "attention",
        "rho": 0.99,
        "iteration": 1,
        "guided": True,
        "similarity": 0.5,
        "similarity_by": "constant",
        "max_similarity": 0.97,
        "temperature": 1.0,
        "seed": 0,
        "checkpoint_hash": policy.identity["checkpoint_hash"],
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rho": 1.5}, "--rho.*in \\[0, 1\\]"),
        ({"rounds": 0}, "--rounds.*1 or more"),
        ({"max_new_tokens": 0}, "--max_new_tokens.*1 or more"),
        ({"temperature": -1.0}, "--temperature"),
        ({"steps": 1000, "hide": "noise"}, "0 to 999"),
        ({"steps": 400}, "--steps.*--hide noise"),
        ({"hide": "noise", "rho": 0.5}, "--rho.*--hide attention"),
    ],
)
def test_settings_that_cannot_be_or_do_nothing_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        BDHS(**wrong)
