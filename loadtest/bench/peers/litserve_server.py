"""The LitServe peer: one worker for the one device, which decodes, generates and encodes batches.

A separate module: LitServe starts the worker as a process that imports the class by name.
"""

import litserve

from deployments.types import Pixels
from loadtest.bench.peers.protocol import HOST, MAX_BATCH, ROUTE, Body, Drawing, Faces, Order, answer

BATCH_WAIT_S = 0.01  # under load a batch fills up while the previous one runs


class AvatarAPI(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, model: str) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_WAIT_S, api_path=ROUTE)
        self.model = model

    def setup(self, device: str) -> None:
        self.faces, self.drawing = Faces(), Drawing(self.model)

    def decode_request(self, request: Body) -> Order:
        return self.faces.order(request)

    def batch(self, orders: list[Order]) -> list[Order]:
        return orders

    def predict(self, orders: list[Order]) -> list[Pixels]:
        return self.drawing.draw(orders)

    def unbatch(self, drawn: list[Pixels]) -> list[Pixels]:
        return drawn

    def encode_response(self, pixels: Pixels) -> dict[str, str]:
        return answer(pixels)


def run(model: str, port: int) -> None:
    server = litserve.LitServer(AvatarAPI(model), accelerator="cpu", devices=1, workers_per_device=1, timeout=False)
    server.run(host=HOST, port=port, num_api_servers=1, generate_client_file=False, log_level="warning")
