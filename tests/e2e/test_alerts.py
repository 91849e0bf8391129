"""Alerts are rules that Prometheus takes, each tested both ways and with a section to read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

import yaml

from harness.prometheus import promtool
from harness.watching import ROOT, RULE_TESTS, RULES, RUNBOOK, alerts, documented, metrics_of

#: Words in capitals that are Kubernetes' own.
KUBERNETES = {"True", "ConfigMap", "ServiceAccount"}


def test_prometheus_takes_the_rules() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_fires_and_stays_silent_in_a_near_miss() -> None:
    done = promtool("test", "rules", RULE_TESTS)
    assert done.returncode == 0, done.stdout + done.stderr
    tests = {test["name"]: test for test in yaml.safe_load(RULE_TESTS.read_text())["tests"]}
    assert tests.keys() == alerts().keys()
    for name, test in tests.items():
        expected = [each["exp_samples"] for each in test["promql_expr_test"]]
        assert any(expected), f"{name} is never seen to fire"
        series = "".join(each["series"] for each in test["input_series"])
        is_beside = re.search(r'"(d/)?near"|kind="Tenant"', series)
        assert is_beside or [] in expected, f"{name} is never seen to be silent"


def test_every_alert_says_what_is_wrong_and_where_to_read_on() -> None:
    sections = set(re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.M))
    assert sections == alerts().keys()
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}, name
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}, name
        assert rule["annotations"]["runbook_url"] == f"runbook.md#{name.lower()}"
        assert metrics_of(rule["expr"]) <= documented(), name


def test_every_section_of_the_runbook_says_what_it_means_where_to_look_and_what_to_do() -> None:
    _, *sections = re.split(r"^## ", RUNBOOK.read_text(), flags=re.M)
    known = documented()
    for section in sections:
        name = section.split("\n", 1)[0]
        assert re.findall(r"^\*\*(.+?)\.\*\*", section, re.M) == ["Means", "Look", "Do"], name
        assert metrics_of(section) <= known, name


def test_the_runbook_runs_nothing_in_images_that_hold_nothing_to_run() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", RUNBOOK.read_text(), re.S)
    assert blocks
    for block in blocks:
        assert not re.search(r"\bkubectl\b.*\bexec\b", block), block


def test_the_runbook_looks_for_words_that_the_programs_say() -> None:
    text = RUNBOOK.read_text()
    files = [file for folder in ("operator", "agent") for file in (ROOT / folder).rglob("*.rs")]
    said = {word for file in files for word in re.findall(r'"([^"\n]+)"', file.read_text())}
    phrases = [each for line in re.findall(r"grep (.*?) \|", text) for each in _sought(line)]
    assert phrases
    for phrase in phrases:
        assert any(phrase in each for each in said), phrase
    reasons = set(re.findall(r"`([A-Z][a-z]+[A-Za-z]*)`", text)) - KUBERNETES
    assert reasons > {"DiskFull", "Connect", "UnknownSecret"}
    assert not reasons - said


def _sought(arguments: str) -> Sequence[str]:
    """What a `grep` with these arguments looks for; levels and names are no words of ours."""
    words = [word for word in shlex.split(arguments) if word != "-e"]
    return [word for word in words if word not in {"ERROR", "WARN", "NAME"}]
