"""Content credentials (C2PA): signing results, reading and verifying pictures."""
