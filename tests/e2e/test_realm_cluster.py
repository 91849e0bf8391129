"""`realm` against a cluster: the words of one machine, through a kubeconfig and no more rights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.cluster import Cluster
from harness.folder import Json, step
from harness.plane import Agent, Operator, Plane
from harness.server import realm
from harness.user import Done, User
from harness.wait import eventually, raises
from realm_client import Client, NotAllowed, RealmError, Unauthenticated

#: What the README says that each command needs, in the tenants' namespace.
RULES: dict[str, Sequence[Json]] = {
    "reader": (
        {
            "apiGroups": ["realm.dev"],
            "resources": ["tenants", "models", "pipelines"],
            "verbs": ["get", "list"],
        },
    ),
    "tenant-admin": (
        {
            "apiGroups": ["realm.dev"],
            "resources": ["tenants"],
            "verbs": ["get", "list", "create", "patch"],
        },
    ),
    "key-admin": (
        {"apiGroups": ["realm.dev"], "resources": ["tenants"], "verbs": ["get", "patch"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create", "patch"]},
    ),
}

#: And what `realm info` needs: of all namespaces, and in the operator's own.
INFO_RULES: Sequence[Json] = (
    {
        "apiGroups": ["realm.dev"],
        "resources": ["tenants", "models", "pipelines"],
        "verbs": ["list"],
    },
)
INFO_OWN_RULES: Sequence[Json] = (
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
)


class Person:
    """Somebody at a command line."""

    def __init__(self, user: User, namespace: str) -> None:
        self._user = user
        self._namespace = namespace

    def __call__(self, *args: str) -> Done:
        """Runs `realm` in the tenants' namespace of the cluster."""
        where = ["--kubeconfig", str(self._user.kubeconfig), "--namespace", self._namespace]
        return realm(*args, *where)

    def does(self, *args: str) -> str:
        """What `realm` prints when it does what was asked."""
        done = self(*args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, *args: str) -> str:
        """What `realm` says when it does not."""
        done = self(*args)
        assert done.returncode != 0, done.stdout
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        return done.stderr


@pytest.fixture(scope="module")
def operator(plane: Plane) -> Operator:
    """The only operator."""
    return plane.operator("operator-0")


@pytest.fixture(scope="module")
def agent(plane: Plane, operator: Operator, model: Path) -> Agent:
    """An agent that serves the model."""
    spec = {"sources": [model.absolute().as_uri()], "kvBlocks": 256}
    plane.apply("Model", "smollm2", spec)
    agent = plane.agent("alpha", [operator])
    plane.await_condition("model", "smollm2", "True")
    return agent


@pytest.fixture(scope="module")
def people(plane: Plane) -> dict[str, Person]:
    """One person for each set of rules."""
    return {
        name: Person(plane.cluster.user(name, rules, plane.tenants), plane.tenants)
        for name, rules in RULES.items()
    }


@pytest.fixture(scope="module")
def acme(people: dict[str, Person], agent: Agent) -> str:
    """The key of a tenant that was made on the command line."""
    assert agent.node == "alpha"
    people["tenant-admin"].does("tenant", "create", "acme", "--weight", "7", "--model", "smollm2")
    key = people["key-admin"].does(
        "api-key", "create", "--tenant", "acme", "--name", "laptop", "--expires", "90d"
    )
    return key.strip()


def door(agent: Agent, key: str) -> Client:
    return Client(f"ws://127.0.0.1:{agent.port}", key)


async def opens(agent: Agent, key: str) -> None:
    async def is_in() -> bool:
        try:
            async with door(agent, key) as client:
                return bool(await client.health())
        except RealmError:
            return False

    await eventually(is_in, "the key opens the door")


async def test_a_key_made_on_the_command_line_opens_the_door_until_it_is_revoked(
    plane: Plane, people: dict[str, Person], agent: Agent, acme: str
) -> None:
    assert re.fullmatch(r"rk_[\w-]{43}", acme)
    await opens(agent, acme)
    person = people["key-admin"]
    listed = person.does("api-key", "list", "--tenant", "acme")
    assert re.fullmatch(r"laptop +until \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ +sha256:\w+…\n", listed)
    secret = plane.cluster.admin.get("secret", "acme-keys", namespace=plane.tenants)
    assert acme not in str(secret)
    again = person.fails("api-key", "create", "--tenant", "acme", "--name", "laptop")
    assert "laptop" in again
    other = person.does("api-key", "create", "--tenant", "acme", "--name", "phone").strip()
    assert plane.get("tenant", "acme")["status"]["keys"] == 2
    async with door(agent, other) as client:
        assert await client.health()
        assert person.does("api-key", "revoke", "--tenant", "acme", "--name", "phone")
        assert plane.get("tenant", "acme")["status"]["keys"] == 1
        await raises(Unauthenticated, client.health, "the revoked key is refused")
    assert "phone" in person.fails("api-key", "revoke", "--tenant", "acme", "--name", "phone")
    await opens(agent, acme)


