"""The report of a load test, as HTML and JSON."""
