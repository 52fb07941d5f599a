"""Requests of a day: drawn at random from a rate over time and a mix, or read from a trace."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, overload

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import BaseModel, ConfigDict, Field

DAY_S = 86400.0
TENANT_SKEW = 1.1  # of Zipf's law: the busiest of 50 tenants has a fifth of the requests
ASSUMED_MIX = Path(__file__).with_name("mix.yaml")

Shape = Literal["poisson", "diurnal", "flash", "weekly"]
Rates = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
WEEK = (1.0, 1.0, 1.0, 1.05, 1.1, 0.9, 0.75)  # Monday first


class Kind(BaseModel):
    """Requests that are alike. `share` is of all requests; `batch` has shares by the number of images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    app: str
    width: int = Field(ge=256, le=1536)  # as generated, pixels
    height: int = Field(ge=256, le=1536)
    steps: int = Field(ge=1, le=50)
    guided: bool = True
    batch: Mapping[int, float] = {1: 1.0}
    share: float = Field(1.0, gt=0)
    queued: bool = False
    low: bool = False  # priority
    deadline_s: float | None = Field(None, gt=0)  # None: the service's default


class Mix(BaseModel):
    """What requests ask for, and how many tenants send them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kinds: tuple[Kind, ...] = Field(min_length=1)
    tenants: int = Field(50, ge=1)

    @classmethod
    def read(cls, path: Path) -> "Mix":
        """Raises: OSError; ValueError, of which pydantic's errors are."""
        try:
            return cls.model_validate(yaml.safe_load(path.read_text()))
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: {error}") from error


@dataclass(frozen=True, slots=True)
class Request:
    """One request: `at_s` seconds after the start, for `batch` images of a kind. `tenant` is a pseudonym."""

    at_s: float
    tenant: str
    app: str
    width: int
    height: int
    steps: int
    guided: bool
    batch: int
    queued: bool
    low: bool
    deadline_s: float | None


@dataclass(frozen=True, slots=True)
class Columns:
    """The requests of a load as arrays, in order of time."""

    at_s: npt.NDArray[np.float64]
    kind: npt.NDArray[np.intp]  # of `kinds`
    tenant: npt.NDArray[np.intp]  # of `tenants`
    kinds: Sequence[Request]  # requests without their moment and their tenant
    tenants: Sequence[str]

    @classmethod
    def of(cls, requests: Sequence[Request]) -> "Columns":
        """Those of a list."""
        kinds: dict[Request, int] = {}
        tenants: dict[str, int] = {}
        kind = [kinds.setdefault(replace(each, at_s=0.0, tenant=""), len(kinds)) for each in requests]
        tenant = [tenants.setdefault(each.tenant, len(tenants)) for each in requests]
        moments = np.array([each.at_s for each in requests], float)
        return cls(moments, np.array(kind, np.intp), np.array(tenant, np.intp), list(kinds), list(tenants))

    @property
    def images(self) -> npt.NDArray[np.intp]:
        """How many images each request asks for."""
        batches = np.array([kind.batch for kind in self.kinds], np.intp)
        return batches[self.kind] if len(batches) else batches


class DrawnRequests(Sequence[Request]):
    """Requests that are made of their columns when they are asked for: 30 million of them fit into memory so."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns.at_s)

    @overload
    def __getitem__(self, index: int) -> Request: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Request]: ...
    def __getitem__(self, index: int | slice) -> Request | Sequence[Request]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        columns = self.columns
        kind, tenant = columns.kinds[columns.kind[index]], columns.tenants[columns.tenant[index]]
        return _request(float(columns.at_s[index]), tenant, kind)


@dataclass(frozen=True)
class Load:
    """The requests of `seconds`, in order of time."""

    name: str
    requests: Sequence[Request]
    seconds: float

    @cached_property
    def columns(self) -> Columns:
        """The requests as arrays."""
        requests = self.requests
        return requests.columns if isinstance(requests, DrawnRequests) else Columns.of(requests)

    @cached_property
    def images(self) -> int:
        """How many images they ask for."""
        return int(self.columns.images.sum())


def rates_of(shape: Shape) -> tuple[Rates, float]:
    """The rate over time (seconds since Monday, 0:00), with a mean of about 1, and a bound on it."""
    if shape == "poisson":
        return np.ones_like, 1.0
    if shape == "diurnal":
        return _diurnal, 1.8
    if shape == "weekly":
        return lambda at: _diurnal(at) * np.array(WEEK)[(at // DAY_S).astype(int) % 7], 1.8 * max(WEEK)
    return _flash, 10.0


def _diurnal(at: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Lowest at 4, highest at 16 o'clock, nine times as much."""
    return 1.0 - 0.8 * np.cos((at / DAY_S - 4 / 24) * 2 * math.pi)


