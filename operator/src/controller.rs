//! One controller for each kind, all of one shape: fetch, validate, demand, build, apply, report.
//!
//! The first half ends at the fleet: [`Wanted`] validates what the API server says as it is said,
//! and waits for nobody. The second half is [`reconcile`], which waits for the API server: a demand
//! is never behind somebody's status. What differs between kinds is a [`Served`]: how an object
//! becomes a demand, and what its status says.

mod news;
mod wanted;

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use jiff::Timestamp;
use kube::{
    Api, ResourceExt as _,
    runtime::{
        Controller, WatchStreamExt as _,
        controller::{self, Action},
        reflector::{self, ObjectRef, store::Writer},
        watcher::{self, Event},
    },
};
use realm_plan::{Demand, Kind, Name, Problem};
use thiserror::Error;
use tokio::time::Instant;

use self::wanted::Wanted;
use crate::{
    context::Context,
    fleet::{
        handle::Command,
        standing::{Hold, Holders, Standing},
    },
    metrics::{Requeue, StatusWrite},
    status::{
        apply::{self, ApplyError, Kinded},
        conditions,
        event::{self, Telling},
    },
    throttle::News,
    warnings::Due,
};

/// How often an object is looked at without news: what nobody told us of is mended then.
const RESYNC: Duration = Duration::from_mins(10);

/// How often it is looked at whether a deleted object can go or a new one is planned, besides when
/// there is news of it.
const NEWS_RETRY: Duration = Duration::from_secs(30);

/// Reconciles of one kind at once: each waits for the API server, not for a core.
const AT_ONCE: u16 = 16;

/// A kind of object that the fleet serves.
pub(crate) trait Served: Kinded {
    const KIND: Kind;

    /// Proves the object, or lists what is wrong with it.
    fn validate(&self) -> Result<Demand, Vec<Problem>>;

    /// What its status should say.
    fn build(&self, standing: &Standing, context: &Context, now: Timestamp) -> Self::Status;

    /// What the fleet is to be told of what was known when this status was written.
    fn recalled(&self) -> Vec<Command> {
        Vec::new()
    }

    /// Whether any node held the object when this status was written.
    fn was_held(&self) -> bool;
}

