"""The load test: its figures and its report from answers made up, and the whole of it on a service of its own."""

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest
import requests

from loadtest.load import checks
from loadtest.load.answers import Answer, Group, Log, UserCount, read_answers, read_counts
from loadtest.load.checks import WrongAnswerError
from loadtest.load.run import Load
from loadtest.load.shapes import NAMES, SHAPES, ShapeName, users_at
from loadtest.metrics.figures import NothingMeasuredError, figures_of, percentile, slice_length_s, sliced
from loadtest.metrics.scrape import EVERY_S, Scrape, Scraper, Series, parsed
from loadtest.metrics.telemetry import HELD_S, telemetry_of
from loadtest.report.plots import plots
from loadtest.report.plots_telemetry import runs
from loadtest.report.report import as_html, as_json
from loadtest.report.setting import Setting
from loadtest.report.svg import Linear, Logarithmic, round_up
from serve_app.launcher import free_port
from tests.support.fake_service import envelope, picture

ROOT = Path(__file__).parents[2]
START = 1_800_000_000.0  # unix seconds
LIMIT_S = 400


def answer(at_s: float = 1.0, **fields: Any) -> Answer:
    """One that came so long after START, of a request that then began half a second before."""
    values = {"group": "sync", "kind": "one avatar", "latency_s": 0.5, "verdict": "right", "status": 200} | fields
    return Answer(ended=START + at_s, **values)


def mixed_answers() -> Iterator[Answer]:
    """A minute of every kind of answer."""
    for number in range(60):
        stages = {"face": 0.1, "diffusion": 0.3 + number / 100}
        yield answer(number + 1, images=1, stages=stages, latency_s=0.5 + number / 100)
        if number % 5 == 0:
            end = {"group": "queued", "kind": "task, to its end", "status": None, "images": 2, "stages": stages}
            yield answer(number + 1, queue_wait_s=number / 10, **end)
            yield answer(number + 1, group="bad", kind="bad request", status=422, latency_s=0.02)
    yield answer(30, group="queued", kind="enqueue", status=503, verdict="refused")
    yield answer(31, status=0, verdict="wrong", problem="no answer: <connection refused>")


@pytest.mark.parametrize(
    ("values", "percent", "wanted"),
    [([1.0, 2.0, 3.0, 4.0, 5.0], 50, 3.0), ([0.0, 10.0], 95, 9.5), ([7.0], 99, 7.0), ([], 50, None)],
)
def test_a_percentile_lies_between_its_two_nearest_values(
    values: list[float], percent: float, wanted: float | None
) -> None:
    assert percentile(values, percent) == (None if wanted is None else pytest.approx(wanted))


def test_the_latency_of_a_kind_counts_right_answers_only() -> None:
    slow = [answer(90, latency_s=80, verdict="wrong", problem="504"), answer(90, latency_s=70, verdict="refused")]
    (kind,) = figures_of([answer(latency_s=1), answer(latency_s=3), *slow]).kinds
    assert kind.latency.p50_s == pytest.approx(2)
    assert (kind.answers, kind.wrong, kind.refused) == (4, 1, 1)


@pytest.mark.parametrize(("span_s", "length_s"), [(0.5, 1), (24, 1), (25, 2), (60, 5), (3600, 300), (200_000, 8334)])
def test_slices_are_round_and_never_too_many(span_s: float, length_s: float) -> None:
    assert slice_length_s(span_s, most=24) == length_s


def test_an_answer_counts_in_the_slice_in_which_it_came() -> None:
    came = [answer(at_s) for at_s in (0.5, 0.9, 1.0, 3.2)]
    parts = sliced(came, START, 3.2, most=24)
    assert [(part.start_s, part.end_s, len(of_part)) for part, of_part in parts] == [(0, 1, 2), (1, 2, 1), (2, 3.2, 1)]


def test_rates_count_requests_and_images_over_the_whole_time() -> None:
    end = answer(8.0, group="queued", kind="task, to its end", status=None, images=3)
    figures = figures_of([answer(0.5, images=1), answer(2.5, images=4), end])
    assert figures.span_s == pytest.approx(8)
    assert figures.requests == 2  # the end of a task is no request
    assert figures.requests_per_s == pytest.approx(2 / 8)
    assert figures.images_per_s == pytest.approx(8 / 8)
    drawn = [rates.images_per_s * (rates.slice.end_s - rates.slice.start_s) for rates in figures.rates]
    assert drawn == pytest.approx([1, 0, 4, 0, 0, 0, 0, 3])


