"""Where state is kept: Redis or Valkey, object stores, secrets in the data directory."""
