"""Ends the process of a replica whose device is lost: the only place that does."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from deployments.errors import DeviceLostError

EXIT_STATUS = 70  # EX_SOFTWARE of sysexits.h

log = logging.getLogger("ray.serve")  # the logger whose lines Serve keeps


@contextmanager
def exit_on_device_loss() -> Iterator[None]:
    """Around every use of a device in a deployment.

    A replica that only raised would remain: it fails fast, so its queue is the shortest and draws all requests, and
    Serve needs three failed health checks to remove it. The death of the process is seen by Serve's routers and by the
    callers at once, and both treat it as a lost stage: no caller gets an error of this replica.
    """
    try:
        yield
    except DeviceLostError as error:
        _exit(error)


def _exit(error: DeviceLostError) -> NoReturn:
    log.critical("the device is lost, this replica ends: %s", error, exc_info=error)
    logging.shutdown()  # flushes what handlers hold back
    os._exit(EXIT_STATUS)  # nothing that would wait for the device
