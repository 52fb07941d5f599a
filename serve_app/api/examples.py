"""Example requests and answers for the OpenAPI document, covering every field and every error."""

from typing import Any

from serve_app.batches.requests import BatchRequest
from serve_app.schemas.errors import ANSWERS, ErrorAnswer
from serve_app.schemas.faces import FacesRequest, PictureRequest
from serve_app.schemas.receipts import Receipt
from serve_app.schemas.requests import AvatarRequest, StatusRequest
from serve_app.schemas.responses import Attempt, AvatarOutput, Envelope, Progress, TimeRequired
from serve_app.schemas.warnings import recorded_warnings

TASK_ID = "01a2048f-977f-7c63-ae41-e05892df70f1"
PHOTO = "https://example.org/me.jpg"
FILES = f"https://avatars.example.org/files/{TASK_ID}"
SIGNED = "expires=1795459250&signature=afcfaec9"
PROMPT = "portrait of a smiling woman, blue background"

SHORT_REQUEST = {"app_id": "face-avatar", "file_url": PHOTO, "batch": 2, "gender": "female"}
OF_SCHEMA = {name: field.examples[0] for name, field in AvatarRequest.model_fields.items() if field.examples}
SEVERAL_PHOTOS = {"app_id": "face-avatar", "file_urls": OF_SCHEMA.pop("file_urls"), "gender": "female"}
WHOLE_REQUEST = {
    **OF_SCHEMA,
    "prompt": PROMPT,
    "negative_prompt": "hat",
    "batch": 2,
    "height": 512,
    "width": 512,
    "quality": "standard",
    "num_inference_steps": 12,
    "guidance_scale": 1.5,
    "ip_adapter_scale": 0.8,
    "remove_background": True,
    "bg_color": "#2F6FDE",
    "celery": True,
    "previews": True,
    "seed": 7,
    "output_format": "webp",
    "ref_id": "order 1234",
    "webhook_url": "https://example.org/avatars-are-done",
    "consent": True,
    "priority": "low",
    "deadline_s": 600,
}
REQUESTS: dict[type, dict[str, Any]] = {
    AvatarRequest: {"short": SHORT_REQUEST, "several photos": SEVERAL_PHOTOS, "every field": WHOLE_REQUEST},
    StatusRequest: {"short": {"id": TASK_ID}},
    PictureRequest: {"short": {"file_url": PHOTO}},
    BatchRequest: {"short": {"defaults": {"app_id": "face-avatar", "gender": "female"}, "ref_id": "order 1234"}},
    FacesRequest: {"short": {"file_url": PHOTO}, "for an app": {"app_id": "face-avatar", "file_url": PHOTO}},
}

