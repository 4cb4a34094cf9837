"""A run goes on with another number of ranks, or another cut of a step: the same rows in the same steps."""

import shutil
from pathlib import Path

import pytest
import torch
from contents import content_of
from torch.testing import assert_close

from mmalign import cli
from mmalign.checkpoint import CheckpointError, DirectoryCheckpointIO, newest_checkpoint
from mmalign.checkpoint.elastic import PROGRESS, convert_batches
from mmalign.checkpoint.resume import checkpoints_of
from mmalign.methods.base import AlignmentModule


def counters(total, current, lag=1):
    """Of a checkpoint within `on_train_batch_end`: the batch is ready and processed, not completed."""
    return {
        "fit_loop": {
            PROGRESS: {
                name: {"ready": ready, "started": ready, "processed": ready, "completed": ready - lag}
                for name, ready in (("total", total), ("current", current))
            }
        }
    }


@pytest.mark.parametrize(("saved", "here"), [(4, 2), (4, 1), (1, 4), (2, 3), (4, 4)])
@pytest.mark.parametrize("lag", [0, 1])
def test_batches_are_counted_in_the_new_cut(saved, here, lag):
    """13 steps in all, 3 in this epoch; the lag of a batch stays one batch."""
    loops = counters(13 * saved, 3 * saved, lag)
    convert_batches(loops, saved=saved, here=here)
    assert loops == counters(13 * here, 3 * here, lag)


def test_within_a_step_nothing_can_be_converted():
    with pytest.raises(CheckpointError, match="2 of 4 micro-batches into an optimizer step, and here a step has 8"):
        convert_batches(counters(50, 10), saved=4, here=8)
    convert_batches(counters(50, 10), saved=4, here=4)


def fit_noting(folder, *args):
    """`mmalign fit`, with the rows of each step in a file per step and rank."""
    plain = AlignmentModule.on_train_batch_start

    def noting(self, batch, batch_idx):
        plain(self, batch, batch_idx)
        with (Path(folder) / f"{self.global_step}.{self.global_rank}").open("a") as file:
            file.writelines(f"{key}\n" for key in batch.keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AlignmentModule, "on_train_batch_start", noting)
        cli.main(["fit", *args])


def ledger(folder):
    """Rows of each step, over all ranks and micro-batches."""
    found = {}
    for path in folder.iterdir():
        found.setdefault(int(path.name.split(".")[0]), []).extend(path.read_text().split())
    return {step: sorted(rows) for step, rows in sorted(found.items())}


