"""Models: how busy they are, and for whom."""

from __future__ import annotations

from deploy.dashboards.panel import MODEL, Dashboard, Panel, Query, Variable, quantiles, rate

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
            "What the engine does with its time",
            "percentunit",
            "Part of the time that goes into steps, that nobody wants anything in, and that is "
            "overhead. Much of the last is steps that fail, or answers that wait for their masks.",
            [
                Query(
                    rate("realm_engine_seconds_total", "model, state", MODEL), "{{model}} {{state}}"
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
