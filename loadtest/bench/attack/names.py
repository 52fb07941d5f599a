"""A name server and a photo host on loopback, for attacks by names that are not looked up.

The name server knows one name, that of the photo, and never answers for any other.
"""

import contextlib
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dnslib import QTYPE, RR, A, DNSRecord

HOST = "127.0.0.1"
KNOWN = "photo.test"


@dataclass(frozen=True, slots=True)
class PhotoByName:
    """`url` of a photo whose host only the name server at `name_server` (`address:port`) knows."""

    url: str
    name_server: str


class NameHandler(socketserver.BaseRequestHandler):
    """Answers one query for `KNOWN` with the loopback address, or with none where another kind is asked for."""

    def handle(self) -> None:
        """`request` is the datagram and the socket."""
        data, socket = self.request
        query = DNSRecord.parse(data)
        if str(query.q.qname).rstrip(".") != KNOWN:
            return
        answer = query.reply()
        if query.q.qtype == QTYPE.A:
            answer.add_answer(RR(KNOWN, QTYPE.A, rdata=A(HOST)))
        socket.sendto(answer.pack(), self.client_address)


@contextlib.contextmanager
def photo_by_name(photo: bytes) -> Iterator[PhotoByName]:
    """Serves a JPEG while the block runs."""

    class PhotoHandler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(photo)))
            self.end_headers()
            self.wfile.write(photo)

        def log_message(self, *_: object) -> None:
            pass

    with (
        socketserver.ThreadingUDPServer((HOST, 0), NameHandler) as names,
        ThreadingHTTPServer((HOST, 0), PhotoHandler) as photos,
        contextlib.ExitStack() as ends,
    ):
        for server in (names, photos):
            threading.Thread(target=server.serve_forever, daemon=True).start()
            ends.callback(server.shutdown)
        yield PhotoByName(f"http://{KNOWN}:{photos.server_port}/photo.jpg", f"{HOST}:{names.server_address[1]}")