def test_of_nothing_there_are_no_figures() -> None:
    with pytest.raises(NothingMeasuredError):
        figures_of([])


def test_a_log_that_was_cut_off_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    log = Log(path)
    log.add(answer(1, stages={"face": 0.25}))
    log.add(answer(2))
    log.close()
    path.write_text(path.read_text() + answer(3).model_dump_json()[:40])
    assert list(read_answers(path)) == [answer(1, stages={"face": 0.25}), answer(2)]


def test_images_of_answers_that_were_wrong_do_not_count() -> None:
    spoilt = [answer(2, images=4, verdict="wrong", problem="3 images instead of 4"), answer(3, verdict="refused")]
    figures = figures_of([answer(1, images=1), *spoilt])
    assert figures.images == 1
    assert sum(kind.images for kind in figures.kinds) == 1
    first, *_, last = figures.rates
    assert (first.right_per_s, first.refused_per_s, first.wrong_per_s) == (1, 0, 0)
    assert last.right_per_s == 0
    assert min(last.refused_per_s, last.wrong_per_s) > 0


def test_the_percentiles_of_a_stage_are_those_of_right_answers() -> None:
    slow = answer(1, verdict="wrong", problem="late", stages={"face": 80.0})
    figures = figures_of([*(answer(1, stages={"store": 1.0, "face": value}) for value in (1.0, 3.0)), slow])
    assert [stage.stage for stage in figures.stages] == ["face", "store"]
    assert figures.stages[0].latency.p50_s == pytest.approx(2)


@pytest.mark.parametrize("shape", NAMES)
def test_a_shape_keeps_to_the_users_there_are(shape: ShapeName) -> None:
    counts = [users_at(shape, part / 100, 20) for part in range(101)]
    assert max(counts) == 20
    assert min(counts) >= 0
    assert users_at(shape, 7.0, 20) == users_at(shape, 1.0, 20)


def test_every_shape_is_as_its_name_says() -> None:
    tenths = {shape: [users_at(shape, part / 10, 10) for part in range(11)] for shape in SHAPES}
    assert tenths["steady"] == [10] * 11
    assert tenths["ramp"] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert tenths["spike"] == [2, 2, 2, 2, 10, 10, 2, 2, 2, 2, 2]
    assert tenths["drain"] == [10, 10, 10, 10, 10, 0, 0, 0, 0, 0, 0]
    assert tenths["diurnal"] == tenths["diurnal"][::-1]
    assert tenths["diurnal"][:6] == sorted(tenths["diurnal"][:6])
    assert (tenths["diurnal"][0], tenths["diurnal"][5]) == (1, 10)


def test_counts_of_users_are_read_as_they_were_written(tmp_path: Path) -> None:
    path, counts = tmp_path / "users.jsonl", [UserCount(at=START, users=1), UserCount(at=START + 1, users=4)]
    log = Log(path)
    for count in counts:
        log.add(count)
    log.close()
    assert list(read_counts(path)) == counts
    assert list(read_counts(tmp_path / "absent.jsonl")) == []


PAGE = """# HELP ray_avatar_step_rows Images that share a step.
# TYPE ray_avatar_step_rows histogram
ray_avatar_step_rows_bucket{le="1.0",deployment="AvatarGenerator",replica="a"} 3.0
ray_avatar_step_seconds_bucket{le="1.0",deployment="AvatarGenerator",replica="a"} 3.0
ray_serve_deployment_replica_healthy{deployment="FaceEmbedder",replica="b"} 1.0
ray_node_cpu_count{ip="10.0.0.1"} 2.0
"""


def test_of_a_page_of_metrics_what_is_shown_is_kept() -> None:
    assert {(series.name, series.labels["deployment"], series.value) for series in parsed(PAGE)} == {
        ("avatar_step_rows_bucket", "AvatarGenerator", 3),
        ("serve_deployment_replica_healthy", "FaceEmbedder", 1),
    }


