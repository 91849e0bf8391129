"""Operator, nodes and link."""

from __future__ import annotations

from deploy.dashboards.panel import NODE, RATE, Dashboard, Panel, Query, Variable, quantiles, rate

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
            "waits for its turn or for answers, `error` is a reconcile that failed.",
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
            "Agents that were refused",
            "ops",
            "Who came to the agents' door and was none of ours, by what told: no token, one that "
            "is not valid, one for somebody else, of another account, of no pod, or of another "
            "node than was said.",
            [Query(rate("realm_operator_agents_refused_total", "reason"), "{{reason}}")],
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
