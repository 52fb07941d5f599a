"""What is in a store of results."""

from serve_app.errors import NotFoundError
from serve_app.storage import Results


async def exists(results: Results, key: str) -> bool:
    try:
        return bool(await results.get(key))
    except NotFoundError:
        return False
