"""Writes the dashboards of charts/realm: `python3 deploy/dashboards.py`.

A panel is what it asks, its unit, what to do about it and where it turns yellow and red; all that
Grafana wants besides is the same for all of them, and is here once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "charts" / "realm" / "files" / "dashboards"

#: Columns of a dashboard in Grafana, and what a panel takes of them.
COLUMNS, WIDTH, HEIGHT = 24, 8, 8

#: Grafana's own: at least four scrapes, so that a rate is never of one sample.
RATE = "$__rate_interval"


@dataclass(frozen=True)
class Query:
    """What a line of a panel asks, and what it is called."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One question, answered over time."""

    title: str
    unit: str
    description: str
    queries: Sequence[Query]
    #: From where on it is yellow, and red; nothing where more is no worse.
    warn: float | None = None
    bad: float | None = None
    #: Whether less is worse: then it is green from `warn` on.
    is_floor: bool = False


@dataclass(frozen=True)
class Variable:
    """What may be chosen at the top of a dashboard."""

    name: str
    label: str
    query: str


@dataclass(frozen=True)
class Dashboard:
    """One page, for one kind of reader."""

    uid: str
    title: str
    description: str
    panels: Sequence[Panel]
    variables: Sequence[Variable] = field(default_factory=tuple)


def rate(counter: str, by: str, where: str = "") -> str:
    """How fast a counter grows, summed."""
    return f"sum by ({by}) (rate({counter}{{{where}}}[{RATE}]))"


def quantiles(histogram: str, by: str, where: str = "") -> Sequence[Query]:
    """The middle and the slow end of a histogram."""
    group = f"{by}, le" if by else "le"
    name = f"{{{{{by}}}}} " if by else ""
    return [
        Query(
            f"histogram_quantile({q}, sum by ({group}) "
            f"(rate({histogram}_bucket{{{where}}}[{RATE}])))",
            f"{name}p{round(q * 100)}",
        )
        for q in (0.5, 0.95)
    ]


NODE = 'node=~"$node"'
TENANT = 'tenant=~"$tenant"'
MODEL = 'model=~"$model"'
BOTH = f"{TENANT}, {MODEL}"
SERVED = f'{TENANT}, code="ok"'

