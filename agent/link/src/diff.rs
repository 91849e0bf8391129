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

/// What an item should be, shared between goals, steps and holding.
#[derive(Clone, Debug)]
pub(crate) enum Spec {
    Model(Arc<DesiredModel>),
    Pipeline(Arc<DesiredPipeline>),
    Tenant(Arc<DesiredTenant>),
}

impl PartialEq for Spec {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Model(a), Self::Model(b)) => is_equal(a, b),
            (Self::Pipeline(a), Self::Pipeline(b)) => is_equal(a, b),
            (Self::Tenant(a), Self::Tenant(b)) => is_equal(a, b),
            _ => false,
        }
    }
}

/// Most are the same one: a goal shares what did not change with the one before.
fn is_equal<T: PartialEq>(a: &Arc<T>, b: &Arc<T>) -> bool {
    Arc::ptr_eq(a, b) || a == b
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

/// The items of `desired`, each shared with `before` where it is as it was.
pub(crate) fn goal(desired: &Desired, before: &Goal) -> Goal {
    let models = desired.models.iter().map(|model| {
        let key = Key::Model(model.name.clone());
        let spec = match before.get(&key) {
            Some(Spec::Model(old)) if **old == *model => Spec::Model(old.clone()),
            _ => Spec::Model(Arc::new(model.clone())),
        };
        (key, spec)
    });
    let pipelines = desired.pipelines.iter().map(|pipeline| {
        let key = Key::Pipeline(pipeline.name.clone());
        let spec = match before.get(&key) {
            Some(Spec::Pipeline(old)) if **old == *pipeline => Spec::Pipeline(old.clone()),
            _ => Spec::Pipeline(Arc::new(pipeline.clone())),
        };
        (key, spec)
    });
    let tenants = desired.tenants.iter().map(|tenant| {
        let key = Key::Tenant(tenant.name.clone());
        let spec = match before.get(&key) {
            Some(Spec::Tenant(old)) if **old == *tenant => Spec::Tenant(old.clone()),
            _ => Spec::Tenant(Arc::new(tenant.clone())),
        };
        (key, spec)
    });
    models.chain(pipelines).chain(tenants).collect()
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
    let (mut puts, mut removals) = (Vec::new(), Vec::new());
    // Both are in the order of their keys, and most of them have the same ones.
    let mut held = holding.iter().peekable();
    for (key, spec) in goal {
        while let Some((unwanted, _)) = held.next_if(|(held, _)| *held < key) {
            removals.push(Step::Remove(unwanted.clone()));
        }
        let known = held.next_if(|(held, _)| *held == key);
        if !matches!(known, Some((_, Held::Known(known))) if known == spec) {
            puts.push(Step::Put(spec.clone()));
        }
    }
    removals.extend(held.map(|(unwanted, _)| Step::Remove(unwanted.clone())));
    puts.extend(removals.into_iter().rev());
    puts
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
            let (before, after) = (goal(&before, &Goal::new()), goal(&after, &Goal::new()));
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
            let (before, after) = (goal(&before, &Goal::new()), goal(&after, &Goal::new()));
            let steps = diff(&hold(&before), &after);
            let keys: std::collections::BTreeSet<_> = steps.iter().map(Step::key).collect();
            prop_assert_eq!(keys.len(), steps.len());
            prop_assert!(keys.iter().all(|key| before.get(key) != after.get(key)));
        }
    }

    proptest! {
        #[test]
        fn a_goal_is_the_same_whatever_it_shares_and_shares_what_did_not_change(
            before in arbitrary::desired(),
            after in arbitrary::desired(),
        ) {
            let before = goal(&before, &Goal::new());
            let next = goal(&after, &before);
            prop_assert_eq!(&next, &goal(&after, &Goal::new()));
            for (key, spec) in &next {
                let is_shared = match (before.get(key), spec) {
                    (Some(Spec::Model(old)), Spec::Model(new)) => Arc::ptr_eq(old, new),
                    (Some(Spec::Pipeline(old)), Spec::Pipeline(new)) => Arc::ptr_eq(old, new),
                    (Some(Spec::Tenant(old)), Spec::Tenant(new)) => Arc::ptr_eq(old, new),
                    _ => false,
                };
                prop_assert_eq!(is_shared, before.get(key) == Some(spec));
            }
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
        let sample = goal(&arbitrary::sample(), &Goal::new());
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
