"""The numbers of a server, read with Prometheus' own parser."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Metrics:
    """One scrape."""

    families: dict[str, Metric]

    def value(self, sample: str, **labels: str) -> float:
        """The sum of the samples of that name that carry these labels."""
        return sum(
            found.value
            for family in self.families.values()
            for found in family.samples
            if found.name == sample and labels.items() <= found.labels.items()
        )


def parse(text: str) -> Metrics:
    """Reads a scrape; what is not Prometheus' text format fails."""
    return Metrics({family.name: family for family in text_string_to_metric_families(text)})
