"""The chart in a cluster with controllers and nodes: roll-outs, rights and upgrades."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import yaml

from harness.cluster import Cluster
from harness.folder import Json, new_key
from harness.installed import Installed, review
from harness.user import Done
from harness.wait import until

#: What a Tenant may spend, and a change of it.
SPEC = {"weight": 100, "models": [{"name": "smollm2"}], "apiKeys": [{"secretName": "acme-keys"}]}
NODES = ("alpha", "beta")
PODS = ("operator", "agent")


@pytest.fixture(scope="module")
def installed(whole_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The chart on two nodes."""
    for node in NODES:
        whole_cluster.add_node(node)
    return Installed.with_doors(whole_cluster, tmp_path_factory.mktemp("installed"), new_key())


@pytest.fixture
def tenant(installed: Installed) -> Iterator[str]:
    """A Tenant that nobody serves."""
    apply(installed, tenant_of(SPEC))
    yield "acme"
    installed.cluster.admin.kubectl("delete", "tn", "acme", "--namespace", installed.tenants)


def tenant_of(spec: Json) -> Json:
    return {"apiVersion": "realm.dev/v1alpha1", "kind": "Tenant", "spec": spec}


def apply(installed: Installed, thing: Json, *how: str, name: str = "acme") -> Done:
    """Writes an object in the tenants' namespace, as somebody; the answer may be a refusal."""
    thing = thing | {"metadata": {"name": name, "namespace": installed.tenants}}
    flags = ("--server-side", "--force-conflicts", "--filename", "-")
    return installed.cluster.admin.kubectl("apply", *how, *flags, given=yaml.safe_dump(thing))


def bind(installed: Installed, role: str, user: str) -> None:
    """Gives somebody a role in the tenants' namespace."""
    flags = ("--clusterrole", role, "--user", user, "--namespace", installed.tenants)
    done = installed.cluster.admin.kubectl("create", "rolebinding", f"{user}-{role}", *flags)
    assert done.returncode == 0, done.stderr


def test_every_pod_runs_under_pod_security_restricted(installed: Installed) -> None:
    installed.await_rollout()
    assert {pod["spec"]["nodeName"] for pod in installed.pods("agent")} == set(NODES)
    assert {pod["spec"]["nodeName"] for pod in installed.pods("operator")} == set(NODES)
    for name in ("realm-agent", "realm-operator"):
        until(partial(has_budget, installed, name), f"{name} may lose one Pod")


def has_budget(installed: Installed, name: str) -> bool:
    status = installed.get("poddisruptionbudget", name).get("status", {})
    return bool(status.get("disruptionsAllowed") == 1)


def test_the_operator_reads_what_its_tenants_name_and_nobody_elses(
    installed: Installed,
) -> None:
    user = f"system:serviceaccount:{installed.namespace}:realm-operator"
    cluster = installed.cluster

    def may(verb: str, namespace: str) -> bool:
        return review(cluster, user, verb, "/secrets", namespace)

    for verb in ("get", "list", "watch"):
        assert may(verb, installed.tenants), verb
        assert not may(verb, "default"), verb
        assert not may(verb, "kube-system"), verb
        # All of them at once.
        assert not may(verb, ""), verb
    # The one that it made is another matter, and has a name.
    assert not may("list", installed.namespace)
    assert not may("get", installed.namespace)
    assert not may("delete", installed.tenants)
    for verb in ("create", "delete", "update"):
        assert not review(cluster, user, verb, "realm.dev/tenants", installed.tenants), verb
    # Of what programs come from, no more than one at a time is read, by its name.
    assert review(cluster, user, "get", "/configmaps", installed.tenants)
    for verb in ("list", "watch", "create", "update", "patch", "delete"):
        assert not review(cluster, user, verb, "/configmaps", installed.tenants), verb
    for namespace in ("default", "kube-system", installed.namespace, ""):
        assert not review(cluster, user, "get", "/configmaps", namespace), namespace
    agent = f"system:serviceaccount:{installed.namespace}:realm-agent"
    for resource in ("/secrets", "/configmaps", "/pods", "realm.dev/tenants"):
        assert not review(cluster, agent, "get", resource, installed.namespace), resource


