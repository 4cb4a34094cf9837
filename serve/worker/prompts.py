"""From a job to what the model reads: tokens and pixels. Works beside the engine's thread.

Decoding a photo of 25 megapixels takes most of a second, in which running answers would stand still.
"""

import logging
import os
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from mmalign.processor import open_image, pixel_values
from mmalign.sampling.policy import Steering
from mmalign.steering import check_attributes
from mmalign.template import Template

from ..messages import Conversation, Failed, Job, Raw
from .tokens import Tokens

logger = logging.getLogger(__name__)

BROKEN = Failed(500, "The server failed on this request. Its log has the reason.")


class Prompt(NamedTuple):
    """What the model reads."""

    ids: list[int]
    pixels: Float[Tensor, "images 3 height width"] | None


class PromptReader:
    """Prepares prompts in a thread of its own, one after the other."""

    def __init__(self, template: Template, *, context: int, max_rows: int) -> None:
        """Prepare for a model.

        Args:
            template: For this thread only: a fast tokenizer refuses to be used by two at a time.
            context: Tokens that prompt and answer may have together.
            max_rows: Answers that a job may have.
        """
        self._template, self._tokens = template, Tokens(template)
        self._context, self._max_rows = context, max_rows
        self._orders: SimpleQueue[tuple[Future[Prompt | Failed], Job, Steering | None]] = SimpleQueue()
        Thread(target=self._run, daemon=True).start()  # a pool's threads would keep a broken process from ending

    def submit(self, job: Job, steering: Steering | None) -> "Future[Prompt | Failed]":
        """Have the prompt of a job prepared.

        Args:
            job: Of any kind; what is wrong with it is found then.
            steering: What its model is asked for, if it is one of SteerLM.
        """
        prompt: Future[Prompt | Failed] = Future()
        self._orders.put((prompt, job, steering))
        return prompt

    def _run(self) -> None:
        while True:
            prompt, job, steering = self._orders.get()
            if not prompt.set_running_or_notify_cancel():
                continue
            try:
                prompt.set_result(self._read(job, steering))
            except BaseException:  # a panic of the tokenizer's is no `Exception`, and no other thread would see it
                logger.critical("A prompt broke the thread that prepares them. The worker ends.", exc_info=True)
                os._exit(1)

    def _read(self, job: Job, steering: Steering | None) -> Prompt | Failed:
        try:
            if len(job.seeds) > self._max_rows:
                raise _RefusedError(Failed(400, f"At most {self._max_rows} answers are written at once.", param="n"))
            prompt = self._raw(job.prompt) if isinstance(job.prompt, Raw) else self._spoken(job.prompt, steering)
            self._check_room(job, len(prompt.ids))
        except _RefusedError as refused:
            return refused.failed
        except Exception:  # of this job only
            logger.exception("A prompt could not be prepared")
            return BROKEN
        return prompt

    def _spoken(self, prompt: Conversation, steering: Steering | None) -> Prompt:
        messages = prompt.messages
        if steering is not None:
            asked = Steering(steering.form, {**steering.attributes, **(prompt.attributes or {})})
            try:
                check_attributes(asked.attributes)
            except ValueError as error:
                raise _RefusedError(Failed(400, str(error), param="attributes")) from error
            try:
                messages = asked.ask(messages)
            except ValueError as error:  # in our own words, too
                raise _RefusedError(Failed(400, f"The conversation cannot be steered: {error}", "messages")) from error
        elif prompt.attributes is not None:
            raise _RefusedError(
                Failed(400, "This model was not trained to be steered. Leave the attributes out.", param="attributes")
            )
        ids = self._template.encode_prompt(messages)
        if not prompt.pictures:
            return Prompt(ids, None)
        images = [open_image(data, where=f"picture {i}") for i, data in enumerate(prompt.pictures)]
        return Prompt(ids, pixel_values(self._template.processor, images))

    def _raw(self, prompt: Raw) -> Prompt:
        if prompt.text is not None:
            return Prompt([self._template.bos_token_id, *self._tokens.encode(prompt.text)], None)
        ids = list(prompt.input_ids)
        if not ids:
            raise _RefusedError(Failed(400, "The prompt is empty. Give at least one token.", param="prompt"))
        if strange := [i for i in ids if not 0 <= i < len(self._tokens)]:
            raise _RefusedError(
                Failed(400, f"There is no token {strange[0]}: ids go from 0 to {len(self._tokens) - 1}.", "prompt")
            )
        if self._template.image_token_id in ids:
            raise _RefusedError(
                Failed(
                    400,
                    f"Token {self._template.image_token_id} stands for a picture, and a prompt of tokens has none. "
                    "Send pictures to /v1/chat/completions.",
                    param="prompt",
                )
            )
        return Prompt(ids, None)

    def _check_room(self, job: Job, length: int) -> None:
        asked = 1 if job.max_new_tokens is None else job.max_new_tokens
        if length + asked <= self._context:
            return
        spoken = isinstance(job.prompt, Conversation)
        whose = "the messages with their pictures take" if spoken else "the prompt takes"
        raise _RefusedError(
            Failed(
                400,
                f"The model's context holds {self._context} tokens; {whose} {length} and the answer may take {asked}. "
                "Shorten one of them.",
                param="messages" if spoken else "prompt",
                code="context_length_exceeded",
            )
        )


class _RefusedError(Exception):
    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed
