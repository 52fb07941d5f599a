"""What tests share: one noun a file. No tests are in here."""
