"""A real Prometheus that scrapes what a test tells it to."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from harness.daemon import Daemon
from harness.folder import Json
from harness.wait import until

#: Two scrapes a second are enough samples for a rate within a test's patience.
SCRAPE_EVERY = "500ms"


def folder() -> Path:
    """Where `prometheus` and `promtool` are."""
    value = os.environ.get("REALM_TEST_PROMETHEUS")
    assert value is not None, "REALM_TEST_PROMETHEUS is not set; start these tests with tests/run"
    return Path(value)


def promtool(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs `promtool` to its end."""
    command = [folder() / "promtool", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


class Prometheus:
    """One Prometheus and its targets: their URLs by job."""

    def __init__(self, home: Path, port: int, jobs: Mapping[str, Sequence[str]]) -> None:
        self._url = f"http://127.0.0.1:{port}"
        home.mkdir(parents=True, exist_ok=True)
        config = home / "prometheus.yml"
        # JSON is YAML.
        config.write_text(json.dumps(_config(jobs)))
        self._targets = sum(map(len, jobs.values()))
        self.daemon = Daemon(
            home,
            str(folder() / "prometheus"),
            *("--config.file", str(config)),
            *("--storage.tsdb.path", str(home / "data")),
            *("--web.listen-address", f"127.0.0.1:{port}"),
            label="prometheus",
        )

    @property
    def label(self) -> str:
        """Which of several processes it is."""
        return "prometheus"

    def tail(self) -> str:
        """The last of what it said."""
        return self.daemon.tail()

    def start(self) -> None:
        """Starts the process and waits until it has scraped everything once."""
        self.daemon.start()

        def scrapes() -> bool:
            return self._is_ready() and len(self.query("up == 1")) == self._targets

        until(scrapes, "Prometheus scrapes all of its targets")

    def query(self, expr: str) -> Json:
        """The samples that a query gives now."""
        return self._get("query", query=expr)["result"]

    def names(self) -> set[str]:
        """Every metric that it has seen."""
        return set(self._get("label/__name__/values"))

    def series(self, match: str) -> Json:
        """The series of the last minutes that match."""
        return self._get("series", **{"match[]": match})

    def _is_ready(self) -> bool:
        """Whether it answers queries; while it starts it has none of JSON for them."""
        try:
            return httpx.get(f"{self._url}/-/ready", trust_env=False).is_success
        except httpx.TransportError:
            return False

    def _get(self, path: str, **params: str) -> Json:
        with httpx.Client(trust_env=False, timeout=30.0) as client:
            answer = client.get(f"{self._url}/api/v1/{path}", params=params)
        body = answer.json()
        assert body["status"] == "success", body
        return body["data"]

    def close(self) -> None:
        """Ends the process."""
        self.daemon.close()


def _config(jobs: Mapping[str, Sequence[str]]) -> Json:
    return {
        "global": {"scrape_interval": SCRAPE_EVERY},
        "scrape_configs": [
            {
                "job_name": job,
                "static_configs": [{"targets": [urlsplit(url).netloc for url in urls]}],
            }
            for job, urls in jobs.items()
        ],
    }