def _flash(at: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """At noon ten times as much within a minute; half of that is gone after ten minutes."""
    since_s = at % DAY_S - DAY_S / 2
    crowd = np.where(since_s < 0, 0.0, np.minimum(1.0, since_s / 60) * 0.5 ** (np.maximum(since_s, 0) / 600))
    return np.minimum(0.9 + 9.1 * crowd, 10.0)


def drawn(shape: Shape, images_per_day: float, days: float, mix: Mix, seed: int) -> Load:
    """Requests by thinning: moments at the highest rate, of which those above the rate of their time are left out."""
    random = np.random.default_rng(seed)
    shares = np.array([kind.share for kind in mix.kinds])
    shares = shares / shares.sum()
    batches = [_normed(kind.batch) for kind in mix.kinds]
    images_a_request = sum(
        share * float(np.dot(sizes, chances)) for share, (sizes, chances) in zip(shares, batches, strict=True)
    )
    rates, most = rates_of(shape)
    seconds = days * DAY_S
    per_s = images_per_day / images_a_request / DAY_S
    moments = np.sort(random.uniform(0, seconds, random.poisson(per_s * most * seconds)))
    moments = moments[random.uniform(0, most, len(moments)) < rates(moments)]
    kinds = random.choice(len(mix.kinds), len(moments), p=shares)
    weights = 1 / np.arange(1, mix.tenants + 1) ** TENANT_SKEW
    tenants = random.choice(mix.tenants, len(moments), p=weights / weights.sum())
    alike: list[Request] = []
    numbers = np.empty(len(moments), np.intp)
    for index, (kind, (sizes, chances)) in enumerate(zip(mix.kinds, batches, strict=True)):
        of_kind = kinds == index
        numbers[of_kind] = len(alike) + random.choice(len(sizes), int(of_kind.sum()), p=chances)
        alike += [_kind_of(kind, batch) for batch in sizes]
    columns = Columns(moments, numbers, tenants, alike, [f"t{number}" for number in range(mix.tenants)])
    return Load(f"{shape}, {images_per_day:,.0f} images a day", DrawnRequests(columns), seconds)


def _normed(batch: Mapping[int, float]) -> tuple[list[int], npt.NDArray[np.float64]]:
    chances = np.array(list(batch.values()))
    return list(batch), chances / chances.sum()


def _kind_of(kind: Kind, batch: int) -> Request:
    return Request(
        0.0, "", kind.app, kind.width, kind.height, kind.steps, kind.guided, batch, kind.queued, kind.low,
        kind.deadline_s,
    )  # fmt: skip


def _request(at_s: float, tenant: str, kind: Request) -> Request:
    return Request(
        at_s, tenant, kind.app, kind.width, kind.height, kind.steps, kind.guided, kind.batch, kind.queued, kind.low,
        kind.deadline_s,
    )  # fmt: skip


def read_trace(path: Path) -> Load:
    """A file of JSON lines, as `python -m loadtest.plan.trace` writes it; its first request comes at 0 s.

    Raises: OSError; ValueError that names the line.
    """
    requests: list[Request] = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        try:
            requests.append(Request(**TraceLine.model_validate_json(text).model_dump()))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    if not requests:
        raise ValueError(f"{path} has no requests")
    requests.sort(key=lambda request: request.at_s)
    first_s = requests[0].at_s
    requests = [replace(request, at_s=request.at_s - first_s) for request in requests]
    return Load(f"trace {path.name}", requests, requests[-1].at_s + 1.0)


def trace_line(request: Request) -> str:
    """A request as a line of a trace."""
    return json.dumps(asdict(request))


class TraceLine(BaseModel):
    """A line of a trace."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_s: float
    tenant: str
    app: str
    width: int = Field(ge=64, le=4096)
    height: int = Field(ge=64, le=4096)
    steps: int = Field(ge=1, le=50)
    guided: bool
    batch: int = Field(ge=1, le=8)
    queued: bool
    low: bool
    deadline_s: float | None = Field(None, gt=0)
