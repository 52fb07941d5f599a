"""`face-avatar verify`: checks whether this service made a picture, without a running service."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli.console import console
from serve_app.cli.options import ConfigOption, DataDirOption
from serve_app.errors import ImageUrlError
from serve_app.launcher import CONFIG, ServiceOptions, read_config
from serve_app.provenance.signing import OurCertificates, Provenance
from serve_app.provenance.verify import CredentialReader, VerifyOutput
from serve_app.sandbox.process import SandboxSettings


def verify(
    picture: Annotated[Path, typer.Argument(help="A PNG, WebP or JPEG file.", exists=True, dir_okay=False)],
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = None,
) -> None:
    """Say whether a picture is one of this service's, and as it left it; exits with 1 where it is not."""
    _, settings = read_config(ServiceOptions(config, data_dir=data_dir))
    certificates = Provenance(settings.provenance, settings.broker, settings.data_dir).certificates()
    try:
        found = asyncio.run(_verify(picture.read_bytes(), certificates, settings.decoder))
    except ImageUrlError as error:
        console.print(f"[red]unreadable[/red]: {error}")
        raise typer.Exit(1) from None
    genuine = found.verdict == "genuine"
    console.print(f"[{'green' if genuine else 'red'}]{found.verdict}[/]: {found.message}")
    if genuine and found.credentials is not None:
        for name, value in {"made_at": found.credentials.made_at, **found.credentials.statement}.items():
            console.print(f"  {name:20} {value}")
    raise typer.Exit(0 if genuine else 1)


async def _verify(data: bytes, certificates: OurCertificates, settings: SandboxSettings) -> VerifyOutput:
    reader = CredentialReader(certificates, settings)
    try:
        return await reader.verify(data)
    finally:
        await reader.close()
