"""`POST /v1/chat/completions`: the answers to a conversation, at once or as a stream."""

from fastapi import APIRouter, Request, Response

from .answering import respond
from .description import event_stream
from .frontend import Frontend
from .media import off_loop
from .schema.chat_request import ChatRequest, chat_job
from .schema.json_route import JsonRoute
from .schema.replies import ChatChunk, ChatCompletion
from .wire import ChatReply


def routes(front: Frontend) -> APIRouter:
    """The endpoint."""
    router = APIRouter(route_class=JsonRoute)

    @router.post(
        "/v1/chat/completions", response_model=ChatCompletion, responses=event_stream(ChatChunk), tags=["answers"]
    )
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        front.check_model(body.model)
        front.admission.more(body.n - 1)  # of which the middleware has counted one
        # Decoding pictures takes a while; the other connections go on meanwhile.
        job = await off_loop(chat_job, body, front) if body.has_pictures else chat_job(body, front)
        reply = ChatReply(body.model, include_usage=body.stream_options.include_usage, logprobs=body.logprobs)
        return await respond(front, [job], reply, request, stream=body.stream)

    return router
