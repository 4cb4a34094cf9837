"""The loader alone: samples a second of one core, memory over 200,000 samples, start-up. No model, no training.

    python benchmarks/loader.py                        both parts, into benchmarks/results/loader.json (7 minutes)
    python benchmarks/loader.py --pictures 64 --samples 0    the first part alone

Part 1, speed. Pairs behind a picture, as the paper's: COCO's sizes (640 x 480, 640 x 427, and both upright), JPEG of
quality 90 without colour subsampling, about 170 kB and as slow to decode as COCO's, brought to 336 px as LLaVA-1.5 does
(padded to a square, bicubic), a prompt of about 75 tokens and two answers of about 200, through a tokenizer of Llama's
kind. One process, one thread, `num_workers=0`; everything a training run does up to the collated batch. Seconds are
the processor's, so that a busy machine counts less.

Part 2, memory. 200,000 small samples of four rated answers: the time to open them (manifest, view, order), then the
resident memory of the process every 20,000 samples.
"""

import argparse
import ctypes
import io
import json
import multiprocessing
import os
import platform
import pydoc_data.topics
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # one core, in every library that is imported below
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, trainers
from transformers import LlamaTokenizer, LlavaProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mmalign.data.datamodule import ShardData
from mmalign.data.loader import EncodedRows, RowLoader, Share
from mmalign.data.sample import Response, Sample
from mmalign.data.shards import ShardWriter
from mmalign.data.views import Pairs
from mmalign.messages import ImageSlot, Message, Text

RESULT = Path(__file__).parent / "results" / "loader.json"
SIZES = ((640, 480), (640, 427), (480, 640), (427, 640))
QUALITY = 90
SMOOTHNESS = 1.2
"""Makes files as large as COCO's; at 1 they would be larger."""
PIXELS, PATCH = 336, 14
WORDS = 32_000
PROMPT_CHARACTERS, ANSWER_CHARACTERS = 200, 800
"""About 75 tokens with the system sentence, and 200."""
MICRO_BATCH = 8
LAPS = 5
"""Epochs that are timed; the median counts."""
REPORT_EVERY = 20_000
PACKAGES = ("torch", "transformers", "tokenizers", "pillow", "numpy", "pyarrow", "webdataset")


