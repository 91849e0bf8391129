"""What whoever watches a cluster is given: the list of metrics, the dashboards, the alerts."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import yaml

from harness.folder import Json

ROOT = Path(__file__).parents[3]
RULES = ROOT / "charts" / "realm" / "files" / "alerts" / "realm.yaml"
RULE_TESTS = ROOT / "tests" / "alerts" / "realm.test.yaml"
DASHBOARDS = ROOT / "charts" / "realm" / "files" / "dashboards"
RUNBOOK = ROOT / "deploy" / "runbook.md"


def documented() -> set[str]:
    """The metrics that deploy/metrics.md lists."""
    text = (ROOT / "deploy" / "metrics.md").read_text()
    return set(re.findall(r"^\| `(realm_\w+)`", text, re.M))


def metrics_of(expr: str) -> set[str]:
    """The metrics that a query asks for, histograms by their family."""
    names = set(re.findall(r"\brealm_\w+", expr))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def generator() -> ModuleType:
    """The program that writes the dashboards."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    return importlib.import_module("deploy.dashboards.__main__")


def dashboards() -> dict[str, Json]:
    """Every dashboard by the name of its file."""
    return {file.name: json.loads(file.read_text()) for file in sorted(DASHBOARDS.glob("*.json"))}


def panels() -> Iterator[tuple[str, Json]]:
    """Every panel of every dashboard."""
    for name, dashboard in dashboards().items():
        for panel in dashboard["panels"]:
            yield f"{name}: {panel['title']}", panel


def alerts() -> dict[str, Json]:
    """Every alert by its name."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}
