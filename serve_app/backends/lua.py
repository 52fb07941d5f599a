"""Lua scripts in `.lua` files, called with the names that they give to their keys and arguments.

A script begins with `local name, name = unpack(KEYS)` and the same of ARGV: the order stands nowhere else.
"""

import re
from pathlib import Path
from typing import Any

from redis.exceptions import NoScriptError

from serve_app.backends.redis import BrokerPipeline, Redis
from serve_app.errors import BrokerError

UNPACKED = re.compile(r"^local ([\w, ]+) = unpack\((KEYS|ARGV)(?:, (\d+))?\)", re.MULTILINE)
ALLOW_OOM = "#!lua flags=allow-oom\n"  # the first line of a script that works when the broker's memory is full


class Script:
    """A script of one broker."""

    def __init__(self, redis: Redis, *files: Path, when_full: bool = True) -> None:
        """The files are one script, in this order. `when_full`: it works when the broker's memory is full.

        Raises: ValueError where an `unpack` does not begin after the names before it.
        """
        text = "\n".join(file.read_text() for file in files)
        self._names: dict[str, list[str]] = {"KEYS": [], "ARGV": []}
        for found, of, start in UNPACKED.findall(text):
            names = self._names[of]
            if int(start or 1) != len(names) + 1:
                raise ValueError(f"{files[-1]}: unpack({of}, {start}) does not begin after {names}")
            names += found.split(", ")
        self._redis = redis
        self._text = ALLOW_OOM * when_full + text
        self._script = redis.register_script(self._text)

    async def __call__(self, client: BrokerPipeline | None = None, /, **values: str | float) -> Any:
        """Run it, or add it to a pipeline; `values` are the keys and arguments by their names.

        Raises: TypeError where these are not those of the script; BrokerError.
        """
        keys, arguments = self._names["KEYS"], self._names["ARGV"]
        if values.keys() != {*keys, *arguments}:
            raise TypeError(f"the script takes {keys} and {arguments}, not {sorted(values)}")
        of_keys, of_arguments = [str(values[name]) for name in keys], [values[name] for name in arguments]
        if client is not None:
            return await self._script(of_keys, of_arguments, client)  # `execute` loads and runs it
        try:
            return await self._redis.evalsha(self._script.sha, len(keys), *of_keys, *of_arguments)
        except BrokerError as error:
            if not isinstance(error.__cause__, NoScriptError):
                raise
        # Sent whole: a broker that restarts between loading a script and calling it has it no more.
        return await self._redis.eval(self._text, len(keys), *of_keys, *of_arguments)
