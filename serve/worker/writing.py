"""Answers being written: prompts are read into rows, rows get a token each, and one that fails harms no other."""

import logging
import time
from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from ..messages import Begun, Ended, Event, Failed, Job, Piece
from ..settings import EngineSettings
from .adapted import AdaptedLlava
from .answering import Answering
from .batch import Row, RunningBatch
from .choosing import choose
from .prompts import BROKEN, Prompt
from .scoring import Score, all_finite, prompt_scores, prompt_text, scores, told_prompt
from .tokens import Tokens

logger = logging.getLogger(__name__)

NO_MEMORY = Failed(503, "The server had no memory left for this request. Try again, or send a shorter one.")


class Writing:
    """All rows of a model."""

    def __init__(self, model: AdaptedLlava, tokens: Tokens, settings: EngineSettings, *, context: int) -> None:
        """Begin with no rows.

        Args:
            model: Base and adapters.
            tokens: Of the tokenizer, which no other thread uses.
            settings: Limits.
            context: Tokens that prompt and answer may have together.
        """
        self.model, self.tokens, self.settings, self.context = model, tokens, settings, context
        self.events: list[tuple[str, Event]] = []
        """What has happened; the caller takes it away."""
        self.batch = RunningBatch(model.llava)
        self._answers: list[Answering] = []

    def __len__(self) -> int:
        """How many there are."""
        return len(self._answers)

    @property
    def models(self) -> set[str]:
        """What the rows are answered by."""
        return {row.adapter for row in self.batch.rows}

    def begin(self, uid: str, job: Job, prompt: Prompt) -> None:
        """Read a prompt, and write the first token of its answers. There is room for them."""
        try:
            with self.model.rows([job.model]):
                cache, states = self._read(prompt)
                logits = self.model.llava.lm_head(states[-1:]).float()
                if not all_finite(logits):
                    raise FloatingPointError("The model's logits behind a prompt are not finite.")
                begun = self._begun(job, prompt, states)
            rows = [] if job.max_new_tokens == 0 else [Row(job.model, len(prompt.ids)) for _ in job.seeds]
            if rows:
                self.batch.join(cache, rows)
        except Exception as error:
            self.events.append((uid, _failure(error)))
            return
        self.events.append((uid, begun))
        if not rows:
            self.events += [(uid, Piece(choice, "", (), "length")) for choice in range(len(job.seeds))]
            self.events.append((uid, Ended()))
            return
        limit = job.max_new_tokens or min(self.context - len(prompt.ids), self.settings.max_new_tokens)
        deadline = time.monotonic() + self.settings.max_seconds
        start = len(self._answers)
        self._answers += [
            Answering(uid, job, choice, limit=limit, deadline=deadline, tokens=self.tokens)
            for choice in range(len(job.seeds))
        ]
        self._push(range(start, len(self._answers)), logits.expand(len(rows), -1))

    def write(self) -> None:
        """One token for every row."""
        logits = self._step()
        if not all_finite(logits):
            healthy = logits.isfinite().all(-1).tolist()
            broken = {a.uid for a, is_healthy in zip(self._answers, healthy, strict=True) if not is_healthy}
            logger.error("The logits of %d requests are not finite", len(broken))
            logits = logits[[place for place, answer in enumerate(self._answers) if answer.uid not in broken]]
            self.forget(broken)
            self.events += [(uid, BROKEN) for uid in broken]
        self._push(range(len(self._answers)), logits)

    def forget(self, uids: Collection[str]) -> None:
        """Take the rows of these jobs out; nothing is said of them."""
        self._drop([place for place, answer in enumerate(self._answers) if answer.uid in uids])

    def _read(self, prompt: Prompt) -> tuple[DynamicCache, Float[Tensor, "tokens hidden"]]:
        """Keys and values of a prompt, and the states behind its tokens."""
        llava = self.model.llava
        input_ids = torch.tensor([prompt.ids], device=llava.device)
        # Left out where there is none: `None` would reach the tower (transformers 5.23).
        pixels = {} if prompt.pixels is None else {"pixel_values": prompt.pixels.to(llava.device, llava.dtype)}
        cache = DynamicCache()
        states = llava.model(input_ids=input_ids, past_key_values=cache, use_cache=True, **pixels).last_hidden_state
        return cache, states[0]

    def _begun(self, job: Job, prompt: Prompt, states: Float[Tensor, "tokens hidden"]) -> Begun:
        if not job.echo:
            return Begun(len(prompt.ids))
        text = prompt_text(self.tokens, prompt.ids)
        if job.top_logprobs is None:
            return Begun(len(prompt.ids), (), text)
        found = prompt_scores(self.model.llava.lm_head, states, prompt.ids, job.top_logprobs)
        return Begun(len(prompt.ids), told_prompt(self.tokens, prompt.ids, found), text)

    def _step(self) -> Float[Tensor, "rows vocab"]:
        """Logits of all rows; those that cannot be had are given up."""
        while self._answers:
            try:
                with self.model.rows([row.adapter for row in self.batch.rows]):
                    return self.batch.step()
            except torch.AcceleratorError:
                raise
            except torch.OutOfMemoryError as error:
                logger.error("No memory for a step of %d rows: %s", len(self), error)
                is_full = True
            except Exception:
                logger.exception("A step failed; its rows are tried one by one")
                is_full = False
            # Not within the block: there the error's traceback holds all that the step had computed.
            if not is_full:
                return self._write_singly()
            newest = self._answers[-1].uid
            self.forget({newest})
            self.events.append((newest, NO_MEMORY))
        return torch.zeros(0, 1)

    def _write_singly(self) -> Float[Tensor, "rows vocab"]:
        """Write the token that a whole batch could not; rows that cannot do it alone either are given up."""
        singles, logits, failures = [], [], dict[str, Failed]()
        for place, answer in enumerate(self._answers):
            try:
                single = self.batch.alone(place)
                with self.model.rows([single.rows[0].adapter]):
                    logits.append(single.step())
                singles.append((answer, single))
            except Exception as error:
                failures[answer.uid] = _failure(error)
        kept = [i for i, (answer, _) in enumerate(singles) if answer.uid not in failures]
        self.batch.gather([singles[i][1] for i in kept])
        self._answers = [singles[i][0] for i in kept]
        self.events += failures.items()
        return torch.cat([logits[i] for i in kept]) if kept else torch.zeros(0, 1)

    def _push(self, places: range, logits: Float[Tensor, "rows vocab"]) -> None:
        """Choose and tell a token for each of these rows."""
        answers = [self._answers[place] for place in places]
        if not answers:
            return
        tokens = choose(logits, [answer.chooser for answer in answers])
        found = self._scores(logits, tokens, answers)
        now = time.monotonic()
        gone = []
        for place, answer, token, score in zip(places, answers, tokens, found, strict=True):
            self.batch.rows[place].token = token
            piece = answer.push(token, score, now)
            if piece is not None:
                self.events.append((answer.uid, piece))
                if piece.finish_reason:
                    gone.append(place)
        ended = dict.fromkeys(self._answers[place].uid for place in gone)
        self._drop(gone)
        left = {answer.uid for answer in self._answers}
        self.events += [(uid, Ended()) for uid in ended if uid not in left]

    def _scores(
        self, logits: Float[Tensor, "rows vocab"], tokens: Sequence[int], answers: Sequence[Answering]
    ) -> list[Score | None]:
        """Scores for the answers that want them."""
        wanted = {row: n for row, answer in enumerate(answers) if (n := answer.job.top_logprobs) is not None}
        result: list[Score | None] = [None] * len(answers)
        if wanted:
            found = scores(logits[list(wanted)], [tokens[row] for row in wanted], max(wanted.values()))
            for (row, num_top), score in zip(wanted.items(), found, strict=True):
                result[row] = Score(score.logprob, score.top[:num_top])
        return result

    def _drop(self, places: Sequence[int]) -> None:
        if places:
            self.batch.leave(places)
            left_out = set(places)
            self._answers = [answer for place, answer in enumerate(self._answers) if place not in left_out]


def _failure(error: Exception) -> Failed:
    """What a client is told of an error that concerns its request alone."""
    if isinstance(error, torch.OutOfMemoryError):
        logger.error("No memory: %s", error)
        return NO_MEMORY
    if isinstance(error, torch.AcceleratorError):
        raise error  # nothing works on that device any more: the process has to go
    logger.error("A request failed", exc_info=error)
    return BROKEN
