"""Many prompts for one server: what one of them cannot have does not stop the others.

    asking = Asking(client)
    said = await asking.ask("k3", "k3/0", request)    -> Said("A red ...", "stop", 12), or Said(failure="HTTP 400 ...")
    asking.check_all_came()                           raises where a prompt got no reply at any try

Tests   tests/sampling/test_server.py
"""

from collections import Counter
from typing import NamedTuple

from mmalign.api.client import Client
from mmalign.api.faults import RequestError, UnansweredError
from mmalign.api.replies import Reply
from mmalign.api.request import Request

NOT_THIS_PROMPT = (400, 413, 422)
"""How a server refuses one prompt: longer than its context, too many pictures."""
REFUSED_AT_FIRST = 8
"""So many refused prompts before any was taken: it is not the prompts."""


class Said(NamedTuple):
    """What a model said to one prompt."""

    text: str = ""
    finish_reason: str = ""
    """`stop`, or `length` where it was cut at the limit."""
    tokens: int = 0
    """Of the answer."""
    failure: str = ""
    """Why there is no answer."""


class Asking:
    """Asks a client, and remembers what did not come."""

    def __init__(self, client: Client) -> None:
        """Begin.

        Args:
            client: Made with `one_by_one=NOT_THIS_PROMPT`.
        """
        self.client = client
        self._unanswered = dict[str, str]()
        self._refused = set[str]()
        self._has_taken_one = False
        self.models = Counter[str]()
        """Replies by each model, as the server names it."""

    async def ask(self, prompt: str, name: str, request: Request) -> Said | None:
        """The reply to a request, or why there is none; None where it did not come, which `check_all_came` tells.

        Args:
            prompt: Id of the prompt, of which there may be several requests.
            name: Of the answer, for messages.
            request: What to send.

        Raises:
            RequestError, ServerDownError, SpendLimitError: See `Client.ask`; no other prompt would fare better.
        """
        try:
            reply = await self.client.ask(request)
        except UnansweredError as error:
            self._unanswered[name] = str(error)
            return None
        except RequestError as error:
            self._refused.add(prompt)
            takes_none = len(self._refused) >= REFUSED_AT_FIRST and not self._has_taken_one
            if error.status not in NOT_THIS_PROMPT or takes_none:
                raise
            return Said(failure=str(error))
        self._has_taken_one = True
        self.models[reply.model] += 1
        return Said(reply.text, reply.finish_reason, reply.output_tokens, refusal(reply))

    def check_all_came(self) -> None:
        """Raise `ValueError` where some did not."""
        if self._unanswered:
            name, reason = next(iter(self._unanswered.items()))
            raise ValueError(
                f"{len(self._unanswered)} answers did not come, among them {name}: {reason}. All others are kept. Run "
                "the same command again to ask for these; `--tries` and `--timeout_s` say how long to try."
            )


def refusal(reply: Reply) -> str:
    """Why a reply has no text; a text is a reply, whatever else the server says of it.

    Args:
        reply: Of a server.
    """
    if reply.text or not (reply.refusal or reply.finish_reason == "content_filter"):
        return ""
    return f"refused: {reply.refusal or 'by a content filter'}"