@pytest.mark.usefixtures("tenant")
def test_nobody_lifts_the_limits_of_a_tenant_but_who_runs_the_plane(installed: Installed) -> None:
    bind(installed, "realm-tenant", "editor")
    bind(installed, "admin", "owner")
    bind(installed, "realm-admin", "runner")
    program = SPEC | {"program": {"sources": ["https://example.com/p.wasm"], "sha256": 64 * "a"}}
    keys = SPEC | {"apiKeys": [{"secretName": "other-keys"}]}
    changes: dict[str, Json] = {
        "weight": SPEC | {"weight": 10_000},
        "limits": SPEC | {"limits": {"calls": 1000}},
        "limits.program": SPEC | {"limits": {"program": {"memory64": True}}},
        "limitsMode": SPEC | {"limitsMode": "Shadow"},
        "priority": SPEC | {"priority": "High"},
        "cache": SPEC | {"cache": {"shareGroup": "others"}},
        "suspended": SPEC | {"suspended": True},
        "models": SPEC | {"models": [{"name": "smollm2"}, {"name": "another"}]},
    }
    # The API server takes a policy up a moment after it was made, and the kinds that it is about
    # with the next look at what kinds there are, which are thirty seconds apart.
    until(
        lambda: apply(installed, tenant_of(changes["weight"]), "--as=editor").returncode != 0,
        "the policy is in force",
        within_s=90.0,
    )
    apply(installed, tenant_of(SPEC))
    for user in ("editor", "owner"):
        for name, spec in changes.items():
            refused = apply(installed, tenant_of(spec), f"--as={user}")
            assert refused.returncode != 0, (user, name)
            assert "realm-admin" in refused.stderr, refused.stderr
        for spec in (program, keys, SPEC):
            done = apply(installed, tenant_of(spec), f"--as={user}")
            assert done.returncode == 0, done.stderr
        where = ("--namespace", installed.tenants, f"--as={user}")
        assert installed.cluster.admin.kubectl("delete", "tn", "acme", *where).returncode != 0
        assert apply(installed, tenant_of(SPEC), f"--as={user}", name="new").returncode != 0
    for spec in (*changes.values(), SPEC):
        done = apply(installed, tenant_of(spec), "--as=runner")
        assert done.returncode == 0, done.stderr


def test_every_field_of_a_tenant_is_either_its_own_or_guarded(installed: Installed) -> None:
    policy = installed.get("validatingadmissionpolicy", "realm-tenants")
    [same] = [each for each in policy["spec"]["variables"] if each["name"] == "isSame"]
    definition = installed.get("crd", "tenants.realm.dev")["spec"]["versions"][0]
    fields = definition["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    guarded = {name for name in fields if f"object.spec.?{name} ==" in same["expression"]}
    assert set(fields) - guarded == {"program", "apiKeys"}
    assert not policy.get("status", {}).get("typeChecking", {}).get("expressionWarnings"), policy


def test_who_may_give_out_roles_in_a_namespace_cannot_give_out_the_right_to_limits(
    installed: Installed,
) -> None:
    bind(installed, "admin", "giver")
    rule = {"apiGroups": ["realm.dev"], "resources": ["tenants/limits"], "verbs": ["update"]}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "rules": [rule]}
    refused = apply(installed, role, "--as=giver", name="limits")
    assert refused.returncode != 0
    assert "tenants/limits" in refused.stderr, refused.stderr


def test_a_namespace_goes_with_its_tenants(installed: Installed) -> None:
    admin, namespace = installed.cluster.admin, installed.cluster.namespace()
    thing = tenant_of(SPEC) | {"metadata": {"name": "acme", "namespace": namespace}}
    admin.apply(thing)
    admin.kubectl("delete", "namespace", namespace, "--wait=false")
    path = f"/api/v1/namespaces/{namespace}"
    until(lambda: admin.http.get(path).status_code == 404, "the namespace is gone")


