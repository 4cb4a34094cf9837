"""What every test shares: a random LLaVA small enough for two CPU cores, written and loaded by the real classes."""

import csv
import io
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from ranks import Ranks
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mmalign import cli
from mmalign.data.sample import Response, Sample
from mmalign.data.shards import ShardWriter
from mmalign.messages import ImageSlot, Message, Text
from mmalign.signals import Stopped
from mmalign.template import CHAT_TEMPLATES

CORPUS = ["USER: What do you see? ASSISTANT: A red circle and a blue square.", "Yes. No. There is a big green star."]

COLORS = ("red", "green", "blue", "yellow")

# These tensors are tiny: a second thread only waits, and makes sums depend on the machine. Here and in child processes.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Remote shards and the reference stores of shipped ones are kept here, not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_collection_modifyitems(items):
    """Skip the GPU tests where there is no GPU."""
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_runtest_makereport(item, call):
    """A run under test saves and ends at a signal; who sent it meant the test run, which ends, too.

    Else it would count as one failed test among others that go on, until one needs a process that the signal has ended.
    """
    if call.excinfo is not None and isinstance(stopped := call.excinfo.value, Stopped):
        item.session.shouldstop = f"{item.nodeid} {stopped.reason}"


def save_tiny_llava(path: Path) -> Path:
    """Write a random LLaVA, 2 + 2 layers of width 32 with 16 image tokens, and its byte-level processor."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>", "<image>"]
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    size = {"height": 64, "width": 64}
    processor = LlavaProcessor(
        image_processor=LlavaImageProcessorPil(size={"shortest_edge": 64}, crop_size=size, do_pad=True),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATES["llava_hf"],
    )
    width = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**width, image_size=64, patch_size=16),
        text_config=LlamaConfig(
            **width, vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.2
        ),
        image_token_id=processor.image_token_id,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():  # a fresh tower's features are tiny; these make pictures matter
        model.model.multi_modal_projector.linear_2.weight.mul_(20)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of the random LLaVA."""
    return str(save_tiny_llava(tmp_path_factory.mktemp("tiny-llava")))


@pytest.fixture(scope="session")
def png():
    """Makes the PNG of a one-coloured picture."""

    def make(color: str, size: tuple[int, int] = (64, 64)) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", size, color).save(buffer, "PNG")
        return buffer.getvalue()

    return make


def judged(text, score):
    ratings = {"helpfulness": score, "correctness": score, "coherence": 4, "complexity": 1, "verbosity": 1}
    return Response(text=text, model="test", ratings=ratings)


@pytest.fixture(scope="session")
def color_shards(tmp_path_factory, png):
    """40 samples: one picture, no picture, two pictures, several turns; two rated answers of different lengths."""
    folder = tmp_path_factory.mktemp("shards") / "colors"
    with ShardWriter(folder, max_samples=16) as writer:
        for i in range(40):
            right, wrong = COLORS[i % 4], COLORS[(i + 1) % 4]
            kind = i % 5
            pictures = () if kind == 3 else (png(right), png(wrong)) if kind == 4 else (png(right),)
            slots = tuple(ImageSlot() for _ in pictures)
            messages = (Message("user", (*slots, Text(f"Which colour, {i}?"))),)
            if kind == 2:
                messages += (Message("assistant", (Text("Let me see."),)), Message("user", (Text("So?"),)))
            answers = (judged(f"It is {right}.", 4), judged(f"It is {wrong}, a very bright {wrong}.", 1))
            writer.write(Sample(key=f"{i:04d}", messages=messages, images=pictures, responses=answers, source="test"))
    return folder


@pytest.fixture(scope="session")
def tiny_args(tiny_llava, color_shards):
    """`tiny_args(*options, config="dpo.yaml")`: arguments of `mmalign fit` on the colour shards; options win over all.

    Five steps an epoch, of eight rows in two micro-batches; no validation, nothing shown.
    """

    def arguments(*options: str, config: str = "dpo.yaml") -> list[str]:
        return [
            f"--config={config}",
            "--config=scale/tiny.yaml",
            f"--model.backbone.checkpoint={tiny_llava}",
            "--model.backbone.lora_rank=4",
            f"--data.shards={color_shards}",
            "--data.val_shards=",
            "--data.batch_size=8",
            "--data.micro_batch_size=4",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            *options,
        ]

    return arguments


@pytest.fixture(scope="session")
def fit_into(tiny_args, color_shards):
    """Run `mmalign fit` of two epochs, validated on the same shards; options win over all."""

    def run(run_dir: Path, *options: str, config: str = "dpo.yaml"):
        standing = [f"--data.val_shards={color_shards}", f"--trainer.default_root_dir={run_dir}"]
        return cli.main(["fit", *tiny_args(*standing, "--trainer.max_epochs=2", *options, config=config)])

    return run


@pytest.fixture
def fit(fit_into, tmp_path):
    """The same, into this test's own directory."""

    def run(*options: str, run_dir: Path = tmp_path / "run", config: str = "dpo.yaml"):
        return fit_into(run_dir, *options, config=config)

    return run


@pytest.fixture(scope="session")
def ranks(own_cache):
    """Starts the command line on several ranks, see ranks.py."""
    started = Ranks()
    yield started
    started.close()


@pytest.fixture(scope="session")
def logged():
    """`logged(run_dir, name)`: the values of one scalar, step by step, over all starts of a run."""

    def read(run_dir: Path, name: str = "train/loss") -> dict[int, float]:
        values = {}
        for path in sorted(run_dir.glob("logs/version_*/metrics.csv")):
            with path.open() as file:
                values |= {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row.get(name)}
        return values

    return read


@pytest.fixture(scope="session")
def adapter_of():
    """`adapter_of(cli)`: copies of the trained weights by name."""

    def copy(trained):
        return {name: p.detach().clone() for name, p in trained.model.named_parameters() if p.requires_grad}

    return copy
