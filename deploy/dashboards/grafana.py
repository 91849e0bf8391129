"""Dashboards as Grafana imports them: all that it wants besides what a panel says is here, once."""

from __future__ import annotations

from typing import Any

from deploy.dashboards.panel import Dashboard, Panel, Variable

#: Columns of a dashboard in Grafana, and what a panel takes of them.
COLUMNS, WIDTH, HEIGHT = 24, 8, 8


def steps(panel: Panel) -> list[dict[str, Any]]:
    """The colours of a panel."""
    if panel.is_floor:
        return [{"color": "red", "value": None}, {"color": "green", "value": panel.warn}]
    colours = [("green", None), ("yellow", panel.warn), ("red", panel.bad)]
    return [
        {"color": colour, "value": value}
        for colour, value in colours
        if value is not None or colour == "green"
    ]


def panel_json(number: int, panel: Panel) -> dict[str, Any]:
    """A panel as Grafana reads it, in its place."""
    columns = COLUMNS // WIDTH
    place = {"x": number % columns * WIDTH, "y": number // columns * HEIGHT}
    source = {"type": "prometheus", "uid": "${datasource}"}
    has_colours = panel.warn is not None
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": source,
        "gridPos": place | {"w": WIDTH, "h": HEIGHT},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": {"thresholdsStyle": {"mode": "line" if has_colours else "off"}},
                "thresholds": {"mode": "absolute", "steps": steps(panel)},
            },
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": source,
                "expr": query.expr,
                "legendFormat": query.legend,
            }
            for at, query in enumerate(panel.queries)
        ],
    }


def variable_json(variable: Variable) -> dict[str, Any]:
    """A choice of one, several or all values of a label."""
    return {
        "type": "query",
        "name": variable.name,
        "label": variable.label,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": variable.query, "refId": variable.name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard_json(dashboard: Dashboard) -> dict[str, Any]:
    """A dashboard as Grafana imports it."""
    source = {"type": "datasource", "name": "datasource", "label": "Data", "query": "prometheus"}
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["realm"],
        "editable": False,
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source, *map(variable_json, dashboard.variables)]},
        "panels": [panel_json(*each) for each in enumerate(dashboard.panels)],
    }
