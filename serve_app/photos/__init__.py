"""Photos of clients: URLs, the guarded fetch, and decoding in sandboxed processes."""
