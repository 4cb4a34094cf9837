"""`/metrics`, in Prometheus' text format, and the middleware that counts requests.

request ── Measured ──> the other middleware ──> route ── Metrics.watch <── events of the job
              └── status, route, model, seconds

Only routes and served models are values of labels: a client can invent neither.
"""

from collections.abc import Iterator

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .admission import ANSWERING
from .answering import CLIENT_LEFT
from .counters import EXCHANGE, Exchange
from .frontend import Frontend

OTHER = "other"
"""Every path that is no route."""


class Measured:
    """ASGI middleware, the outermost: what it counts is what a client got, whoever answered."""

    def __init__(self, app: ASGIApp, front: Frontend) -> None:
        self.app = app
        self.metrics = front.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count it at its end."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        exchange, status, ended, left = Exchange(), 500, False, False

        async def counted_send(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body" and not message.get("more_body"):
                ended = not left
            await send(message)

        async def watched_receive() -> Message:
            nonlocal left
            message = await receive()
            # After the end it only says that the answer is complete.
            left = left or (message["type"] == "http.disconnect" and not ended)
            return message

        token = EXCHANGE.set(exchange)
        self.metrics.open_requests.inc()
        try:
            await self.app(scope, watched_receive, counted_send)
        except Exception:
            ended, status = True, 500  # the layer around this one answers so
            raise
        finally:
            EXCHANGE.reset(token)
            route = _route(scope)
            self.metrics.open_requests.dec()
            self.metrics.requests.labels(route, str(status if ended else CLIENT_LEFT), exchange.model).inc()
            self.metrics.duration.labels(route).observe(exchange.seconds())


def _route(scope: Scope) -> str:
    """The template of the route, such as `/v1/models/{model}`: a client cannot invent one.

    What middleware has refused came to no route.
    """
    path = getattr(scope.get("route"), "path", scope["path"] if scope["path"] in ANSWERING else OTHER)
    assert isinstance(path, str)
    return path


class WorkerState(Collector):
    """What the link knows of the worker now."""

    def __init__(self, front: Frontend) -> None:
        self._link = front.link

    def collect(self) -> Iterator[Metric]:
        """Read at every scrape; nothing to keep up to date."""
        link = self._link
        yield GaugeMetricFamily("mmalign_answers_running", "Answers being written.", link.running)
        yield GaugeMetricFamily("mmalign_jobs_waiting", "Jobs at the worker that have not begun.", link.waiting)
        yield GaugeMetricFamily("mmalign_jobs_open", "Jobs that have not ended.", link.num_jobs)
        yield GaugeMetricFamily("mmalign_models", "Models that can be asked for.", len(link.models))
        yield GaugeMetricFamily("mmalign_worker_up", "1 while a worker has the model.", int(link.worker is not None))
        yield CounterMetricFamily("mmalign_worker_restarts", "Workers after the first.", max(0, link.starts - 1))


def routes(front: Frontend) -> APIRouter:
    """The endpoint."""
    router = APIRouter()
    now = CollectorRegistry()
    now.register(WorkerState(front))

    def worker_pid() -> str:
        return "none" if front.link.worker is None else str(front.link.worker.pid)

    ProcessCollector(registry=now)
    ProcessCollector("mmalign_worker", worker_pid, registry=now)

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        text = generate_latest(front.metrics.registry) + generate_latest(now)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return router
