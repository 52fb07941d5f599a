"""What is in a store of results."""

from serve_app.backends.object_store import Results
from serve_app.errors import NotFoundError


async def exists(results: Results, key: str) -> bool:
    try:
        return bool(await results.get(key))
    except NotFoundError:
        return False
