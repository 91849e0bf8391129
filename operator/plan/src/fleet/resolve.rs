//! Who may use what: references become names, and what does not resolve becomes a problem of the
//! object that refers to it, and of no other.

use std::collections::{BTreeMap, BTreeSet};

use super::Demands;
use crate::{
    desired::{ApiKey, DesiredPipeline, DesiredTenant, ModelGrant, Sha256},
    name::{Kind, Name},
    problem::{Problem, Reason},
    validate::{ValidModel, ValidPipeline, ValidTenant},
};

/// What every node serves, and what could not be resolved.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    pub(super) tenants: Vec<DesiredTenant>,
    pub(super) pipelines: Vec<DesiredPipeline>,
    pub(super) problems: Vec<((Kind, Name), Problem)>,
}

pub(super) fn resolve(demands: &Demands) -> Resolved {
    let mut problems = Vec::new();
    let mut tenants = BTreeMap::new();
    for tenant in demands.tenants.values() {
        let (desired, found) = resolve_tenant(tenant, demands);
        tenants.insert(tenant.name.clone(), desired);
        problems.extend(found.into_iter().map(|p| ((Kind::Tenant, tenant.name.clone()), p)));
    }
    let mut pipelines = Vec::new();
    for pipeline in demands.pipelines.values() {
        let (callers, found) = resolve_callers(pipeline, demands, &tenants);
        for caller in &callers {
            if let Some(tenant) = tenants.get_mut(caller) {
                let name = pipeline.name();
                tenant.pipelines.insert(name.name().to_owned(), name.clone());
            }
        }
        if !callers.is_empty() {
            pipelines.push(pipeline.desired.clone());
        }
        problems.extend(found.into_iter().map(|p| ((Kind::Pipeline, pipeline.name().clone()), p)));
    }
    problems.extend(shared_keys(&tenants));
    problems.extend(demands.models.values().filter_map(|model| closed_source(model, demands)));
    problems.extend(demands.models.values().filter_map(|model| no_base(model, demands)));
    Resolved { tenants: tenants.into_values().collect(), pipelines, problems }
}

/// The tenant with every model and key that it has a right to, and what it asked for in vain.
fn resolve_tenant(tenant: &ValidTenant, demands: &Demands) -> (DesiredTenant, Vec<Problem>) {
    let ValidTenant {
        name,
        weight,
        priority,
        suspended,
        limits,
        limits_mode,
        share_group,
        models,
        program,
        secrets,
    } = tenant;
    let mut problems = Vec::new();
    let mut grants = Vec::new();
    for (i, model) in models.iter().enumerate() {
        match check_model(model, name, &demands.models) {
            Ok(_) => grants
                .push(ModelGrant { alias: model.alias_in(name.namespace()), model: model.clone() }),
            Err((reason, message)) => {
                problems.push(Problem { path: format!("spec.models[{i}]"), reason, message });
            }
        }
    }
    let keys = resolve_keys(secrets, demands, &mut problems);
    let desired = DesiredTenant {
        name: name.clone(),
        weight: *weight,
        priority: *priority,
        suspended: *suspended,
        limits: *limits,
        limits_mode: *limits_mode,
        share_group: share_group.clone(),
        models: grants,
        pipelines: BTreeMap::new(),
        keys,
        program: Some(program.clone()),
    };
    (desired, problems)
}

fn resolve_keys(secrets: &[Name], demands: &Demands, problems: &mut Vec<Problem>) -> Vec<ApiKey> {
    let mut keys = Vec::new();
    for (i, name) in secrets.iter().enumerate() {
        let path = format!("spec.apiKeys[{i}]");
        let Some(secret) = demands.secrets.get(name) else {
            problems.push(unknown_secret(path, name));
            continue;
        };
        keys.extend(secret.keys.iter().cloned());
        problems.extend(secret.problems.iter().map(|problem| Problem {
            path: path.clone(),
            reason: problem.reason,
            message: format!("Secret `{}`, {}: {}", name.name(), problem.path, problem.message),
        }));
    }
    keys
}

/// Why the Secret that a model names opens none of its sources, where that is known.
fn closed_source(model: &ValidModel, demands: &Demands) -> Option<((Kind, Name), Problem)> {
    let path = "spec.sourceSecret".to_owned();
    let name = model.secret()?;
    let problem = match demands.secrets.get(name) {
        None => unknown_secret(path, name),
        Some(secret) => {
            let Problem { path: _, reason, message } = secret.opens_nothing.clone()?;
            Problem { path, reason, message: format!("Secret `{}`: {message}", name.name()) }
        }
    };
    Some(((Kind::Model, model.name().clone()), problem))
}

fn unknown_secret(path: String, name: &Name) -> Problem {
    let message = format!("there is no Secret `{}`", name.name());
    Problem { path, reason: Reason::UnknownSecret, message }
}