def test_an_upgrade_replaces_every_pod_and_brings_the_definitions_along(
    installed: Installed,
) -> None:
    before = {pod["metadata"]["uid"] for each in PODS for pod in installed.pods(each)}
    admin = installed.cluster.admin
    # As an older release left it.
    current = installed.get("crd", "tenants.realm.dev")
    kept = {key: current["metadata"][key] for key in ("name", "labels", "annotations")}
    older = {key: current[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": kept}
    columns = older["spec"]["versions"][0].pop("additionalPrinterColumns")
    how = ("--server-side", "--force-conflicts", "--field-manager=helm", "--filename", "-")
    done = admin.kubectl("apply", *how, given=yaml.safe_dump(older))
    assert done.returncode == 0, done.stderr
    installed.put("upgrade", "operator.log=debug", "agent.log=debug", "agent.graceSeconds=1")
    installed.await_rollout()
    after = [pod for each in PODS for pod in installed.pods(each)]
    assert len(after) == len(before)
    assert not before & {pod["metadata"]["uid"] for pod in after}
    for pod in after:
        [container] = pod["spec"]["containers"]
        assert {"name": "REALM_LOG", "value": "debug"} in container["env"]
    newest = installed.get("crd", "tenants.realm.dev")["spec"]["versions"][0]
    assert newest["additionalPrinterColumns"] == columns


def test_a_pool_that_is_held_back_is_upgraded_after_the_other(installed: Installed) -> None:
    pools = ("cpu", "gpu")
    for node, pool in zip(NODES, pools, strict=True):
        installed.cluster.admin.kubectl("label", "node", node, f"kind={pool}")
    apart = [f"agent.pools.{pool}.nodeSelector.kind={pool}" for pool in pools]
    held = "agent.pools.gpu.updateStrategy=OnDelete"
    installed.put("upgrade", *apart)
    installed.await_rollout(*pools)
    first = uids_by_pool(installed)
    assert first.keys() == set(pools)
    installed.put("upgrade", *apart, held, "agent.log=warn")
    installed.await_rollout("cpu")
    until(partial(is_seen, installed, "realm-agent-gpu"), "the held pool's change is seen")
    second = uids_by_pool(installed)
    assert (second["cpu"] == first["cpu"], second["gpu"] == first["gpu"]) == (False, True)
    installed.put("upgrade", *apart, "agent.log=warn")
    installed.await_rollout(*pools)
    third = uids_by_pool(installed)
    assert (third["cpu"] == second["cpu"], third["gpu"] == second["gpu"]) == (True, False)


def uids_by_pool(installed: Installed) -> dict[str, str]:
    """The only agent of each pool."""
    pods = [pod["metadata"] for pod in installed.pods("agent")]
    found = {pod["labels"]["realm.dev/pool"]: pod["uid"] for pod in pods}
    assert len(found) == len(pods)
    return found


def is_seen(installed: Installed, name: str) -> bool:
    """Whether the controller has done what the newest form of a DaemonSet asks for."""
    daemon_set = installed.get("daemonset", name)
    seen = daemon_set.get("status", {}).get("observedGeneration")
    return bool(seen == daemon_set["metadata"]["generation"])


def test_a_host_cache_is_refused_where_pod_security_is_restricted(installed: Installed) -> None:
    installed.put("upgrade", "agent.storage.type=hostPath", "agent.maxUnavailable=2")
    admin, where = installed.cluster.admin, ("--namespace", installed.namespace)

    def is_refused() -> bool:
        events = admin.kubectl("events", *where, "--types=Warning").stdout
        return 'restricted volume type "hostPath"' in events

    until(is_refused, "Pod Security says what it refuses", within_s=60.0)


def test_the_definitions_and_what_is_of_their_kind_outlive_the_release(
    installed: Installed,
) -> None:
    apply(installed, tenant_of(SPEC), name="kept")
    done = installed.helm("uninstall")
    assert done.returncode == 0, done.stderr
    assert not installed.get("daemonsets,deployments,services,roles")["items"]
    admin = installed.cluster.admin
    assert admin.get("tn", "kept", namespace=installed.tenants)["spec"]["weight"] == 100
    for policy in ("validatingadmissionpolicy", "clusterrole"):
        assert admin.kubectl("get", policy, "realm-tenants").returncode != 0
