"""A batch on a whole service, from a form with photos to their avatars."""

import json
from collections.abc import Callable
from typing import Any

from tests.support.photos import photo_files
from tests.support.service import Service

BATCHES = "/api/v1/batches"
SMALL = {"app_id": "face-avatar", "width": 256, "height": 256, "num_inference_steps": 1}


def test_a_form_of_photos_becomes_a_file_of_results(service: Service, poll: Callable[..., Any]) -> None:
    client, photos = service.client, photo_files()
    batch = client.post(BATCHES, json={"defaults": SMALL}).json()["output"]["batch"]
    url = f"{BATCHES}/{batch['batch_id']}"
    files = [("ann", ("ann.png", photos["astronaut.png"])), ("tom", ("tom.png", photos["cat.png"]))]
    answer = client.post(f"{url}/requests", files=files, data={"requests": '{"custom_id": "ann", "seed": 5}'})
    assert answer.json()["output"]["added"] == 2, answer.text
    assert client.post(f"{url}/close").json()["status"] == "STARTED"
    poll(lambda: client.get(url).json()["status"] == "SUCCESS", 60)
    assert client.get(url).json()["output"]["batch"]["counts"] | {"succeeded": 1, "failed": 1, "total": 2} == {
        "total": 2,
        "waiting": 0,
        "running": 0,
        "succeeded": 1,
        "failed": 1,
        "cancelled": 0,
    }
    lines = [json.loads(line) for line in client.get(f"{url}/results").content.splitlines()]
    ended = {line["custom_id"]: line["envelope"] for line in lines}
    assert ended["ann"]["output"]["seeds"] == [5]
    assert service.image(ended["ann"]["output"]["result"][0]).size == (256, 256)
    assert (ended["tom"]["status"], ended["tom"]["error"]) == ("FAILED", "Face Consistent Error")