@pytest.mark.usefixtures("acme")
def test_a_change_owns_its_own_field_and_leaves_the_others_to_who_keeps_them(
    plane: Plane, people: dict[str, Person]
) -> None:
    metadata = {"name": "kept", "namespace": plane.tenants}
    tenant = {"apiVersion": "realm.dev/v1alpha1", "kind": "Tenant", "metadata": metadata}
    plane.cluster.admin.apply(tenant | {"spec": {"weight": 5}})
    people["key-admin"].does("api-key", "create", "--tenant", "kept", "--name", "a", "--no-wait")
    people["tenant-admin"].does("tenant", "suspend", "kept", "--no-wait")
    # What keeps the weight goes on keeping it, and takes nothing else away.
    plane.cluster.admin.apply(tenant | {"spec": {"weight": 6}})
    spec = plane.spec("tenant", "kept")
    assert (spec["weight"], spec["suspended"]) == (6, True)
    assert spec["apiKeys"] == [{"secretName": "kept-keys"}]
    people["tenant-admin"].does("tenant", "resume", "kept", "--no-wait")
    plane.cluster.admin.apply(tenant | {"spec": {"weight": 6, "suspended": False}})
    done = people["tenant-admin"]("tenant", "suspend", "kept", "--no-wait")
    assert "tests applies spec.suspended too" in done.stderr


@pytest.mark.usefixtures("acme")
def test_keys_that_are_made_at_the_same_time_are_all_kept(
    plane: Plane, people: dict[str, Person]
) -> None:
    people["tenant-admin"].does("tenant", "create", "many", "--no-wait")
    done = people["key-admin"]("api-key", "list", "--tenant", "many")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("no keys; ")
    names = [f"k{number}" for number in range(6)]

    def make(name: str) -> str:
        create = ("api-key", "create", "--tenant", "many", "--name", name)
        return people["key-admin"].does(*create, "--no-wait").strip()

    with ThreadPoolExecutor() as pool:
        keys = list(pool.map(make, names))
    assert len(set(keys)) == len(names)
    listed = people["key-admin"].does("api-key", "list", "--tenant", "many").splitlines()
    assert [line.split()[0] for line in listed] == names
    assert plane.spec("tenant", "many")["apiKeys"] == [{"secretName": "many-keys"}]


async def test_a_suspended_tenant_is_refused_and_a_resumed_one_is_not(
    plane: Plane, people: dict[str, Person], agent: Agent, acme: str
) -> None:
    await opens(agent, acme)
    async with door(agent, acme) as client:
        person = people["tenant-admin"]
        assert person.does("tenant", "suspend", "acme").split()[0] == "suspended"
        assert "yes" in person.does("tenant", "list").split("acme")[1].splitlines()[0]
        refused = await raises(NotAllowed, client.health, "the tenant is suspended")
        assert refused.code == "suspended"
        person.does("tenant", "resume", "acme")
        assert plane.spec("tenant", "acme")["suspended"] is False
        await opens(agent, acme)


@pytest.mark.usefixtures("acme")
def test_what_is_shown_is_what_the_operator_says(plane: Plane, people: dict[str, Person]) -> None:
    person = people["reader"]
    plane.await_condition("tenant", "acme", "True")
    shown = person.does("tenant", "show", "acme")
    for words in ("weight      7", "models      smollm2", "KeysValid", "Granted", "Serving"):
        assert words in shown, shown
    row = next(r for r in person.does("tenant", "list").splitlines() if "/acme " in r).split()
    assert row == [f"{plane.tenants}/acme", "Ready", "no", "7", "1", "smollm2"]
    header, served = person.does("models", "list").splitlines()
    assert header.split() == ["NAME", "STATE", "REPLICAS", "MODEL", "SIZE", "SHA256"]
    assert served.split()[:2] == [f"{plane.tenants}/smollm2", "Ready"]
    assert "1 of 1" in served
    assert "llama 134M Q4_1" in served
    info = person.does("models", "info", "smollm2")
    for words in ("architecture  llama", "alpha  Ready", "Fits", "Loaded", "block of KV cache"):
        assert words in info, info
    plane.apply("Tenant", "lost", {"models": [{"name": "nowhere"}]})
    plane.await_condition("tenant", "lost", "True", "Stalled")
    assert "UnknownModel" in person.does("tenant", "show", "lost")