@pytest.fixture(scope="module")
def command(tiny_args):
    """`command(run_dir, *options)`: arguments of a fit of two epochs of five steps of eight rows."""
    standing = ("--trainer.max_epochs=2", "--checkpoint.every_n_steps=1", "--checkpoint.keep_last=20")
    return lambda run_dir, *options: tiny_args(*standing, f"--trainer.default_root_dir={run_dir}", *options)


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """A run on one rank in micro-batches of 4 that nothing disturbs, with all its checkpoints; and its ledger."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "rows").mkdir()
    fit_noting(folder / "rows", *command(folder / "run", "--data.micro_batch_size=4"))
    return folder / "run", ledger(folder / "rows")


@pytest.fixture
def go_on(whole, command, ranks, logged, tmp_path):
    """`go_on(run, step, num_ranks, micro_batch_size)`: from a run's checkpoint to its end, compared with the whole run.

    Ledger, losses, scheduler, weights and moments. Returns the new run and what was said.
    """
    expected_run, rows = whole
    expected = DirectoryCheckpointIO().load_checkpoint(newest_checkpoint(expected_run))
    losses = logged(expected_run)

    def fit(run, step, num_ranks, micro_batch_size):
        folder = tmp_path / f"{num_ranks}x{micro_batch_size}"
        (folder / "rows").mkdir(parents=True)
        args = command(
            folder / "run",
            f"--ckpt_path={run}/checkpoints/step-{step:06d}",
            f"--data.micro_batch_size={micro_batch_size}",
            *([f"--trainer.devices={num_ranks}", "--trainer.strategy=ddp"] if num_ranks > 1 else []),
        )
        said = ranks.run(num_ranks, fit_noting, folder / "rows", *args).output()
        assert ledger(folder / "rows") == {each: keys for each, keys in rows.items() if each >= step}
        assert logged(folder / "run") == pytest.approx({each: losses[each] for each in range(step, 10)}, rel=1e-4)
        found = DirectoryCheckpointIO().load_checkpoint(newest_checkpoint(folder / "run"))
        assert found["global_step"] == expected["global_step"] == 10
        assert found["lr_schedulers"] == expected["lr_schedulers"]
        for name, weights in expected["state_dict"].items():
            assert_close(found["state_dict"][name], weights, rtol=1e-2, atol=1e-4)
        for number, state in expected["optimizer_states"][0]["state"].items():
            assert_close(found["optimizer_states"][0]["state"][number], state, rtol=1e-2, atol=1e-4)
        return folder / "run", said

    return fit


@pytest.mark.slow
@pytest.mark.parametrize(("step", "micro_batch_size"), [(3, 2), (5, 1), (7, 8)])
def test_another_micro_batch_size_takes_the_same_rows_into_the_same_steps(whole, go_on, step, micro_batch_size):
    """From within each epoch, and from between them."""
    go_on(whole[0], step, 1, micro_batch_size)


@pytest.mark.slow
def test_one_rank_then_two_then_four_then_one_take_the_same_rows_into_the_same_steps(whole, go_on):
    """Each goes on within an epoch from what the one before has saved, and says that the number of ranks is another."""
    two, said = go_on(whole[0], 3, 2, 2)
    assert "made by 1 ranks and goes on with 2" in said
    four, _ = go_on(two, 6, 4, 1)
    _, said = go_on(four, 8, 1, 4)
    assert "made by 4 ranks and goes on with 1" in said


@pytest.mark.faults
def test_as_many_ranks_take_up_the_random_states_of_each(command, ranks, tmp_path):
    """Two ranks save two states, and two take them up."""
    two = ["--data.micro_batch_size=4", "--trainer.max_epochs=1", "--trainer.devices=2", "--trainer.strategy=ddp"]
    newest = tmp_path / "run/checkpoints/step-000005"
    ranks.run(2, "fit", *command(tmp_path / "run", *two))
    states = DirectoryCheckpointIO().load_checkpoint(newest)["random_states"]
    assert len(states) == 2
    assert not torch.equal(states[0]["torch"], states[1]["torch"])
    again = ["--ckpt_path=" + str(newest.with_name("step-000003")), f"--trainer.default_root_dir={tmp_path / 'again'}"]
    ranks.run(2, "fit", *command(tmp_path / "run", *two, *again))
    resumed = DirectoryCheckpointIO().load_checkpoint(tmp_path / "again/checkpoints/step-000005")["random_states"]
    for before, after in zip(states, resumed, strict=True):
        assert torch.equal(before["torch"], after["torch"])
        assert torch.equal(before["numpy"][0], after["numpy"][0])
        assert before["python"] == after["python"]


@pytest.mark.slow
def test_resuming_at_the_end_of_an_epoch_again_and_again_changes_nothing(ranks, tiny_args, color_shards, tmp_path):
    """Three epochs of five steps, stopped behind each: the counters are those of a run that never stopped.

    Lightning's own would have lost an epoch after the first resume, and the run would have trained a fourth.
    """
    options = [f"--data.val_shards={color_shards}", "--data.micro_batch_size=8", "--trainer.max_epochs=3"]
    command = ["fit", *tiny_args(*options, "--checkpoint.every_n_steps=5", "--checkpoint.keep_last=9")]
    ranks.run(1, *command, f"--trainer.default_root_dir={tmp_path / 'whole'}")
    whole = {folder.name: content_of(folder) for folder in checkpoints_of(tmp_path / "whole")}
    stopped = tmp_path / "whole"
    for number in (1, 2):
        run_dir = tmp_path / f"stopped-{number}"
        shutil.copytree(stopped / "checkpoints", run_dir / "checkpoints")
        for later in checkpoints_of(run_dir)[number:]:
            shutil.rmtree(later)
        ranks.run(1, *command, f"--trainer.default_root_dir={run_dir}", "--ckpt_path=last")
        assert {folder.name: content_of(folder) for folder in checkpoints_of(run_dir)} == whole
        stopped = run_dir
    assert sorted(whole) == ["step-000005", "step-000010", "step-000015"]
