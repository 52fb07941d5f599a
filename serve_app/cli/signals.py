"""How a command ends: ctrl-C and SIGTERM alike, once."""

import signal
from types import FrameType


def end_on_signals() -> None:
    """The first SIGINT or SIGTERM raises KeyboardInterrupt; the next ones do not disturb the clean-up."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
