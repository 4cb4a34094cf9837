"""An OpenAI-compatible judge that serves stored judgments by prompt, beside faults and a ledger, see `MockApi`.

    with ReplayApi({prompt_hash(call.messages()): "0.5", ...}, model="gpt-4-0613") as api:
        ...  # ask api.url
    api.count(), api.unknown

Used by  tests/evaluation/steps/test_judging.py, tests/tools/test_evaluate_judge.py,
         tests/faults/test_evaluating.py
"""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence

from aiohttp import web
from mock_api import MockApi, completion

from mmalign.evaluation.steps.benchmark import JudgeCall
from mmalign.evaluation.steps.records import JudgeReply, prompt_hash


class ReplayApi(MockApi):
    """Says what was said before."""

    def __init__(self, texts: Mapping[str, str], *, models: Sequence[str] = ("gpt-4-0613",), **options) -> None:
        """Start nothing yet.

        Args:
            texts: By prompt hash.
            models: As the server names itself, reply after reply, in turn.
            options: See `MockApi`.
        """
        super().__init__(answer=lambda body: texts[prompt_hash(body["messages"])], **options)
        self.unknown = 0
        """Requests that nothing is stored for."""
        self._texts, self._models = texts, itertools.cycle(models)

    async def _reply(self, request: web.Request) -> web.Response:
        body = await request.json()
        if prompt_hash(body["messages"]) not in self._texts:
            self.unknown += 1
            return web.json_response({"error": {"message": "nothing is stored for this prompt"}}, status=400)
        response = await super()._reply(request)
        if response.status != 200 or "choices" not in (said := json.loads(response.text)):
            return response
        return web.json_response(completion(body, "") | said | {"model": next(self._models)})


def texts_of(calls: Iterable[JudgeCall], stored: Iterable[JudgeReply]) -> dict[str, str]:
    """Stored texts by the prompt that they are a reply to."""
    by_id = {reply.id: reply.text for reply in stored}
    return {prompt_hash(call.messages()): by_id[call.id] for call in calls}
