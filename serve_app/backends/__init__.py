"""Clients of what keeps state: Redis or Valkey, object stores, secrets in the data directory."""
