"""`face-avatar serve`: runs the service on this machine until interrupted."""

import contextlib
import threading
import time
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from serve_app.backends.secrets import TOKEN_FILE
from serve_app.cli.console import console
from serve_app.cli.signals import end_on_signals
from serve_app.launcher import CONFIG, RunningService, ServiceOptions, run_service
from serve_app.local_ray import RAY_TOKEN_FILE


def serve(
    config: Annotated[Path, typer.Option(help="A Serve config file.")] = CONFIG,
    host: Annotated[str | None, typer.Option(help="Address to listen on; the config's own without it.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the token and the results are kept.")] = None,
    allow_private_urls: Annotated[
        bool, typer.Option("--allow-private-urls", help="Fetch photos from private addresses and any port, too.")
    ] = False,
) -> None:
    """Run the service until interrupted."""
    options = ServiceOptions(config, host, port, data_dir, allow_private_urls)
    started = time.monotonic()
    end_on_signals()
    with (
        contextlib.suppress(KeyboardInterrupt),
        console.status("") as status,
        run_service(options, status.update) as service,
    ):
        status.stop()
        console.print(f"Ready after {time.monotonic() - started:.0f} s; ctrl-C ends it.")
        console.print(f"  page       {page_url(service)}")
        console.print(f"  service    {service.url}")
        console.print(f"  docs       {service.url}/docs")
        console.print(
            f"  dashboard  {service.dashboard_url}  (asks for the token in {service.data_dir / RAY_TOKEN_FILE})"
        )
        console.print(f"  token      in {service.data_dir / TOKEN_FILE}")
        try:
            threading.Event().wait()
        finally:
            status.start()
    console.print("Stopped.")


def page_url(service: RunningService) -> str:
    """The URL of the playground; with the token only on a terminal, so that no log contains it."""
    loopback = urlsplit(service.url).hostname in ("127.0.0.1", "::1", "localhost")
    kept = (service.data_dir / TOKEN_FILE).exists()  # may have been deleted
    if not (loopback and console.is_terminal and kept):
        return f"{service.url}/"
    return f"{service.url}/#token={service.token}"  # browsers do not send the fragment