FLEET = Dashboard(
    uid="realm-fleet",
    title="Realm / Fleet",
    description="Operator, nodes and link: whether what is wanted comes true.",
    variables=[Variable("node", "Node", "label_values(realm_operator_node_up, node)")],
    panels=[
        Panel(
            "Leader",
            "short",
            "Operators that lead: one. With none, look at the Lease and the operators' logs; "
            "with two for longer than a scrape, the clock of one stands still.",
            [Query("sum(realm_operator_leading)", "leaders")],
            warn=1,
            is_floor=True,
        ),
        Panel(
            "Nodes",
            "short",
            "Nodes by what the leader knows of their agents. One that is away for 45 seconds is "
            "forgotten and its models go elsewhere: look at its Pod.",
            [Query("sum by (state) (realm_operator_nodes)", "{{state}}")],
        ),
        Panel(
            "Objects that are not ready",
            "short",
            "Models, tenants and pipelines by kind. `kubectl get models,tenants,pipelines -A` "
            "says which, and their conditions why.",
            [
                Query(
                    'sum by (kind) (realm_operator_objects{condition="Ready", status!="True"})',
                    "{{kind}}",
                )
            ],
            warn=1,
            bad=5,
        ),
        Panel(
            "Plan",
            "s",
            "Time of one plan of the whole fleet. Half a second is felt by whoever changes "
            "something; look at how many objects there are and whether the operator is throttled.",
            quantiles("realm_operator_plan_seconds", ""),
            warn=0.1,
            bad=0.5,
        ),
        Panel(
            "Since the last plan",
            "s",
            "A fleet with agents plans every few seconds, because they say how busy they are. "
            "Minutes mean that nobody is connected, or that the loop hangs.",
            [
                Query(
                    "time() - max(realm_operator_planned_timestamp_seconds)",
                    "age",
                )
            ],
            warn=60,
            bad=300,
        ),
        Panel(
            "States published",
            "ops",
            "Desired states left for agents. It follows what people change; a steady stream while "
            "nobody does anything is a model or node that comes and goes.",
            [Query(f"sum(rate(realm_operator_states_published_total[{RATE}]))", "states")],
        ),
        Panel(
            "Reconcile",
            "s",
            "Time of one reconcile by kind, most of it the API server's. If all kinds are slow, "
            "so is the API server.",
            quantiles("realm_operator_reconcile_seconds", "kind"),
            warn=1,
            bad=5,
        ),
        Panel(
            "Reconcile errors",
            "ops",
            "Reconciles that failed and are tried again. The operator's log names the object and "
            "the cause; most often it is a missing right or an API server that is away.",
            [Query(rate("realm_operator_reconcile_errors_total", "kind"), "{{kind}}")],
            warn=0.01,
            bad=0.1,
        ),
        Panel(
            "Requeues",
            "ops",
            "Objects looked at again though nobody changed them: `throttled` is progress that "
            "waits two seconds, `error` is a reconcile that failed.",
            [Query(rate("realm_operator_requeues_total", "kind, reason"), "{{kind}} {{reason}}")],
        ),
        Panel(
            "Status writes",
            "ops",
            "Statuses by what became of them. `failed` belongs at zero; many `written` while "
            "nothing changes is a condition that flaps.",
            [
                Query(
                    rate("realm_operator_status_writes_total", "kind, outcome"),
                    "{{kind}} {{outcome}}",
                )
            ],
        ),
        Panel(
            "Node connected",
            "bool",
            "Whether the agent of each node is connected to the leader. Look at the Pod of one "
            "that is not, and at its own view of the link.",
            [Query(f"realm_operator_node_up{{{NODE}}}", "{{node}}")],
            warn=1,
            is_floor=True,
        ),
        Panel(
            "Since a node was heard",
            "s",
            "Agents give a sign of life every five seconds and are given up after fifteen.",
            [
                Query(
                    f"time() - realm_operator_node_last_heard_timestamp_seconds{{{NODE}}}",
                    "{{node}}",
                )
            ],
            warn=10,
            bad=15,
        ),
        Panel(
            "Generation lag",
            "short",
            "1 where a node's last report does not answer the newest state that was left for it. "
            "For longer than a minute: read the agent's log for `a desired state is refused`.",
            [
                Query(
                    f"realm_operator_node_published_generation{{{NODE}}} != bool "
                    f"realm_operator_node_reported_generation{{{NODE}}}",
                    "{{node}}",
                )
            ],
            warn=1,
        ),
        Panel(
            "Refuses its state",
            "bool",
            "1 where a ledger did not take the state that was sent, most often for want of disk.",
            [Query(f"realm_operator_node_refuses{{{NODE}}}", "{{node}}")],
            warn=1,
        ),
        Panel(
            "Memory for models",
            "percentunit",
            "Part of the memory that models may take which is taken. Near one, new models have "
            "no place: see their condition Fits.",
            [
                Query(
                    f"1 - realm_operator_node_memory_free_bytes{{{NODE}}} "
                    f"/ realm_operator_node_memory_bytes{{{NODE}}}",
                    "{{node}}",
                )
            ],
            warn=0.85,
            bad=0.95,
        ),
        Panel(
            "Link, as agents see it",
            "bool",
            "Whether an operator listens to each agent. One that has none serves on from its "
            "ledger and hears of no change.",
            [Query("realm_link_up", "{{instance}}")],
            warn=1,
            is_floor=True,
        ),
        Panel(
            "Since an operator was heard",
            "s",
            "Operators give a sign of life every five seconds and are given up after fifteen.",
            [Query("time() - realm_link_last_heard_timestamp_seconds", "{{instance}}")],
            warn=10,
            bad=15,
        ),
        Panel(
            "Link errors, as agents see them",
            "ops",
            "Attempts that failed and streams that ended, by why. `NotLeading` is a standby and "
            "as it should be; `Token` and `Bundle` are a wrong mount.",
            [Query(rate("realm_link_errors_total", "reason"), "{{reason}}")],
        ),
        Panel(
            "Streams that ended, as the leader sees them",
            "ops",
            "Agents turned away and streams that ended, by why. `Identity` and `OtherNode` are "
            "somebody who is no agent of ours.",
            [Query(rate("realm_operator_link_endings_total", "reason"), "{{reason}}")],
        ),
        Panel(
            "Doors that are ready",
            "short",
            "Doors that clients should be sent to. A door is ready once everything it should "
            "hold has been tried.",
            [
                Query("sum(realm_gateway_ready)", "ready"),
                Query("count(realm_gateway_ready)", "all"),
            ],
        ),
        Panel(
            "Connections",
            "short",
            "Open connections at each door.",
            [Query("realm_gateway_connections", "{{instance}}")],
        ),
        Panel(
            "Connections turned away",
            "ops",
            "Closed at once because too many were open. Add agents, or find who opens so many.",
            [Query(rate("realm_gateway_connections_refused_total", "instance"), "{{instance}}")],
            warn=0.01,
            bad=1,
        ),
        Panel(
            "Tenants on nodes",
            "short",
            "How far nodes are with their tenants. `failed` is most often a program that cannot "
            "be fetched or compiled: see the condition ProgramReady.",
            [Query("sum by (state) (realm_agent_tenants)", "{{state}}")],
        ),
        Panel(
            "Pipelines on nodes",
            "short",
            "How far nodes are with their pipelines.",
            [Query("sum by (state) (realm_agent_pipelines)", "{{state}}")],
        ),
    ],
)

