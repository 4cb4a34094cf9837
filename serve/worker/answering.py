"""One answer on its way: what has been written, what of it has been told, and when it ends."""

from ..messages import Conversation, Job, Piece, TokenLogprob
from .answer import AnswerText
from .choosing import Chooser
from .scoring import Score, Teller
from .tokens import Tokens


class Answering:
    """A row's answer."""

    def __init__(self, uid: str, job: Job, choice: int, *, limit: int, deadline: float, tokens: Tokens) -> None:
        """Begin.

        Args:
            uid: Of the job.
            job: Asks for it.
            choice: Which of the job's answers.
            limit: The most tokens it may have.
            deadline: When it has to end, on the monotonic clock.
            tokens: Of the tokenizer.
        """
        self.uid, self.job, self.choice = uid, job, choice
        self.chooser = Chooser(job.temperature, job.top_p, job.seeds[choice])
        self._limit, self._deadline = limit, deadline
        goes_on = _goes_on(job)
        self._text = AnswerText(tokens, job.stop, goes_on=goes_on)
        self._teller = None if job.top_logprobs is None else Teller(tokens, answer=True, goes_on=goes_on)
        self._untold: list[TokenLogprob] = []

    def push(self, token: int, score: Score | None, now: float) -> Piece | None:
        """Take a token; what can be told of it.

        Args:
            token: The next.
            score: If the job asks for log-probabilities.
            now: The time, on the monotonic clock.
        """
        text = self._text.push(token)
        reason = None
        if self._text.ended:
            reason = "stop"
        elif self._text.num_tokens >= self._limit or now > self._deadline:
            text += self._text.finish()
            reason = "stop" if self._text.ended else "length"
        if self._teller is not None:
            self._untold.append(self._teller.tell(token, score, last=reason is not None))
        if not text and not reason:
            return None
        told, self._untold = tuple(self._untold), []
        return Piece(self.choice, text, told, reason, self._text.num_tokens)


def _goes_on(job: Job) -> bool:
    """Whether the answer continues a text, instead of being a turn."""
    if not isinstance(job.prompt, Conversation):
        return True
    return bool(job.prompt.messages) and job.prompt.messages[-1].role == "assistant"
