"""What other users of the machine can reach of a service that `face-avatar serve` started."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
import ray

from serve_app.backends.private_folder import short_folder
from serve_app.local_ray import FOLDER, RAY_TOKEN_FILE
from tests.support.service import Service

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
METHODS = (  # one of each kind of Ray's processes
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/RequestWorkerLease",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.serve.ASGIService/HandleRequest",
)
NEEDS_PROC = pytest.mark.skipif(
    sys.platform != "linux", reason="macOS shows the sockets of other processes to root only"
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def listeners() -> dict[tuple[str, int], str]:
    """Addresses and ports on which this process and Ray's listen, with the command that does."""
    return {
        (connection.laddr.ip, connection.laddr.port): " ".join(process.cmdline())
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


@NEEDS_PROC
def test_a_service_listens_on_the_loopback_interface_only(service: Service) -> None:
    found = listeners()
    assert sum("ServeReplica" in command for command in found.values()) > 5
    assert {listener: command for listener, command in found.items() if listener[0] not in LOOPBACK} == {}


@NEEDS_PROC
def test_every_port_for_calls_within_ray_asks_for_the_token(service: Service) -> None:
    answers = {port: refusals(port) for (_, port), command in listeners().items() if "pytest" not in command}
    grpc_ports = {port: codes for port, codes in answers.items() if codes != {grpc.StatusCode.UNAVAILABLE}}
    assert len(grpc_ports) > 10
    for port, codes in grpc_ports.items():
        assert codes == {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}, port


def refusals(port: int) -> set[grpc.StatusCode]:
    """What a port answers to calls without the token; UNAVAILABLE where it speaks another protocol."""
    codes = set()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for method in METHODS:
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(method)(b"", timeout=30)
            codes.add(refused.value.code())
    return codes


def test_rays_folder_and_token_are_for_the_owner_of_the_data_directory(service: Service) -> None:
    assert mode(service.data_dir) == 0o700
    assert mode(service.data_dir / RAY_TOKEN_FILE) == 0o600
    node = ray._private.worker._global_node
    session = Path(node.get_session_dir_path())
    assert session.resolve().parent == (service.data_dir / FOLDER).resolve()
    assert {mode(folder) for folder in Path(node.temp_dir).parents if folder.stat().st_uid == os.getuid()} >= {0o700}


def test_the_dashboard_asks_for_the_token_in_the_data_directory(service: Service) -> None:
    url = f"http://{ray._private.worker._global_node.webui_url}/api/cluster_status"
    assert httpx.get(url).status_code == 401
    token = (service.data_dir / RAY_TOKEN_FILE).read_text().strip()
    assert httpx.get(url, headers={"Authorization": f"Bearer {token}"}).status_code == 200


ANOTHER_RAY = """
import sys
from pathlib import Path
import ray
from serve_app.local_ray import local_ray
with local_ray(Path(sys.argv[1]), {}):
    print(len(ray.nodes()), ray.get(ray.remote(lambda: 6).remote()) * 7)
"""


def test_another_ray_runs_beside_it_also_where_the_data_directory_has_a_long_path(
    service: Service, tmp_path: Path
) -> None:
    data_dir = tmp_path / ("long" * 20) / ("longer" * 20)
    data_dir.mkdir(parents=True, mode=0o700)
    before = {node["NodeID"] for node in ray.nodes()}
    command = [sys.executable, "-c", ANOTHER_RAY, str(data_dir)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert ran.stdout.split() == ["1", "42"]
    assert {node["NodeID"] for node in ray.nodes()} == before
    assert len(list((data_dir / FOLDER).glob("session_2*"))) == 1
    assert not short_folder(data_dir).exists()
