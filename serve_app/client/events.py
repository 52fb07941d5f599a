"""An incremental parser of server-sent events."""

from dataclasses import dataclass

from serve_app.client.errors import UnexpectedAnswerError

MAX_EVENT_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Event:
    """One event with data; `id` is empty where it has none, lines of `data` are joined by newlines."""

    id: str
    data: str


class EventReader:
    """Splits a stream into events; ignores comments and all fields but `id` and `data`."""

    def __init__(self) -> None:
        self._rest = b""

    def add(self, chunk: bytes) -> list[Event]:
        """The events that this chunk completes. Raises: UnexpectedAnswerError where one is too large or not UTF-8."""
        *blocks, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise UnexpectedAnswerError(f"an event has more than {MAX_EVENT_BYTES} bytes")
        try:
            events = [_event(block.decode()) for block in blocks]
        except UnicodeDecodeError as error:
            raise UnexpectedAnswerError("an event is no text") from error
        return [event for event in events if event.data]


def _event(block: str) -> Event:
    event_id, data = "", []
    for line in block.split("\n"):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            event_id = value
        elif name == "data":
            data.append(value)
    return Event(event_id, "\n".join(data))