RECEIPT = Receipt(
    app_id="face-avatar",
    model="embedded",
    weights={
        "unet/diffusion_pytorch_model.safetensors": "5f" * 32,
        "face/encoder.onnx": "7a" * 32,
        "background/u2net.onnx": "b3" * 32,
    },
    prompt=PROMPT,
    negative_prompt="hat",
    seed=7,
    num_inference_steps=12,
    guidance_scale=1.5,
    ip_adapter_scale=0.8,
    lora_scale=None,
    sampler="DPMSolver2M",
    schedule={"beta_schedule": "squaredcos_cap_v2"},
    drawn_width=256,
    drawn_height=256,
    drawn_sha256="c0" * 32,
    width=512,
    height=512,
    remove_background=True,
    bg_color="#2F6FDE",
    output_format="webp",
    precision="float32",
    device="cpu",
    versions={"face-avatar": "0.1.0", "torch": "2.13.0", "diffusers": "0.42.1"},
)
INPUT = {name: value for name, value in WHOLE_REQUEST.items() if name != "consent"}
INPUT |= {"file_urls": None, "fallback_from": None}
SUCCESS = Envelope(
    time_required=TimeRequired(
        runtime=1.8513, stages={"fetch": 0.0119, "face": 0.1195, "diffusion": 1.6591, "finish": 0.0336, "store": 0.0013}
    ),
    input=INPUT,
    output=AvatarOutput(
        result=[f"{FILES}/0.webp?{SIGNED}", f"{FILES}/1.webp?{SIGNED}"],
        low_res_urls=[f"{FILES}/0.thumb.webp?{SIGNED}", f"{FILES}/1.thumb.webp?{SIGNED}"],
        Has_NSFW_Content=[False, False],
        seeds=[7, 11],
        face_similarity=[0.8483, 0.6812],
        attempts=[
            [Attempt(seed=7, face_similarity=0.8483)],
            [Attempt(seed=8, face_similarity=0.5127), Attempt(seed=11, face_similarity=0.6812)],
        ],
        receipts=[RECEIPT, RECEIPT.model_copy(update={"seed": 11, "drawn_sha256": "d1" * 32})],
        warnings=recorded_warnings(["clipped", "backlit"]),
    ).model_dump(),
    app_id="face-avatar",
    task_id=TASK_ID,
)
QUEUED = Envelope(
    input=INPUT,
    output={
        "progress": Progress(
            step=0, steps=12, images_done=0, images=2, queue_position=3, eta_s=8.2, image_steps=[0, 0], previews=[]
        ).model_dump()
    },
    app_id="face-avatar",
    task_id=TASK_ID,
    status="PENDING",
)

FIELD = {"field": "batch", "message": "Input should be less than or equal to 8", "accepted": {"type": "integer"}}
ERROR_DATA: dict[str, dict[str, Any]] = {
    "Unauthorized": {"message": "This token is not known."},
    "Forbidden": {"message": "This token lacks the right to create."},
    "Not Found": {"message": "There is nothing at /nowhere."},
    "Unknown App": {"message": "There is no app 'face'.", "accepted": ["face-avatar"]},
    "Unknown Task": {"message": "There is no task with this id.", "task_id": TASK_ID},
    "Unknown Batch": {"message": "There is no batch with this id.", "batch_id": TASK_ID},
    "Method Not Allowed": {"message": "/getImage does not take GET.", "accepted": "POST"},
    "Conflict": {"message": "This idempotency key came with another request before.", "task_id": TASK_ID},
    "Request Too Large": {"message": "The body is larger than 16777216 bytes.", "max_bytes": 16777216},
    "Unsupported Media Type": {"message": "The content type is text/plain.", "accepted": "application/json"},
    "Invalid Request": {"message": "The request is not valid.", "fields": [FIELD]},
    "Image URL Error": {"message": "The URL answered 404.", "reason": "status"},
    "Face Consistent Error": {"message": "No face was found.", "reason": "no_face", "photo": 1},
    "NSFW Content": {"message": "The safety checker withholds every image."},
    "Rate Limit": {"message": "This token may send 60 requests a minute.", "retry_after_s": 12},
    "Overloaded": {"message": "32 images are being made already.", "retry_after_s": 5},
    "Timeout": {"message": "Not done within 120 s."},
    "Internal Error": {"message": "Something went wrong here.", "request_id": "3b6f7c0e"},
}


def request_examples(model: type) -> dict[str, Any]:
    """Named examples as OpenAPI has them; empty for a model without any."""
    bodies: dict[str, Any] = next((REQUESTS[kind] for kind in model.__mro__ if kind in REQUESTS), {})
    return {name: {"value": body} for name, body in bodies.items()}


def answer_examples(status: int) -> dict[str, Any]:
    """Example answers with an HTTP status, by the names of their errors."""
    if status < 300:
        answers = {"done": SUCCESS} if status == 200 else {"queued": QUEUED}
    else:
        answers = {answer.name: _failure(answer) for answer in ANSWERS.values() if answer.status == status}
    return {name: {"value": envelope.model_dump()} for name, envelope in answers.items()}


def _failure(answer: ErrorAnswer) -> Envelope:
    return Envelope(error=answer.name, error_data=ERROR_DATA[answer.name], app_id="face-avatar", status="FAILED")