@pytest.mark.usefixtures("agent")
def test_a_pipeline_is_listed_and_run_through_a_door(
    plane: Plane, people: dict[str, Person], agent: Agent, acme: str
) -> None:
    plane.apply(
        "Pipeline",
        "echo",
        {
            "inputs": [{"name": "text"}],
            "steps": [step("only", "{{ inputs.text }}", tokens_max=4)],
            "outputs": [{"name": "only", "step": "only"}],
            "tenants": ["acme"],
        },
    )
    plane.await_condition("pipeline", "echo", "True")
    row = people["reader"].does("pipeline", "list").splitlines()[1]
    assert row.split() == [f"{plane.tenants}/echo", "Ready", "1", "text", "only", "acme"]
    where = ["--url", f"http://127.0.0.1:{agent.port}"]
    done = realm("pipeline", "run", "echo", "--input", "text=hello", "--key", acme, *where)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stderr.splitlines() == ["step only"]
    for key, pipeline, says in (
        (acme, "absent", "unknown_pipeline"),
        ("rk_wrong", "echo", "does not take the key"),
    ):
        done = realm("pipeline", "run", pipeline, "--input", "text=x", "--key", key, *where)
        assert done.returncode != 0
        assert says in done.stderr


@pytest.mark.usefixtures("acme")
def test_an_overview_says_who_leads_and_what_is_wrong_before_all_else(plane: Plane) -> None:
    admin, namespace = plane.cluster.admin, plane.namespace
    label = "app.kubernetes.io/name=realm-agent"
    admin.kubectl("label", "pod", "agent-alpha", "--namespace", namespace, label)
    plane.apply("Tenant", "lost", {"models": [{"name": "nowhere"}]})
    plane.await_condition("tenant", "lost", "True", "Stalled")
    user = plane.cluster.user("watcher", INFO_RULES)
    plane.cluster.grant("watcher", INFO_OWN_RULES, namespace)
    where = ["--kubeconfig", str(user.kubeconfig), "--realm-namespace", namespace]
    done = realm("info", *where)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("wrong"), done.stdout
    assert any("agent on alpha" in line for line in lines), done.stdout
    assert any(f"tenant {plane.tenants}/lost" in line for line in lines), done.stdout
    assert any(line.startswith("operator    operator-0 leads") for line in lines), done.stdout
    assert any(line.startswith("models      1 of 1 ready") for line in lines), done.stdout
    # Who may see less is told what is left out.
    fewer = plane.cluster.user("passer-by", INFO_RULES)
    done = realm("info", "--kubeconfig", str(fewer.kubeconfig), "--realm-namespace", namespace)
    assert done.returncode == 0, done.stderr
    assert "you may not list pods" in done.stdout


@pytest.mark.usefixtures("acme")
def test_each_thing_that_goes_wrong_has_its_sentence(
    plane: Plane, people: dict[str, Person], tmp_path: Path
) -> None:
    reader = people["reader"]
    assert f"there is no Tenant {plane.tenants}/absent" in reader.fails("tenant", "show", "absent")
    forbidden = reader.fails("api-key", "create", "--tenant", "acme", "--name", "x")
    assert "you may not" in forbidden
    assert "secrets" in forbidden
    again = people["tenant-admin"].fails("tenant", "create", "acme")
    assert "is there already" in again
    refused = people["tenant-admin"].fails("tenant", "create", "heavy", "--weight", "20000")
    assert "spec.weight" in refused
    assert "metadata.name" in people["tenant-admin"].fails("tenant", "create", "Heavy")
    nowhere = Person(plane.cluster.admin, "absent").fails("tenant", "create", "x")
    assert "there is no namespace `absent`" in nowhere
    missing = realm("tenant", "list", "--kubeconfig", tmp_path / "none")
    assert "there is no kubeconfig at" in missing.stderr
    kubeconfig = plane.cluster.admin.kubeconfig
    context = realm("tenant", "list", "--kubeconfig", kubeconfig, "--context", "prod")
    assert "has no context `prod`; it has: tests" in context.stderr
    both = realm("tenant", "list", "--cluster", "--manifests", tmp_path)
    assert "cannot be used with" in both.stderr
    away = tmp_path / "away"
    away.write_text(re.sub(r"https://127.0.0.1:\d+", "https://127.0.0.1:9", kubeconfig.read_text()))
    assert "does not answer" in realm("tenant", "list", "--kubeconfig", away).stderr


def test_a_secret_that_the_operator_may_not_read_is_told_at_once(
    plane: Plane, agent: Agent
) -> None:
    assert agent.node == "alpha"
    elsewhere = plane.cluster.namespace()
    person = Person(plane.cluster.admin, elsewhere)
    person.does("tenant", "create", "far")
    done = person("api-key", "create", "--tenant", "far", "--name", "laptop")
    assert done.returncode != 0
    # The key is there all the same, and was shown.
    assert done.stdout.startswith("rk_")
    assert "tenantNamespaces" in done.stderr


def test_a_cluster_without_realm_is_told_apart_from_an_object_that_is_not_there(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with Cluster(tmp_path_factory.mktemp("bare")) as bare:
        done = realm("tenant", "list", "--kubeconfig", bare.admin.kubeconfig)
    assert done.returncode != 0
    assert "does not know Realm's resources" in done.stderr
