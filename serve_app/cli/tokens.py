"""`face-avatar token`: creates, lists and revokes tokens; a running service notices within a second."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import typer
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from serve_app.auth.tokens import SCOPES, Limits, OwnToken, Scope, Token, TokenGrant, TokenSettings, TokenStore
from serve_app.auth.usage import Usage, last_used, usage_of
from serve_app.backends.redis import connect
from serve_app.backends.secrets import TOKEN_FILE, renew_token
from serve_app.cli.console import console
from serve_app.cli.options import ConfigOption, DataDirOption
from serve_app.launcher import CONFIG, ServiceOptions, read_config
from serve_app.settings import Settings
from serve_app.tasks.models import Keys

MONTH_DAYS = 30
TABLE_CHARS = 170
UNITS_S = {"m": 60, "h": 3600, "d": 24 * 3600}

T = TypeVar("T")
token_cli = typer.Typer(no_args_is_help=True, help="Bearer tokens: who may ask, for what, and how often.")


class Tokens(NamedTuple):
    """What the commands need to work with the tokens of a service."""

    redis: Redis
    keys: Keys
    store: TokenStore
    settings: Settings


class Listed(NamedTuple):
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
    shares: Annotated[str | None, typer.Option(metavar="TOKEN", help="Sees the tasks of this one.")] = None,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = None,
) -> None:
    """Make a token and print it, this once: its SHA-256 alone is kept. Limits left out are those of the settings."""
    limits, granted = Limits(requests_per_minute=rate, images=images, queued=queued), scopes_of(scope or SCOPES)
    expires_at = None if expires is None else time.time() + expires

    async def add(tokens: Tokens) -> str:
        owner = None if shares is None else (await _named(tokens.store, shares)).owner
        try:
            return await tokens.store.add(TokenGrant(name, expires_at, granted, limits, owner))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    console.print(_with_tokens(config, data_dir, add), markup=False)


@token_cli.command("list")
def list_tokens(
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = None,
) -> None:
    """What each token may do, and what it used: images today and in the last 30 days."""
    listed = _with_tokens(config, data_dir, _listed)
    if as_json:
        console.print_json(json.dumps([_as_json(each) for each in listed]))
    elif listed:
        wide = Console(highlight=False, width=max(console.width, TABLE_CHARS))  # must not truncate ids
        wide.print(_table(listed))
    else:
        console.print("no tokens: `face-avatar token create NAME` makes one")


@token_cli.command("revoke")
def revoke_token(
    name: Annotated[str, typer.Argument(metavar="TOKEN", help="Its name or id.")],
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = None,
) -> None:
    """Take a token back: within a second nobody is let in with it. In place of a data directory's own comes another."""

    async def revoke(tokens: Tokens) -> str:
        found = await _named(tokens.store, name)
        if await tokens.store.revoke(found):
            return f"{found.name} ({found.id}) is revoked"
        await asyncio.to_thread(renew_token, tokens.settings.data_dir)
        return f"{found.name} ({found.id}) is revoked; the new one is in {tokens.settings.data_dir / TOKEN_FILE}"

    console.print(_with_tokens(config, data_dir, revoke), markup=False)


async def _named(store: TokenStore, name: str) -> Token:
    """Raises: typer.BadParameter; BrokerError."""
    found = await store.named(name)
    if found is None:
        raise typer.BadParameter(f"there is no token {name!r}: `face-avatar token list` shows those that there are")
    return found


def _with_tokens(config: Path, data_dir: Path | None, work: Callable[[Tokens], Awaitable[T]]) -> T:
    """Calls `work` with the tokens of a configured service. Raises: StartError; BrokerError."""
    _, settings = read_config(ServiceOptions(config, data_dir=data_dir))
    own = OwnToken(settings.data_dir) if settings.broker.url is None else None

    async def run() -> T:
        async with connect(settings.broker, settings.data_dir) as redis:
            keys = Keys(settings.broker.prefix)
            return await work(Tokens(redis, keys, TokenStore(redis, keys.tokens, own), settings))

    return asyncio.run(run())


async def _listed(tokens: Tokens) -> list[Listed]:
    used = await last_used(tokens.redis, tokens.keys)
    defaults: TokenSettings = tokens.settings.tokens
    return [
        Listed(
            each,
            each.limits.filled(defaults),
            used.get(each.id),
            await usage_of(tokens.redis, tokens.keys, each.id, 1),
            await usage_of(tokens.redis, tokens.keys, each.id, MONTH_DAYS),
        )
        for each in await tokens.store.all()
    ]


def _table(listed: Iterable[Listed]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("name", "id", "created", "expires", "scopes", "rate", "images", "queued", "last used"):
        table.add_column(column, no_wrap=True)
    table.add_column("today", justify="right")
    table.add_column(f"{MONTH_DAYS} d", justify="right")
    for each in listed:
        item, limits = each.token, each.limits
        table.add_row(
            item.name,
            item.id,
            _moment(item.created_at),
            "never" if item.expires_at is None else _moment(item.expires_at),
            " ".join(item.rights),
            _limit(limits.requests_per_minute, "/min"),
            _limit(limits.images),
            _limit(limits.queued),
            _moment(each.used_at),
            str(each.today.images),
            str(each.month.images),
        )
    return table


def _as_json(each: Listed) -> dict[str, object]:
    item = each.token
    return {
        "name": item.name,
        "id": item.id,
        "owner": item.owner,
        "created_at": item.created_at,
        "expires_at": item.expires_at,
        "scopes": item.rights,
        "limits": each.limits.model_dump(),
        "used_at": each.used_at,
        "today": each.today._asdict(),
        f"last_{MONTH_DAYS}_days": each.month._asdict(),
    }


def _limit(value: int | None, unit: str = "") -> str:
    return f"{value}{unit}" if value else "any"


def _moment(unix_s: float | None) -> str:
    return "-" if unix_s is None else datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M")
