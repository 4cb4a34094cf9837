"""The data module: what a config may say, and what is said about a wrong one."""

import pytest
from jsonargparse import ArgumentParser
from lightning import Trainer

from mmalign.data.datamodule import ShardData, as_sources
from mmalign.data.rowset import SHIPPED, Source
from mmalign.data.views import Pairs


@pytest.fixture
def parser():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ShardData, "data")
    return parser


PAIRS = ["--data.view=mmalign.data.views.Pairs", "--data.view.margin=3"]


def test_a_config_names_sources_and_a_view(parser):
    shards = '[world, {path: shards/mine, weight: 0.5}, "https://host/set"]'
    data = parser.instantiate(parser.parse_args([*PAIRS, f"--data.shards={shards}"])).data
    assert data.train_sources == (
        Source(path="world"),
        Source(path="shards/mine", weight=0.5),
        Source(path="https://host/set"),
    )
    assert data.val_sources == ()
    assert data.view == Pairs(margin=3.0)


def test_one_name_is_one_source(parser):
    data = parser.instantiate(parser.parse_args([*PAIRS, "--data.shards=world"])).data
    assert data.train_sources == as_sources(["world"]) == (Source(path="world"),)


def test_every_argument_has_its_help(parser):
    described = [action.help for action in parser._actions if action.dest.startswith("data.")]
    assert len(described) > 10
    assert all(described)


def test_shipped_names_lie_in_the_package():
    for name in SHIPPED:
        assert Source(path=name).resolve().endswith(f"shards/{name}")
    assert Source(path="elsewhere").resolve() == "elsewhere"


def test_missing_shards_name_the_key_and_the_way_out(tiny_llava):
    with pytest.raises(ValueError, match=r"`data\.shards` is empty.*--config scale/tiny\.yaml"):
        ShardData(Pairs(), checkpoint=tiny_llava).setup("fit")
    with pytest.raises(FileNotFoundError, match=r"`data\.shards`: gone: no such folder.*scale/tiny\.yaml"):
        ShardData(Pairs(), checkpoint=tiny_llava, shards="gone").setup("fit")
    with pytest.raises(ValueError, match=r"`data\.val_shards` is empty"):
        ShardData(Pairs(), checkpoint=tiny_llava).setup("validate")


def test_a_step_is_cut_by_ranks_and_micro_batches():
    data = ShardData(Pairs(), batch_size=128, micro_batch_size=8)
    assert [data.accumulation(world_size) for world_size in (1, 4)] == [16, 4]
    with pytest.raises(ValueError, match=r"`data\.batch_size` 128 .* 3 devices x `data\.micro_batch_size` 8"):
        data.accumulation(3)


@pytest.mark.parametrize(
    "name", ["batch_size", "micro_batch_size", "max_length", "max_tokens", "window", "pad_to_multiple", "seed"]
)
def test_numbers_too_small_are_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"`data\.{name}` must be at least \d, got -1"):
        ShardData(Pairs(), **{name: -1})


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match=rf"`data\.share` is the part of the rows .* in \(0, 1\], got {share}"):
        ShardData(Pairs(), share=share)


def test_settings_of_the_step_reach_the_loaders(mixed_set, tiny_llava):
    """Share and grouping are of training; the cap is of validation, too."""
    data = ShardData(
        Pairs(), shards=str(mixed_set), val_shards=str(mixed_set), checkpoint=tiny_llava, batch_size=3,
        micro_batch_size=3, share=0.5, max_tokens=2000,
    )  # fmt: skip
    data.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    data.setup("fit")
    train, val = data.train_dataloader(), data.val_dataloader()
    assert (len(train), len(val), data.steps_per_epoch) == (3, 6, 3)
    assert train.batches.max_tokens == val.batches.max_tokens == 2000
    assert train.lengths is not None
    data.group_by_length = False
    assert data.train_dataloader().lengths is None


def test_a_preview_shows_the_first_rows_and_their_answers(mixed_set, tiny_llava):
    data = ShardData(Pairs(), shards=str(mixed_set), checkpoint=tiny_llava, micro_batch_size=3)
    data.setup("fit")
    batch, texts = data.preview()
    assert batch.keys == ["000000.tar/s000", "000000.tar/s001", "000000.tar/s002"]
    for number, text in enumerate(texts):
        ids = batch.targets[batch.response_index == number].tolist()
        assert data.template.decode_response(ids) == text


def test_nothing_to_validate_on_is_no_loader(mixed_set, tiny_llava):
    data = ShardData(Pairs(), shards=str(mixed_set), checkpoint=tiny_llava, batch_size=8, micro_batch_size=4)
    data.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    data.setup("fit")
    assert data.val_dataloader() == []
    assert len(data.train_dataloader()) == 6
