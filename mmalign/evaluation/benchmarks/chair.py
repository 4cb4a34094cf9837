"""CHAIR: how many of the objects in a caption are not in the picture (Rohrbach et al., 2018).

Paper   https://arxiv.org/abs/1809.02156
Rule    `utils/chair.py` of LisaAnne/Hallucination at 6e4d33c; recall as lmms-eval and others add it
Tests   tests/evaluation/benchmarks/test_chair.py

    Chair(ground_truth="coco/annotations", synonyms="synonyms.txt", images="coco/val2014")
    answers     {"image_id": 40468, "text": "A man on a surfboard."} a line; or CHAIR's own {"imgToEval": {...}}

    CHAIR_i     objects named that are not there / objects named, repeats included
    CHAIR_s     captions with one that is not there / captions

The objects of a picture are those that COCO's annotators outlined, and those of its five reference captions. Values
depend on the length of the captions: compare them with the objects an answer. The official script knows no faults of
its own: its file is keyed by picture, and it stops at a picture without ground truth, as is done here.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from mmalign.evaluation.benchmarks.coco import NO_TRUTH, Scene, captions, ground_truth, read_scenes
from mmalign.evaluation.benchmarks.nouns import chair_vocabulary
from mmalign.evaluation.benchmarks.object_metrics import MENTIONS, RECALL, Rate, named, object_items, rates
from mmalign.evaluation.steps.answer_metrics import words_metric
from mmalign.evaluation.steps.answered import answered, model_of
from mmalign.evaluation.steps.benchmark import Ask, Turn
from mmalign.evaluation.steps.faults import Faults, Handling
from mmalign.evaluation.steps.places import release
from mmalign.evaluation.steps.records import Answer, JudgeReply
from mmalign.evaluation.steps.scored import Scored

DIGITS = 1
PRINTED = ("chair_i", "chair_s")
RATES = (
    Rate(
        name="chair_i",
        label="CHAIR_i",
        description="Share of the named objects that are not in the picture.",
        counted=lambda answer: len(answer.false),
        among=lambda answer: len(answer.words),
        headline=True,
    ),
    Rate(
        name="chair_s",
        label="CHAIR_s",
        description="Share of the captions that name an object that is not in the picture.",
        counted=lambda answer: bool(answer.false),
        among=lambda answer: 1,
    ),
    RECALL,
    MENTIONS,
)


def _release(prompt: str, ground_truth: str, synonyms: str) -> str:
    """Of all that a score depends on beside the captions."""
    truth = Path(ground_truth)
    parts = sorted(truth.rglob("*_*2014.json")) if truth.is_dir() else [truth]
    return release([prompt, *(_digest(path) if path.is_file() else str(path) for path in (*parts, Path(synonyms)))])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, kw_only=True)
class Chair:
    """Captions of COCO's pictures."""

    name: ClassVar[str] = "chair"
    title: ClassVar[str] = "CHAIR"

    ground_truth: str = ""
    """COCO's folder of annotations (instances and captions of train2014 and val2014), or the objects of each picture:
    `{"40468": ["person", "surfboard"]}`."""
    synonyms: str = ""
    """CHAIR's `synonyms.txt`: an object a line, and its other names."""
    questions: str = ""
    """Rows with `image_id`, or `image` with COCO's file name, and perhaps their own question. Empty: all COCO pictures
    of `images` are described; and whatever answers there are is scored."""
    images: str | None = None
    """Folder of COCO's val2014 pictures."""
    prompt: str = "Please describe this image in detail."
    """Asked where `questions` has none. Published numbers differ in it as much as in the model."""
    max_new_tokens: int = 512
    """Longer captions name more that is not there."""

    @property
    def protocol(self) -> str:
        """The rule."""
        return "chair/6e4d33c"

    def asks(self) -> list[Ask]:
        """A description of each picture."""
        return [
            Ask(each.id, (Turn(each.prompt, (each.picture,)),), max_new_tokens=self.max_new_tokens)
            for each in self._scenes
        ]

    def read_answers(self, rows: Any) -> list[Answer]:
        """Captions in a published layout, see `coco.captions`."""
        return [Answer(number, [text], model) for number, text, model in captions(rows)]

    def score(
        self, answers: Sequence[Answer] | None, replies: Sequence[Sequence[JudgeReply]], handling: Handling
    ) -> Scored:
        """Score by CHAIR's rule."""
        if answers is None:
            raise ValueError("CHAIR scores captions. Give them with `--answers`.")
        vocabulary = chair_vocabulary(self.synonyms)
        faults = Faults(self.title)
        asked = [each.id for each in self._scenes] if self.questions else [answer.id for answer in answers]
        kept = answered(faults, dict.fromkeys(asked), answers)
        truth = ground_truth(self.ground_truth, vocabulary, kept.keys())
        for name in kept.keys() - truth.keys():
            faults.add(NO_TRUTH, name)
        kept = {name: answer for name, answer in kept.items() if name in truth}
        failures = faults.settle(handling)
        found = [
            named(name, vocabulary.words(answer.text), vocabulary.objects, truth[name]) for name, answer in kept.items()
        ]
        return Scored(
            benchmark=self.name,
            title=self.title,
            protocol=f"{self.protocol}/{_release(self.prompt, self.ground_truth, self.synonyms)}",
            model=model_of(answers),
            compat=handling.compat,
            num_questions=len(set(asked)),
            num_scored=len(found),
            failures=failures,
            metrics=(*rates([found], RATES, digits=DIGITS, printed=() if failures else PRINTED), words_metric(kept)),
            items=object_items(
                dict.fromkeys(asked), answers, found, self._scenes if self.questions or self.images else []
            ),
            lineage={"ground_truth": self.ground_truth, "synonyms": self.synonyms, "questions": self.questions},
        )

    @cached_property
    def _scenes(self) -> list[Scene]:
        return read_scenes(self.questions, images=self.images, prompt=self.prompt)