/// The tenants that may call the pipeline. None while one of its models is out of its reach.
fn resolve_callers(
    pipeline: &ValidPipeline,
    demands: &Demands,
    tenants: &BTreeMap<Name, DesiredTenant>,
) -> (BTreeSet<Name>, Vec<Problem>) {
    let mut problems = Vec::new();
    for (i, model) in pipeline.models.iter().enumerate() {
        if let Err((reason, message)) = check_model(model, pipeline.name(), &demands.models) {
            problems.push(Problem { path: format!("spec.steps[{i}].model"), reason, message });
        }
    }
    if !problems.is_empty() {
        return (BTreeSet::new(), problems);
    }
    let mut callers = BTreeSet::new();
    for (i, name) in pipeline.tenants.iter().enumerate() {
        let refusal = match tenants.get(name) {
            None => Some((Reason::UnknownTenant, format!("there is no tenant `{}`", name.name()))),
            Some(tenant) => first_not_granted(pipeline, tenant).map(|model| {
                let message = format!("tenant `{}` has no right to model `{model}`", name.name());
                (Reason::ModelNotGranted, message)
            }),
        };
        match refusal {
            None => drop(callers.insert(name.clone())),
            Some((reason, message)) => {
                problems.push(Problem { path: format!("spec.tenants[{i}]"), reason, message });
            }
        }
    }
    (callers, problems)
}

/// Whoever writes a pipeline may not thereby hand out models: its tenants must have them already.
fn first_not_granted<'a>(pipeline: &'a ValidPipeline, tenant: &DesiredTenant) -> Option<&'a Name> {
    let is_granted = |model: &&Name| tenant.models.iter().any(|grant| grant.model == **model);
    pipeline.models.iter().find(|model| !is_granted(model))
}

/// Why an adapter has no model to be beside.
fn no_base(adapter: &ValidModel, demands: &Demands) -> Option<((Kind, Name), Problem)> {
    let (reason, message) = adaptable(&demands.models, adapter).err()?;
    let problem = Problem { path: "spec.adapterOf".to_owned(), reason, message };
    Some(((Kind::Model, adapter.name().clone()), problem))
}

/// The adapters of each model that has any, as far as they may be of it.
pub(super) type Beside = BTreeMap<Name, Vec<Name>>;

pub(super) fn beside(models: &BTreeMap<Name, ValidModel>) -> Beside {
    let mut beside = Beside::new();
    for (name, model) in models {
        if let Some(base) = &model.base
            && adaptable(models, model).is_ok()
        {
            beside.entry(base.clone()).or_default().push(name.clone());
        }
    }
    beside
}

/// Whether what an adapter names is a model that it may be of. What is no adapter names none.
fn adaptable(
    models: &BTreeMap<Name, ValidModel>,
    adapter: &ValidModel,
) -> Result<(), (Reason, String)> {
    let Some(base) = &adapter.base else { return Ok(()) };
    let is_adapter = check_model(base, adapter.name(), models)?.base.is_some();
    let message = || format!("`{base}` is an adapter itself; name the model that it is of");
    if is_adapter { Err((Reason::InvalidValue, message())) } else { Ok(()) }
}

/// What `model` is, if `user` may refer to it. Of another namespace's models only those that are
/// open to the user's are told apart from those that do not exist.
fn check_model<'a>(
    model: &Name,
    user: &Name,
    models: &'a BTreeMap<Name, ValidModel>,
) -> Result<&'a ValidModel, (Reason, String)> {
    let namespace = user.namespace();
    // Whoever opens an adapter to others does not thereby open the model that it is of.
    let is_open = |found: &ValidModel| {
        let is_own = found.name().namespace() == namespace;
        let of = |base| models.get(base).is_some_and(|base| base.is_open_to(namespace));
        found.is_open_to(namespace) && (is_own || found.base.as_ref().is_none_or(of))
    };
    match models.get(model) {
        Some(found) if is_open(found) => Ok(found),
        _ if model.namespace() == namespace => {
            Err((Reason::UnknownModel, format!("there is no model `{}`", model.name())))
        }
        _ => Err((
            Reason::ModelNotShared,
            format!("there is no model `{model}` that allows namespace `{namespace}`"),
        )),
    }
}

/// Keys that several tenants claim. The door lets such a key open none of them.
fn shared_keys(tenants: &BTreeMap<Name, DesiredTenant>) -> Vec<((Kind, Name), Problem)> {
    let mut claims = BTreeMap::<Sha256, Vec<(&Name, &str)>>::new();
    for tenant in tenants.values() {
        for key in &tenant.keys {
            claims.entry(key.sha256).or_default().push((&tenant.name, &key.name));
        }
    }
    let is_shared = |claims: &&Vec<(&Name, &str)>| {
        claims.first().is_some_and(|first| claims.iter().any(|claim| claim.0 != first.0))
    };
    let shared = claims.values().filter(is_shared).flatten();
    shared
        .map(|&(tenant, key)| {
            let problem = Problem {
                path: "spec.apiKeys".to_owned(),
                reason: Reason::KeyNotUnique,
                message: format!("key `{key}` is also another tenant's, so it opens neither"),
            };
            ((Kind::Tenant, tenant.clone()), problem)
        })
        .collect()
}
