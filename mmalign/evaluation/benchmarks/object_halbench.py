"""Object HalBench: how often detailed descriptions of 300 COCO pictures name objects that are not there.

Paper   Yu et al., 2023 (RLHF-V), https://arxiv.org/abs/2312.00849
Rule    `eval/eval_gpt_obj_halbench.py` of RLHF-V/RLAIF-V at 83d917b, the same as RLHF-V's at 8daac8a
Tests   tests/evaluation/benchmarks/test_object_halbench.py

    ObjectHalBench(questions="RLAIF-V/eval/data/obj_halbench_300_with_image.jsonl", ground_truth="coco2014/annotations")
    answers      {"image_id": 40468, "text": "The image ..."} a line, as RLAIF-V's scripts write them
    judgments    the script's own review, `hall_obj_halbench_answer_-1.json`; it serves as answers and ground truth, too

A judge lists the objects of an answer; of these, different words for COCO's objects are counted once an answer:

    response hallucination     answers with an object that is not there / answers with any object
    object hallucination       words for what is not there / words for any object

Departure, in the protocol's name: the script takes nouns from the judge's phrases by a parser (spaCy's
`en_core_web_trf`), and counts a compound (`kitchen table`) only where COCO's list has it. Here the last word of each
part of a phrase counts (`red car`, `group of people`), and singulars are found among the known words instead of in
WordNet. The words of a review are taken as they are, so its numbers are the script's own.

The judge's prompt has no licence that allows to ship it: it is read from the user's copy of the script (as text,
nothing is run). The script asks again up to 100 times where the judge's text is no list; here TRIES times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from mmalign.evaluation.benchmarks.coco import NO_TRUTH, Scene, captions, ground_truth, picture_number, read_scenes
from mmalign.evaluation.benchmarks.nouns import halbench_vocabulary
from mmalign.evaluation.benchmarks.object_lists import NOTHING, Found, listed, nouns, read_prompt, stored
from mmalign.evaluation.benchmarks.object_metrics import MENTIONS, RECALL, Rate, named, object_items, rates
from mmalign.evaluation.steps.answer_metrics import words_metric
from mmalign.evaluation.steps.answered import answered, model_of
from mmalign.evaluation.steps.benchmark import Ask, JudgeCall, Turn
from mmalign.evaluation.steps.faults import (
    DOUBLY_JUDGED,
    NO_REPLY,
    OTHER_PROMPT,
    UNJUDGED,
    UNREADABLE,
    Faults,
    Handling,
    one_judge,
)
from mmalign.evaluation.steps.places import beside
from mmalign.evaluation.steps.records import Answer, JudgeReply, prompt_hash
from mmalign.evaluation.steps.scored import Scored

TRIES = 5
TEMPERATURE = 0.2
MAX_TOKENS = 512
SHORT = 3
"""An answer of so few words is not judged, and names nothing."""
DIGITS = 2
PRINTED = ("response_hallucination", "object_hallucination", "recall")
"""By the script, from words that its parser took."""
SYNONYMS_FILE = "synonyms_refine.txt"
SCRIPT = "../eval_gpt_obj_halbench.py"
"""Where RLAIF-V's repository has it, from the questions."""
NO_LIST = (UNJUDGED, NO_REPLY, UNREADABLE)
RATES = (
    Rate(
        name="response_hallucination",
        label="Response hallucination",
        description="Share of the answers with any object that name one that is not in the picture.",
        counted=lambda answer: bool(answer.false),
        among=lambda answer: bool(answer.words),
        headline=True,
    ),
    Rate(
        name="object_hallucination",
        label="Object hallucination",
        description="Share of the named objects, each word once an answer, that are not in the picture.",
        counted=lambda answer: len(answer.false),
        among=lambda answer: len(answer.words),
    ),
    RECALL,
    MENTIONS,
)


