"""The playground at `/`: a static page on the public API, with a strict Content-Security-Policy; and its client."""

import base64
import hashlib
import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

import serve_app
from serve_app.photos.sample import sample_photo

PAGE = Path(__file__).parent / "static"
CLIENT = Path(serve_app.__file__).parent / "client"
CLIENT_FILES = {  # by their paths; the page and programs of others import them
    "/client.js": "text/javascript",
    "/client.d.ts": "application/typescript",
}
STYLESHEET = '<link rel="stylesheet" href="/page/style.css">'
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",  # revalidated each time, mostly with a 304
}


class PageFiles(StaticFiles):
    """Serves the files of the page with its headers."""

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__(directory=PAGE)
        self._headers = headers

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: MutableMapping[str, Any],
        status_code: int = 200,
    ) -> Response:
        """Starlette's answer for a file, 200 or 304; the page's headers replace those of the same name."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(self._headers)
        return response


def add_playground(api: FastAPI, *, results_elsewhere: bool) -> None:
    """`results_elsewhere`: results are in an object store, so the page must be allowed to show its pictures."""
    headers = HEADERS | {"Content-Security-Policy": policy(results_elsewhere=results_elsewhere)}
    _add_text(api, "/", whole_page(), "text/html", headers)
    for path, media_type in CLIENT_FILES.items():
        _add_text(api, path, (CLIENT / path.lstrip("/")).read_text(), media_type, headers)

    @api.get("/page/sample.png", include_in_schema=False)
    async def sample() -> FileResponse:
        return FileResponse(sample_photo(), headers={"X-Content-Type-Options": "nosniff"})

    api.mount("/page", PageFiles(headers))


def _add_text(api: FastAPI, path: str, text: str, media_type: str, headers: dict[str, str]) -> None:
    """A route for a text that never changes while the process runs."""
    headers = headers | {"ETag": f'"{hashlib.sha256(text.encode()).hexdigest()}"'}

    @api.head(path, include_in_schema=False)
    @api.get(path, include_in_schema=False)
    async def answer(request: Request) -> Response:
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(text, media_type=media_type, headers=headers)


def whole_page() -> str:
    """The page with its stylesheet inlined, so that it renders without a second request."""
    return (PAGE / "index.html").read_text().replace(STYLESHEET, f"<style>{_style()}</style>")


def policy(*, results_elsewhere: bool) -> str:
    """The Content-Security-Policy: no other hosts, nothing inline except the page's style, no frames."""
    images = "'self' blob: https:" if results_elsewhere else "'self' blob:"
    style = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'self'; style-src 'sha256-{style}'; connect-src 'self'; img-src {images}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _style() -> str:
    return (PAGE / "style.css").read_text()
