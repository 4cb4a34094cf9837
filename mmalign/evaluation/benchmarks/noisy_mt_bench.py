"""Noisy-image MT-Bench: the text questions of MT-Bench, each turn behind a picture that has nothing to do with it.

Paper   Li et al., 2024, https://arxiv.org/abs/2402.10884
Rule    github.com/findalexli/mllm-dpo, llava/eval/gen_model_answer.py; judged and averaged as MT-Bench
Tests   tests/evaluation/benchmarks/test_noisy_mt_bench.py

    noise         before the text of each turn
    none          nothing: MT-Bench
    blank         a white picture, 336 x 336
    random        a picture drawn anew for each turn from the sorted names in `images`, by `noise_seed`
    marker_only   no picture; the text itself begins with `<image>` and a newline

`marker_only` is what the published script did to LLaVA. It puts `<image>` before each turn and loads a random picture
of COCO train2017, but encodes the prompt with the plain tokenizer, which knows no image token; LLaVA then finds no
place for the picture's features and drops them all. The published answers agree: LLaVA's say "I am not able to see any
images", two of the DPO model's write the marker themselves. So the published 5.92 of LLaVA and 6.63 of the DPO model
compare two models that read a stray marker; neither saw a picture. BLIP-2 and InstructBLIP did see theirs. Blank
pictures are in the paper's text, but not in its code.

`random` is what the paper describes. Turn 2 is asked with both pictures, 576 tokens each in LLaVA-1.5, beside up to
1,024 tokens of the first answer and as many of its own: about 3,400. The judge sees text alone, without a marker.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import ClassVar, Literal

from PIL import Image

from mmalign.evaluation.benchmarks.mt_bench import MTBench
from mmalign.evaluation.steps.benchmark import Ask, Picture, Turn
from mmalign.evaluation.steps.faults import Handling
from mmalign.evaluation.steps.records import Answer, JudgeReply
from mmalign.evaluation.steps.scored import Scored
from mmalign.evaluation.steps.sources import folder_picture

MARKER = "<image>\n"
BLANK_SIZE = 336
"""Width and height, as LLaVA-1.5 sees any picture."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


@dataclass(frozen=True, kw_only=True)
class NoisyMTBench(MTBench):
    """MT-Bench behind pictures that have nothing to do with it."""

    name: ClassVar[str] = "noisy_mt_bench"
    title: ClassVar[str] = "Noisy-image MT-Bench"

    noise: Literal["none", "blank", "random", "marker_only"] = "random"
    """What stands before each turn: a picture drawn at random, a white one, or, as the published script had it for
    LLaVA, the text `<image>` and no picture at all."""
    noise_seed: int = 0
    """Of `random`: the same seed and folder give the same pictures on any machine."""
    images: str | None = None
    """Folder to draw from, such as COCO's `train2017`; only for `random`, and only to ask the model."""

    @property
    def protocol(self) -> str:
        """That of MT-Bench, with the noise and its seed."""
        seed = f"-seed-{self.noise_seed}" if self.noise == "random" else ""
        return f"{super().protocol}+noise-{self.noise}{seed}"

    def asks(self) -> list[Ask]:
        """See `Benchmark`.

        Raises:
            FileNotFoundError: No pictures to draw from.
        """
        return [
            ask._replace(
                turns=tuple(self._noisy(turn, f"{ask.id}/{number}") for number, turn in enumerate(ask.turns, 1))
            )
            for ask in super().asks()
        ]

    def score(
        self, answers: Sequence[Answer] | None, replies: Sequence[Sequence[JudgeReply]], handling: Handling
    ) -> Scored:
        """As MT-Bench; see `Benchmark`."""
        scored = super().score(answers, replies, handling)
        shown = {answer.id: self._files(answer) for answer in answers or ()}
        return replace(scored, items=tuple(item._replace(pictures=shown.get(item.id, ())) for item in scored.items))

    def _noisy(self, turn: Turn, place: str) -> Turn:
        match self.noise:
            case "none":
                return turn
            case "marker_only":
                return Turn(MARKER + turn.text)
            case "blank":
                return Turn(turn.text, (Picture("blank", data=_white()),))
            case "random":
                return Turn(turn.text, (self._drawn(place),))

    def _drawn(self, place: str) -> Picture:
        """The picture of one turn, whatever other turns are asked."""
        digest = hashlib.sha256(f"{self.noise_seed}/{place}".encode()).digest()
        names = self._names
        return folder_picture(self.images or "", names[int.from_bytes(digest, "big") % len(names)])

    @cached_property
    def _names(self) -> list[str]:
        if self.images is None:
            raise FileNotFoundError(
                f"{self.title} draws pictures from a folder. Give one with `--images`, such as COCO's train2017, or "
                "choose `--noise blank`."
            )
        folder = Path(self.images)
        names = sorted(each.name for each in folder.glob("*") if each.suffix.lower() in SUFFIXES)
        if not names:
            raise FileNotFoundError(f"No {', '.join(sorted(SUFFIXES))} in {folder}, the `--images` to draw from.")
        return names

    def _files(self, answer: Answer) -> tuple[str, ...]:
        """Pictures that it was shown, as far as they are files."""
        paths = [Path(self.images or "", name) for names in answer.pictures for name in names]
        return tuple(str(path) for path in paths if path.is_file())


@cache
def _white() -> bytes:
    """The blank picture, as PNG."""
    buffer = io.BytesIO()
    Image.new("RGB", (BLANK_SIZE, BLANK_SIZE), "white").save(buffer, "PNG")
    return buffer.getvalue()
