//! How the calls that were handed on have ended.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use realm_gateway::{Family, FamilyKind, Metrics, MetricsError, Sample};

/// How a call that went to another node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// To its end.
    Served,
    /// With a refusal of the node that it went to, or because its reader was slow.
    Refused,
    /// Its node went away in the middle of the answer.
    Cut,
    /// The client went away.
    Cancelled,
    /// A node did not take it; the next one was asked.
    NotTaken,
}

impl Outcome {
    const ALL: [Self; 5] =
        [Self::Served, Self::Refused, Self::Cut, Self::Cancelled, Self::NotTaken];

    const fn label(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Refused => "refused",
            Self::Cut => "cut",
            Self::Cancelled => "cancelled",
            Self::NotTaken => "not_taken",
        }
    }
}

/// Counts of each outcome. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    served: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
    cancelled: AtomicU64,
    not_taken: AtomicU64,
}

impl Figures {
    /// Each count stands alone, so no order among other memory's is needed.
    pub(super) fn count(&self, outcome: Outcome) {
        self.of(outcome).fetch_add(1, Ordering::Relaxed);
    }

    fn of(&self, outcome: Outcome) -> &AtomicU64 {
        let Counts { served, refused, cut, cancelled, not_taken } = &*self.0;
        match outcome {
            Outcome::Served => served,
            Outcome::Refused => refused,
            Outcome::Cut => cut,
            Outcome::Cancelled => cancelled,
            Outcome::NotTaken => not_taken,
        }
    }

    pub(super) fn register(&self, metrics: &Metrics) -> Result<(), MetricsError> {
        let family = Family {
            name: "realm_relay_calls_total",
            help: "Calls handed to another node, by how they ended.",
            kind: FamilyKind::Counter,
            labels: &["outcome"],
        };
        let figures = self.clone();
        let read = move || {
            let sample = |outcome: Outcome| {
                let calls = figures.of(outcome).load(Ordering::Relaxed);
                Sample::new([outcome.label().to_owned()], calls as f64)
            };
            Outcome::ALL.into_iter().map(sample).collect()
        };
        metrics.register(family, read)
    }
}
