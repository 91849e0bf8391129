//! What to do next: the difference between what is held and what is desired. Pure.

use std::{collections::BTreeMap, fmt, sync::Arc};

use realm_core::{
    desired::{Desired, DesiredModel, DesiredPipeline, DesiredTenant},
    name::{ModelName, PipelineName, TenantName},
};

/// Which item. The order is that of use: what comes later uses what comes before, so puts go
/// forwards through it and removals backwards.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Model(ModelName),
    Pipeline(PipelineName),
    Tenant(TenantName),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(name) => write!(f, "model {name}"),
            Self::Pipeline(name) => write!(f, "pipeline {name}"),
            Self::Tenant(name) => write!(f, "tenant {name}"),
        }
    }
}

/// What an item should be, shared between goal, steps and holding.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Spec {
    Model(Arc<DesiredModel>),
    Pipeline(Arc<DesiredPipeline>),
    Tenant(Arc<DesiredTenant>),
}

impl Spec {
    pub(crate) fn key(&self) -> Key {
        match self {
            Self::Model(model) => Key::Model(model.name.clone()),
            Self::Pipeline(pipeline) => Key::Pipeline(pipeline.name.clone()),
            Self::Tenant(tenant) => Key::Tenant(tenant.name.clone()),
        }
    }
}

/// What is known of an item that an agent may hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Held {
    Known(Spec),
    /// A put began and did not end well: the item may be there, as it was before or not at all.
    Unknown,
}

pub(crate) type Holding = BTreeMap<Key, Held>;

/// A desired state by its items.
pub(crate) type Goal = BTreeMap<Key, Spec>;

pub(crate) fn goal(desired: &Desired) -> Goal {
    let models = desired.models.iter().map(|model| Spec::Model(Arc::new(model.clone())));
    let pipelines =
        desired.pipelines.iter().map(|pipeline| Spec::Pipeline(Arc::new(pipeline.clone())));
    let tenants = desired.tenants.iter().map(|tenant| Spec::Tenant(Arc::new(tenant.clone())));
    models.chain(pipelines).chain(tenants).map(|spec| (spec.key(), spec)).collect()
}

/// One thing to do, whole in itself and idempotent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Put(Spec),
    Remove(Key),
}

impl Step {
    pub(crate) fn key(&self) -> Key {
        match self {
            Self::Put(spec) => spec.key(),
            Self::Remove(key) => key.clone(),
        }
    }
}

/// The steps from `holding` to `goal`: what is used before its users, then what is no longer
/// wanted, users first.
pub(crate) fn diff(holding: &Holding, goal: &Goal) -> Vec<Step> {
    let is_held = |key: &Key, spec: &Spec| matches!(holding.get(key), Some(Held::Known(held)) if held == spec);
    let puts = goal
        .iter()
        .filter(|(key, spec)| !is_held(key, spec))
        .map(|(_, spec)| Step::Put(spec.clone()));
    let removals = holding
        .keys()
        .rev()
        .filter(|key| !goal.contains_key(key))
        .map(|key| Step::Remove(key.clone()));
    puts.chain(removals).collect()
}

/// What is held once `step` has ended well.
pub(crate) fn apply(holding: &mut Holding, step: Step) {
    match step {
        Step::Put(spec) => holding.insert(spec.key(), Held::Known(spec)),
        Step::Remove(key) => holding.remove(&key),
    };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::arbitrary;

    fn hold(goal: &Goal) -> Holding {
        goal.iter().map(|(key, spec)| (key.clone(), Held::Known(spec.clone()))).collect()
    }

    proptest! {
        #[test]
        fn the_steps_lead_from_any_state_to_any_other(
            before in arbitrary::desired(),
            after in arbitrary::desired(),
            unknown in any::<prop::sample::Index>(),
        ) {
            let (before, after) = (goal(&before), goal(&after));
            let mut holding = hold(&before);
            if !holding.is_empty() {
                let index = unknown.index(holding.len());
                *holding.values_mut().nth(index).unwrap() = Held::Unknown;
            }
            for step in diff(&holding, &after) {
                apply(&mut holding, step);
            }
            prop_assert_eq!(&holding, &hold(&after));
            prop_assert_eq!(diff(&holding, &after), vec![]);
        }

        #[test]
        fn no_step_touches_an_item_twice_or_one_that_is_as_it_should_be(
            before in arbitrary::desired(),
            after in arbitrary::desired(),
        ) {
            let (before, after) = (goal(&before), goal(&after));
            let steps = diff(&hold(&before), &after);
            let keys: std::collections::BTreeSet<_> = steps.iter().map(Step::key).collect();
            prop_assert_eq!(keys.len(), steps.len());
            prop_assert!(keys.iter().all(|key| before.get(key) != after.get(key)));
        }
    }

    #[test]
    fn what_is_used_is_put_before_its_users_and_removed_after_them() {
        let kinds = |steps: &[Step]| {
            let kind = |step: &Step| match step {
                Step::Put(_) => format!("put {}", step.key()),
                Step::Remove(key) => format!("remove {key}"),
            };
            steps.iter().map(kind).collect::<Vec<_>>()
        };
        let sample = goal(&arbitrary::sample());
        assert_eq!(
            kinds(&diff(&Holding::new(), &sample)),
            ["put model default/tiny", "put pipeline default/digest", "put tenant default/acme"]
        );
        assert_eq!(
            kinds(&diff(&hold(&sample), &Goal::new())),
            [
                "remove tenant default/acme",
                "remove pipeline default/digest",
                "remove model default/tiny"
            ]
        );
    }
}
