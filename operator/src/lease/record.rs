//! What a Lease says, in our words.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};

/// The annotation with the highest generation that a leader may have given out.
const GENERATIONS: &str = "realm.dev/generations";

/// The annotation with the number of doors that a leader has shared limits out over.
const DOORS: &str = "realm.dev/doors";

/// A Lease as somebody wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// `None` when it was given back.
    pub(super) holder: Option<String>,
    pub(super) duration: Duration,
    pub(super) acquired: Option<Timestamp>,
    /// By the holder's clock: compared with nothing but itself.
    pub(super) renewed: Option<Timestamp>,
    pub(super) transitions: i32,
    /// No leader so far has given out a generation above this one.
    pub(super) generations: u64,
    /// Doors by the last plan that its leader told of; 0 before the first.
    pub(super) doors: u32,
    /// Of the object in the API server; `None` while there is none.
    pub(super) version: Option<String>,
}

impl Record {
    pub(super) fn of(lease: &Lease) -> Self {
        let spec = lease.spec.clone().unwrap_or_default();
        let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
        let annotation =
            |name: &str| lease.metadata.annotations.as_ref().and_then(|all| all.get(name));
        Self {
            holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
            duration: Duration::from_secs(seconds),
            acquired: spec.acquire_time.map(|MicroTime(time)| time),
            renewed: spec.renew_time.map(|MicroTime(time)| time),
            transitions: spec.lease_transitions.unwrap_or(0),
            generations: annotation(GENERATIONS).and_then(|text| text.parse().ok()).unwrap_or(0),
            doors: annotation(DOORS).and_then(|text| text.parse().ok()).unwrap_or(0),
            version: lease.metadata.resource_version.clone(),
        }
    }

    /// The Lease given back, if it is `identity`'s.
    pub(super) fn released(&self, identity: &str, clock: Timestamp) -> Option<Self> {
        (self.holder.as_deref() == Some(identity)).then(|| Self {
            holder: None,
            // client-go writes a second: zero is not valid.
            duration: Duration::from_secs(1),
            renewed: Some(clock),
            ..self.clone()
        })
    }

    pub(super) fn to_lease(&self, name: &str) -> Lease {
        let Self { holder, duration, acquired, renewed, transitions, generations, doors, version } =
            self;
        let annotations = BTreeMap::from([
            (GENERATIONS.to_owned(), generations.to_string()),
            (DOORS.to_owned(), doors.to_string()),
        ]);
        Lease {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                annotations: Some(annotations),
                resource_version: version.clone(),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.clone().unwrap_or_default()),
                lease_duration_seconds: Some(i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)),
                acquire_time: acquired.map(MicroTime),
                renew_time: renewed.map(MicroTime),
                lease_transitions: Some(*transitions),
                ..LeaseSpec::default()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_what_its_lease_says() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let record = Record {
            holder: Some("operator-0".to_owned()),
            duration: Duration::from_secs(15),
            acquired: Some(now),
            renewed: Some(now),
            transitions: 3,
            generations: 1 << 40,
            doors: 9,
            version: Some("7".to_owned()),
        };
        assert_eq!(Record::of(&record.to_lease("realm")), record);
    }

    #[test]
    fn a_lease_that_somebody_else_made_is_read_without_guesses() {
        let record = Record::of(&Lease::default());
        assert_eq!((record.holder, record.generations, record.transitions), (None, 0, 0));
        assert_eq!(record.doors, 0);
    }
}
