"""Tenants: what they ask, get and wait for."""

from __future__ import annotations

from deploy.dashboards.panel import (
    BOTH,
    SERVED,
    TENANT,
    Dashboard,
    Panel,
    Query,
    Variable,
    quantiles,
    rate,
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
            "Device time",
            "percentunit",
            "The tenant's part of the engines' time, by its own calls (`-`) and by each pipeline.",
            [
                Query(
                    rate("realm_engine_tenant_device_seconds_total", "tenant, pipeline", BOTH),
                    "{{tenant}} {{pipeline}}",
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
        Panel(
            "Calls that wait for an instance",
            "short",
            "Calls of the tenant that wait, node by node added up, because as many instances of "
            "its program as `limits.program.instances` has answer others.",
            [
                Query(
                    f"sum by (tenant) (realm_program_runs_waiting{{{TENANT}}})",
                    "{{tenant}}",
                )
            ],
        ),
    ],
)
