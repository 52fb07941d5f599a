"""The envelope around every answer."""

from typing import Any

import httpx

KEYS = {"time_required", "error", "error_data", "input", "output", "app_id", "task_id", "status"}
QUICK = {"num_inference_steps": 2, "width": 256, "height": 256}


def failure(answer: httpx.Response, status: int, error: str) -> Any:
    """Check that an answer is an envelope of this failure; gives its `error_data`."""
    assert answer.status_code == status, answer.text
    envelope = answer.json()
    assert envelope.keys() == KEYS
    assert envelope["status"] == "FAILED"
    assert envelope["error"] == error
    assert envelope["error_data"]["message"]
    assert len(answer.headers.get_list("x-request-id")) == 1
    return envelope["error_data"]
