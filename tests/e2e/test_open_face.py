"""One service, two apps with a face model each: over HTTP, with small models in the published formats."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from serve_app.catalog.catalog import CATALOGUES
from tests.support.envelopes import QUICK, failure
from tests.support.onnx_models import marker, photo_of
from tests.support.photos import data_url, png
from tests.support.polling import poll
from tests.support.service import Service, service_on
from tests.support.yunet_models import AURAFACE, DETECTOR, write_open_face

pytestmark = pytest.mark.slow

OPEN = "face-avatar-open"
SOMEONE = data_url(png(photo_of((marker(120, 1), 90, 60))))  # a face for YuNet's small model, and for it alone


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, photo_server: str) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("open-face")
    write_open_face(folder / "models")
    app = yaml.safe_load((CATALOGUES / "embedded.yaml").read_text())["apps"]["face-avatar"]
    defaults = app["defaults"] | {"min_similarity": 0.9}
    catalogue = folder / "open.yaml"
    catalogue.write_text(yaml.safe_dump({"apps": {OPEN: {**app, "face_model": "auraface", "defaults": defaults}}}))
    auraface = {
        "kind": "yunet",
        "detector": f"models:{DETECTOR}",
        "recogniser": {"kind": "arcface", "file": f"models:{AURAFACE}"},
    }
    args: dict[str, Any] = {
        "catalogs": ["embedded", str(catalogue)],
        "models_dir": str(folder / "models"),
        "face": {"models": {"auraface": auraface}},
    }
    with service_on(folder, photo_server, **args) as running:
        yield running


def test_each_app_reads_photos_by_its_own_face_model(service: Service) -> None:
    for app_id, photo, other in (
        (OPEN, SOMEONE, f"{service.photos}/astronaut.png"),
        ("face-avatar", f"{service.photos}/astronaut.png", SOMEONE),
    ):
        made = service.make(app_id=app_id, file_url=photo, seed=7, **QUICK)
        assert made["status"] == "SUCCESS"
        failure(service.post(app_id=app_id, file_url=other, **QUICK), 422, "Face Consistent Error")


def test_the_least_likeness_is_the_apps_own_and_a_request_may_lower_it(service: Service) -> None:
    """No avatar shows a marker, so each drawing is less like it than any likeness that is asked for."""
    made = service.make(app_id=OPEN, file_url=SOMEONE, seed=7, **QUICK)
    assert made["input"]["min_similarity"] == 0.9
    assert made["output"]["face_similarity"] == [None]
    assert [attempt["seed"] for attempt in made["output"]["attempts"][0]] == [7, 8, 9]
    lower = service.make(app_id=OPEN, file_url=SOMEONE, seed=7, min_similarity=0.1, **QUICK)
    assert lower["input"]["min_similarity"] == 0.1
    assert service.make(**QUICK)["input"]["min_similarity"] is None


def test_a_queued_task_of_the_app_is_drawn_and_its_receipt_names_the_files_of_its_face_model(service: Service) -> None:
    queued = service.post(app_id=OPEN, file_url=SOMEONE, seed=7, celery=True, **QUICK)
    assert queued.status_code == 202, queued.text

    def finished() -> dict[str, Any] | None:
        envelope: dict[str, Any] = service.client.get(f"/api/v1/tasks/{queued.json()['task_id']}").json()
        return envelope if envelope["status"] not in ("PENDING", "STARTED") else None

    done = poll(finished)
    assert done["status"] == "SUCCESS", done
    weights = done["output"]["receipts"][0]["weights"]
    assert {name for name in weights if name.startswith("face/")} == {f"face/{DETECTOR}", f"face/{AURAFACE}"}
