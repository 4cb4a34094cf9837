"""R3, R16: a run that goes on with other ranks and workers each time it is killed, within epochs, is one plain run."""

from functools import partial

import pytest
from killing import Moment

PER_EPOCH = 5
"""Steps."""


@pytest.fixture(scope="module")
def mortal(mortal_run):
    """`mortal("--option=...", ...)`: a run of steps of eight rows, one on each rank at a time; saves them all."""
    return partial(mortal_run, "--data.micro_batch_size=2", "--checkpoint.every_n_steps=1")


def on(num_ranks, num_workers, strategy="ddp"):
    """Options of a start on so many ranks, each with so many workers."""
    several = [f"--trainer.devices={num_ranks}", f"--trainer.strategy={strategy}"] if num_ranks > 1 else []
    return [f"--data.num_workers={num_workers}", *several]


def change_and_finish(run, legs):
    """Go through starts of (ranks, workers, steps): each is killed in the step behind so many, the last one ends."""
    *killed, (num_ranks, num_workers, _) = legs
    for number, workers, steps in killed:
        batches = steps * 4 + number  # of two rows; each step has four, and the next one begins on all ranks
        death = run.kill(Moment("training", batches, 0.0), *on(number, workers), num_ranks=number)
        assert death.saved is not None, death
    run.finish(*on(num_ranks, num_workers), num_ranks=num_ranks)


def assert_equal_steps(found, expected):
    """The same rows in each step, and losses to 1e-5."""
    assert {step: made.keys for step, made in found.items()} == {step: made.keys for step, made in expected.items()}
    losses, wanted = ([step.loss for step in steps.values()] for steps in (found, expected))
    assert losses == pytest.approx(wanted, rel=1e-5)


@pytest.mark.faults
def test_one_rank_then_two_then_one_with_other_workers_is_one_run(mortal):
    """Both changes lie within the only epoch."""
    whole, changed = mortal("--trainer.max_epochs=1"), mortal("--trainer.max_epochs=1")
    whole.finish()
    change_and_finish(changed, [(1, 0, 1), (2, 3, 2), (1, 1, None)])
    assert_equal_steps(changed.steps, whole.steps)
    assert [len(step.rows) for step in changed.steps.values()] == [1, 2, 2, 1, 1]


@pytest.mark.faults
@pytest.mark.parametrize("config", ["dpo.yaml", "kto.yaml"])
def test_many_changes_of_ranks_and_workers_make_one_run(mortal, config, record):
    """1, 2, 4 ranks and 0 to 3 workers, over several epochs."""
    legs = [(1, 0, 3), (2, 3, 3), (4, 1, 2), (1, 3, 1), (2, 0, 4), (1, 1, None)]
    whole, changed = (mortal("--trainer.max_epochs=4", config=config) for _ in range(2))
    whole.finish()
    change_and_finish(changed, legs)
    assert_equal_steps(changed.steps, whole.steps)
    assert {len(step.rows) for step in changed.steps.values()} == {1, 2, 4}
    record(f"R3: ranks and workers change, {config}", faults=len(legs) - 1, passed=len(legs) - 1)


@pytest.mark.faults
def test_the_same_seed_twice_is_the_same_run_bit_by_bit(mortal, record):
    """Dropout and workers included."""
    options = ["--trainer.max_epochs=2", "--model.backbone.lora_dropout=0.1", *on(1, 2), "--checkpoint.keep_last=100"]
    first, second = mortal(*options), mortal(*options)
    for run in (first, second):
        run.finish()
    assert len(first.saved()) == 2 * PER_EPOCH
    assert first.saved() == second.saved()
    record("R16: the same seed twice", faults=2, passed=2)


@pytest.mark.faults
def test_one_process_and_two_are_the_same_run_to_rounding(mortal, record):
    whole, two = mortal("--trainer.max_epochs=2"), mortal("--trainer.max_epochs=2", *on(2, 0))
    whole.finish()
    two.finish(num_ranks=2)
    assert_equal_steps(two.steps, whole.steps)
    record("R16: one process and two", faults=1, passed=1)
