"""Writes the dashboards of charts/realm: `python3 -m deploy.dashboards`, from the root of the tree.

A panel is what it asks, its unit, what to do about it and where it turns yellow and red.
"""

from __future__ import annotations

import json
from pathlib import Path

from deploy.dashboards.fleet import FLEET
from deploy.dashboards.grafana import dashboard_json
from deploy.dashboards.model import MODELS
from deploy.dashboards.tenant import TENANTS

FOLDER = Path(__file__).parents[2] / "charts" / "realm" / "files" / "dashboards"


def files() -> dict[str, str]:
    """Every dashboard's file by name."""
    dashboards = {"fleet": FLEET, "tenant": TENANTS, "model": MODELS}
    return {
        f"{name}.json": json.dumps(dashboard_json(dashboard), indent=2) + "\n"
        for name, dashboard in dashboards.items()
    }


def main() -> None:
    """Puts every file in its place."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