def buckets(counts: dict[int, float], **labels: str) -> Iterator[Series]:
    """A histogram of steps by their rows, cumulative as Prometheus has it; 9 stands for more than 8."""
    for bound in (*range(1, 9), math.inf):
        at_most = sum(count for rows, count in counts.items() if rows <= bound)
        yield Series("avatar_step_rows_bucket", {"le": "+Inf" if math.isinf(bound) else f"{bound}.0"} | labels, at_most)


def scrapes() -> Iterator[Scrape]:
    """A minute: a second generator from half of it on, the queue seen now and then, 2 rows a step, later 4."""
    steps = {2: 0.0, 4: 0.0}
    for second in range(0, 60, 2):
        replicas = 1 + (second >= 30)
        steps[2 if second < 30 else 4] += 10
        healthy = [
            Series("serve_deployment_replica_healthy", {"deployment": "AvatarGenerator", "replica": str(number)}, 1)
            for number in range(replicas)
        ]
        queue = [Series("avatar_queue_tasks", {"state": "waiting"}, float(second))] if second % 6 == 0 else []
        unfinished = [Series("avatar_rows", {"size": size}, 1.0) for size in ("256", "512")]
        yield Scrape(START + second, 1, (*healthy, *buckets(steps), *queue, *unfinished))


def test_scrapes_tell_replicas_nodes_queue_and_rows_over_time() -> None:
    telemetry = telemetry_of(list(scrapes()), START)
    replicas = {line.name: dict(line.points) for line in telemetry.replicas}
    assert (replicas["AvatarGenerator"][28], replicas["AvatarGenerator"][30]) == (1, 2)
    assert set(replicas["nodes"].values()) == {1}
    (waiting,) = telemetry.queue
    assert dict(waiting.points)[6] == dict(waiting.points)[8] == 6  # held while it is not exported
    rows = {line.name: dict(line.points) for line in telemetry.rows}
    assert (rows["a step"][10], rows["a step"][40]) == (2, 4)
    assert rows["unfinished"][10] == 2


def test_a_gauge_that_is_gone_for_long_is_not_known() -> None:
    once = Scrape(START, 1, (Series("avatar_queue_tasks", {"state": "waiting"}, 3.0),))
    empty = [Scrape(START + after_s, 1, ()) for after_s in (HELD_S, HELD_S + 1)]
    (line,) = telemetry_of([once, *empty], START).queue
    assert [value for _, value in line.points] == [3, 3, None]


def test_the_rows_of_a_step_are_means_of_what_came_since_the_last_look() -> None:
    def seen(at_s: float, **steps: dict[int, float]) -> Scrape:
        series = (each for replica, counts in steps.items() for each in buckets(counts, replica=replica))
        return Scrape(START + at_s, 1, tuple(series))

    looks = [seen(0, a={3: 5.0}, b={1: 5.0}), seen(2, b={1: 6.0, 9: 1.0}), seen(4, b={1: 6.0, 9: 1.0})]
    (line,) = telemetry_of(looks, START).rows
    assert line.points == ((0, 2), (2, 5))  # a died, which takes nothing from b; nothing new at the end


def test_a_lane_is_cut_where_its_count_changes() -> None:
    assert list(runs([(0, 1), (2, 1), (4, 2), (6, None)], 10)) == [(0, 4, 1), (4, 6, 2), (6, 10, None)]
    assert list(runs([], 10)) == [(0.0, 10, None)]


def test_a_page_that_does_not_answer_is_a_node_that_is_away(poll: Callable[..., Any]) -> None:
    away = f"http://127.0.0.1:{free_port()}/metrics"
    with Scraper(lambda: [away]) as scraper:
        poll(lambda: scraper.scrapes, timeout_s=10 * EVERY_S)
    assert scraper.scrapes[0].nodes == 0
    assert telemetry_of(scraper.scrapes, START).replicas[-1].name == "nodes"


@pytest.mark.parametrize(
    ("highest", "ticks"), [(8, [0, 2, 4, 6, 8]), (0.3, [0, 0.1, 0.2, 0.3]), (41.7, [0, 10, 20, 30, 40])]
)
def test_the_ticks_of_an_axis_are_round(highest: float, ticks: list[float]) -> None:
    assert Linear(highest, 0, 100).ticks() == pytest.approx(ticks)