@dataclass(frozen=True, kw_only=True)
class ObjectHalBench:
    """Detailed descriptions of 300 COCO pictures, whose objects a judge lists."""

    name: ClassVar[str] = "object_halbench"
    title: ClassVar[str] = "Object HalBench"
    judge: ClassVar[str] = "gpt-3.5-turbo-0613"

    questions: str = ""
    """RLAIF-V's `eval/data/obj_halbench_300_with_image.jsonl`, which holds the pictures. Empty: whatever is answered is
    scored."""
    ground_truth: str = ""
    """COCO's folder of annotations, the objects of each picture (`{"40468": ["person"]}`), or the script's review."""
    synonyms: str = ""
    """`synonyms_refine.txt`. Empty: the one beside the questions."""
    extraction_prompt: str = ""
    """`eval_gpt_obj_halbench.py`, or a text with `{question}` and `{answer}`. Empty: the one above the questions."""
    images: str | None = None
    """Folder of COCO's val2014 pictures, where `questions` has none."""

    @property
    def protocol(self) -> str:
        """The rule, and how it departs from the script."""
        return "object_halbench/83d917b-last-nouns"

    def asks(self) -> list[Ask]:
        """A question for each picture, greedy; the script searches with three beams."""
        return [Ask(each.id, (Turn(each.prompt, (each.picture,)),)) for each in self._scenes]

    def read_answers(self, rows: Any) -> list[Answer]:
        """Answers in a published layout, see `coco.captions`."""
        return [Answer(number, [text], model) for number, text, model in captions(rows)]

    def calls(self, answers: Sequence[Answer]) -> list[JudgeCall]:
        """The prompt as the only message, of the system, as the script has it; none about very short answers."""
        by_id = {answer.id: answer for answer in answers if not answer.failure and not _is_short(answer)}
        calls = []
        for scene in self._scenes:
            if scene.id in by_id:
                prompt = self._prompt.replace("{question}", scene.prompt).replace("{answer}", _text(by_id[scene.id]))
                call = JudgeCall(scene.id, prompt, "", TEMPERATURE, MAX_TOKENS)
                calls.append(call._replace(then=(call,) * (TRIES - 1)))
        return calls

    def is_usable(self, text: str) -> bool:
        """Whether the text, or its last line, is a JSON list."""
        return listed(text) is not None

    def read_replies(self, rows: Any) -> list[JudgeReply]:
        """What a review of the script says about each answer, or rows with `image_id` and `extract_objs`."""
        found = rows["sentences"] if isinstance(rows, dict) else rows
        return [JudgeReply(picture_number(row), stored(row), str(row.get("judge") or "")) for row in found]

    def score(
        self, answers: Sequence[Answer] | None, replies: Sequence[Sequence[JudgeReply]], handling: Handling
    ) -> Scored:
        """Score by the script's rule. It stops where a judge's text cannot be read; so does `official`."""
        if answers is None or not replies:
            raise ValueError(
                "Object HalBench needs answers and what a judge found in them: `--answers`, `--judgments`."
            )
        vocabulary = halbench_vocabulary(self.synonyms or beside(self.questions, SYNONYMS_FILE))
        faults = Faults(self.title)
        asked = dict.fromkeys([each.id for each in self._scenes] if self.questions else [each.id for each in answers])
        kept = answered(faults, asked, answers)
        truth = ground_truth(self.ground_truth, vocabulary, kept.keys())
        for name in kept.keys() - truth.keys():
            faults.add(NO_TRUTH, name)
        kept = {name: answer._replace(turns=[_text(answer)]) for name, answer in kept.items() if name in truth}
        runs = [
            self._found(faults, kept, [reply for reply in run if reply.id in kept or reply.id not in asked])
            for run in replies
        ]
        failures = faults.settle(handling)
        if handling.compat == "official" and not failures.keys().isdisjoint(NO_LIST):
            raise ValueError(f"{self.title}: the official script stops at answers without a list.\n{faults.text()}")
        found = [
            [named(name, nouns(each, vocabulary), vocabulary.objects, truth[name]) for name, each in run.items()]
            for run in runs
        ]
        is_printed = not failures and all(each.are_words or each == NOTHING for run in runs for each in run.values())
        printed = PRINTED if is_printed else ()
        return Scored(
            benchmark=self.name,
            title=self.title,
            protocol=self.protocol,
            model=model_of(answers),
            judge=one_judge(self.title, (reply.judge for run in replies for reply in run if not reply.failure)),
            compat=handling.compat,
            num_questions=len(asked),
            num_scored=len({answer.id for run in found for answer in run}),
            failures=failures,
            metrics=(*rates(found, RATES, digits=DIGITS, printed=printed), words_metric(kept)),
            items=object_items(asked, answers, found[0], self._scenes if self.questions else []),
            lineage={"questions": self.questions, "ground_truth": self.ground_truth, "synonyms": self.synonyms},
        )

    @cached_property
    def _scenes(self) -> list[Scene]:
        return read_scenes(self.questions, images=self.images, prompt="")

    @cached_property
    def _prompt(self) -> str:
        return read_prompt(self.extraction_prompt or beside(self.questions, SCRIPT))

    def _found(self, faults: Faults, kept: Mapping[str, Answer], replies: Sequence[JudgeReply]) -> dict[str, Found]:
        """What one run of the judge found in each answer."""
        found = {name: NOTHING for name, answer in kept.items() if _is_short(answer)}
        judged = [reply for reply in replies if reply.id not in found]
        said = faults.join([name for name in kept if name not in found], judged, missing=UNJUDGED, double=DOUBLY_JUDGED)
        hashed = any(reply.prompt_hash for reply in said.values())
        asked = {call.id: prompt_hash(call.messages()) for call in self.calls(list(kept.values()))} if hashed else {}
        for name, reply in said.items():
            objects = listed(reply.text)
            if reply.failure:
                faults.add(NO_REPLY, name)
            elif reply.prompt_hash and reply.prompt_hash != asked.get(name):
                faults.add(OTHER_PROMPT, name)
            elif objects is None:
                faults.add(UNREADABLE, name)
            else:
                found[name] = objects
        return found


def _text(answer: Answer) -> str:
    """As the script cleans it."""
    return answer.text.replace("Assistant:", "").strip()


def _is_short(answer: Answer) -> bool:
    return len(_text(answer).split()) <= SHORT
