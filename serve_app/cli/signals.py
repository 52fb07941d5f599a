"""Handles ctrl-C and SIGTERM alike."""

import signal
from types import FrameType


def end_on_signals() -> None:
    """The first SIGINT or SIGTERM raises KeyboardInterrupt; later ones are ignored, so that clean-up completes."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
