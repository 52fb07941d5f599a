"""Step times from the metrics of a service. `service-metrics.txt` was printed by one whose denoiser slept."""

import http.server
from pathlib import Path

import pytest

from loadtest.bench.peers.painters import CURVE
from loadtest.load.own_service import photo_server
from loadtest.plan import __main__ as plan
from loadtest.plan.service_metrics import read_page, served_times

PAGE = Path(__file__).with_name("service-metrics.txt")
SMALL = "kinds: [{app: face-avatar, width: 256, height: 256, steps: 30}]"


class Exporter(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(PAGE.read_bytes())

    def log_message(self, *_: object) -> None:
        pass


def test_the_times_are_those_that_the_steps_of_all_replicas_took() -> None:
    times = served_times([(PAGE.read_text(), "node-1")])["embedded"]
    [size] = times.sizes
    assert size.pixels == 256 * 256
    assert size.steps_s == pytest.approx({rows: CURVE.batch_s(rows) for rows in (2, 4, 6, 8, 10, 12)}, rel=0.1)
    assert times.source == "measured: 5,582 steps of a service, node-1"
    assert times.assumed == ("decodings",)


def test_the_nodes_of_a_service_are_taken_together() -> None:
    page = PAGE.read_text()
    one, two = served_times([(page, "a")])["embedded"], served_times([(page, "a"), (page, "b")])["embedded"]
    assert two.source == "measured: 11,164 steps of a service, a, b"
    assert two.sizes[0].steps_s == pytest.approx(one.sizes[0].steps_s)


def test_a_page_of_a_service_that_drew_nothing_is_named() -> None:
    with pytest.raises(ValueError, match=r"node-2 has no ray_avatar_denoising_steps_total"):
        served_times([(PAGE.read_text(), "node-1"), ("# HELP python_info\n", "node-2")])


def test_a_page_is_read_from_its_address_as_from_a_file() -> None:
    with photo_server(Exporter) as url:
        assert read_page(url) == read_page(str(PAGE)) == PAGE.read_text()


def test_an_address_that_does_not_answer_is_said() -> None:
    with photo_server(Exporter) as url:
        pass
    with pytest.raises(ValueError, match=url):
        read_page(url)


def test_the_plan_names_the_source_of_the_step_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mix = tmp_path / "mix.yaml"
    mix.write_text(SMALL)
    config = str(plan.PRODUCTION.with_name("embedded.yaml"))
    plan.main(["--config", config, "--mix", str(mix), "--days", "0.01", "--no-fixed", "--curves", str(PAGE)])
    printed = "".join(capsys.readouterr().out.split())
    assert "Steptimes:embedded:measured:5,582stepsofaservice" in printed
    assert "decodingsofembedded" in printed
    assert "steptimesof" not in printed
