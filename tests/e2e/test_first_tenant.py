"""What the chart's README tells to type, from an empty cluster to a tenant and its owner.

Hollow nodes run nothing: the Pods are run as `test_pods.py` runs them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.chart import CHART
from harness.cluster import Cluster
from harness.forward import forwarded
from harness.installed import Installed, forgo_probes
from harness.kubelet import Program, programs
from harness.typed import ROOT, Reader, blocks, section
from harness.user import User
from harness.wait import until

README = CHART / "README.md"

#: A hollow node has one processor.
FEW = "--set agent.resources.requests.cpu=100m"

#: Where the forwarded port leads, and where Python is.
FORWARDED, PYTHON = "localhost:8443", "/tmp/realm-venv/bin/python"

ALICE = "alice"


@dataclass(frozen=True, slots=True)
class Release:
    """What the README has come to, up to its first tenant."""

    reader: Reader
    installed: Installed
    door: Program
    key: str
    said: str


def typed(heading: str) -> Sequence[str]:
    return blocks(section(README, heading))


@pytest.fixture(scope="module")
def release(
    whole_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, model: Path
) -> Iterator[Release]:
    """The README as far as the first tenant, and the Pods at work."""
    forgo_probes(whole_cluster)
    whole_cluster.add_node("alpha")
    folder = tmp_path_factory.mktemp("readme")
    for name in ("charts", "sdks"):
        (folder / name).symlink_to(ROOT / name)
    reader = Reader(folder, whole_cluster.admin.kubeconfig, folder)
    namespaces, certificate, install = typed("")
    reader.type(namespaces, certificate, f"{install.rstrip()} {FEW}")
    installed = Installed(whole_cluster, folder, "realm-system", "acme")
    installed.await_rollout()
    with programs() as start:
        operator = start(installed.operator())
        installed.await_authority()
        [pod] = installed.pods("agent")
        door = start(installed.agent(pod, operator, model.absolute()))
        # The same bytes by their digest; there is no way to the hub from here.
        tenant = re.sub(r"hf://\S+", model.absolute().as_uri(), typed("The first tenant")[0])
        said, key = reader.type(tenant, 'printf "\\n--%s" "$KEY"').split("\n--")
        yield Release(reader, installed, door, key, said)


def test_the_first_tenant_comes_to_be_ready_and_is_answered_over_tls(release: Release) -> None:
    assert release.said.count("condition met") == 2
    _, forward, calls = typed("The first tenant")
    [port] = release.installed.get("service", "realm-agent")["spec"]["ports"]
    where = f"--namespace realm-system port-forward service/realm-agent 8443:{port['port']}"
    assert forward.strip() == f"kubectl {where}"
    curl, chat = re.split(r"^python3 -m venv .*\n", calls, flags=re.M)
    with forwarded(release.door.ip, release.door.ports["door"]) as here:
        curl, chat = (each.replace(FORWARDED, f"localhost:{here}") for each in (curl, chat))
        assert "data: [DONE]" in release.reader.type(curl, KEY=release.key)
        chat = chat.replace(PYTHON, sys.executable)
        assert release.reader.type(chat, KEY=release.key).strip()


def test_the_charts_test_finds_its_key_and_the_doors_authority(release: Release) -> None:
    [prepare] = typed("Test")
    release.reader.type(prepare)
    key = release.installed.get("secret", "test-key")["data"]
    assert key.keys() == {"key"}
    with forwarded(release.door.ip, release.door.ports["door"]) as here:
        check = f"realm check --url https://localhost:{here} --key-file /dev/stdin"
        show = "kubectl --namespace realm-system get secret test-key --output jsonpath={.data.key}"
        release.reader.type(f"{show} | base64 --decode | {check} --ca ~/realm-doors/ca.crt")


def test_nothing_that_is_typed_leaves_a_key_in_the_tree(release: Release) -> None:
    made = release.reader.home / "realm-doors"
    assert made.stat().st_mode & 0o077 == 0
    assert {"ca.key", "tls.key"} <= {each.name for each in made.iterdir()}
    assert not list(release.reader.folder.glob("*.key"))


def test_an_owner_may_do_what_the_table_of_bindings_says_and_nothing_without_them(
    release: Release, tmp_path: Path
) -> None:
    cluster, model = release.installed.cluster, "smollm2"
    alice = cluster.user(ALICE, ())
    theirs = Reader(tmp_path, alice.kubeconfig, tmp_path)
    mine = "--cluster --namespace acme"
    does = (
        "kubectl --namespace acme get realm",
        f"realm models list {mine}",
        f"realm tenant show acme {mine}",
        f"kubectl --namespace models get model {model}",
        f"realm api-key create {mine} --tenant acme --name alice",
        f"realm api-key revoke {mine} --tenant acme --name alice",
        "kubectl auth can-i create pipelines.realm.dev --namespace acme",
    )
    for each in does:
        assert theirs.attempt(each).returncode != 0, each
    [grant] = typed("Who may do what")
    said = release.reader.type(grant)
    assert said.splitlines()[-3:] == ["yes"] * 3
    for each in does:
        theirs.type(each)
    assert set(never(alice)) == {"no"}


def test_the_role_of_a_tenant_alone_shows_neither_models_nor_pipelines(
    release: Release, tmp_path: Path
) -> None:
    bob = release.installed.cluster.user("bob", ())
    theirs = Reader(tmp_path, bob.kubeconfig, tmp_path)
    release.reader.type(
        "kubectl --namespace acme create rolebinding bob --clusterrole=realm-tenant --user=bob"
    )
    theirs.type("realm tenant show acme --cluster --namespace acme")
    for listing in ("kubectl get realm", "realm models list --cluster"):
        refused = theirs.attempt(f"{listing} --namespace acme")
        assert refused.returncode != 0
        assert "forbidden" in refused.stderr.lower(), refused.stderr


def never(alice: User) -> Sequence[str]:
    """What is said of what stays forbidden: limits, other Secrets, and the models themselves."""
    questions = (
        ("update", "tenants.realm.dev/acme", "--subresource=limits", "acme"),
        ("get", "secrets/others", "", "acme"),
        ("list", "secrets", "", "acme"),
        # One that may be made with a name that may be read has a ServiceAccount's token in it.
        ("create", "secrets", "", "acme"),
        ("patch", "models.realm.dev", "", "models"),
        ("get", "secrets", "", "models"),
    )
    return [
        alice.kubectl("auth", "can-i", *filter(None, each), "--namespace", where).stdout.strip()
        for *each, where in questions
    ]


def test_agents_that_mount_a_claim_wait_until_there_is_one(release: Release) -> None:
    values = "--values charts/realm/ci/claims-values.yaml"
    where = "--namespace realm-system --reset-then-reuse-values"
    release.reader.type(f"helm upgrade realm charts/realm {where} {values}")

    def waits() -> bool:
        conditions = [
            each
            for pod in release.installed.pods("agent")
            for each in pod["status"].get("conditions", [])
        ]
        return any(
            each["type"] == "PodScheduled"
            and '"model-weights" not found' in each.get("message", "")
            for each in conditions
        )

    until(waits, "a Pod waits for its claim")


@pytest.mark.parametrize(
    ("change", "more"),
    [("", ""), ("s/name: Ready/name: Prepared/", "--force-conflicts")],
)
def test_definitions_that_were_applied_by_hand_are_taken_over(
    bare_cluster: Cluster, tmp_path: Path, change: str, more: str
) -> None:
    reader = Reader(tmp_path, bare_cluster.admin.kubeconfig)
    # As they are, or as an older release had them.
    reader.type(f"sed -s '1i ---' crds/yaml/*.yaml | sed '{change}' | kubectl apply --filename -")
    install = "helm install realm charts/realm --namespace realm-system --create-namespace"
    install += " --set doors.tls.secretName=realm-doors"
    refused = reader.attempt(install)
    assert refused.returncode != 0
    assert "ownership" in refused.stderr, refused.stderr
    if more:
        assert "conflict" in reader.attempt(f"{install} --take-ownership").stderr
        reader.type("helm uninstall realm --namespace realm-system")
    reader.type(f"{install} --take-ownership {more}")
    assert all(flag in README.read_text() for flag in ("--take-ownership", more))
    columns = "kubectl get crd tenants.realm.dev --output jsonpath={.spec.versions[0]}"
    assert "Prepared" not in reader.type(columns)
