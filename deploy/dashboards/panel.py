"""What a dashboard is, short of what Grafana wants besides, and queries that panels share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

#: Grafana's own: at least four scrapes, so that a rate is never of one sample.
RATE = "$__rate_interval"


@dataclass(frozen=True)
class Query:
    """What a line of a panel asks, and what it is called."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One question, answered over time."""

    title: str
    unit: str
    description: str
    queries: Sequence[Query]
    #: From where on it is yellow, and red; nothing where more is no worse.
    warn: float | None = None
    bad: float | None = None
    #: Whether less is worse: then it is green from `warn` on.
    is_floor: bool = False


@dataclass(frozen=True)
class Variable:
    """What may be chosen at the top of a dashboard."""

    name: str
    label: str
    query: str


@dataclass(frozen=True)
class Dashboard:
    """One page, for one kind of reader."""

    uid: str
    title: str
    description: str
    panels: Sequence[Panel]
    variables: Sequence[Variable] = field(default_factory=tuple)


def rate(counter: str, by: str, where: str = "") -> str:
    """How fast a counter grows, summed."""
    return f"sum by ({by}) (rate({counter}{{{where}}}[{RATE}]))"


def quantiles(histogram: str, by: str, where: str = "") -> Sequence[Query]:
    """The middle and the slow end of a histogram."""
    group = f"{by}, le" if by else "le"
    name = f"{{{{{by}}}}} " if by else ""
    return [
        Query(
            f"histogram_quantile({q}, sum by ({group}) "
            f"(rate({histogram}_bucket{{{where}}}[{RATE}])))",
            f"{name}p{round(q * 100)}",
        )
        for q in (0.5, 0.95)
    ]


NODE = 'node=~"$node"'
TENANT = 'tenant=~"$tenant"'
MODEL = 'model=~"$model"'
BOTH = f"{TENANT}, {MODEL}"
SERVED = f'{TENANT}, code="ok"'
