"""What was measured: the answers, and the service's own metrics."""
