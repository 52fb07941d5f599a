"""`face-avatar doctor`: checks this machine against a configuration and says what to do."""

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence

import typer
from ray.serve.schema import ServeDeploySchema
from rich.markup import escape

from serve_app.cli.console import console, errors
from serve_app.cli.doctor.files import check_catalog, check_data_dir, check_models, check_secrets
from serve_app.cli.doctor.finding import Finding
from serve_app.cli.doctor.gpu import check_gpu, has_driver, wants_gpu
from serve_app.cli.doctor.machine import (
    check_disk,
    check_memory,
    check_port,
    check_processors,
    check_versions,
    memory_gb,
    on_many_nodes,
)
from serve_app.cli.doctor.sandbox import check_sandbox
from serve_app.cli.doctor.services import check_broker, check_certificate, check_store, tls_endpoints
from serve_app.cli.options import ConfigOption, DataDirOption
from serve_app.launcher import CONFIG, ServiceOptions, read_config
from serve_app.settings import Settings

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def examine(schema: ServeDeploySchema, settings: Settings, environment: Mapping[str, str]) -> list[Finding]:
    """All checks, in the order in which to fix problems. Starts nothing and leaves no files behind."""
    return [
        check_versions(),
        check_processors(schema, os.cpu_count() or 1),
        check_memory(memory_gb()),
        check_disk(settings.data_dir),
        check_sandbox(settings.photo, settings.decoder),
        *check_gpu(schema, settings),
        check_catalog(settings),
        *check_models(settings, runs_them=not wants_gpu(schema, settings) or has_driver()),
        check_data_dir(settings.data_dir),
        *check_secrets(settings.data_dir),
        check_port(schema.http_options.host, schema.http_options.port),
        *asyncio.run(_services(settings, many_nodes=on_many_nodes(schema))),
        *map(check_certificate, tls_endpoints(settings, environment)),
    ]


async def _services(settings: Settings, *, many_nodes: bool) -> list[Finding]:
    return [
        *await check_broker(settings, many_nodes=many_nodes),
        await check_store(settings, many_nodes=many_nodes),
    ]


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """A line for each finding in rich markup, and one for its remedy; never wrapped, so that commands can be copied."""
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        colour = COLOURS[finding.state]
        yield f"[{colour}]{finding.state:<4}[/{colour}]  {finding.check:<{width}}  {escape(finding.reason)}"
        if finding.remedy:
            yield f"{'':<{width + 8}}-> {escape(finding.remedy)}"


def doctor(config: ConfigOption = CONFIG, data_dir: DataDirOption = None) -> None:
    """Check this machine and what the service needs, and say what to do; exit code 1 if it cannot work."""
    schema, settings = read_config(ServiceOptions(config, data_dir=data_dir))
    with errors.status("looking"):
        findings = examine(schema, settings, os.environ)
    for line in lines(findings):
        console.print(line)
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)
