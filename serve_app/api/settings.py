"""The settings of `AvatarIngress`."""

from pydantic import Field, IPvAnyNetwork, model_validator

from serve_app.api.security_headers import CorsSettings
from serve_app.generation.settings import GenerationSettings
from serve_app.photos.urls import MAX_PHOTO_BYTES

# The largest photo in base64 with line breaks, which adds up to 38%, and the other fields.
BODY_BYTES = MAX_PHOTO_BYTES * 7 // 5 + 2 * 1024 * 1024
LARGEST_BODY_BYTES = 64 * 1024 * 1024  # what the proxy, which does not know the settings, lets through


class IngressSettings(GenerationSettings):
    """The settings of an ingress replica. A body of `max_body_bytes` must fit into one owner's share of the budget."""

    public_url: str | None = None  # base of the links in answers; None: the URL of the request
    max_body_bytes: int = Field(BODY_BYTES, ge=1024, le=LARGEST_BODY_BYTES)
    cors: CorsSettings = CorsSettings()
    # Load balancers and proxies in front, whose X-Forwarded-For and X-Forwarded-Proto say who asks, and how.
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()

    @model_validator(mode="after")
    def _largest_body_fits(self) -> "IngressSettings":
        share = self.admission.owner_body_share * self.admission.max_body_bytes_at_once
        if self.max_body_bytes > share:
            raise ValueError(
                f"max_body_bytes is {self.max_body_bytes}, but admission.max_body_bytes_at_once times "
                f"admission.owner_body_share only {share:.0f}: a body of that size would never be accepted"
            )
        return self
