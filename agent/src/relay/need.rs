//! Which model a call is for. Pure.

use realm_core::{desired::DesiredTenant, name::ModelName};
use serde_json::Value;

/// What has to be where a call runs: one of these models, and the tenant's program, which is
/// wherever one of its models is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// In the order in which they are looked for; never empty.
    pub(super) models: Vec<ModelName>,
    /// What the tenant calls it, to name it.
    pub(super) alias: String,
    /// Whether the call may wait for its model. One that names no model of its tenant's only needs
    /// the program, which will know what to say.
    pub(super) may_wait: bool,
}

impl Need {
    /// The model that `params` name, else the tenant's first; `None` for a tenant without models.
    pub(super) fn of(tenant: &DesiredTenant, params: &Value) -> Option<Self> {
        let grants = &tenant.models;
        let first = grants.first()?;
        let asked = params.get("model").and_then(Value::as_str);
        let granted = match asked {
            None => Some(first),
            Some(alias) => grants.iter().find(|grant| grant.alias == alias),
        };
        Some(match granted {
            Some(grant) => Self {
                models: vec![grant.model.clone()],
                alias: grant.alias.clone(),
                may_wait: true,
            },
            None => Self {
                models: grants.iter().map(|grant| grant.model.clone()).collect(),
                alias: asked.unwrap_or_default().to_owned(),
                may_wait: false,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::relay::look::tests::{name, tenant};

    fn check(params: &Value, models: &[&str], may_wait: bool) {
        let need = Need::of(&tenant(&["a", "b"]), params).unwrap();
        let expected: Vec<_> = models.iter().map(|model| name(model)).collect();
        assert_eq!((need.models, need.may_wait), (expected, may_wait), "{params}");
    }

    #[test]
    fn a_call_is_for_the_model_that_it_names_or_else_for_its_tenants_first() {
        check(&json!({ "model": "b" }), &["b"], true);
        check(&json!({ "prompt": "x" }), &["a"], true);
        check(&json!(null), &["a"], true);
        check(&json!({ "model": 7 }), &["a"], true);
    }

    #[test]
    fn a_model_that_is_not_granted_needs_the_program_only_and_is_not_waited_for() {
        check(&json!({ "model": "default/b" }), &["a", "b"], false);
        check(&json!({ "model": "" }), &["a", "b"], false);
    }

    #[test]
    fn a_tenant_without_models_needs_nothing() {
        assert_eq!(Need::of(&tenant(&[]), &json!({ "model": "a" })), None);
    }
}
