from serve_app.errors import MAX_RETRY_AFTER_S
from serve_app.generation.queue_eta import Forecast
from serve_app.tasks.models import Throughput

PACE = Throughput(task_s=4, image_s=2)


def test_a_task_waits_for_as_many_ends_of_others_as_its_place_says() -> None:
    assert Forecast(PACE, running=2).start_s(3) == 6  # two at once, 4 s each: an end every 2 s
    assert Forecast(PACE, running=2).done_s(3, images=2) == 10


def test_what_is_worked_on_needs_as_long_as_its_images_that_are_left() -> None:
    assert Forecast(PACE, running=2).done_s(0, images=3) == 6


def test_an_idle_service_begins_at_once() -> None:
    assert Forecast(PACE, running=0).start_s(1) == 0


def test_who_is_refused_comes_back_when_there_is_room_but_not_never() -> None:
    assert Forecast(PACE, running=2).retry_after_s() == 2
    assert Forecast(PACE, running=2).retry_after_s(too_late_s=30.2) == 31
    assert Forecast(PACE, running=100).retry_after_s() == 1
    assert Forecast(PACE, running=2).retry_after_s(too_late_s=1e9) == MAX_RETRY_AFTER_S
