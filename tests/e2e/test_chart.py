"""The chart as helm renders it: its examples, its schema, and what it must never ask for."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from conftest import DEFINITIONS
from harness.chart import CHART, EXAMPLES, LEAST, Done, given, helm, only, render, template
from harness.cluster import Cluster
from harness.folder import Json

README = CHART / "README.md"
#: What puts the images together.
IMAGES = CHART.parents[1] / "deploy" / "docker" / "build"

DIGEST = f"sha256:{64 * '0'}"

#: A pool whose nodes are told apart by a label of which another pool must have another value.
GPU_NODES = "agent.pools.gpu.nodeSelector.kind=gpu"

RULES = "requiredDuringSchedulingIgnoredDuringExecution"

#: Groups of other projects' kinds, which an API server without their definitions does not know.
FOREIGN = ("cert-manager.io/", "monitoring.coreos.com/")


def example(name: str) -> Path:
    """One of the chart's own examples of values."""
    return EXAMPLES / f"{name}-values.yaml"


@pytest.mark.parametrize("values", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_helm_finds_no_fault_in_an_example(values: Path) -> None:
    done = helm("lint", "--strict", str(CHART), "--values", str(values))
    assert done.returncode == 0, done.stdout + done.stderr
    assert render(values)


@pytest.mark.parametrize("values", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_an_api_server_takes_every_object_and_only_a_host_cache_is_against_pod_security(
    values: Path, all_kinds: Cluster
) -> None:
    namespace = all_kinds.namespace()
    label = "pod-security.kubernetes.io/warn=restricted"
    all_kinds.admin.kubectl("label", "namespace", namespace, label)
    objects = render(values, namespace=namespace)
    for each in objects:
        # Namespaces of tenants are not there.
        if "namespace" in each["metadata"]:
            each["metadata"]["namespace"] = namespace
    # A Pod of its own is looked at with its account.
    accounts = [each for each in objects if each["kind"] == "ServiceAccount"]
    all_kinds.admin.apply(*accounts)
    done = try_out(all_kinds, objects)
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if "Warning" in line]
    is_exception = values.stem == "host-cache-values"
    assert ["hostPath" in line for line in warnings] == [True] * is_exception


def try_out(cluster: Cluster, objects: Sequence[Json]) -> Done:
    """What an API server says to objects, of which it keeps none."""
    how = ("--server-side", "--dry-run=server", "--force-conflicts", "--validate=strict")
    given = yaml.safe_dump_all(objects)
    return cluster.admin.kubectl("apply", *how, "--filename", "-", given=given)


@pytest.mark.parametrize(
    ("values", "kind", "field"),
    [
        ("monitoring", "ServiceMonitor", "spec.endpoints[0].every"),
        ("monitoring", "PodMonitor", "spec.podMetricsEndpoints[0].every"),
        ("monitoring", "PrometheusRule", "spec.groups[0].rules[0].title"),
        ("cert-manager", "Certificate", "spec.issuerRef.title"),
    ],
)
def test_objects_of_other_projects_kinds_are_held_to_their_definitions(
    values: str, kind: str, field: str, all_kinds: Cluster
) -> None:
    namespace = all_kinds.namespace()
    thing = only(render(example(values), namespace=namespace), kind)
    assert foreign(thing)
    done = try_out(all_kinds, [thing])
    assert done.returncode == 0, done.stderr
    *path, last = re.findall(r"\w+", field)
    within = reduce(lambda at, key: at[int(key) if key.isdigit() else key], path, thing)
    within[last] = "x"
    done = try_out(all_kinds, [thing])
    assert done.returncode != 0
    assert f".{last}: field not declared in schema" in done.stderr, done.stderr


def foreign(thing: Json) -> bool:
    return str(thing["apiVersion"]).startswith(FOREIGN)


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ("replicaCount=2", "replicaCount"),
        ("operator.replicas=0", "/operator/replicas"),
        ("operator.image.digest=latest", "/operator/image/digest"),
        ("agent.storage.type=nfs", "/agent/storage/type"),
        ("agent.storage.size=much", "/agent/storage/size"),
        ("agent.maxUnavailable=half", "/agent/maxUnavailable"),
        ("agent.trustedAuthorities.configMap=A/B", "/agent/trustedAuthorities/configMap"),
        ("agent.pools.GPU.gpus=1", "GPU"),
        ("agent.pools.gpu.gpu=1", "/agent/pools/gpu"),
        ("doors.service.port=0", "/doors/service/port"),
        ("traces.sampleRatio=2", "/traces/sampleRatio"),
        ("traces.endpoint=collector:4318", "/traces/endpoint"),
        ("monitoring.prometheusRule.runbookUrl=runbook", "/prometheusRule/runbookUrl"),
        ("doors.tls.secretName=A/B", "/doors/tls/secretName"),
        ("tenantNamespaces={A_B}", "/tenantNamespaces/0"),
        ("networkPolicy.apiServer.ports={https}", "/networkPolicy/apiServer/ports/0"),
        ("networkPolicy.dns.ports={}", "/networkPolicy/dns/ports"),
        ("agent.updateStrategy=Recreate", "/agent/updateStrategy"),
    ],
)
def test_the_schema_refuses_a_wrong_value_and_says_where(wrong: str, where: str) -> None:
    done = template(LEAST, "--set", wrong)
    assert done.returncode != 0
    assert where in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        ((), "doors.tls.secretName"),
        (("doors.tls.secretName=a", "doors.insecurePlaintext=true"), "goes with no certificate"),
        (("doors.tls.certManager.enabled=true",), "issuerRef.name"),
        (("doors.tls.secretName=a", "agent.storage.type=ephemeral"), "storage.size"),
        (
            ("doors.tls.secretName=a", "agent.pools.gpu.gpus=1"),
            "agent.pools.cpu and agent.pools.gpu",
        ),
        (("doors.tls.secretName=a", GPU_NODES), "agent.pools.cpu=null"),
        (("doors.tls.secretName=a", GPU_NODES, "agent.nodeSelector.kind=gpu"), "nodeSelector"),
        # What both of them say tells nobody apart.
        (("doors.tls.secretName=a", GPU_NODES, "agent.affinity.nodeAffinity.a=b"), "nodeAffinity"),
        (
            ("doors.tls.secretName=a", GPU_NODES, "agent.pools.cpu.nodeSelector.type=cpu"),
            "one label",
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused_with_what_is_missing(
    flags: Sequence[str], hint: str
) -> None:
    sets = [part for flag in flags for part in ("--set", flag)]
    done = helm("template", "realm", str(CHART), *sets)
    assert done.returncode != 0
    assert hint in done.stderr, done.stderr


def test_the_definitions_are_those_of_the_crate() -> None:
    ours = {file.name: file.read_text() for file in (CHART / "files" / "crds").iterdir()}
    assert ours == {file.name: file.read_text() for file in DEFINITIONS.iterdir()}


def test_definitions_are_rendered_as_they_are_and_outlive_the_release() -> None:
    rendered = [each for each in render() if each["kind"] == "CustomResourceDefinition"]
    specs = {each["metadata"]["name"]: each["spec"] for each in rendered}
    files = [yaml.safe_load(file.read_text()) for file in DEFINITIONS.iterdir()]
    assert specs == {each["metadata"]["name"]: each["spec"] for each in files}
    for each in rendered:
        assert each["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    without = render(LEAST, "--set", "crds.install=false")
    assert not [each for each in without if each["kind"] == "CustomResourceDefinition"]


@pytest.mark.parametrize("values", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_no_role_has_a_star_and_what_tenants_hold_is_read_by_namespace_alone(values: Path) -> None:
    objects = render(values)
    rules = [(each["kind"], rule) for each in objects for rule in each.get("rules", [])]
    assert rules
    for kind, rule in rules:
        assert not any("*" in word for words in rule.values() for word in words), rule
        assert kind == "Role" or not {"secrets", "configmaps"} & {*rule["resources"]}, rule


def test_agents_ask_for_the_operator_by_a_name_that_its_certificate_has() -> None:
    objects = render(LEAST, namespace="elsewhere")
    operator, agent = (container(only(objects, kind)) for kind in ("Deployment", "DaemonSet"))
    host = given("link-name", operator["args"])
    assert given("operator", agent["args"]) == f"https://{host}:9443"
    service, namespace, _ = host.split(".")
    assert only(objects, "Service", service)["metadata"]["namespace"] == namespace == "elsewhere"
    account = given("agent-service-account", operator["args"])
    assert only(objects, "DaemonSet")["spec"]["template"]["spec"]["serviceAccountName"] == account
    selector = given("agent-selector", operator["args"]).split(",")
    labels = only(objects, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
    assert all(each in {f"{key}={value}" for key, value in labels.items()} for each in selector)


def container(owner: Json) -> Json:
    [found] = owner["spec"]["template"]["spec"]["containers"]
    return found


def test_a_pool_says_what_is_its_own_and_shares_the_rest() -> None:
    objects = render(example("gpu-pools"))
    assert container(only(objects, "Deployment"))["image"] == f"realm-operator@{DIGEST}"
    cpu, cuda = (only(objects, "DaemonSet", f"realm-agent-{pool}") for pool in ("cpu", "cuda"))
    assert container(cpu)["image"] != container(cuda)["image"] == "realm-agent:cuda"
    assert container(cuda)["resources"]["limits"] == {"memory": "32Gi", "nvidia.com/gpu": 1}
    assert "limits" not in container(cpu)["resources"]
    for each in (cpu, cuda):
        assert each["spec"]["template"]["spec"]["priorityClassName"] == "system-node-critical"


@pytest.mark.parametrize(
    "apart",
    [
        "agent.pools.cpu.nodeSelector.kind=cpu",
        "agent.nodeSelector.kind=cpu",
        "agent.pools.cpu=null",
        f"agent.pools.cpu.affinity.nodeAffinity.{RULES}.nodeSelectorTerms[0].matchExpressions[0]"
        ".key=kind",
    ],
)
def test_pools_whose_nodes_are_told_apart_are_taken(apart: str) -> None:
    objects = render(LEAST, "--set", GPU_NODES, "--set", apart)
    pools = [each for each in objects if each["kind"] == "DaemonSet"]
    assert len(pools) == (1 if "null" in apart else 2)


def test_a_pools_own_affinity_leaves_a_node_one_agent() -> None:
    own = f"agent.affinity.podAntiAffinity.{RULES}[0].topologyKey=zone"
    zone = "agent.affinity.nodeAffinity.own=true"
    for sets, count in (([], 1), ([own, zone], 2)):
        objects = render(LEAST, *(part for each in sets for part in ("--set", each)))
        affinity = only(objects, "DaemonSet")["spec"]["template"]["spec"]["affinity"]
        rules = affinity["podAntiAffinity"][RULES]
        assert len(rules) == count
        assert rules[-1]["topologyKey"] == "kubernetes.io/hostname"
        assert rules[-1]["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == "agent"
        [others] = rules[-1]["labelSelector"]["matchExpressions"]
        assert others == {"key": "realm.dev/pool", "operator": "NotIn", "values": ["cpu"]}
        assert affinity.get("nodeAffinity") == ({"own": True} if sets else None)


def test_a_pool_that_is_held_back_keeps_its_pods_until_they_are_deleted() -> None:
    objects = render(example("gpu-pools"), "--set", "agent.pools.cuda.updateStrategy=OnDelete")
    cpu, cuda = (only(objects, "DaemonSet", f"realm-agent-{pool}") for pool in ("cpu", "cuda"))
    assert cuda["spec"]["updateStrategy"] == {"type": "OnDelete"}
    assert cpu["spec"]["updateStrategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_a_claim_is_mounted_where_the_agent_looks_for_the_models_of_its_namespace(
    tmp_path: Path,
) -> None:
    [said] = [
        each
        for each in re.findall(r"```yaml\n(.*?)```", README.read_text(), re.S)
        if "claims:" in each
    ]
    shown = tmp_path / "claims.yaml"
    shown.write_text(said)
    rendered = [
        only(render(LEAST, "--values", str(each)), "DaemonSet")
        for each in (shown, example("claims"))
    ]
    assert rendered[0] == rendered[1]
    agent, volumes = container(rendered[0]), rendered[0]["spec"]["template"]["spec"]["volumes"]
    [claim] = [each for each in volumes if "persistentVolumeClaim" in each]
    assert claim["persistentVolumeClaim"] == {"claimName": "model-weights", "readOnly": True}
    [mount] = [each for each in agent["volumeMounts"] if each["name"] == claim["name"]]
    assert mount["mountPath"] == f"{given('claims', agent['args'])}/models/weights"
    assert mount["readOnly"]


def test_authorities_of_ones_own_are_trusted_beside_those_of_the_image(tmp_path: Path) -> None:
    [said] = [
        each
        for each in re.findall(r"```yaml\n(.*?)```", README.read_text(), re.S)
        if "trustedAuthorities:" in each
    ]
    shown = tmp_path / "authorities.yaml"
    shown.write_text(said)
    rendered = [
        only(render(LEAST, "--values", str(each)), "DaemonSet")
        for each in (shown, example("authorities"))
    ]
    assert rendered[0] == rendered[1]
    agent, volumes = container(rendered[0]), rendered[0]["spec"]["template"]["spec"]["volumes"]
    env = {each["name"]: each.get("value") for each in agent["env"]}
    # Either would stand alone if the other were not set.
    assert f"certificates={env['SSL_CERT_FILE']}\n" in IMAGES.read_text()
    [mount] = [each for each in agent["volumeMounts"] if each["mountPath"] == env["SSL_CERT_DIR"]]
    assert mount["readOnly"]
    [volume] = [each for each in volumes if each["name"] == mount["name"]]
    assert volume["configMap"] == {
        "name": "authorities",
        "items": [{"key": "ca.crt", "path": "ca.crt"}],
    }
    assert "SSL_CERT" not in str(render())


def notes(values: Path, *sets: str) -> str:
    """What helm says once the release is installed."""
    flags = [part for each in sets for part in ("--set", each)]
    where = ("--namespace", "realm-system", "--values", str(values), "--dry-run=client")
    done = helm("install", "realm", str(CHART), *where, *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\nNOTES:\n")[1]


@pytest.mark.parametrize("monitor", ["serviceMonitor", "podMonitor"])
def test_who_installs_monitors_is_told_when_the_network_keeps_prometheus_out(monitor: str) -> None:
    enabled = f"monitoring.{monitor}.enabled=true"
    assert "WARNING: networkPolicy.metrics is empty" in notes(LEAST, enabled)
    assert "WARNING" not in notes(LEAST)
    assert "WARNING" not in notes(LEAST, enabled, "networkPolicy.enabled=false")
    assert "WARNING" not in notes(example("monitoring"))


@pytest.mark.parametrize("values", ["default", "tenants", "own-certificate"])
def test_whoever_sees_no_operator_at_work_is_told_where_to_look(values: str) -> None:
    assert "kubectl --namespace realm-system get pods" in notes(example(values))


def egress(objects: Sequence[Json], name: str, port: int) -> Json:
    """The only rule of a policy by which a port is reached."""
    rules = only(objects, "NetworkPolicy", name)["spec"]["egress"]
    [found] = [rule for rule in rules if port in [each["port"] for each in rule["ports"]]]
    return found


POLICIES = ("realm-operator", "realm-agent", "realm-test")


def test_names_and_the_api_server_are_reached_wherever_they_are() -> None:
    objects = render()
    for policy in POLICIES:
        # A rule with addresses would leave out those of nodes and Pods in some networks.
        assert egress(objects, policy, 53) == {
            "ports": [
                {"protocol": protocol, "port": port}
                for port in (53, 5353)
                for protocol in ("UDP", "TCP")
            ]
        }
    assert egress(objects, "realm-operator", 6443) == {
        "ports": [{"protocol": "TCP", "port": port} for port in (443, 6443)]
    }


def test_what_is_said_of_the_network_is_all_that_is_let_through() -> None:
    values = example("network")
    said = yaml.safe_load(values.read_text())["networkPolicy"]
    objects = render(values)
    for policy in POLICIES:
        names = egress(objects, policy, 5353)
        assert names["to"] == said["dns"]["to"]
        assert {each["port"] for each in names["ports"]} == {5353}
        assert egress(objects, policy, 4318) == said["extraEgress"][0]
        ingress = only(objects, "NetworkPolicy", policy)["spec"].get("ingress", [])
        assert (said["extraIngress"][0] in ingress) == (policy != "realm-test")
    server = egress(objects, "realm-operator", 6443)
    assert server["to"] == [{"ipBlock": {"cidr": "10.0.0.1/32"}}]
    assert [each["port"] for each in server["ports"]] == [6443]


def test_a_pod_is_given_longer_to_end_than_its_drain_takes() -> None:
    objects = render(LEAST, "--set", "agent.settleSeconds=7,agent.graceSeconds=120")
    pod = only(objects, "DaemonSet")["spec"]["template"]["spec"]
    args = pod["containers"][0]["args"]
    assert (given("settle", args), given("grace", args)) == ("7", "120")
    # What a gateway takes to cut the last connections comes after both.
    assert pod["terminationGracePeriodSeconds"] >= 7 + 120 + 5


def test_dashboards_and_alerts_are_carried_as_they_stand() -> None:
    objects = render(example("monitoring"))
    boards = sorted((CHART / "files" / "dashboards").glob("*.json"))
    alerts = sorted((CHART / "files" / "alerts").glob("*.yaml"))
    carried = [each["data"] for each in objects if each["kind"] == "ConfigMap"]
    assert carried == [{file.name: file.read_text()} for file in boards]
    specs = [each["spec"] for each in objects if each["kind"] == "PrometheusRule"]
    assert specs == [yaml.safe_load(file.read_text()) for file in alerts]
    kinds = [each["kind"] for each in objects]
    assert (kinds.count("ServiceMonitor"), kinds.count("PodMonitor")) == (1, 1)
    assert not [each for each in render() if foreign(each)]


def test_alerts_lead_to_the_runbook_wherever_it_is_published() -> None:
    url = "https://wiki.example.com/realm/runbook"
    flags = ("--set", f"monitoring.prometheusRule.runbookUrl={url}")
    rules = only(render(example("monitoring"), *flags), "PrometheusRule")["spec"]["groups"]
    alerts = [rule for group in rules for rule in group["rules"] if "alert" in rule]
    assert alerts
    for rule in alerts:
        assert rule["annotations"]["runbook_url"] == f"{url}#{rule['alert'].lower()}"


def test_agents_send_traces_to_the_collector_and_may_reach_it_and_none_without_one() -> None:
    objects = render(example("monitoring"))
    agent = container(only(objects, "DaemonSet"))
    assert given("otlp-endpoint", agent["args"]) == "http://otel-collector.monitoring:4318"
    env = {each["name"]: each.get("value") for each in agent["env"]}
    assert env["OTEL_TRACES_SAMPLER"] == "parentbased_traceidratio"
    assert env["OTEL_TRACES_SAMPLER_ARG"] == "0.1"
    rules = only(objects, "NetworkPolicy", "realm-agent")["spec"]["egress"]
    [rule] = [each for each in rules if each["ports"] == [{"protocol": "TCP", "port": 4318}]]
    assert rule["to"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    ]
    assert "otlp" not in str(render())
    assert "OTEL" not in str(render())


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [("https://collector", 443), ("http://collector/base", 80), ("http://[::1]:4318", 4318)],
)
def test_the_port_of_a_collector_is_its_own_or_its_schemes(endpoint: str, port: int) -> None:
    objects = render(LEAST, "--set", f"traces.endpoint={endpoint}")
    rules = only(objects, "NetworkPolicy", "realm-agent")["spec"]["egress"]
    assert {"ports": [{"protocol": "TCP", "port": port}]} in rules


def leaves(schema: Json, defaults: Json, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Every value with its default and what it is for, in the schema's order."""
    for name, each in schema["properties"].items():
        here = f"{path}.{name}".lstrip(".")
        if "properties" in each:
            yield from leaves(each, defaults[name], here)
        elif here != "global":
            # A default of several lines is for values.yaml.
            default = json.dumps(defaults[name])
            yield here, default if len(default) <= 40 else "…", each["description"]


def test_what_the_readme_tells_to_type_is_taken(tmp_path: Path) -> None:
    text = README.read_text().replace("\\\n", "")
    examples = re.findall(r"```yaml\n(.*?)```", text, re.S)
    [pools_text] = [each for each in examples if "pools:" in each]
    pools = tmp_path / "pools.yaml"
    pools.write_text(pools_text)
    typed = re.findall(r"^helm (?:install|upgrade) .*$", text, re.M)
    assert len(typed) == 4
    for command in typed:
        words = shlex.split(command)
        sets = [pair for pair in pairwise(words) if pair[0] == "--set"]
        flags = [word for pair in sets for word in pair]
        objects = render(LEAST, "--values", str(pools), *flags)
        names = [each["metadata"]["name"] for each in objects if each["kind"] == "DaemonSet"]
        assert names == ["realm-agent-cpu", "realm-agent-gpu"]
        for name in re.findall(r"rollout status daemonset/(\S+)", text):
            assert name in names


def test_every_value_has_a_default_and_a_line_in_the_readme() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    rows = [f"| `{path}` | `{at}` | {text} |" for path, at, text in leaves(schema, defaults)]
    _, table = README.read_text().split("| --- | --- | --- |\n")
    assert table.splitlines() == rows
