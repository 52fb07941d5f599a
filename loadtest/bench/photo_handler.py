"""Serves one photo to services that fetch it, in benchmarks."""

import http.server


def handler_of(data: bytes) -> type[http.server.BaseHTTPRequestHandler]:
    """A handler that serves this photo under every path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
