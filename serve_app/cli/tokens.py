"""`face-avatar token`: creates, lists and revokes tokens; a running service notices within a second or two."""

import asyncio
import json
import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from serve_app.auth.tokens import SCOPES, Limits, Scope, Token, TokenGrant, TokenSettings, TokenStore
from serve_app.auth.usage import Usage, last_used, usage_of
from serve_app.backends.secrets import TOKEN_FILE, renew_token
from serve_app.cli.connected_service import ConnectedService, with_service
from serve_app.cli.console import console
from serve_app.cli.options import ConfigOption, DataDirOption
from serve_app.launcher import CONFIG

MONTH_DAYS = 30
TABLE_CHARS = 170
UNITS_S = {"m": 60, "h": 3600, "d": 24 * 3600}

token_cli = typer.Typer(no_args_is_help=True, help="Bearer tokens: who may ask, for what, and how often.")


class TokenRow(NamedTuple):
    """A token as `token list` shows it, with its usage of this day and of the last MONTH_DAYS days (UTC)."""

    token: Token
    limits: Limits  # defaults filled in from the settings
    used_at: float | None  # unix seconds
    today: Usage
    month: Usage


def seconds(text: str) -> float:
    """Parses a duration such as 30d, 12h or 90m. Raises: typer.BadParameter."""
    found = re.fullmatch(r"([1-9]\d{0,5})([dhm])", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no time such as 30d, 12h or 90m")
    return float(found[1]) * UNITS_S[found[2]]


def scopes_of(scopes: Iterable[str]) -> tuple[Scope, ...]:
    """Raises: typer.BadParameter."""
    if unknown := set(scopes) - set(SCOPES):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))} is none of {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in scopes)


@token_cli.command("create")
def create_token(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    expires: Annotated[float | None, typer.Option(parser=seconds, metavar="TIME", help="After 30d, 12h, 90m.")] = None,
    scope: Annotated[list[str] | None, typer.Option(help="What it may do: create, read, cancel; else all.")] = None,
    rate: Annotated[int | None, typer.Option(min=0, help="Requests for work a minute; 0: any number.")] = None,
    images: Annotated[int | None, typer.Option(min=0, help="Images at once; 0: any number.")] = None,
    queued: Annotated[int | None, typer.Option(min=0, help="Unfinished queued tasks; 0: any number.")] = None,
    images_per_day: Annotated[int | None, typer.Option(min=0, help="Images a day (UTC); 0: any number.")] = None,
    shares: Annotated[str | None, typer.Option(metavar="TOKEN", help="Sees the tasks of this one.")] = None,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = None,
) -> None:
    """Make a token and print it, this once: its SHA-256 alone is kept. Limits left out are those of the settings."""
    limits = Limits(requests_per_minute=rate, images=images, queued=queued, images_per_day=images_per_day)
    granted = scopes_of(scope or SCOPES)
    expires_at = None if expires is None else time.time() + expires

    async def add(service: ConnectedService) -> str:
        owner = None if shares is None else (await _require_token(service.tokens, shares)).owner
        try:
            return await service.tokens.add(TokenGrant(name, expires_at, granted, limits, owner))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    console.print(with_service(config, data_dir, add), markup=False)


@token_cli.command("list")
def list_tokens(
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = None,
) -> None:
    """What each token may do, and what it used: images today and in the last 30 days."""
    rows = with_service(config, data_dir, _token_rows)
    if as_json:
        console.print_json(json.dumps([_as_json(row) for row in rows]))
    elif rows:
        wide = Console(highlight=False, width=max(console.width, TABLE_CHARS))  # must not truncate ids
        wide.print(_table(rows))
    else:
        console.print("no tokens: `face-avatar token create NAME` makes one")


@token_cli.command("revoke")
def revoke_token(
    name: Annotated[str, typer.Argument(metavar="TOKEN", help="Its name or id.")],
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = None,
) -> None:
    """Take a token back: within a second nobody is let in with it. In place of a data directory's own comes another."""

    async def revoke(service: ConnectedService) -> str:
        found = await _require_token(service.tokens, name)
        if await service.tokens.revoke(found):
            return f"{found.name} ({found.id}) is revoked"
        await asyncio.to_thread(renew_token, service.settings.data_dir)
        return f"{found.name} ({found.id}) is revoked; the new one is in {service.settings.data_dir / TOKEN_FILE}"

    console.print(with_service(config, data_dir, revoke), markup=False)


async def _require_token(store: TokenStore, name: str) -> Token:
    """Raises: typer.BadParameter; BrokerError."""
    found = await store.named(name)
    if found is None:
        raise typer.BadParameter(f"there is no token {name!r}: `face-avatar token list` shows those that there are")
    return found


async def _token_rows(service: ConnectedService) -> list[TokenRow]:
    used = await last_used(service.redis)
    defaults: TokenSettings = service.settings.tokens
    return [
        TokenRow(
            token,
            token.limits.filled(defaults),
            used.get(token.id),
            await usage_of(service.redis, token.id, 1),
            await usage_of(service.redis, token.id, MONTH_DAYS),
        )
        for token in await service.tokens.all()
    ]


def _table(rows: Iterable[TokenRow]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("name", "id", "created", "expires", "scopes", "rate", "images", "a day", "queued", "last used"):
        table.add_column(column, no_wrap=True)
    table.add_column("today", justify="right")
    table.add_column(f"{MONTH_DAYS} d", justify="right")
    for row in rows:
        token, limits = row.token, row.limits
        table.add_row(
            token.name,
            token.id,
            _moment(token.created_at),
            "never" if token.expires_at is None else _moment(token.expires_at),
            " ".join(token.rights),
            _limit(limits.requests_per_minute, "/min"),
            _limit(limits.images),
            _limit(limits.images_per_day),
            _limit(limits.queued),
            _moment(row.used_at),
            str(row.today.images),
            str(row.month.images),
        )
    return table


def _as_json(row: TokenRow) -> dict[str, object]:
    token = row.token
    return {
        "name": token.name,
        "id": token.id,
        "owner": token.owner,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "scopes": token.rights,
        "limits": row.limits.model_dump(),
        "used_at": row.used_at,
        "today": row.today._asdict(),
        f"last_{MONTH_DAYS}_days": row.month._asdict(),
    }


def _limit(value: int | None, unit: str = "") -> str:
    return f"{value}{unit}" if value else "any"


def _moment(unix_s: float | None) -> str:
    return "-" if unix_s is None else datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M")
