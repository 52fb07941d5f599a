"""Runs something hostile beside a measurement, in a process of its own with the lowest priority.

On a small machine it shares the processors with the service that is measured.
"""

import contextlib
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from typing import Any


@contextlib.contextmanager
def beside(work: Callable[..., Counter[str]], *arguments: Any, patience_s: float) -> Iterator[Counter[str]]:
    """`work(*arguments, begun, ended)` runs during the block; afterwards what it counted is in the yielded counter.

    It sets `begun` when it is prepared, for which the block waits, and returns within `patience_s` of `ended`.
    Raises: queue.Empty where it does not.
    """
    context = multiprocessing.get_context("spawn")
    begun, ended, told, counted = context.Event(), context.Event(), context.Queue(), Counter[str]()
    process = context.Process(target=_run, args=[work, arguments, begun, ended, told])
    process.start()
    begun.wait()
    try:
        yield counted
    finally:
        ended.set()
        try:
            counted.update(told.get(timeout=patience_s))
        finally:
            process.kill()  # connections of it may still wait for answers
            process.join()


def _run(work: Any, arguments: Any, begun: Event, ended: Event, told: "multiprocessing.Queue[Counter[str]]") -> None:
    os.nice(19)
    told.put(work(*arguments, begun, ended))
