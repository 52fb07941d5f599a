"""Photos of clients: their URLs, the guarded fetch, and decoding in sandboxed processes."""
