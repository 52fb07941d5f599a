"""What a load is simulated with."""

from dataclasses import dataclass, replace

from loadtest.plan.curves import Curves
from loadtest.plan.service import NodePrice, Service, Starts


@dataclass(frozen=True, slots=True)
class Scenario:
    """The service, its GPUs, and how long things take. Everything random in a run follows from `seed`."""

    service: Service
    curves: Curves
    starts: Starts
    price: NodePrice
    seed: int = 0
    launched_ahead: bool = True  # steps run on a device of their own, as a GPU's

    def serving(self, service: Service) -> "Scenario":
        """The same with other settings of the service."""
        return replace(self, service=service)
