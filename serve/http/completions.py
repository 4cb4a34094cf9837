"""`POST /v1/completions`: prompts as they are, continued or only scored, at once or as a stream."""

from fastapi import APIRouter, Request, Response

from .answering import respond
from .description import event_stream
from .frontend import Frontend
from .schema.completion_request import CompletionRequest, completion_jobs
from .schema.json_route import JsonRoute
from .schema.replies import Completion
from .wire import CompletionReply


def routes(front: Frontend) -> APIRouter:
    """The endpoint."""
    router = APIRouter(route_class=JsonRoute)

    @router.post("/v1/completions", response_model=Completion, responses=event_stream(Completion), tags=["answers"])
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue prompts."""
        front.check_model(body.model)
        front.admission.more(body.n * len(body.prompt) - 1)  # of which the middleware has counted one
        jobs = completion_jobs(body, front)
        reply = CompletionReply(
            body.model,
            n=body.n,
            echo=body.echo,
            logprobs=body.logprobs is not None,
            include_usage=body.stream_options.include_usage,
        )
        return await respond(front, jobs, reply, request, stream=body.stream)

    return router