def test_a_logarithmic_axis_has_decades_of_one_length() -> None:
    axis = Logarithmic(0.01, 10, 0, 300)
    assert [axis(tick) for tick in axis.ticks()] == pytest.approx([0, 100, 200, 300])


@pytest.mark.parametrize(("value", "wanted"), [(0, 1), (0.7, 0.8), (1, 1), (11, 15), (950, 1000)])
def test_an_axis_ends_at_a_round_value(value: float, wanted: float) -> None:
    assert round_up(value) == pytest.approx(wanted)


def test_every_plot_is_valid_xml_within_its_frame() -> None:
    counts = [UserCount(at=START + second, users=1 + second % 7) for second in range(-2, 70)]
    shown = list(plots(figures_of(list(mixed_answers()), counts, list(scrapes()))))
    assert [plot.title for plot in shown].count("Users") == 1
    assert len({plot.title for plot in shown}) == len(shown) == 12
    for plot in shown:
        picture = ET.fromstring(plot.svg)
        _, _, width, height = map(float, picture.attrib["viewBox"].split())
        for mark in picture.iter():
            assert 0 <= float(mark.get("cx", mark.get("x", 0))) <= width, plot.title
            assert 0 <= float(mark.get("cy", mark.get("y", 0))) <= height, plot.title


def test_a_run_in_which_all_was_wrong_has_a_report_too() -> None:
    wrong = answer(1, status=0, verdict="wrong", problem="no <answer>")
    html = as_html(figures_of([wrong]), Setting("a test", Load(2, 1, 0)))
    assert "no &lt;answer&gt;" in html
    assert "<answer>" not in html


def test_the_report_is_one_file_and_the_json_has_its_figures() -> None:
    figures, setting = figures_of(list(mixed_answers())), Setting("a test", Load(4, 60, 7), settings={"a": 1})
    html, read = as_html(figures, setting), json.loads(as_json(figures, setting))
    assert_self_contained(html)
    assert read["figures"]["images"] == 60 + 12 * 2
    assert read["setting"]["load"] == {"users": 4, "seconds": 60, "seed": 7, "shape": "steady"}
    assert setting.machine.model in html


def assert_self_contained(html: str) -> None:
    assert not re.search(r"<(script|link|iframe|img|object)\b|\b(src|href)=|@import|url\(", html)


def answered(status: int, body: bytes, **headers: str) -> requests.Response:
    """An answer as the users of a load test have it."""
    response = requests.Response()
    response.status_code = status
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    response._content = body
    return response


def drawn(images: int, **changes: Any) -> bytes:
    urls = [f"http://localhost/{index}.png" for index in range(images)]
    output = {"result": urls, "low_res_urls": urls, "seeds": [*range(images)], "face_similarity": [None] * images}
    return envelope(task_id="one", output=output | {"Has_NSFW_Content": [False] * images}, **changes)


def test_avatars_that_are_all_there_are_right() -> None:
    task = checks.made(answered(200, drawn(2)), batch=2)
    assert [image.url for image in task.images] == ["http://localhost/0.png", "http://localhost/1.png"]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (answered(500, drawn(2)), "500 instead of 200"),
        (answered(200, drawn(1)), "1 images instead of 2"),
        (answered(200, drawn(2, status="PENDING")), "PENDING"),
        (answered(200, drawn(2, extra=1)), "keys of the envelope"),
        (answered(200, b"<html>"), "not JSON"),
        (answered(200, b"[1]"), "keys of the envelope"),
    ],
)
def test_anything_else_is_wrong(answer: requests.Response, problem: str) -> None:
    with pytest.raises(WrongAnswerError, match=problem):
        checks.made(answer, batch=2)


def test_an_error_is_right_only_under_its_name_and_with_a_reason() -> None:
    named = {"error": "Conflict", "error_data": {"message": "It came before."}, "status": "FAILED"}
    checks.error(answered(409, envelope(**named)), 409, "Conflict")
    for spoilt in ({"error": "Invalid Request"}, {"error_data": ""}, {"status": "SUCCESS"}):
        with pytest.raises(WrongAnswerError):
            checks.error(answered(409, envelope(**named | spoilt)), 409, "Conflict")


