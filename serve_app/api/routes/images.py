"""Routes that inspect a picture, and the one that serves results."""

import time
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.responses import JSONResponse

from serve_app.api.body import BodyReader
from serve_app.api.dependencies import RequestProgress, envelope_response
from serve_app.api.openapi import body_of, envelopes
from serve_app.backends.object_store import FILES_ROUTE, media_type
from serve_app.generation.service import AvatarService
from serve_app.provenance.verify import VerifyRequest
from serve_app.schemas.faces import FacesRequest
from serve_app.schemas.responses import Envelope


def add_image_routes(api: FastAPI, service: AvatarService, bodies: BodyReader, token: Any) -> None:
    """Add `/faces` and `/verify`, which `token` protects, and the route of results, which signed URLs protect."""

    @api.post(
        "/api/v1/faces",
        operation_id="inspectFaces",
        summary="Check a photo before generating",
        dependencies=[token],
        response_model=Envelope,
        responses=envelopes(401, 403, 404, 413, 415, 422, 429, 503, 504),
        openapi_extra=body_of(FacesRequest),
    )
    async def faces(request: Request) -> JSONResponse:
        """The faces of a photo and whether it would be accepted, before anything is generated."""
        request.state.progress = RequestProgress()
        async with bodies.model(FacesRequest, request) as body:
            face_model = None if body.app_id is None else service.validator.app(body.app_id).face_model
            preflight = await service.inspection.preflight(body.file_url, request.state.owner, face_model)
        return envelope_response(preflight.envelope(body))

    @api.post(
        "/api/v1/verify",
        operation_id="verifyPicture",
        summary="Verify a picture's content credentials",
        dependencies=[token],
        response_model=Envelope,
        responses=envelopes(401, 403, 413, 415, 422, 429, 503, 504),
        openapi_extra=body_of(VerifyRequest),
    )
    async def verify(request: Request) -> JSONResponse:
        """Whether a picture is one of ours and as it left us, by its content credentials (C2PA)."""
        progress = request.state.progress = RequestProgress()
        async with bodies.model(VerifyRequest, request) as body:
            verification = await service.inspection.verify(body.file_url, request.state.owner)
        return envelope_response(verification.envelope(body.file_url, time.perf_counter() - progress.started))

    @api.head(FILES_ROUTE + "/{key:path}", include_in_schema=False)
    @api.get(
        FILES_ROUTE + "/{key:path}",
        operation_id="downloadResult",
        summary="Download a result",
        responses=envelopes(403, 404, 422, 503),
    )
    async def files(key: str, expires: str = "", signature: str = "") -> Response:
        """A result or thumbnail, under the URL that an answer gave."""
        service.results.check_signature(key, expires, signature)
        # The URL is the permission: its holder may show the picture on another origin, too.
        headers = {"Cache-Control": "private, max-age=3600", "Cross-Origin-Resource-Policy": "cross-origin"}
        return Response(await service.results.get(key), media_type=media_type(key), headers=headers)
