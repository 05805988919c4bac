"""Alerts leave the service: to the log at once, to the webhook of the settings until it takes them."""

import hashlib
import hmac
import json
import logging
from typing import Any

import httpx

from graphs import metrics
from moatelier.loopback import is_loopback
from moatelier.settings import settings
from store import alerts
from store.alerts import Alert

TIMEOUT_S = 5.0
SIGNATURE = "x-moatelier-signature"
log = logging.getLogger("moatelier.alerts")


def raise_alert(project: str, monitor: str, model: str, what: str, body: dict[str, Any], *, about: str) -> Alert | None:
    """Raise an alert within its monitor's cooldown and the budget, and log it; None where it is not new."""
    made = alerts.raise_once(project, monitor, model, what, body, about=about, calm=True)
    if made is None:
        metrics.ALERTS.labels(monitor, "left_out").inc()
        return None
    metrics.ALERTS.labels(monitor, "raised").inc()
    log.warning("%s of %s: %s", monitor, model, what)
    return made


def deliver() -> int:
    """Send what waits to the webhook; how many it took. Whoever dies in between sends it again under the same id."""
    url = settings().alert_webhook
    if url is None or not (waiting := alerts.due()):
        return 0
    taken = 0
    with httpx.Client(timeout=TIMEOUT_S, follow_redirects=False, trust_env=not is_loopback(url)) as client:
        for alert in waiting:
            done = _sent(client, url, alert)
            taken += done
            if alerts.tried(alert.id, done).delivery == "failed":
                log.error("alert %s could not be delivered and is given up; it stays in the list", alert.id)
            metrics.DELIVERIES.labels("taken" if done else "refused").inc()
    return taken


def _sent(client: httpx.Client, url: str, alert: Alert) -> bool:
    told = alert.model_dump(mode="json", include={"id", "project", "monitor", "model", "what", "body", "created_at"})
    body = json.dumps({"object": "alert", **told}, ensure_ascii=False).encode()
    headers = {"content-type": "application/json"}
    if secret := settings().alert_secret:
        headers[SIGNATURE] = hmac.new(secret.get_secret_value().encode(), body, hashlib.sha256).hexdigest()
    try:
        return client.post(url, content=body, headers=headers).is_success
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        log.warning("the webhook for alerts does not answer: %s", type(error).__name__)
        return False
