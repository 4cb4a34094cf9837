"""R1, R2: kill -9 of all processes of a run at random moments; it goes on each time as if it had not been killed.

The measure is a run that nobody disturbs: each of its checkpoints, by content, and the rows of each of its steps.
"""

import importlib
import json
import pkgutil
import random
from functools import partial

import ledger
import pytest
from killing import Moment

from mmalign.methods.base import AlignmentModule
from mmalign.methods.bco import BCO
from mmalign.methods.kto import KTO
from mmalign.methods.mpo import MPO

EVERY = 2
"""Steps between checkpoints."""
SAMPLES = [f"{number:04d}" for number in range(40)]
PER_EPOCH = 5
"""Steps."""
COUNTS = {"training": 4, "loading": 24, "validation": 6, "saving": 2, "tidying": 2}
"""The last time that something begins at which a start is killed."""
STATEFUL = {"bco.yaml": BCO, "kto.yaml": KTO, "mpo.yaml": MPO}


@pytest.fixture(scope="module")
def mortal(mortal_run, color_shards):
    """`mortal("--option=...", ...)`: a run of five steps an epoch with dropout, and a validation every two of them."""
    return partial(
        mortal_run,
        *("--model.backbone.lora_dropout=0.1", f"--data.val_shards={color_shards}"),
        *(f"--checkpoint.every_n_steps={EVERY}", "--checkpoint.keep_last=2"),
        *("--trainer.val_check_interval=4", "--trainer.limit_val_batches=3", "--trainer.num_sanity_val_steps=0"),
    )


def whole_run(mortal, *options, config="dpo.yaml", num_ranks=1):
    """The same run, undisturbed; all its checkpoints stay."""
    whole = mortal(*options, "--checkpoint.keep_last=1000", config=config)
    whole.finish(num_ranks=num_ranks)
    steps = whole.steps
    for first in range(0, len(steps), PER_EPOCH):
        keys = [key for step in range(first, first + PER_EPOCH) for key in steps[step].keys]
        assert sorted(key.rpartition("/")[2] for key in keys) == SAMPLES
    return whole


def moments(whole, number, seed):
    """Each kind as often as any other one, at random times and places of it, and some anywhere."""
    draw = random.Random(seed)
    kinds = [*COUNTS, "any"]
    chosen = [kinds[place % len(kinds)] for place in range(number)]
    draw.shuffle(chosen)
    for kind in chosen:
        if kind == "any":
            yield Moment("any", 0, draw.uniform(0, 1.2 * whole.startup_s))
        else:
            length = ledger.duration(whole.ledgers[0], kind)
            yield Moment(kind, draw.randint(1, COUNTS[kind]), draw.uniform(0, length))


def assert_unharmed(killed, whole, deaths, logged):
    """Behind every kill, and at the end, there is what the undisturbed run had there; and each step has its rows.

    The best checkpoint is there, and all validations. Of the log only the line of a step that was just saved may miss.
    """
    expected, found = (run.saved(loops=False) for run in (whole, killed))
    for death in deaths:
        assert death.lost <= EVERY, death
        assert death.saved in {None, *expected.items()}, death
    assert killed.steps == whole.steps
    end = max(expected)
    assert killed.saved()[end] == whole.saved()[end]
    scores = json.loads((whole.run_dir / "checkpoints/best.json").read_text())["val/loss"]
    best = min(scores, key=lambda name: (scores[name], -int(name[5:])))
    assert found[best] == expected[best]
    assert logged(killed.run_dir, "val/loss") == logged(whole.run_dir, "val/loss")
    lines, all_lines = (logged(run.run_dir).items() for run in (killed, whole))
    assert lines <= all_lines
    assert dict(all_lines - lines).keys() <= {death.saved_step - 1 for death in deaths}


def kill_and_finish(killed, moments, *, num_ranks=1):
    """Kill a run at each of these moments, and let it end."""
    deaths = [killed.kill(moment, num_ranks=num_ranks) for moment in moments]
    killed.finish(num_ranks=num_ranks)
    return deaths


def kinds_hit(deaths):
    return set().union(*(death.hit for death in deaths))


@pytest.mark.slow
def test_three_kills_cost_nothing(mortal, logged):
    """In a step, in a validation and in a save."""
    whole = whole_run(mortal, "--trainer.max_epochs=2")
    killed = mortal("--trainer.max_epochs=2")
    aimed = {"training": 7, "validation": 2, "saving": 1}  # behind step 3, in the validation behind step 2 or 4, ...
    halfway = (Moment(kind, count, ledger.duration(whole.ledgers[0], kind) / 2) for kind, count in aimed.items())
    deaths = kill_and_finish(killed, halfway)
    assert all(death.saved for death in deaths)
    assert_unharmed(killed, whole, deaths, logged)


@pytest.mark.faults
@pytest.mark.parametrize("num_workers", [0, 2])
def test_twenty_kills_cost_nothing(mortal, logged, num_workers, record):
    """In training, in loading, in validation, in saves, in the tidying behind them, and wherever else."""
    options = ("--trainer.max_epochs=16", f"--data.num_workers={num_workers}")
    whole, killed = whole_run(mortal, *options), mortal(*options)
    deaths = kill_and_finish(killed, moments(whole, 20, seed=num_workers))
    assert_unharmed(killed, whole, deaths, logged)
    assert kinds_hit(deaths) == set(ledger.KINDS)
    record(f"R1, R2: kill -9, DPO, {num_workers} workers", faults=20, passed=len(deaths))


@pytest.mark.faults
@pytest.mark.parametrize("config", STATEFUL)
def test_five_kills_cost_a_method_none_of_its_own_state(mortal, logged, config, record):
    options = ("--trainer.max_epochs=4",)
    whole, killed = whole_run(mortal, *options, config=config), mortal(*options, config=config)
    deaths = kill_and_finish(killed, moments(whole, 5, seed=5))
    assert_unharmed(killed, whole, deaths, logged)
    record(f"R1, R2: kill -9, {STATEFUL[config].__name__}", faults=5, passed=len(deaths))


@pytest.mark.faults
@pytest.mark.parametrize("strategy", ["ddp", "zero3_cpu"])
def test_five_kills_of_two_ranks_cost_nothing(mortal, logged, strategy, record):
    options = ("--trainer.max_epochs=4", f"--trainer.strategy={strategy}", "--trainer.devices=2")
    whole, killed = whole_run(mortal, *options, num_ranks=2), mortal(*options)
    deaths = kill_and_finish(killed, moments(whole, 5, seed=7), num_ranks=2)
    assert_unharmed(killed, whole, deaths, logged)
    record(f"R1, R2: kill -9, DPO, 2 ranks, {strategy}", faults=5, passed=len(deaths))


def test_these_are_all_methods_with_state_of_their_own():
    """Whatever runs on with the steps is moved by `after_step`."""
    import mmalign.methods

    for module in pkgutil.iter_modules(mmalign.methods.__path__):
        importlib.import_module(f"mmalign.methods.{module.name}")
    assert {method for method in subclasses(AlignmentModule) if "after_step" in vars(method)} == set(STATEFUL.values())


def subclasses(of):
    """All below a class that the package itself has."""
    return {
        each
        for child in of.__subclasses__()
        for each in {child, *subclasses(child)}
        if each.__module__.startswith("mmalign.")
    }
