"""Routes of batches: many requests whose results are read as one file."""

from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.responses import JSONResponse, StreamingResponse

from serve_app.api.body import BodyReader
from serve_app.api.chunk import JSON_LINES
from serve_app.api.dependencies import base_url, envelope_response, idempotency_key
from serve_app.api.openapi import AFTER_PARAMETER, BATCH_RESULTS, IDEMPOTENCY_PARAMETER, body_of, chunk_body, envelopes
from serve_app.api.settings import IngressSettings
from serve_app.batches.requests import BatchRequest
from serve_app.batches.service import BatchService
from serve_app.batches.views import batch_envelope
from serve_app.errors import InvalidRequestError
from serve_app.generation.validation import Caller
from serve_app.schemas.responses import BatchView, Envelope

MAX_AFTER_DIGITS = 12


def add_batch_routes(
    api: FastAPI,
    batches: BatchService,
    settings: IngressSettings,
    bodies: BodyReader,
    *,
    may_create: Any,
    may_read: Any,
    may_cancel: Any,
) -> None:
    """Add the routes of batches; the last three are dependencies that require these rights."""
    _add_opening(api, batches, settings, bodies, may_create)
    _add_filling(api, batches, settings, bodies, may_create)
    _add_reading(api, batches, may_read)
    _add_results(api, batches, settings, may_read)
    _add_cancelling(api, batches, may_cancel)


def _add_opening(
    api: FastAPI, batches: BatchService, settings: IngressSettings, bodies: BodyReader, may_create: Any
) -> None:
    @api.post(
        "/api/v1/batches",
        operation_id="openBatch",
        summary="Open a batch of requests",
        dependencies=[may_create],
        response_model=Envelope,
        responses=envelopes(401, 403, 404, 409, 413, 415, 422, 429, 503),
        openapi_extra={"parameters": [IDEMPOTENCY_PARAMETER], **body_of(BatchRequest)},
    )
    async def open_batch(request: Request) -> JSONResponse:
        """Open a batch of up to 1,000 requests, which are queued with low priority within the limits of the token."""
        caller = _caller(request, settings, idempotency_key(request))
        async with bodies.model(BatchRequest, request) as body:
            return _answer(await batches.open(body, caller))

    @api.post(
        "/api/v1/batches/{batch_id}/close",
        operation_id="closeBatch",
        summary="Close a batch: all requests are added",
        dependencies=[may_create],
        response_model=Envelope,
        responses=envelopes(401, 403, 404, 422, 429, 503),
    )
    async def close_batch(request: Request, batch_id: str) -> JSONResponse:
        """Say that all requests are added; may be repeated. The batch is finished when all of them have ended."""
        return _answer(await batches.close(await batches.find(batch_id, request.state.owner)))


def _add_filling(
    api: FastAPI, batches: BatchService, settings: IngressSettings, bodies: BodyReader, may_create: Any
) -> None:
    @api.post(
        "/api/v1/batches/{batch_id}/requests",
        operation_id="addBatchRequests",
        summary="Add requests to a batch",
        dependencies=[may_create],
        response_model=Envelope,
        responses=envelopes(401, 403, 404, 409, 413, 415, 422, 429, 503, 504),
        openapi_extra=chunk_body(),
    )
    async def add_requests(request: Request, batch_id: str) -> JSONResponse:
        """Add up to 100 requests, all or none; `error_data.fields` names the line of each problem.

        A line is a request as in `POST /getImageToImage`, with a `custom_id`. In a form, the files of a part are the
        photos of the request of that name. The same requests once more are no error, and add nothing.
        """
        record = await batches.find(batch_id, request.state.owner)
        async with bodies.chunk(request, record.batch.defaults) as requests:
            view, added = await batches.add(record, requests, _caller(request, settings))
        return _answer(view, added=added)


def _add_reading(api: FastAPI, batches: BatchService, may_read: Any) -> None:
    @api.get(
        "/api/v1/batches",
        operation_id="listBatches",
        summary="List your newest batches",
        dependencies=[may_read],
        response_model=Envelope,
        responses=envelopes(401, 403, 429, 503),
    )
    async def list_batches(request: Request) -> JSONResponse:
        """Your newest batches, the newest first."""
        views = await batches.of_owner(request.state.owner)
        return envelope_response(Envelope(output={"batches": [view.model_dump() for view in views]}))

    @api.get(
        "/api/v1/batches/{batch_id}",
        operation_id="getBatch",
        summary="Get a batch",
        dependencies=[may_read],
        response_model=Envelope,
        responses=envelopes(401, 403, 404, 422, 429, 503),
    )
    async def batch(request: Request, batch_id: str) -> JSONResponse:
        """A batch and how many of its requests wait, run, succeeded, failed or were cancelled."""
        return _answer(await batches.view(await batches.find(batch_id, request.state.owner)))


def _add_results(api: FastAPI, batches: BatchService, settings: IngressSettings, may_read: Any) -> None:
    @api.get(
        "/api/v1/batches/{batch_id}/results",
        operation_id="getBatchResults",
        summary="Get the results of a batch, as lines of JSON",
        dependencies=[may_read],
        response_class=StreamingResponse,
        responses=envelopes(401, 403, 404, 422, 429, 503) | BATCH_RESULTS,
        openapi_extra={"parameters": [AFTER_PARAMETER]},
    )
    async def results(request: Request, batch_id: str) -> Response:
        """A line of JSON for each request that has ended, in the order of their ends, with its envelope.

        Of a batch that goes on these are the ones so far: ask again with the last `index` as `after`.
        """
        record = await batches.find(batch_id, request.state.owner)
        lines = batches.lines(record, _after(request), base_url(request, settings))
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(lines, media_type=JSON_LINES[0], headers=headers)


def _add_cancelling(api: FastAPI, batches: BatchService, may_cancel: Any) -> None:
    @api.delete(
        "/api/v1/batches/{batch_id}",
        operation_id="cancelBatch",
        summary="Cancel a batch",
        dependencies=[may_cancel],
        response_model=Envelope,
        responses=envelopes(401, 403, 404, 422, 429, 503),
    )
    async def cancel_batch(request: Request, batch_id: str) -> JSONResponse:
        """Cancel what has not ended; the results that there are stay. May be repeated."""
        return _answer(await batches.cancel(await batches.find(batch_id, request.state.owner)))


def _caller(request: Request, settings: IngressSettings, key: str | None = None) -> Caller:
    return Caller(request.state.owner, key, base_url(request, settings), request.state.token)


def _answer(view: BatchView, **more: Any) -> JSONResponse:
    return envelope_response(batch_envelope(view, **more))


def _after(request: Request) -> int:
    """The index of the last line that a client has. Raises: InvalidRequestError."""
    text = request.query_params.get("after", "0")
    if not (text.isascii() and text.isdigit() and len(text) < MAX_AFTER_DIGITS):
        problem = {"field": "after", "message": "the index of the last line that you have", "accepted": {"minimum": 0}}
        raise InvalidRequestError("The request is not valid.", fields=[problem])
    return int(text)
