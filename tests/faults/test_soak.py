"""R20, in short: all faults mixed, on a run whose data are broken; it ends as if there had been none."""

import json
import random
import shutil
import signal

import pytest
from killing import Moment

from mmalign.checkpoint import newest_checkpoint
from mmalign.checkpoint.resume import checkpoints_of

STARTS = 24
POISONED = (4, 17)
"""Steps in which the loss of the first micro-batch is not a number."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
COUNTS = {"training": 8, "loading": 40, "validation": 6, "saving": 3, "tidying": 3}
"""The last time that something begins at which a start is ended."""


def fit_poisoned(folder, *args):
    """`mmalign fit`, noted, whose loss is not a number at times."""
    import ledger

    from mmalign.methods.dpo import DPO

    plain = DPO.compute_loss

    def poisoned(self, batch):
        loss, metrics = plain(self, batch)
        poison = self.training and self.global_step in POISONED and not self.ends_step
        return (loss * float("nan") if poison else loss), metrics

    DPO.compute_loss = poisoned
    ledger.fit_noting(folder, *args)


@pytest.fixture
def broken_shards(color_shards, tmp_path):
    """`broken_shards(name)`: a copy of which two pictures have another bit, and the last shard has lost its end."""

    def copy(name):
        folder = tmp_path / name
        shutil.copytree(color_shards, folder, ignore=shutil.ignore_patterns("reference*"))
        first, *_, last = sorted(folder.glob("*.tar"))
        content = bytearray(first.read_bytes())
        for place in (content.find(b"IDAT"), content.rfind(b"IDAT")):
            content[place + 8] ^= 1
        first.write_bytes(content)
        last.write_bytes(last.read_bytes()[: last.stat().st_size * 2 // 3])
        return folder

    return copy


@pytest.fixture
def mortal(mortal_run, color_shards, broken_shards):
    """`mortal(name)`: a run of 120 steps with dropout, a worker, validations, and a quarantine."""
    standing = [
        *("--model.backbone.lora_dropout=0.1", f"--data.val_shards={color_shards}", "--data.num_workers=1"),
        *("--data.on_bad=quarantine", "--data.bad_share=0.5", "--checkpoint.every_n_steps=2"),
        *("--trainer.max_epochs=24", "--trainer.val_check_interval=4"),
        *("--trainer.limit_val_batches=3", "--trainer.num_sanity_val_steps=0"),
    ]

    def make(name, *options):
        shards = f"--data.shards={broken_shards(f'{name}-shards')}"
        return mortal_run(*standing, shards, *options, fit=fit_poisoned)

    return make


def flip_a_bit(checkpoint, draw):
    """In a file of a checkpoint."""
    path = draw.choice(sorted(checkpoint.iterdir()))
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1
    path.write_bytes(content)


def left_out(run_dir):
    """Keys of the samples that are in quarantine, and of the rows of the steps that were left out."""
    quarantined = {json.loads(line)["key"] for line in (run_dir / "quarantine.jsonl").read_text().splitlines()}
    steps = {path.name: json.loads(path.read_text())["keys"] for path in (run_dir / "nonfinite").iterdir()}
    return quarantined, steps


@pytest.mark.faults
def test_all_faults_mixed_cost_nothing(mortal, record):
    """Kills, signals, damaged checkpoints, broken samples, losses that are no numbers: the run that it is without."""
    draw = random.Random(20)
    whole, harmed = mortal("whole", "--checkpoint.keep_last=1000"), mortal("harmed")
    whole.finish()
    faults = 0
    for _ in range(STARTS):
        kind = draw.choice([*COUNTS, "any"])
        delay = draw.uniform(0, whole.startup_s if kind == "any" else 0.05)
        count = draw.randint(1, COUNTS.get(kind, 1))
        if draw.random() < 0.6:
            harmed.kill(Moment(kind, count, delay))
        else:
            harmed.stop(draw.choice(SIGNALS), Moment(kind, count, delay))
        faults += 1
        if len(checkpoints_of(harmed.run_dir)) > 1 and draw.random() < 0.2:
            flip_a_bit(newest_checkpoint(harmed.run_dir), draw)
            faults += 1
    harmed.finish()
    assert harmed.steps == whole.steps
    end = "step-000120"
    assert harmed.saved()[end] == whole.saved()[end]
    quarantined, steps = left_out(whole.run_dir)
    assert left_out(harmed.run_dir) == (quarantined, steps)
    assert len(quarantined) > 3
    assert len(steps) == len(POISONED)
    broken = len(quarantined) + len(steps)
    record("R20: soak", faults=faults + broken, passed=faults + broken)
