//! Tenants as rows and as lines, the same words in a folder and in a cluster. Pure.

use realm_crds::{
    TenantSpec,
    tenant::{ApiKeySource, Limits, ModelRef, ProgramLimits},
};

use crate::{manifests::one_line, target};

pub(super) const COLUMNS: [&str; 6] = ["NAME", "STATE", "SUSPENDED", "WEIGHT", "KEYS", "MODELS"];

/// One tenant of a list.
pub(super) fn row(name: String, state: String, keys: u32, spec: &TenantSpec) -> [String; 6] {
    let TenantSpec { weight, suspended, models, .. } = spec;
    let suspended = yes(*suspended).to_owned();
    [name, state, suspended, weight.to_string(), keys.to_string(), named(models)]
}

/// All of one tenant.
pub(super) fn lines(name: &str, keys: u32, spec: &TenantSpec) -> Vec<String> {
    let TenantSpec {
        weight,
        priority,
        suspended,
        limits,
        limits_mode,
        cache,
        models,
        program,
        api_keys,
    } = spec;
    let group = cache.as_ref().and_then(|cache| cache.share_group.as_deref());
    let secrets: Vec<_> =
        api_keys.iter().map(|ApiKeySource { secret_name }| secret_name.as_str()).collect();
    let keys = match secrets.as_slice() {
        [] => "none; `realm api-key create` makes the first".to_owned(),
        secrets => format!("{keys} in {}", secrets.join(", ")),
    };
    let sources = program.as_ref().map_or(&[][..], |program| &program.sources);
    let program = sources.first().map_or("built-in", String::as_str);
    let models = if models.is_empty() { "none".to_owned() } else { named(models) };
    let Limits {
        requests_per_minute,
        input_tokens_per_minute,
        output_tokens_per_minute,
        calls,
        context,
        output_tokens,
        kv_blocks,
        program:
            ProgramLimits {
                memory_bytes,
                fuel,
                host_calls,
                output_bytes,
                deadline_ms,
                token_fuel,
                token_deadline_ms,
                instances,
                memory64,
            },
    } = limits;
    let answer = output_tokens.unwrap_or(*context);
    [
        format!("name        {name}"),
        format!("weight      {weight}"),
        format!("priority    {priority:?}"),
        format!("suspended   {}", yes(*suspended)),
        format!("models      {models}"),
        format!("keys        {keys}"),
        format!("a minute    {requests_per_minute} requests, {input_tokens_per_minute} tokens in, {output_tokens_per_minute} tokens out"),
        format!("at once     {calls} calls, {context} tokens of context, {answer} of an answer, {kv_blocks} KV blocks"),
        format!("mode        {limits_mode:?}"),
        format!("shares in   {}", group.unwrap_or("no group")),
        format!("program     {program}"),
        format!("its limits  {memory_bytes} bytes of memory, {fuel} fuel, {host_calls} host calls, {output_bytes} bytes out, {deadline_ms} ms"),
        format!("its hooks   {token_fuel} fuel and {token_deadline_ms} ms a token"),
        format!("instances   {instances} at once at a node"),
        format!("memory64    {}", yes(*memory64)),
    ]
    .map(|line| one_line(&line))
    .to_vec()
}

fn named(models: &[ModelRef]) -> String {
    models.iter().map(target::referred).collect::<Vec<_>>().join(",")
}

const fn yes(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> TenantSpec {
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn a_row_names_the_models_as_the_spec_does() {
        let spec = spec("{models: [{name: a}, {name: b, namespace: other}], suspended: true}");
        let row = row("shop/acme".to_owned(), "Ready".to_owned(), 3, &spec);
        assert_eq!(row, ["shop/acme", "Ready", "yes", "100", "3", "a,other/b"]);
    }

    #[test]
    fn a_tenant_without_keys_is_told_how_to_get_one() {
        let lines = lines("shop/acme", 0, &spec("{}"));
        assert!(lines.iter().any(|line| line.contains("`realm api-key create`")), "{lines:?}");
        assert!(lines.iter().any(|line| line == "program     built-in"), "{lines:?}");
        assert!(lines.iter().any(|line| line == "models      none"), "{lines:?}");
        assert!(lines.iter().any(|line| line == "memory64    no"), "{lines:?}");
    }
}