TENANTS = Dashboard(
    uid="realm-tenant",
    title="Realm / Tenant",
    description="What tenants ask, what they get, and what they are refused.",
    variables=[
        Variable("tenant", "Tenant", "label_values(realm_gateway_requests_total, tenant)"),
        Variable("model", "Model", "label_values(realm_engine_kv_blocks, model)"),
    ],
    panels=[
        Panel(
            "Calls",
            "reqps",
            "Calls by function, however they ended.",
            [
                Query(
                    rate("realm_gateway_requests_total", "tenant, function", TENANT),
                    "{{tenant}} {{function}}",
                )
            ],
        ),
        Panel(
            "Refusals and failures",
            "reqps",
            "Calls that were not served to their end, by why. `too_many_*` are the tenant's "
            "limits, `program_*` its program, `busy` and `model_not_ready` ours.",
            [
                Query(
                    rate("realm_gateway_requests_total", "tenant, code", f'{TENANT}, code!="ok"'),
                    "{{tenant}} {{code}}",
                )
            ],
        ),
        Panel(
            "Part of calls served",
            "percentunit",
            "Below nine in ten: look at the reasons beside this. Cancelled calls count as not "
            "served, so impatient clients show here too.",
            [
                Query(
                    f"{rate('realm_gateway_requests_total', 'tenant', SERVED)}"
                    f" / {rate('realm_gateway_requests_total', 'tenant', TENANT)}",
                    "{{tenant}}",
                )
            ],
            warn=0.9,
            is_floor=True,
        ),
        Panel(
            "First token",
            "s",
            "From a sequence's arrival at the engine to its first token. If the queue beside this "
            "is long, others are served first; if not, prompts are long.",
            quantiles("realm_engine_tenant_first_token_seconds", "tenant", BOTH),
            warn=1,
            bad=5,
        ),
        Panel(
            "Between tokens",
            "s",
            "People read about ten tokens a second; slower than that they notice.",
            quantiles("realm_engine_tenant_inter_token_seconds", "tenant", BOTH),
            warn=0.1,
            bad=0.3,
        ),
        Panel(
            "Wait for the first step",
            "s",
            "Part of the first token's time that is spent waiting for others. A tenant that waits "
            "longer than the rest has a smaller weight or asks for more than its share.",
            quantiles("realm_engine_tenant_queue_seconds", "tenant", BOTH),
            warn=0.5,
            bad=2,
        ),
        Panel(
            "Tokens generated",
            "suffix: tokens/s",
            "Tokens a second. While tenants compete, these stand to each other as their weights.",
            [
                Query(
                    rate("realm_engine_tenant_generated_tokens_total", "tenant, model", BOTH),
                    "{{tenant}} {{model}}",
                )
            ],
        ),
        Panel(
            "Prompt tokens",
            "suffix: tokens/s",
            "Prompt tokens a second, and of these those found in the tenant's own cache, which "
            "cost nothing.",
            [
                Query(
                    rate("realm_engine_tenant_prompt_tokens_total", "tenant", BOTH),
                    "{{tenant}} all",
                ),
                Query(
                    rate("realm_engine_tenant_cached_tokens_total", "tenant", BOTH),
                    "{{tenant}} cached",
                ),
            ],
        ),
        Panel(
            "Sequences",
            "short",
            "Sequences that wait and that run. Many that wait while few run is want of KV blocks.",
            [
                Query(
                    f"sum by (tenant) (realm_engine_tenant_sequences_queued{{{BOTH}}})",
                    "{{tenant}} queued",
                ),
                Query(
                    f"sum by (tenant) (realm_engine_tenant_sequences_running{{{BOTH}}})",
                    "{{tenant}} running",
                ),
            ],
        ),
        Panel(
            "KV blocks",
            "short",
            "Blocks that running sequences hold, and blocks with finished prefixes. A tenant at "
            "its `kvBlocks` preempts its own sequences.",
            [
                Query(
                    f"sum by (tenant) (realm_engine_tenant_kv_blocks_used{{{BOTH}}})",
                    "{{tenant}} used",
                ),
                Query(
                    f"sum by (tenant) (realm_engine_tenant_kv_blocks_cached{{{BOTH}}})",
                    "{{tenant}} cached",
                ),
            ],
        ),
        Panel(
            "Program fuel",
            "suffix: fuel/s",
            "Units of fuel a second that the tenant's programs burn, booked as calls end. A loop "
            "shows as a jump to calls times the limit.",
            [Query(rate("realm_program_fuel_total", "tenant", TENANT), "{{tenant}}")],
        ),
        Panel(
            "Host calls of programs",
            "ops",
            "How often the tenant's programs call the host: tokens taken, text tokenised.",
            [Query(rate("realm_program_host_calls_total", "tenant", TENANT), "{{tenant}}")],
        ),
    ],
)

