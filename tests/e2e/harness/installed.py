"""The chart in a cluster, and its Pods run by this machine, each in a root like its image.

Hollow nodes run no programs; `harness.kubelet` does in their place, with what the API server knows
of each Pod.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import trustme
import yaml

from harness.chart import CHART, Done, given, helm
from harness.cluster import Cluster
from harness.dockerfile import Dockerfile
from harness.folder import Json
from harness.image import Image, Programs
from harness.kubelet import Probe, Program
from harness.wait import until

DOCKER = CHART.parents[1] / "deploy" / "docker"

#: Where a Pod finds who it is.
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"

RELEASE = "realm"

#: No program runs on a hollow node, so nothing there answers a probe.
NO_PROBES = """
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: no-probes}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints:
    resourceRules:
      - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}
  matchConditions:
    - name: probed
      expression: has(object.spec.containers[0].readinessProbe)
  mutations:
    - patchType: JSONPatch
      jsonPatch:
        expression: >-
          [JSONPatch{op: "remove", path: "/spec/containers/0/readinessProbe"},
          JSONPatch{op: "remove", path: "/spec/containers/0/livenessProbe"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: no-probes}
spec: {policyName: no-probes}
"""


def forgo_probes(cluster: Cluster) -> None:
    """Lets Pods count as ready once they run."""
    cluster.admin.apply_text(NO_PROBES)
    probe = {"exec": {"command": ["true"]}}
    container = {"name": "c", "image": "i", "readinessProbe": probe, "livenessProbe": probe}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probed"},
        "spec": {"containers": [container], "automountServiceAccountToken": False},
    }
    path = "/api/v1/namespaces/default/pods"

    def is_in_force() -> bool:
        answer = cluster.admin.post(path, pod, dryRun="All")
        return answer.is_success and "readinessProbe" not in answer.json()["spec"]["containers"][0]

    until(is_in_force, "Pods are made without probes")


class Installed:
    """A release, its namespace, and one namespace of tenants."""

    def __init__(self, cluster: Cluster, folder: Path, namespace: str, tenants: str) -> None:
        self.cluster = cluster
        self.folder = folder
        self.namespace = namespace
        self.tenants = tenants
        self._runs = 0

    @classmethod
    def with_doors(cls, cluster: Cluster, folder: Path, key: str, *sets: str) -> Installed:
        """Installs where no Pod may have more than Pod Security's least; `key` is a tenant's."""
        forgo_probes(cluster)
        installed = cls(cluster, folder, cluster.namespace(), cluster.namespace())
        label = "pod-security.kubernetes.io/enforce=restricted"
        cluster.admin.kubectl("label", "namespace", installed.namespace, label)
        authority = trustme.CA()
        doors = authority.issue_cert(f"realm-agent.{installed.namespace}.svc")
        pem = {
            "ca.crt": authority.cert_pem,
            "tls.crt": doors.cert_chain_pems[0],
            "tls.key": doors.private_key_pem,
        }
        texts = {name: blob.bytes().decode() for name, blob in pem.items()}
        installed.secret("realm-doors", installed.namespace, **texts)
        installed.secret("test-key", installed.namespace, key=key)
        installed.put("install", *sets)
        return installed

    def helm(self, *command: str, flags: Sequence[str] = ()) -> Done:
        """Runs a command of helm on the release, as somebody who may do everything."""
        where = ("--namespace", self.namespace)
        kubeconfig = self.cluster.admin.kubeconfig
        return helm(*command, RELEASE, *flags, *where, kubeconfig=kubeconfig)

    def put(self, command: str, *sets: str) -> None:
        """Installs or upgrades with the values that the tests share, and these."""
        shared = (
            f"tenantNamespaces={{{self.tenants}}}",
            "doors.tls.secretName=realm-doors",
            "test.apiKey.secretName=test-key",
            "test.trustSecret=true",
            # A hollow node has one processor and 4 GiB.
            "agent.resources.requests.cpu=100m",
            "agent.resources.requests.memory=256Mi",
        )
        flags = [part for each in (*shared, *sets) for part in ("--set", each)]
        done = self.helm(command, flags=(str(CHART), *flags))
        assert done.returncode == 0, done.stderr

    def secret(self, name: str, namespace: str, **entries: str) -> None:
        """A Secret of text."""
        metadata = {"name": name, "namespace": namespace}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}
        self.cluster.admin.apply(secret | {"stringData": entries})

    def get(self, *what: str) -> Json:
        """An object of the release, or a list of them."""
        return self.cluster.admin.get(*what, namespace=self.namespace)

    def pods(self, component: str) -> Sequence[Json]:
        """The Pods that are not on their way out."""
        pods = self.get("pods", "--selector", f"app.kubernetes.io/component={component}")["items"]
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def await_rollout(self, *pools: str) -> None:
        """Waits until every Pod is one of the newest, and runs."""
        agents = [f"daemonset/realm-agent-{pool}" for pool in pools or ("cpu",)]
        for what in ("deployment/realm-operator", *agents):
            until(partial(self._is_out, what), f"{what} is rolled out", within_s=90.0)

    def await_authority(self) -> None:
        """Waits until an operator has published the authority that agents are to believe."""
        path = f"/api/v1/namespaces/{self.namespace}/configmaps/realm-link"
        http = self.cluster.admin.http
        until(lambda: http.get(path).is_success, "the operator publishes its authority")

    def _is_out(self, what: str) -> bool:
        where = ("--namespace", self.namespace, "--watch=false")
        said = self.cluster.admin.kubectl("rollout", "status", what, *where).stdout
        return "successfully rolled out" in said

    def probes(self, owner: str) -> Mapping[str, Probe]:
        """What a kubelet asks the Pods of an owner, which `forgo_probes` took from them."""
        return Probe.all_of(self.get(*owner.split("/"))["spec"]["template"])

    def operator(self) -> Program:
        """The program of the operator's first Pod."""
        program = self._program(self.pods("operator")[0], "operator", {})
        # As a kubelet does for every container.
        server = urlsplit(self.cluster.url)
        env = {
            "KUBERNETES_SERVICE_HOST": str(server.hostname),
            "KUBERNETES_SERVICE_PORT": str(server.port),
        }
        program.give({}, env)
        return program

    def agent(self, pod: Json, operator: Program | None, *reads: Path) -> Program:
        """The program of an agent's Pod, which sees those files of this machine too."""
        names = {} if operator is None else {f"realm-operator.{self.namespace}.svc": operator.ip}
        program = self._program(pod, "agent", names)
        program.give({str(path): path for path in reads}, {})
        return program

    def check(self, door: Program) -> Program:
        """The program of the Pod that `helm test` runs, where the Service leads to one door."""
        done = self.helm("get", "hooks")
        assert done.returncode == 0, done.stderr
        [pod] = [each for each in yaml.safe_load_all(done.stdout) if each]
        url = urlsplit(given("url", pod["spec"]["containers"][0]["args"]))
        assert url.port == door.ports["door"], "nobody translates a Service's port here"
        return self._program(pod, "agent", {str(url.hostname): door.ip})

    def _program(self, pod: Json, component: str, names: Mapping[str, str]) -> Program:
        # A Pod may be run several times, each time with volumes of its own.
        self._runs += 1
        folder = self.folder / f"{pod['metadata']['name']}-{self._runs}"
        folder.mkdir()
        dockerfile = Dockerfile(DOCKER / component / "Dockerfile")
        image = Image.of(dockerfile, Programs.from_environment())
        return Program(pod, image, folder, self._mounted(pod, folder), names)

    def _mounted(self, pod: Json, folder: Path) -> Mapping[str, Path]:
        """What the volumes of a Pod hold, by where they are seen."""
        [container] = pod["spec"]["containers"]
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        mounted = {}
        for mount in container["volumeMounts"]:
            here = mounted[mount["mountPath"]] = folder / mount["name"]
            here.mkdir()
            self._fill(here, volumes[mount["name"]], pod)
        return mounted

    def _fill(self, folder: Path, volume: Json, pod: Json) -> None:
        if "secret" in volume:
            data = self.get("secret", volume["secret"]["secretName"])["data"]
            entries = {name: base64.b64decode(blob) for name, blob in data.items()}
            _write(folder, entries, volume["secret"])
        elif "configMap" in volume:
            self._fill_config(folder, volume["configMap"])
        elif "projected" in volume:
            for source in volume["projected"]["sources"]:
                self._project(folder, source, pod)
        else:
            assert "emptyDir" in volume, volume

    def _fill_config(self, folder: Path, source: Json) -> None:
        where = ("--ignore-not-found",) if source.get("optional") else ()
        kubectl = self.cluster.admin.kubectl
        flags = ("--namespace", self.namespace, "--output", "json", *where)
        done = kubectl("get", "configmap", source["name"], *flags)
        assert done.returncode == 0, done.stderr
        if done.stdout:
            entries = json.loads(done.stdout)["data"]
            _write(folder, {name: text.encode() for name, text in entries.items()}, source)

    def _project(self, folder: Path, source: Json, pod: Json) -> None:
        if "serviceAccountToken" in source:
            wanted = source["serviceAccountToken"]
            account = pod["spec"]["serviceAccountName"]
            token = self.cluster.token(account, pod, wanted.get("audience"))
            (folder / wanted["path"]).write_text(token)
        elif "configMap" in source:
            self._fill_config(folder, source["configMap"])
        else:
            [item] = source["downwardAPI"]["items"]
            assert item["fieldRef"]["fieldPath"] == "metadata.namespace", item
            (folder / item["path"]).write_text(pod["metadata"]["namespace"])


def _write(folder: Path, entries: Mapping[str, bytes], source: Json) -> None:
    """Writes the entries that a volume names, or all of them."""
    items = source.get("items") or [{"key": name, "path": name} for name in entries]
    for item in items:
        (folder / item["path"]).write_bytes(entries[item["key"]])


def review(cluster: Cluster, user: str, verb: str, resource: str, namespace: str) -> bool:
    """Whether somebody may do something in a namespace."""
    group, _, rest = resource.rpartition("/")
    spec = {"verb": verb, "group": group, "resource": rest, "namespace": namespace}
    answer = cluster.admin.post(
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": spec},
        },
    )
    assert answer.is_success, answer.text
    return bool(json.loads(answer.text)["status"]["allowed"])
