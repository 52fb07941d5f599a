"""Processor time of a request by each way into the service."""
