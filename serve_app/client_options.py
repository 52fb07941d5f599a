"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

UrlOption = Annotated[str, typer.Option(envvar="FACE_AVATAR_URL", help="The service.")]
TokenOption = Annotated[str | None, typer.Option(envvar="FACE_AVATAR_TOKEN", help="The bearer token.")]
TokenFileOption = Annotated[
    Path | None, typer.Option(envvar="FACE_AVATAR_TOKEN_FILE", help="Its file; the data directory's own without it.")
]
ConsentOption = Annotated[
    bool, typer.Option("--consent", help="The person on the photo agrees; some services ask for that.")
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="The folder for the avatars.")]
AVATARS = Path("avatars")


ConfigOption = Annotated[Path, typer.Option(help="The Serve config file of the service.")]
DataDirOption = Annotated[Path | None, typer.Option(help="The data directory, where it is not the config's own.")]
