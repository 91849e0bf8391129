"""Dashboards are what their program writes, and every panel says what it is for."""

from __future__ import annotations

from typing import Any

from harness.watching import dashboards, documented, generator, metrics_of, panels

#: Units that Grafana knows, and ours.
UNITS = {"short", "s", "ops", "reqps", "bool", "percentunit", "suffix: tokens/s", "suffix: fuel/s"}


def test_the_committed_dashboards_are_what_their_program_writes() -> None:
    written: Any = generator()
    found = {file.name: file.read_text() for file in written.FOLDER.iterdir()}
    assert found == written.files(), "run python3 -m deploy.dashboards"


def test_every_dashboard_lets_its_data_source_be_chosen_and_uses_all_of_its_variables() -> None:
    for name, dashboard in dashboards().items():
        first, *variables = dashboard["templating"]["list"]
        assert first["type"] == "datasource", name
        text = "".join(target["expr"] for each in dashboard["panels"] for target in each["targets"])
        for variable in variables:
            assert f'=~"${variable["name"]}"' in text, (name, variable["name"])
            assert metrics_of(variable["query"]["query"]) <= documented(), (name, variable)


def test_every_panel_has_a_unit_a_description_and_queries_of_metrics_that_exist() -> None:
    known = documented()
    for name, panel in panels():
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, name
        assert panel["description"].endswith("."), name
        assert panel["targets"], name
        for target in panel["targets"]:
            asked = metrics_of(target["expr"])
            assert asked, name
            assert asked <= known, (name, asked - known)


def test_every_number_that_can_be_bad_has_a_threshold_where_it_turns() -> None:
    for name, panel in panels():
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert steps[0]["value"] is None, name
        if panel["fieldConfig"]["defaults"]["unit"] in {"s", "bool"}:
            assert len(steps) > 1, name
        values = [step["value"] for step in steps[1:]]
        assert values == sorted(values), name