/// Why an object could not be reconciled. It is tried again.
#[derive(Debug, Error)]
pub(crate) enum ReconcileError {
    #[error("apply what became of an object")]
    Apply(#[source] ApplyError),
}

/// Follows every object of a kind for as long as this operator leads.
pub(crate) async fn run<K: Served>(context: Arc<Context>) {
    let (store, writer) = reflector::store();
    let changes = context
        .fleet
        .changes(K::KIND)
        .map(|name| ObjectRef::new(name.name()).within(name.namespace()));
    Controller::for_stream(objects::<K>(context.clone(), writer), store)
        .with_config(controller::Config::default().concurrency(AT_ONCE))
        .reconcile_on(changes)
        .run(reconcile::<K>, retry::<K>, context.clone())
        .for_each(|outcome| async {
            if let Err(error) = outcome {
                tracing::debug!(error = &error as &dyn std::error::Error, "not reconciled");
            }
        })
        .await;
}

/// Every object that comes or changes, after the fleet has been told of it.
fn objects<K: Served>(
    context: Arc<Context>,
    writer: Writer<K>,
) -> impl Stream<Item = Result<K, watcher::Error>> + Send + use<K> {
    let events =
        watcher::watcher(Api::<K>::all(context.client.clone()), watcher::Config::default());
    let start = (events.default_backoff().reflect(writer).boxed(), Wanted::default());
    let told = stream::unfold(start, move |(mut events, mut wanted)| {
        let context = context.clone();
        async move {
            let event = events.next().await?;
            for command in event.iter().flat_map(|event| wanted.hear(event)) {
                if let Command::Retain { kind, names } = &command {
                    context.throttle.retain(*kind, names);
                    context.warnings.retain(*kind, names);
                }
                context.fleet.tell(command).await;
            }
            if let Ok(Event::Delete(object)) = &event
                && let Ok(name) = Name::of(object.meta())
            {
                context.throttle.forget(K::KIND, &name);
                context.warnings.forget(K::KIND, &name);
            }
            Some((event, (events, wanted)))
        }
    });
    told.applied_objects()
}

/// Takes one object where it should be.
async fn reconcile<K: Served>(
    object: Arc<K>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let _timer = context.metrics.reconciling(K::KIND);
    let Ok(name) = Name::of(object.meta()) else {
        // The definition's rules let no such object in.
        return Ok(Action::await_change());
    };
    let action = if object.meta().deletion_timestamp.is_some() {
        release(&*object, &name, &context).await?
    } else {
        tell(&*object, &name, &context).await?
    };
    context.retries.forget(K::KIND, &name);
    Ok(action)
}

/// Says in the object's status what became of it.
async fn tell<K: Served>(
    object: &K,
    name: &Name,
    context: &Context,
) -> Result<Action, ReconcileError> {
    let generation = generation(object);
    apply::finalizer(&context.client, object, true).await.map_err(ReconcileError::Apply)?;
    let standing = context.fleet.standing(K::KIND, name);
    let Some(standing) = standing.filter(|standing| standing.generation == generation) else {
        // Planned first; its standing brings the object back here. While all objects are listed
        // anew it may do so before the newest form can be seen here.
        return Ok(Action::requeue(NEWS_RETRY));
    };
    let status = object.build(&standing, context, Timestamp::now());
    let before = object.status().map(K::conditions).unwrap_or_default();
    let news = news::of(before, K::conditions(&status), &standing);
    write(object, name, &status, (news, standing.is_young), context).await
}

/// Writes a status that is not what the object says already and tells of its turn, or comes back
/// when it is time to.
async fn write<K: Served>(
    object: &K,
    name: &Name,
    status: &K::Status,
    (news, is_young): (News, bool),
    context: &Context,
) -> Result<Action, ReconcileError> {
    if object.status() == Some(status) {
        context.throttle.settle(K::KIND, name);
        context.metrics.status(K::KIND, StatusWrite::Unchanged);
        return Ok(Action::requeue(warn(object, name, status, context).await));
    }
    let version = apply::version(object);
    if let Some(wait) = context.throttle.wait((K::KIND, name), version, news, Instant::now()) {
        context.metrics.requeued(K::KIND, Requeue::Throttled);
        return Ok(Action::requeue(wait));
    }
    let written = apply::status(&context.client, object, status).await;
    context.metrics.status(
        K::KIND,
        match &written {
            Ok(Some(_)) => StatusWrite::Written,
            Ok(None) => StatusWrite::Unchanged,
            Err(_) => StatusWrite::Failed,
        },
    );
    if let Some(written) = written.map_err(ReconcileError::Apply)? {
        context.throttle.wrote(K::KIND, name, apply::version(&written), Instant::now());
        let before = object.status().map(K::conditions).unwrap_or_default();
        if let Some(Telling { event, put_off }) = event::of(before, K::conditions(status), is_young)
        {
            if let Some(reason) = put_off {
                context.warnings.put_off(K::KIND, name, &reason, Instant::now());
            }
            apply::event(&context.recorder, object, &event).await;
        }
        for event in event::of_use(before, K::conditions(status)) {
            apply::event(&context.recorder, object, &event).await;
        }
    }
    Ok(Action::requeue(warn(object, name, status, context).await))
}

/// Tells a warning that was put off, when it is time to. Gives when to look again.
async fn warn<K: Served>(
    object: &K,
    name: &Name,
    status: &K::Status,
    context: &Context,
) -> Duration {
    let conditions = K::conditions(status);
    let stuck = event::stuck(conditions);
    match context.warnings.due(K::KIND, name, stuck, Instant::now()) {
        Due::Never => RESYNC,
        Due::In(wait) => wait.min(RESYNC),
        Due::Now => {
            if let Some(event) = event::warning(conditions) {
                apply::event(&context.recorder, object, &event).await;
            }
            RESYNC
        }
    }
}

/// Lets a deleted object go once the agents have.
async fn release<K: Served>(
    object: &K,
    name: &Name,
    context: &Context,
) -> Result<Action, ReconcileError> {
    match context.fleet.hold(K::KIND, name) {
        Hold::Nobody => {
            apply::finalizer(&context.client, object, false)
                .await
                .map_err(ReconcileError::Apply)?;
            Ok(Action::await_change())
        }
        Hold::Unsaid => Ok(Action::requeue(NEWS_RETRY)),
        Hold::By(holders) => tell_holders(object, name, &holders, context).await,
    }
}

/// Says in a deleted object's status for whom it waits. Most agents let go before there is anything
/// to say: its end is a change, which they have their time to answer.
async fn tell_holders<K: Served>(
    object: &K,
    name: &Name,
    holders: &Holders,
    context: &Context,
) -> Result<Action, ReconcileError> {
    let mut status = object.status().cloned().unwrap_or_default();
    let before = K::conditions(&status);
    let generation = generation(object);
    let news = if conditions::are_of_leaving(before) {
        News::Progress
    } else {
        News::Change { is_answered: false }
    };
    let told = conditions::leaving(before, holders, generation, Timestamp::now());
    *K::conditions_mut(&mut status) = told;
    write(object, name, &status, (news, false), context).await
}

fn generation<K: Served>(object: &K) -> i64 {
    object.meta().generation.unwrap_or(0)
}

#[expect(clippy::needless_pass_by_value, reason = "what the controller calls")]
fn retry<K: Served>(object: Arc<K>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let name = object.name_any();
    tracing::warn!(kind = %K::KIND, name, error = error as &dyn std::error::Error, "not reconciled");
    context.metrics.reconcile_failed(K::KIND);
    context.metrics.requeued(K::KIND, Requeue::Error);
    match Name::of(object.meta()) {
        Ok(name) => Action::requeue(context.retries.wait(K::KIND, &name)),
        Err(_) => Action::await_change(),
    }
}