def test_a_file_is_right_only_in_the_size_that_was_asked_for() -> None:
    checks.image(answered(200, picture(1)), (8, 8))
    with pytest.raises(WrongAnswerError, match="8x8 instead of 8x9"):
        checks.image(answered(200, picture(1)), (8, 9))
    with pytest.raises(WrongAnswerError, match="not an image"):
        checks.image(answered(200, b"text"), (8, 8))


def stream(*events: bytes) -> requests.Response:
    response = answered(200, b"", Content_Type="text/event-stream")
    told = b"".join(b"id: 1\nevent: progress\ndata: " + event + b"\n\n" for event in events)
    response.raw, response._content = io.BytesIO(b"retry: 1000\n\n" + told), False
    return response


def test_the_last_event_of_a_stream_is_what_became_of_the_task() -> None:
    task = checks.last_event(stream(drawn(0, status="STARTED"), drawn(2)), "one")
    assert (task.finished, len(task.images)) == (True, 2)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (answered(200, drawn(2), Content_Type="application/json"), "instead of a stream"),
        (stream(), "without an event"),
        (stream(b"{"), "."),
        (stream(drawn(1).replace(b'"one"', b'"two"')), "task two instead of one"),
    ],
)
def test_a_stream_that_tells_anything_else_is_wrong(answer: requests.Response, problem: str) -> None:
    with pytest.raises(WrongAnswerError, match=problem):
        checks.last_event(answer, "one")


def test_a_repeat_that_is_another_task_is_wrong() -> None:
    with pytest.raises(WrongAnswerError, match="task one instead of two"):
        checks.known(answered(202, drawn(0, status="PENDING")), "two")


@pytest.mark.parametrize(("status", "wanted"), [(503, 3.0), (429, 3.0), (500, None)])
def test_a_refusal_says_when_to_come_back(status: int, wanted: float | None) -> None:
    assert checks.refusal_s(answered(status, b"", Retry_After="3")) == wanted
    assert checks.refusal_s(answered(status, b"")) is None


def command(folder: Path, *arguments: str) -> list[str]:
    outputs = ["--out", str(folder / "report.html"), "--json", str(folder / "figures.json")]
    return [sys.executable, "-m", "loadtest", *arguments, *outputs]


def absent_service() -> list[str]:
    return ["--url", f"http://127.0.0.1:{free_port()}", "--token", "none"]


def test_a_service_that_does_not_answer_is_wrong_and_is_reported(tmp_path: Path) -> None:
    line = command(tmp_path, *absent_service(), "--users", "2", "--seconds", "2")
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 1, done.stderr
    assert "Connection refused" in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert figures["wrong"] == figures["requests"] > 0
    assert "What was wrong" in (tmp_path / "report.html").read_text()


def test_an_interrupted_load_test_reports_what_it_measured(tmp_path: Path, poll: Callable[..., Any]) -> None:
    line = command(tmp_path, *absent_service(), "--seconds", "600")
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        poll(lambda: any(path.stat().st_size for path in tmp_path.glob("*/answers.jsonl")), LIMIT_S)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 130
    finally:
        process.kill()
    assert family
    assert not any(member.is_running() for member in family)
    assert "interrupted" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "figures.json").read_text())["setting"]["interrupted"]


@pytest.mark.slow
@pytest.mark.ray
def test_a_short_load_test_meets_no_wrong_answer_and_leaves_its_report(tmp_path: Path) -> None:
    line = command(tmp_path, "--shape", "spike", "--users", "12", "--minutes", "0.5", "--seed", "3")
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    read = json.loads((tmp_path / "figures.json").read_text())
    answers = dict.fromkeys(get_args(Group), 0)
    for kind in read["figures"]["kinds"]:
        answers[kind["group"]] += kind["answers"]
    assert min(answers.values()) > 0, answers
    assert (read["figures"]["wrong"], read["setting"]["load"]["users"]) == (0, 12)
    assert read["figures"]["images"] > 0
    assert max(users for _, users in read["figures"]["users"]["points"]) == 12
    replicas = {line["name"]: line["points"] for line in read["figures"]["telemetry"]["replicas"]}
    assert {value for _, value in replicas["nodes"]} == {1}
    assert 1 in {value for _, value in replicas["AvatarGenerator"]}
    assert {line["name"] for line in read["figures"]["telemetry"]["rows"]} == {"unfinished", "a step"}
    assert_self_contained((tmp_path / "report.html").read_text())
