"""The chart, as helm renders, lints and installs it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from harness.daemon import binary, environment

Json: TypeAlias = Any
Done: TypeAlias = subprocess.CompletedProcess[str]

CHART = Path(__file__).parents[3] / "charts" / "realm"
EXAMPLES = CHART / "ci"

#: The least that an installation says.
LEAST = EXAMPLES / "default-values.yaml"

#: Far longer than helm takes for anything here; an installation does not wait for its Pods.
HELM_S_MAX = 60.0


def helm(*args: str, kubeconfig: Path | None = None) -> Done:
    """Runs `helm` to its end."""
    with tempfile.TemporaryDirectory() as home:
        config = [] if kubeconfig is None else ["--kubeconfig", str(kubeconfig)]
        return subprocess.run(
            [binary("helm"), *args, *config],
            capture_output=True,
            text=True,
            env=environment(Path(home)),
            timeout=HELM_S_MAX,
            check=False,
        )


def template(values: Path = LEAST, *flags: str, namespace: str = "realm-system") -> Done:
    """What helm says to the chart with these values."""
    where = ("--namespace", namespace, "--values", str(values))
    return helm("template", "realm", str(CHART), *where, *flags)


def render(values: Path = LEAST, *flags: str, namespace: str = "realm-system") -> Sequence[Json]:
    """The objects of the chart with these values."""
    done = template(values, *flags, namespace=namespace)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def only(objects: Sequence[Json], kind: str, name: str | None = None) -> Json:
    """The one object of that kind, and of that name if one is given."""
    found = [
        each
        for each in objects
        if each["kind"] == kind and name in (None, each["metadata"]["name"])
    ]
    assert len(found) == 1, [each["metadata"]["name"] for each in found]
    return found[0]


def given(flag: str, args: Sequence[str]) -> str:
    """What a container's only argument `--flag=value` gives."""
    [value] = [each.removeprefix(f"--{flag}=") for each in args if each.startswith(f"--{flag}=")]
    return value


@cache
def operator_rules() -> tuple[Sequence[Json], Sequence[Json], Sequence[Json]]:
    """What the operator may do everywhere, in its own namespace, and in one of tenants."""
    objects = render(LEAST, "--set-json", f"tenantNamespaces={json.dumps(['tenants'])}")
    roles = (
        ("ClusterRole", "realm-operator"),
        ("Role", "realm-operator"),
        ("Role", "realm-operator-tenants"),
    )
    everywhere, own, tenants = (only(objects, *role)["rules"] for role in roles)
    return everywhere, own, tenants
