"""The chart installed in a cluster, and its containers as processes of this machine.

Hollow nodes run no programs. What the chart gives a container, its arguments, its environment and
its mounted files, is given to a process here instead, with the paths and ports of a machine that
others use too.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import yaml

from harness.chart import CHART, Done, given, helm
from harness.cluster import Cluster
from harness.daemon import Daemon, binary, environment
from harness.folder import Json
from harness.plane import free_port
from harness.wait import until

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

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.namespace = cluster.namespace()
        self.tenants = cluster.namespace()

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

    def await_rollout(self) -> None:
        """Waits until every Pod is one of the newest, and runs."""
        for what in ("deployment/realm-operator", "daemonset/realm-agent-cpu"):
            until(partial(self._is_out, what), f"{what} is rolled out", within_s=90.0)

    def _is_out(self, what: str) -> bool:
        where = ("--namespace", self.namespace, "--watch=false")
        said = self.cluster.admin.kubectl("rollout", "status", what, *where).stdout
        return "successfully rolled out" in said

    def operator(self) -> Program:
        """The program of the operator's first Pod."""
        pod = self.pods("operator")[0]
        program = Program(self, pod, "realm-operator")
        token = self._token(pod, audience=None)
        program.env["KUBECONFIG"] = str(self._kubeconfig(token))
        # Who asks by the name that the chart says is elsewhere; this machine is called otherwise.
        program.swap(f"--link-name={given('link-name', program.args)}", "--link-name=localhost")
        return program

    def agent(self, pod: Json, operator: Program) -> Program:
        """The program of an agent's Pod."""
        program = Program(self, pod, "realm-agent")
        url = given("operator", program.args)
        program.swap(url, f"https://localhost:{operator.ports['listen']}")
        return program

    def check(self, port: int) -> Program:
        """The program of the Pod that `helm test` runs, sent to the door at a port."""
        done = self.helm("get", "hooks")
        assert done.returncode == 0, done.stderr
        [pod] = [each for each in yaml.safe_load_all(done.stdout) if each]
        [container] = pod["spec"]["containers"]
        program = Program(self, pod, Path(container["command"][0]).name)
        program.swap(given("url", program.args), f"https://localhost:{port}")
        return program

    def files(self, pod: Json, folder: Path) -> Mapping[str, Path]:
        """What the volumes of a Pod hold, in folders of this machine, by where they are mounted."""
        [container] = pod["spec"]["containers"]
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        mounted = {}
        for mount in container["volumeMounts"]:
            if mount["mountPath"].startswith("/var/run/secrets/kubernetes.io/"):
                continue
            here = folder / mount["name"]
            here.mkdir(parents=True, exist_ok=True)
            self._fill(here, volumes[mount["name"]], pod)
            mounted[mount["mountPath"]] = here
        return mounted

    def _fill(self, folder: Path, volume: Json, pod: Json) -> None:
        if "secret" in volume:
            data = self.get("secret", volume["secret"]["secretName"])["data"]
            wanted = [each["key"] for each in volume["secret"].get("items", [])] or list(data)
            for name in wanted:
                (folder / name).write_bytes(base64.b64decode(data[name]))
        elif "configMap" in volume:
            for name, text in self.get("configmap", volume["configMap"]["name"])["data"].items():
                (folder / name).write_text(text)
        elif "projected" in volume:
            [source] = volume["projected"]["sources"]
            token = source["serviceAccountToken"]
            (folder / token["path"]).write_text(self._token(pod, token["audience"]))
        else:
            assert "emptyDir" in volume, volume

    def _token(self, pod: Json, audience: str | None) -> str:
        account = pod["spec"]["serviceAccountName"]
        return self.cluster.token(account, pod, audience)

    def _kubeconfig(self, token: str) -> Path:
        config = yaml.safe_load(self.cluster.admin.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token}
        file = self.folder / "operator.kubeconfig"
        file.write_text(yaml.safe_dump(config))
        return file


class Program:
    """A container's program with what the chart gives it."""

    def __init__(self, installed: Installed, pod: Json, name: str) -> None:
        [container] = pod["spec"]["containers"]
        self.name = pod["metadata"]["name"]
        #: Of the process and of what it is given.
        self._folder = installed.folder / self.name
        self._folder.mkdir(exist_ok=True)
        self._program = name
        self.args: list[str] = list(container["args"])
        self.env = {each["name"]: _value(each, pod) for each in container.get("env", [])}
        #: By the flag that they are given with.
        self.ports = {}
        for path, here in installed.files(pod, self._folder).items():
            self.swap(path, str(here))
        for flag in ("listen", "peer-listen", "metrics"):
            for address in [each for each in self.args if each.startswith(f"--{flag}=")]:
                self.ports[flag] = free_port()
                self.swap(address, f"--{flag}=127.0.0.1:{self.ports[flag]}")

    def swap(self, theirs: str, ours: str) -> None:
        """Puts what this machine has in place of what a container has."""
        self.args = [each.replace(theirs, ours) for each in self.args]

    def daemon(self) -> Daemon:
        """The process, not started."""
        return Daemon(self._folder, self._program, *self.args, label=self.name, env=self.env)

    def run(self, within_s: float) -> Done:
        """Runs the program to its end."""
        return subprocess.run(
            [binary(self._program), *self.args],
            capture_output=True,
            text=True,
            cwd=self._folder,
            env=environment(self._folder) | self.env,
            timeout=within_s,
            check=False,
        )


def _value(entry: Json, pod: Json) -> str:
    """What an entry of the environment says; addresses are this machine's."""
    if "value" in entry:
        return str(entry["value"])
    path = entry["valueFrom"]["fieldRef"]["fieldPath"]
    if path == "status.podIP":
        return "127.0.0.1"
    found = pod
    for name in path.split("."):
        found = found[name]
    return str(found)


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
