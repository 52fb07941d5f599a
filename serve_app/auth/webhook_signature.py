"""Signatures of webhooks, as Standard Webhooks 1.0 has them (standardwebhooks.com)."""

import base64
import hashlib
import hmac


def webhook_key(signing_key: bytes, owner: str) -> bytes:
    """32 bytes, another for each token: a receiver cannot sign what others receive."""
    return hmac.new(signing_key, f"webhook\n{owner}".encode(), hashlib.sha256).digest()


def webhook_secret(signing_key: bytes, owner: str) -> str:
    """The key as libraries take it."""
    return f"whsec_{base64.b64encode(webhook_key(signing_key, owner)).decode()}"


def signature(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
