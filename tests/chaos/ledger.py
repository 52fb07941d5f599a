"""What chaos asks of a service, and the book that is kept of it: what clients were told, what was killed."""

import itertools
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serve_app.client import AvatarParameters
from serve_app.launcher import CONFIG

REPLICAS = {
    "worker": "AvatarWorker",
    "generator": "AvatarGenerator",
    "embedder": "FaceEmbedder",
    "remover": "BackgroundRemover",
    "ingress": "AvatarIngress",
    "keeper": "EmbeddedValkey",  # its server dies with it
}
OTHERS = {"proxy": "ray::ProxyActor", "controller": "ray::ServeController", "valkey": "valkey-server"}  # process titles
KINDS = (*REPLICAS, *OTHERS)
SYNC_EVERY = 15  # tasks there is a synchronous request


@dataclass(frozen=True)
class Plan:
    """How many tasks and kills; no task is sent after `minutes`. `config` is that of the service."""

    tasks: int
    kills: int
    minutes: float = 40
    seed: int = 7
    config: Path = CONFIG


@dataclass(frozen=True)
class Order:
    """What one client wants. `keyed` goes through the client's retry, with an idempotency key."""

    name: str
    batch: int = 1
    synchronous: bool = False
    keyed: bool = True
    low: bool = False
    cancelled: bool = False
    faceless: bool = False

    def parameters(self, name: str) -> AvatarParameters:
        """As small as a request can be."""
        return {
            "width": 256,
            "height": 256,
            "num_inference_steps": 2,
            "batch": self.batch,
            "priority": "low" if self.low else "normal",
            "ref_id": name,
        }


def orders(plan: Plan) -> list[Order]:
    dice = random.Random(plan.seed)
    drawn: list[Order] = []
    for number in range(plan.tasks):
        shares = {"keyed": 0.6, "low": 0.2, "cancelled": 0.04, "faceless": 0.03}
        traits = {trait: dice.random() < share for trait, share in shares.items()}
        drawn.append(Order(f"task-{number}", dice.choice((1, 1, 2)), **traits))
        if number % SYNC_EVERY == SYNC_EVERY // 2:
            drawn.append(Order(f"sync-{number}", synchronous=True))
    return drawn


def kill_order(plan: Plan) -> list[str]:
    """Every kind once, in any order, then again."""
    dice = random.Random(plan.seed)
    rounds = (dice.sample(KINDS, len(KINDS)) for _ in itertools.count())
    return list(itertools.islice(itertools.chain.from_iterable(rounds), plan.kills))


@dataclass(frozen=True)
class Kill:
    kind: str
    at: float  # unix seconds


@dataclass(frozen=True)
class Accepted:
    """A task that was answered with 202."""

    order: Order
    task_id: str


@dataclass
class Ledger:
    """Threads write into it; it is read when all is over."""

    accepted: list[Accepted] = field(default_factory=list)
    over: set[str] = field(default_factory=set)  # the accepted tasks that the broker calls finished
    final: dict[str, dict[str, Any]] = field(default_factory=dict)  # the first final envelope of each task
    repeated: list[str] = field(default_factory=list)  # orders that were refused and sent anew
    asked: list[str] = field(default_factory=list)  # synchronous requests that were begun
    refused: dict[str, str] = field(default_factory=dict)  # those of them that came to no good end, and why
    kills: list[Kill] = field(default_factory=list)
    runs_again_s: list[float] = field(default_factory=list)  # of each task whose worker was killed, and that alone
    runs_again_amid_s: list[float] = field(default_factory=list)  # and the broker or the controller too


def without_signatures(envelope: dict[str, Any]) -> dict[str, Any]:
    """An envelope without the parts that differ from read to read."""
    output = envelope["output"]
    urls = {key: [url.partition("?")[0] for url in output[key]] for key in ("result", "low_res_urls") if key in output}
    return {**envelope, "output": output | urls}
