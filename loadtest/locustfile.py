"""A mix of requests: sizes, steps, batches, cut-outs, and a tenth of bad ones.

    locust -f loadtest/locustfile.py --headless --host http://127.0.0.1:8000 --users 4 --run-time 60s

FACE_AVATAR_TOKEN holds the token, or FACE_AVATAR_TOKEN_FILE names its file (default: ~/.face-avatar/token).
A 503 with Retry-After is an answer, not a failure: the user waits as long as it was told.
"""

import os
import random
import time
from pathlib import Path
from typing import Any

from locust import HttpUser, between, events, task
from locust.env import Environment

from serve_app.demo import data_url, sample_photo

BAD_BODIES: list[tuple[dict[str, Any], int]] = [
    ({"batch": 99}, 422),
    ({"unknown": 1}, 422),
    ({"app_id": "nobody"}, 404),
    ({"file_url": "ftp://example.org/me.jpg"}, 422),
    ({"file_url": "data:image/png;base64,bm90IGEgcGljdHVyZQ=="}, 422),
]


def read_token() -> str:
    if token := os.environ.get("FACE_AVATAR_TOKEN"):
        return token
    path = os.environ.get("FACE_AVATAR_TOKEN_FILE", "~/.face-avatar/token")
    return Path(path).expanduser().read_text().strip()


class AvatarUser(HttpUser):
    """Somebody who asks for avatars, looks at them, and asks again."""

    wait_time = between(0.1, 1.0)

    def on_start(self) -> None:
        self.client.headers["Authorization"] = f"Bearer {read_token()}"
        self.body: dict[str, Any] = {"app_id": "face-avatar", "file_url": data_url(sample_photo())}

    @task(6)
    def one_avatar(self) -> None:
        self.create("one avatar", num_inference_steps=random.choice([6, 12, 20]))

    @task(2)
    def a_batch(self) -> None:
        self.create("batch", batch=random.randint(2, 4))

    @task(2)
    def cut_out(self) -> None:
        background = random.choice([{"remove_background": True}, {"bg_color": "#3366ff"}])
        self.create("cut-out", width=random.choice([256, 512, 768]), height=512, **background)

    @task(1)
    def bad_request(self) -> None:
        fields, status = random.choice(BAD_BODIES)
        with self.client.post(
            "/getImageToImage", json=self.body | fields, name="bad request", catch_response=True
        ) as answer:
            if answer.status_code == status:
                answer.success()
            else:
                answer.failure(f"{answer.status_code} instead of {status}")

    def create(self, name: str, **fields: Any) -> None:
        """One request, and its first image."""
        with self.client.post("/getImageToImage", json=self.body | fields, name=name, catch_response=True) as answer:
            if answer.status_code == 503 and "retry-after" in answer.headers:
                answer.success()
                time.sleep(float(answer.headers["retry-after"]))
                return
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code} {answer.text[:200]}")
                return
            url = answer.json()["output"]["result"][0]
        self.client.get(url, name="result")


@events.quitting.add_listener
def fail_on_errors(environment: Environment, **_: Any) -> None:
    """A script sees by the exit code whether any answer was wrong."""
    if environment.stats.total.num_failures or not environment.stats.total.num_requests:
        environment.process_exit_code = 1
