"""Signatures of webhooks by Standard Webhooks 1.0 (standardwebhooks.com)."""

import base64
import hashlib
import hmac


def webhook_key(signing_key: bytes, owner: str) -> bytes:
    """32 bytes, different for each owner, so that a receiver cannot sign what others receive."""
    return hmac.new(signing_key, f"webhook\n{owner}".encode(), hashlib.sha256).digest()


def webhook_secret(signing_key: bytes, owner: str) -> str:
    """The key in the format of the libraries."""
    return f"whsec_{base64.b64encode(webhook_key(signing_key, owner)).decode()}"


def signature(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """The value of `webhook-signature`: `v1,` and the base64 HMAC-SHA256 of `message_id.timestamp.body`."""
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
