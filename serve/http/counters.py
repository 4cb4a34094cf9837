"""What the server counts of its work, for `/metrics`; no label has more values than there are routes and models."""

import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ..messages import Begun, Event, Piece

FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
DURATION_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@dataclass
class Exchange:
    """A request that is being answered."""

    started: float = field(default_factory=time.perf_counter)
    """Seconds of a clock of this process."""
    model: str = ""
    """The model that answers; empty where none does, so that clients cannot invent values of the label.

    Empty, too, where two are compared: nobody is to learn which stands where.
    """

    def seconds(self) -> float:
        """Since it started."""
        return time.perf_counter() - self.started


EXCHANGE: ContextVar[Exchange] = ContextVar("exchange")
"""Of the request that this task answers: the endpoint below the middleware knows the model, not the start."""


class Metrics:
    """Counters and histograms of this process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mmalign_requests",
            "Requests by route, status and model; 499: the client left before the end.",
            ("route", "status", "model"),
            registry=self.registry,
        )
        self.open_requests = Gauge("mmalign_open_requests", "Requests not yet answered.", registry=self.registry)
        self.duration = Histogram(
            "mmalign_request_seconds",
            "From a request's header to the end of its answer.",
            ("route",),
            buckets=DURATION_S,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "mmalign_first_token_seconds",
            "From a request's header to the first text of an answer.",
            ("model",),
            buckets=FIRST_TOKEN_S,
            registry=self.registry,
        )
        self.prompt_tokens = Counter(
            "mmalign_prompt_tokens", "Tokens read, pictures among them.", ("model",), registry=self.registry
        )
        self.completion_tokens = Counter(
            "mmalign_completion_tokens",
            "Tokens written, those of abandoned answers among them.",
            ("model",),
            registry=self.registry,
        )

    def watch(self, models: Sequence[str]) -> Callable[[int, Event], None]:
        """What to call with the place of a job and each of its events; choices are counted through all jobs.

        Args:
            models: The served name that each job of the request asks for, which has been checked.
        """
        exchange = EXCHANGE.get(None) or Exchange()
        answering = models[0] if len(set(models)) == 1 else ""
        written: dict[int, int] = {}
        speaking: set[str] = set()

        def watch(place: int, event: Event) -> None:
            model = models[place]
            exchange.model = answering
            if isinstance(event, Begun):
                self.prompt_tokens.labels(model).inc(event.prompt_tokens)
            elif isinstance(event, Piece):
                if model not in speaking:
                    speaking.add(model)
                    self.first_token.labels(model).observe(exchange.seconds())
                so_far = written.get(event.choice, 0)
                written[event.choice] = max(so_far, event.num_tokens)
                self.completion_tokens.labels(model).inc(written[event.choice] - so_far)

        return watch
