"""What the worker counts. It has no port: every few seconds it writes all down for the api, see `write`."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from moatelier.job import write_atomically
from moatelier.settings import settings

REGISTRY = CollectorRegistry()
JOB_SECONDS = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200)

ProcessCollector(namespace="moatelier_worker", registry=REGISTRY)
JOBS = Counter(
    "moatelier_worker_jobs_total",
    "Jobs that have ended: done, or the code of what went wrong.",
    ["kind", "outcome"],
    registry=REGISTRY,
)
JOB = Histogram(
    "moatelier_worker_job_seconds",
    "From a job's start in this worker to its end.",
    ["kind"],
    buckets=JOB_SECONDS,
    registry=REGISTRY,
)
RUNNING = Gauge("moatelier_worker_jobs_running", "Jobs whose processes live.", ["kind"], registry=REGISTRY)
DEATHS = Counter(
    "moatelier_worker_job_deaths_total", "Processes that ended without a result.", ["kind"], registry=REGISTRY
)
RUNS = Counter("moatelier_worker_runs_total", "Runs of graphs that have ended.", ["graph", "status"], registry=REGISTRY)
SWEEPS_FAILED = Counter(
    "moatelier_worker_sweeps_failed_total", "Times the store could not be looked through.", registry=REGISTRY
)
ROLLOUTS = Counter(
    "moatelier_worker_rollouts_total", "Moves of rollouts, by their new state.", ["state"], registry=REGISTRY
)
CHECKS = Counter("moatelier_worker_monitor_checks_total", "Looks at observations.", ["outcome"], registry=REGISTRY)
ALERTS = Counter(
    "moatelier_worker_alerts_total",
    "Alerts by what noticed them: raised, or left out by cooldown or budget.",
    ["monitor", "outcome"],
    registry=REGISTRY,
)
DELIVERIES = Counter(
    "moatelier_worker_alert_deliveries_total", "Attempts at the webhook.", ["outcome"], registry=REGISTRY
)
LESSONS = Counter(
    "moatelier_worker_lessons_total", "What feedback taught, by what became of it.", ["status"], registry=REGISTRY
)
RETRAINS = Counter("moatelier_worker_retrains_total", "Firings of triggers.", ["cause", "outcome"], registry=REGISTRY)


def write() -> None:
    """Write what is counted to `<home>/worker.prom`, whole or not at all."""
    write_atomically(settings().home / "worker.prom", generate_latest(REGISTRY))
