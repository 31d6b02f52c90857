"""Counters of a server for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.requests = Counter("r2t2_requests", "Chat requests by status.", ["status"], registry=own)
        self.answers = Counter("r2t2_answers", "Answers by strategy.", ["strategy"], registry=own)
        self.evaluations = Counter("r2t2_evaluations", "Forward passes that depend on the routing.", registry=own)
        self.tokens = Counter("r2t2_completion_tokens", "Tokens of answers.", registry=own)
        self.seconds = Histogram(
            "r2t2_request_seconds", "Seconds of an answered request.", buckets=SECONDS, registry=own
        )
        self.queue_seconds = Histogram("r2t2_queue_seconds", "Seconds in the queue.", buckets=SECONDS, registry=own)
        self.batch_size = Histogram(
            "r2t2_batch_size", "Questions of a batch.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=own
        )
        self.in_flight = Gauge("r2t2_requests_in_flight", "Requests that are read, wait or run.", registry=own)
        self.ready = Gauge("r2t2_ready", "1 once the programs are compiled.", registry=own)

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)
