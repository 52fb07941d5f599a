"""Has the replicas of a local Serve listen on the loopback interface.

Serve binds each replica's port for calls from stage to stage to all interfaces, whatever it is told. Ray's workers call
`listen_on_loopback` before they import Serve where the environment variable SETUP_HOOK names it.
"""

import ray._common.tls_utils as ray_listeners
from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR as SETUP_HOOK

__all__ = ["LISTEN_ON_LOOPBACK", "SETUP_HOOK", "listen_on_loopback"]

LISTEN_ON_LOOPBACK = "serve_app.replica_listener.listen_on_loopback"
ALL_INTERFACES = "[::]:"


def listen_on_loopback() -> None:
    """Have this process bind gRPC servers to 127.0.0.1 where they ask for all interfaces; patches Ray."""
    add_port = ray_listeners.add_port_to_grpc_server

    def add_loopback_port(server: object, address: str) -> int:
        port: int = add_port(server, address.replace(ALL_INTERFACES, "127.0.0.1:"))
        return port

    ray_listeners.add_port_to_grpc_server = add_loopback_port