MODELS = Dashboard(
    uid="realm-model",
    title="Realm / Model",
    description="How busy each model is, how fast, and where it is on the way.",
    variables=[Variable("model", "Model", "label_values(realm_operator_model_ready, model)")],
    panels=[
        Panel(
            "Ready",
            "bool",
            "Whether any agent serves the model. `kubectl describe model` says why not.",
            [Query(f"realm_operator_model_ready{{{MODEL}}}", "{{model}}")],
            warn=1,
            is_floor=True,
        ),
        Panel(
            "Replicas",
            "short",
            "Agents that should load the model and agents that serve it.",
            [
                Query(f"realm_operator_model_replicas_wanted{{{MODEL}}}", "{{model}} wanted"),
                Query(f"realm_operator_model_replicas_serving{{{MODEL}}}", "{{model}} serving"),
            ],
        ),
        Panel(
            "State on nodes",
            "short",
            "How many nodes are how far. `failed` for longer than a retry: the condition Loaded "
            "has the cause and the node.",
            [
                Query(
                    f"sum by (model, state) (realm_agent_model_state{{{MODEL}}})",
                    "{{model}} {{state}}",
                )
            ],
        ),
        Panel(
            "Sequences",
            "short",
            "Sequences that wait and that run. A queue that stays: add replicas or a larger "
            "`scaling.max`.",
            [
                Query(
                    f"sum by (model) (realm_engine_sequences_queued{{{MODEL}}})", "{{model}} queued"
                ),
                Query(
                    f"sum by (model) (realm_engine_sequences_running{{{MODEL}}})",
                    "{{model}} running",
                ),
            ],
        ),
        Panel(
            "KV cache in use",
            "percentunit",
            "Part of the KV blocks that running sequences hold. When it is full, sequences are "
            "preempted: give the model more `kvBlocks` or replicas.",
            [Query(f"realm_engine_kv_used_ratio{{{MODEL}}}", "{{model}} {{instance}}")],
            warn=0.8,
            bad=0.95,
        ),
        Panel(
            "KV blocks",
            "short",
            "Blocks there are, and those that hold finished prefixes, which speed up whoever "
            "comes back.",
            [
                Query(f"sum by (model) (realm_engine_kv_blocks{{{MODEL}}})", "{{model}} all"),
                Query(f"sum by (model) (realm_engine_kv_blocks_used{{{MODEL}}})", "{{model}} used"),
                Query(
                    f"sum by (model) (realm_engine_kv_blocks_cached{{{MODEL}}})",
                    "{{model}} cached",
                ),
            ],
        ),
        Panel(
            "Wait for the first step",
            "s",
            "How long sequences wait before the model begins with them.",
            quantiles("realm_engine_tenant_queue_seconds", "model", MODEL),
            warn=0.5,
            bad=2,
        ),
        Panel(
            "First token",
            "s",
            "From a sequence's arrival to its first token.",
            quantiles("realm_engine_tenant_first_token_seconds", "model", MODEL),
            warn=1,
            bad=5,
        ),
        Panel(
            "Between tokens",
            "s",
            "Grows with the batch. Beyond a tenth of a second readers notice: fewer sequences at "
            "once, or a faster device.",
            quantiles("realm_engine_tenant_inter_token_seconds", "model", MODEL),
            warn=0.1,
            bad=0.3,
        ),
        Panel(
            "Tokens",
            "suffix: tokens/s",
            "Prompt tokens taken in and tokens generated a second.",
            [
                Query(rate("realm_engine_prompt_tokens_total", "model", MODEL), "{{model}} prompt"),
                Query(
                    rate("realm_engine_generated_tokens_total", "model", MODEL),
                    "{{model}} generated",
                ),
            ],
        ),
        Panel(
            "Prompt tokens from the cache",
            "percentunit",
            "Part of the prompt tokens that were found in their own tenant's cache.",
            [
                Query(
                    f"{rate('realm_engine_cached_tokens_total', 'model', MODEL)}"
                    f" / {rate('realm_engine_prompt_tokens_total', 'model', MODEL)}",
                    "{{model}}",
                )
            ],
        ),
        Panel(
            "Tenants that use it",
            "suffix: tokens/s",
            "Tokens generated a second by tenant: the ten that get most.",
            [
                Query(
                    "topk(10, "
                    + rate("realm_engine_tenant_generated_tokens_total", "tenant, model", MODEL)
                    + ")",
                    "{{model}} {{tenant}}",
                )
            ],
        ),
    ],
)


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


def files() -> dict[str, str]:
    """Every dashboard's file by name."""
    dashboards = {"fleet": FLEET, "tenant": TENANTS, "model": MODELS}
    return {
        f"{name}.json": json.dumps(dashboard_json(dashboard), indent=2) + "\n"
        for name, dashboard in dashboards.items()
    }


def main() -> None:
    """Puts every file in its place."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
