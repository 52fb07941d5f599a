"""Options shared by several commands."""

from pathlib import Path
from typing import Annotated

import typer

from serve_app.backends.secrets import TOKEN_FILE
from serve_app.client import ClientSettingsError
from serve_app.settings import Settings

AVATARS = Path("avatars")
DEFAULT_URL = "http://127.0.0.1:8000"

UrlOption = Annotated[str, typer.Option(envvar="FACE_AVATAR_URL", help="The service.")]
TokenOption = Annotated[str | None, typer.Option(envvar="FACE_AVATAR_TOKEN", help="The bearer token.")]
TokenFileOption = Annotated[
    Path | None, typer.Option(envvar="FACE_AVATAR_TOKEN_FILE", help="Its file; the data directory's own without it.")
]
ConsentOption = Annotated[
    bool, typer.Option("--consent", help="The person on the photo agrees; some services ask for that.")
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="The folder for the avatars.")]
ConfigOption = Annotated[Path, typer.Option(help="The Serve config file of the service.")]
DataDirOption = Annotated[Path | None, typer.Option(help="The data directory, where it is not the config's own.")]


def read_token(token: str | None, file: Path | None) -> str:
    """The given token, or the one in `file`, or that of the data directory. Raises: ClientSettingsError."""
    if token:
        return token
    try:
        path = file if file is not None else Settings().data_dir / TOKEN_FILE
        return path.expanduser().read_text().strip()
    except OSError as error:
        raise ClientSettingsError(f"no token: {path}: {error.strerror}; give --token or --token-file") from error
    except ValueError as error:
        raise ClientSettingsError(f"no token: {error}") from error
