"""What a process counts about itself, for Prometheus: base units, and labels of few values (never an id, never a path).

With `PROMETHEUS_MULTIPROC_DIR` set when this is first imported, all processes that share that folder are one to a scraper.
"""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
SHARED = Path(os.environ[FOLDER_VARIABLE]) if FOLDER_VARIABLE in os.environ else None
"""The folder that processes share, or None: this process alone."""

REGISTRY = CollectorRegistry()

# Shared folders have no such series, and a process alone should not differ.
disable_created_metrics()  # type: ignore[no-untyped-call]

HTTP_REQUESTS = Counter(
    "killatamata_http_requests_total",
    "Requests that were answered.",
    ["method", "route", "code"],
    registry=REGISTRY,
)
HTTP_SECONDS = Histogram(
    "killatamata_http_request_duration_seconds",
    "From a request's head to the head of its answer.",
    ["method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
    registry=REGISTRY,
)
HTTP_IN_FLIGHT = Gauge(
    "killatamata_http_requests_in_flight",
    "Requests whose answer is not yet complete, event streams among them.",
    multiprocess_mode="livesum",
    registry=REGISTRY,
)
HTTP_RECEIVED_BYTES = Counter(
    "killatamata_http_request_body_bytes_total", "Bodies of requests that were read.", ["route"], registry=REGISTRY
)
HTTP_SENT_BYTES = Counter(
    "killatamata_http_response_body_bytes_total", "Bodies of answers that were sent.", ["route"], registry=REGISTRY
)
EVENT_STREAMS = Gauge(
    "killatamata_event_streams_open", "Event streams being served.", multiprocess_mode="livesum", registry=REGISTRY
)
RATE_LIMITED = Counter(
    "killatamata_rate_limited_total", "Requests refused because of a rate limit.", ["policy"], registry=REGISTRY
)
RATE_LIMIT_STORE_FAILURES = Counter(
    "killatamata_rate_limit_store_failures_total", "Times the shared store of rate limits was away.", registry=REGISTRY
)
IDEMPOTENT_REPLAYS = Counter(
    "killatamata_idempotent_replays_total",
    "Writes that were answered with what the first one with their key got.",
    ["route"],
    registry=REGISTRY,
)
JOB_SUBMITS = Counter(
    "killatamata_job_submits_total",
    "Submits with a valid body, by outcome: accepted, replayed, or the error's code.",
    ["task", "outcome"],
    registry=REGISTRY,
)
ADMISSION_REFUSED = Counter(
    "killatamata_admission_refused_total",
    "Submits refused because of the work that waits.",
    ["pool"],
    registry=REGISTRY,
)
HELD_MICROS = Counter(
    "killatamata_job_held_micros_total", "Micro-dollars that accepted submits set aside.", ["task"], registry=REGISTRY
)
OBJECT_STORE_FAILURES = Counter(
    "killatamata_object_store_failures_total", "Requests that the store of objects did not serve.", registry=REGISTRY
)
WEBHOOK_ATTEMPTS = Counter(
    "killatamata_webhook_attempts_total", "Tries to deliver a webhook, by outcome.", ["outcome"], registry=REGISTRY
)