def main() -> None:
    """Run what is asked for, print it, and write it where both parts ran."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=512, help="samples of part 1")
    parser.add_argument("--samples", type=int, default=200_000, help="samples of part 2, 0 leaves it out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = save_processor(Path(folder) / "llava", pixels=PIXELS)
        found = {"machine": machine(), "speed": speed(Path(folder) / "photos", checkpoint, options.pictures)}
        if options.samples:
            small = save_processor(Path(folder) / "small", pixels=PATCH * 2)
            found["memory"] = memory(Path(folder) / "small-samples", small, options.samples)
            RESULT.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def speed(folder: Path, checkpoint: str, samples: int) -> dict[str, object]:
    """Samples a second from shards to batches.

    Args:
        folder: Where the shards are written.
        checkpoint: Folder of the processor.
        samples: How many, all with pictures of their own.
    """
    chance = np.random.default_rng(0)
    text = prose()
    sizes = []
    with ShardWriter(folder) as writer:
        for number in range(samples):
            picture = photo(SIZES[number % len(SIZES)], chance)
            sizes.append(len(picture))
            prompt = Message("user", (ImageSlot(), Text(stretch(text, PROMPT_CHARACTERS, chance))))
            answers = tuple(judged(stretch(text, ANSWER_CHARACTERS, chance), 4 * good) for good in (1, 0))
            writer.write(Sample(key=f"{number:06d}", messages=(prompt,), images=(picture,), responses=answers))
    loader = open_loader(folder, checkpoint)
    laps, wall, positions, padded = list[float](), list[float](), 0, 0
    for _ in range(LAPS):
        began, clock = time.process_time(), time.perf_counter()
        for batch in loader:
            positions += int((batch.segment_ids >= 0).sum())
            padded += batch.segment_ids.numel()
        laps.append(samples / (time.process_time() - began))
        wall.append(samples / (time.perf_counter() - clock))
    return {
        "pictures": [f"{width} x {height}" for width, height in SIZES],
        "kilobytes_a_picture": round(float(np.mean(sizes)) / 1000, 1),
        "tokens_a_sample": round(positions / LAPS / samples, 1),
        "padded_tokens_a_sample": round(padded / LAPS / samples, 1),
        "samples_per_s_and_core": round(float(np.median(laps)), 1),
        "laps": [round(lap, 1) for lap in laps],
        "laps_by_the_clock": [round(lap, 1) for lap in wall],
    }


def memory(folder: Path, checkpoint: str, samples: int) -> dict[str, object]:
    """Start-up time, and resident memory while all samples are read.

    Args:
        folder: Where the shards are written.
        checkpoint: Folder of the processor.
        samples: How many.
    """
    began = time.perf_counter()
    writing = multiprocessing.get_context("fork").Process(target=write_small, args=(folder, samples))
    writing.start()  # in a process of its own: what writing took must not stand in the memory of reading
    writing.join()
    written = time.perf_counter()
    loader = open_loader(folder, checkpoint)
    batches = iter(loader)
    next(batches)
    started = time.perf_counter()
    resident = [settled_megabytes()]
    for number, _ in enumerate(batches, start=2):
        if number * MICRO_BATCH % REPORT_EVERY == 0:
            resident.append(settled_megabytes())
            print(f"{number * MICRO_BATCH:,} samples: {resident[-1]} MB")
    return {
        "samples": samples,
        "write_and_index_s": round(written - began, 1),
        "open_to_first_batch_s": round(started - written, 1),
        "read_s": round(time.perf_counter() - started, 1),
        "report_every": REPORT_EVERY,
        "resident_mb": resident,
    }


def write_small(folder: Path, samples: int) -> None:
    """Samples of 28 x 28 pixels, a short prompt and four short rated answers."""
    chance = np.random.default_rng(0)
    text = prose()
    pictures = [photo((28, 28), chance) for _ in range(64)]
    with ShardWriter(folder) as writer:
        for number in range(samples):
            prompt = Message("user", (ImageSlot(), Text(stretch(text, 40, chance))))
            answers = tuple(judged(stretch(text, 60, chance), score) for score in (4, 2, 1, 0))
            picture = pictures[number % len(pictures)]
            writer.write(Sample(key=f"{number:06d}", messages=(prompt,), images=(picture,), responses=answers))


def open_loader(folder: Path, checkpoint: str) -> RowLoader:
    """The loader of a training run, in this process."""
    data = ShardData(
        Pairs(),
        shards=str(folder),
        checkpoint=checkpoint,
        batch_size=MICRO_BATCH * 8,
        micro_batch_size=MICRO_BATCH,
        num_workers=0,
    )
    data.setup("fit")
    share = Share(batch_size=data.batch_size, micro_batch_size=MICRO_BATCH)
    return RowLoader(EncodedRows(data.train_rows, data.encoder), data.collator, share)


def photo(size: tuple[int, int], chance: np.random.Generator) -> bytes:
    """A JPEG with as much in it as a photo: noise whose amplitude falls with the frequency, in colour.

    Args:
        size: Width and height.
        chance: Source of the noise.
    """
    width, height = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    waves = np.fft.rfft2(chance.standard_normal((3, height, width))) / frequency**SMOOTHNESS
    pixels = np.fft.irfft2(waves, s=(height, width))
    pixels = pixels[:1] + pixels * 0.3  # photos vary more in brightness than in colour
    pixels = 128 + 55 * (pixels - pixels.mean((1, 2), keepdims=True)) / pixels.std()
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(
        buffer, "JPEG", quality=QUALITY, subsampling=0
    )
    return buffer.getvalue()


def prose() -> list[str]:
    """English words with their punctuation: Python's own manual, which lies in every Python."""
    return re.sub(r"[*`=~|+-]{2,}|\s+", " ", " ".join(pydoc_data.topics.topics.values())).split()


def stretch(words: list[str], characters: int, chance: np.random.Generator) -> str:
    """Consecutive words of about so many characters in all."""
    start = int(chance.integers(0, len(words) - characters))
    text = " ".join(words[start : start + characters // 2])
    return text[: characters + text[characters:].find(" ")]


def judged(text: str, score: int) -> Response:
    """An answer with the paper's five ratings."""
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    return Response(text=text, model="llava-1.5-13b", ratings=dict.fromkeys(names, score))


def save_processor(folder: Path, *, pixels: int) -> str:
    """A LLaVA-1.5 processor with a tokenizer of Llama's kind, its words learned from the text that is read.

    Args:
        folder: Where to save it.
        pixels: Side of the prepared pictures.
    """
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=WORDS, special_tokens=special, show_progress=False, max_token_length=16)
    backend.train_from_iterator((f"\u2581{word}" for word in prose()), trainer)
    learned = json.loads(backend.to_str())["model"]
    tokenizer = LlamaTokenizer(
        vocab=learned["vocab"],
        merges=[tuple(merge) for merge in learned["merges"]],
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    side = {"height": pixels, "width": pixels}
    processor = LlavaProcessor(
        image_processor=LlavaImageProcessorPil(size={"shortest_edge": pixels}, crop_size=side, do_pad=True),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    processor.save_pretrained(folder)
    return str(folder)


def settled_megabytes() -> int:
    """Resident memory, once the C library has given back what is free (it may keep tens of MB for later)."""
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


def machine(packages: Sequence[str] = PACKAGES) -> dict[str, object]:
    """What the numbers depend on besides the code.

    Args:
        packages: Whose versions count.
    """
    cpu = next((line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), "unknown")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def _cpu_lines() -> Iterator[str]:
    yield from Path("/proc/cpuinfo").read_text().splitlines()


if __name__ == "__main__":
    main()
