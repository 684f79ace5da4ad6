"""The application: a JSON and multipart endpoint, health, metrics, and the page for people.

FastAPI, since MLflow brings it and the batching queue is a page of code: LitServe and Gradio would each bring
a stack of their own, and MLflow's model server has no batches.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, Response

from unival import limits
from unival.data import media
from unival.engine.inference.attention_maps import Look
from unival.engine.inference.predictor import Query
from unival.errors import UserError
from unival.serve.asked import Asked, answer_row, of_form, of_json
from unival.serve.batcher import Answered, Batcher
from unival.serve.guard import ASK, Guard, said
from unival.serve.metrics import CONTENT_TYPE
from unival.serve.models import Choice, Models

PAGE = Path(__file__).parent / "page"
EXAMPLES = PAGE / "examples"
LOOPBACK = ("127.0.0.1", "localhost")
UNASKABLE = ("{box}", "{premise}")
"""What some prompts need and no field of a request gives."""
DECODERS = 4
"""Media that are decoded at once, of which one is large (`limits.LARGE_VALUES`)."""
T = TypeVar("T")


class TooLargeError(Exception):
    """A request of more than `limits.REQUEST_BYTES`."""


class Service:
    """Requests to answers."""

    def __init__(self, models: Models) -> None:
        self.models, self.batcher = models, Batcher(models)
        self._decoders = CapacityLimiter(DECODERS)
        self._large = asyncio.Semaphore(limits.LARGE_REQUESTS)

    async def predict(self, request: Request) -> dict[str, Any]:
        """The answers about the medium of a request.

        Raises:
            UserError: the request is at fault.
            TooLargeError: it has too many bytes.
        """
        async with AsyncExitStack() as room:  # from the bytes to the smaller medium
            asked = await self._asked(request, room)
            names = asked.questions
            choice = self.models.choice(asked.model, asked.second, asked.t)
            predictor, modality = self.models.predictor(choice), asked.modality
            called = asked.name or "the medium"
            for text, task in names:  # before the work of decoding
                predictor.question(modality, called, text, task)
            read = partial(self.models.uploads.read, modality, asked.file, called)
            upload = await to_thread.run_sync(read, limiter=self._decoders)
        questions = [predictor.question(modality, upload.key, text, task, called) for text, task in names]
        with self.models.uploads.hold(upload):
            answers = await _unless_gone(
                request, self.batcher.answer(choice, questions, asked.alternatives, asked.attention)
            )
        found: dict[str, Any] = {
            "model": choice._asdict(),
            "modality": modality,
            "answers": [*map(_row, questions, answers)],
        }
        if not self.models.learned(choice, modality):
            found["note"] = f"{_name(choice)} was never trained on {modality}: it guesses"
        elif foreign := self.models.foreign(choice, [question.task for question in questions]):
            found["note"] = f"{', '.join(foreign)}: not among the tasks of {_name(choice)}: it guesses"
        return found

    async def _asked(self, request: Request, room: AsyncExitStack) -> Asked:
        header = request.headers.get("content-type", "")
        kind = header.partition(";")[0].strip().lower()
        if kind not in ("multipart/form-data", "application/json"):
            raise HTTPException(415, "send multipart/form-data or application/json")
        body = await self._body(request, room)
        if kind == "multipart/form-data":
            return of_form(header, body)
        try:
            return of_json(json.loads(body))
        except (ValueError, RecursionError) as error:
            raise UserError(f"the request is no JSON: {error}") from error

    async def _body(self, request: Request, room: AsyncExitStack) -> bytes:
        """The bytes of a request. Once many have come, it holds one of a few places, which `room` gives back.
        Of a request that is too large the rest is read and dropped, for a while: a client reads no refusal
        while it writes. Whoever falls behind `limits.UPLOAD_RATE` keeps no place from others.
        """
        try:
            async with asyncio.timeout(limits.UPLOAD_SPARE) as late:
                return await self._read(request, room, late)
        except TimeoutError as error:
            why = f"slower than {limits.UPLOAD_RATE} bytes a second: send a smaller medium"
            raise HTTPException(408, why, {"Connection": "close"}) from error

    async def _read(self, request: Request, room: AsyncExitStack, late: asyncio.Timeout) -> bytes:
        parts: list[bytes] = []
        now = asyncio.get_running_loop().time
        end = now() + limits.UPLOAD_SPARE
        size, small = 0, True
        declared = request.headers.get("content-length", "0")
        over = not declared.isdigit() or int(declared) > limits.REQUEST_BYTES
        async for part in request.stream():
            size += len(part)
            over = over or size > limits.REQUEST_BYTES
            if over:
                parts.clear()
                await room.aclose()
            else:
                parts.append(part)
                if small and size > limits.SMALL_BYTES:
                    small, began = False, now()
                    late.reschedule(None)  # others are in the way, not the client
                    await room.enter_async_context(self._large)
                    end += now() - began
            late.reschedule(end + size / limits.UPLOAD_RATE)
            if size > 8 * limits.REQUEST_BYTES:
                break
        if over:
            raise TooLargeError
        return b"".join(parts)

    def described(self) -> dict[str, Any]:
        """What there is to choose from: models with their tasks, examples, limits."""
        return {
            "models": {
                name: {
                    "tasks": {
                        task: {"modality": config.modality, "text": "{text}" in config.prompt}
                        for task, config in tasks.items()
                        if not any(field in config.prompt for field in UNASKABLE)
                    },
                    "own": self.models.own[name],
                }
                for name, tasks in self.models.tasks.items()
            },
            "examples": json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8")),
            "limits": {"bytes": limits.REQUEST_BYTES, "seconds": limits.REQUEST_SECONDS},
        }


def create(models: Models, hosts: tuple[str, ...] = LOOPBACK, token: str = "") -> FastAPI:
    """The application of some models.

    Args:
        models: what is asked.
        hosts: names by which it is called; none: any.
        token: what clients must send.
    """
    service = Service(models)

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        work = app.state.work = asyncio.create_task(service.batcher.run())
        yield
        work.cancel()

    # its own documentation pages would load from another site
    app = FastAPI(title="unival", lifespan=running, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, metrics=service.batcher.metrics, hosts=hosts, token=token)
    _refuse(app)

    @app.post(ASK)
    async def predict(request: Request) -> JSONResponse:
        return JSONResponse(await service.predict(request))

    @app.get(ASK, include_in_schema=False)
    def asked_without_a_medium() -> None:
        raise HTTPException(405, headers={"Allow": "POST"})

    @app.get("/models")
    def described() -> dict[str, Any]:
        return service.described()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "up"}

    @app.get("/ready")
    async def ready() -> Response:
        return said(503, "the model's thread has ended") if app.state.work.done() else Response()

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.batcher.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/{name}")
    def part(name: str) -> FileResponse:
        return _file(PAGE, name)

    @app.get("/examples/{name}")
    def example(name: str) -> FileResponse:
        return _file(EXAMPLES, name)

    return app


def _refuse(app: FastAPI) -> None:
    """Every error is a status and a sentence."""

    @app.exception_handler(UserError)
    async def at_fault(_: Request, error: UserError) -> JSONResponse:
        return said(400, str(error))

    @app.exception_handler(TooLargeError)
    async def too_large(_: Request, error: TooLargeError) -> JSONResponse:
        text = f"more than {limits.REQUEST_BYTES} bytes: send a smaller medium"
        return said(413, text, {"Connection": "close"})

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> JSONResponse:
        return said(499, "the client went away")  # for the metrics

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        why, headers = error.detail, error.headers or {}
        if error.status_code == 405:
            why = f"{request.url.path[:100]} takes {headers['Allow']}, not {request.method}"
        return said(error.status_code, why, headers)

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> JSONResponse:
        return said(500, "the server failed: its log says how")


def _file(folder: Path, name: str) -> FileResponse:
    """A file that lies in the folder itself."""
    if name not in {path.name for path in folder.iterdir() if path.is_file()}:
        raise HTTPException(404, f"no '{name[:100]}' here")
    return FileResponse(folder / name)


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of the work, which ends when the client goes away.

    Raises:
        ClientDisconnect: it did.
    """
    answer, gone = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return answer.result()
    finally:
        answer.cancel()
        gone.cancel()


def _row(question: Query, answer: Answered) -> dict[str, Any]:
    row = answer_row(question, answer.prediction)
    return row if answer.look is None else row | {"attention": _shown(answer.look)}


def _shown(look: Look) -> list[dict[str, Any]]:
    """Pictures as data: URLs, each with the weights of its places as rows of numbers."""
    return [
        {
            "picture": f"data:image/png;base64,{base64.b64encode(media.encode_image(picture)).decode()}",
            "weights": weights.round(6).tolist(),
        }
        for picture, weights in zip(look.pictures, look.weights, strict=True)
    ]


def _name(choice: Choice) -> str:
    return choice.first if not choice.t else f"{choice.first} with {choice.second}"
