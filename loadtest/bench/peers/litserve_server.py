"""The LitServe peer: one worker for the one device, which decodes, generates and encodes batches.

A separate module: LitServe starts the worker as a process that imports the class by name.
"""

import litserve
from litserve import server as litserve_server

from deployments.types import Pixels
from loadtest.bench.peers.protocol import HOST, MAX_BATCH, ROUTE, Body, Drawing, Faces, Order, answer

BATCH_WAIT_S = 0.01  # under load a batch fills up while the previous one runs


class AvatarAPI(litserve.LitAPI):  # type: ignore[misc]
    """The one worker process runs all hooks: it decodes the requests of a batch, generates, and encodes the answers."""

    def __init__(self, model: str) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_WAIT_S, api_path=ROUTE)
        self.model = model

    def setup(self, device: str) -> None:
        """Loads the models; LitServe calls it once in the worker. `device` is not used."""
        self.faces, self.drawing = Faces(), Drawing(self.model)

    def decode_request(self, request: Body) -> Order:
        """The photo's face is detected here, one request after the other. Raises: NoFaceError."""
        return self.faces.order(request)

    def batch(self, orders: list[Order]) -> list[Order]:
        """The orders as they are: `Drawing` groups them by step count."""
        return orders

    def predict(self, orders: list[Order]) -> list[Pixels]:
        """An image (side, side, 3) for each order, in their order."""
        return self.drawing.draw(orders)

    def unbatch(self, drawn: list[Pixels]) -> list[Pixels]:
        """The images as they are, already one for each request."""
        return drawn

    def encode_response(self, pixels: Pixels) -> dict[str, str]:
        """The JSON of one answer; the PNG is encoded in the worker, not in the API's process."""
        return answer(pixels)


def run(model: str, port: int) -> None:
    """Serves with one API process and one worker until the process is stopped. Blocks."""
    litserve_server._MCP_AVAILABLE = False  # it would offer tools by a version of `mcp` that is not the one installed
    server = litserve.LitServer(AvatarAPI(model), accelerator="cpu", devices=1, workers_per_device=1, timeout=False)
    server.run(host=HOST, port=port, num_api_servers=1, generate_client_file=False, log_level="warning")
