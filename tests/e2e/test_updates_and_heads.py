"""A cluster of nodes that cannot grow: its generators are updated, then its head is killed and another takes over."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from serve_app.launcher import free_port
from tests.cluster import LocalService, local_config, replace_generators, run_local_cluster
from tests.support.production import RayCluster, Valkey, head_and_nodes, worker_environment
from tests.support.steady_load import SteadyLoad

GPU_NODES = 2
CHANGE = (240, 0.5)  # seconds that a change may take, and between looks at it: each costs the controller work
RAYS_RECONNECT_TIMEOUT_S = 60  # a node that does not hear from its head for so long goes, unless it is told otherwise
IMAGES_OF_A_GENERATOR = 4
DRAIN_S = 20
ASKED = {"num_inference_steps": 2, "deadline_s": 600, "queued_pause_s": 6}
MORE_THAN_TWO_TAKE = {"batch": 5, **ASKED}  # 10 images of synchronous requests alone
LITTLE = {"batch": 1, "pause_s": 2, **ASKED}
Poll = Callable[..., Any]


def start_cluster(environment: dict[str, str], valkey: Valkey) -> RayCluster:
    """A head whose state is in the broker's Redis, a CPU node and two GPU nodes; no autoscaler."""
    head, cpu, gpu = head_and_nodes()
    state = {"RAY_REDIS_ADDRESS": valkey.address, "RAY_REDIS_PASSWORD": valkey.password}
    return RayCluster(environment | state | worker_environment(), head, [cpu] + [gpu] * GPU_NODES)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalService]:
    config = local_config(free_port())
    for deployment in config["applications"][0]["deployments"]:
        scaling = deployment["autoscaling_config"]
        scaling["min_replicas"] = 1
        if deployment["name"] == "AvatarGenerator":
            scaling["target_ongoing_requests"] = IMAGES_OF_A_GENERATOR
            deployment["graceful_shutdown_timeout_s"] = DRAIN_S
        else:
            scaling["max_replicas"] = 1
    with run_local_cluster(tmp_path_factory.mktemp("cluster"), start_cluster, config) as running:
        yield running


def generators(service: LocalService) -> set[str]:
    """The ids of those that run; none while the head does not answer."""
    with suppress(httpx.HTTPError, KeyError):
        return set(service.replicas("AvatarGenerator"))
    return set()


def only_generator(service: LocalService) -> set[str]:
    """The id of the one that there is, whatever its state; none while another still starts or drains.

    A new controller takes one that drains for one that runs, and may then end the other one of the two.
    """
    listed = service.cluster.application()["deployments"]["AvatarGenerator"]["replicas"]
    return {replica["replica_id"] for replica in listed if len(listed) == 1 and replica["state"] == "RUNNING"}


def wanted(service: LocalService) -> int:
    return int(service.cluster.application()["deployments"]["AvatarGenerator"]["target_num_replicas"])


@pytest.mark.slow
def test_generators_are_updated_one_by_one_where_no_node_can_be_added(service: LocalService, poll: Poll) -> None:
    with SteadyLoad(service, **MORE_THAN_TWO_TAKE).running() as load:
        poll(lambda: len(generators(service)) == GPU_NODES and wanted(service) > GPU_NODES, *CHANGE)
        replace_generators(service)
        load.wait_for_more(3, poll)
    load.check(poll)


@pytest.mark.parametrize(
    "away_s",
    [
        pytest.param(5, marks=pytest.mark.slow),
        pytest.param(1.5 * RAYS_RECONNECT_TIMEOUT_S, marks=pytest.mark.long),
    ],
)
def test_a_head_that_is_started_again_takes_over_from_one_that_was_killed(
    service: LocalService, poll: Poll, away_s: float
) -> None:
    kept = poll(lambda: only_generator(service), *CHANGE)
    nodes = set(service.cluster.nodes())
    with SteadyLoad(service, **LITTLE).running() as load:
        load.wait_for_more(3, poll)
        service.cluster.kill_head()
        killed_at = time.monotonic()
        task_id = service.queue(batch=2)
        poll(lambda: service.task(task_id)["status"] == "SUCCESS", *CHANGE)
        poll(lambda: time.monotonic() - killed_at > away_s, 2 * away_s)
        load.wait_for_more(3, poll)
        service.cluster.start_head()
        poll(lambda: kept <= generators(service), *CHANGE)  # one by one they are known again
        load.wait_for_more(3, poll)
    load.check(poll)
    assert len(nodes & set(service.cluster.nodes())) == 1 + GPU_NODES  # all but the head

    with SteadyLoad(service, **MORE_THAN_TWO_TAKE).running() as load:
        poll(lambda: kept < generators(service), *CHANGE)
        poll(lambda: any(service.rows(replica) for replica in generators(service) - kept), *CHANGE)
    load.check(poll)
