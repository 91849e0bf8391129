//! Which manifests are served: the last good form of each object, and the fleet they make. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use realm_plan::{
    Demand, Fleet, Kind, Name, NodeSupply, Problem, Reason,
    desired::{Accelerator, Desired},
    validate::{self, Site},
};

use crate::manifests::{Cause, Document, Found, ManifestProblem, Object, ObjectId, Reading};

/// The one node.
const NODE: &str = "local";

/// On one machine nothing is planned by the clock.
const NOW: Duration = Duration::ZERO;

/// The last good form of every object, and what follows from them.
pub(super) struct Wanted {
    accepted: BTreeMap<ObjectId, Accepted>,
    fleet: Fleet,
    /// The plan before the first reading.
    nothing: Desired,
}

/// What has become of one object that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) id: ObjectId,
    pub(crate) kind: ChangeKind,
    /// The file that holds the object, or that held it.
    pub(crate) file: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    Added,
    Changed,
    Removed,
}

/// A manifest that is served.
struct Accepted {
    document: Document,
    demand: Demand,
    /// Whether the folder holds this very form now, so that its lines can be pointed at.
    is_current: bool,
}

impl Wanted {
    /// Wants `documents`, whose files have not been looked at yet.
    pub(super) fn new(first_generation: u64, documents: Vec<Document>) -> Self {
        let mut fleet = Fleet::new(Site::OneMachine, first_generation);
        fleet.supply(NodeSupply {
            name: NODE.to_owned(),
            labels: BTreeMap::new(),
            // There is one node to choose from, so its memory decides nothing.
            memory_bytes: BTreeMap::from([(Accelerator::Cpu, 0)]),
            is_door: true,
            peer_address: None,
            is_ready: true,
            calls: BTreeMap::new(),
            held: BTreeMap::new(),
        });
        let mut wanted = Self { accepted: BTreeMap::new(), fleet, nothing: Desired::default() };
        for document in documents {
            if let Ok(demand) = demand(&document.object) {
                wanted.fleet.apply(demand.clone());
                let accepted = Accepted { document, demand, is_current: false };
                wanted.accepted.insert(accepted.document.id.clone(), accepted);
            }
        }
        wanted
    }

    /// What the node should hold.
    pub(super) fn desired(&self) -> &Desired {
        self.fleet.desired(NODE).unwrap_or(&self.nothing)
    }

    /// The manifests that are served.
    pub(super) fn documents(&self) -> impl Iterator<Item = &Document> {
        self.accepted.values().map(|accepted| &accepted.document)
    }

    /// Takes what the folder holds now. Gives everything that is wrong with it, and what has changed
    /// of what is served.
    pub(super) fn take(&mut self, reading: Reading) -> (BTreeSet<ManifestProblem>, Vec<Change>) {
        let Reading { found, problems, unclear, is_unclear } = reading;
        let mut problems: BTreeSet<_> = problems.into_iter().collect();
        let mut objects = BTreeMap::<ObjectId, Vec<Found>>::new();
        for found in found {
            match &found {
                Found::Unnamed(problem) => drop(problems.insert(problem.clone())),
                Found::Whole(Document { id, .. }) | Found::Broken { id, .. } => {
                    objects.entry(id.clone()).or_default().push(found);
                }
            }
        }
        self.accepted.values_mut().for_each(|accepted| accepted.is_current = false);
        let is_meant = |id: &ObjectId, accepted: &Accepted| {
            let file = &accepted.document.place.file;
            is_unclear || unclear.contains(file) || objects.contains_key(id)
        };
        let mut changed = self.forget_unless(is_meant);
        let mut changes = Vec::new();
        for (id, mut found) in objects {
            match (found.pop(), found.as_slice()) {
                (Some(Found::Whole(document)), []) => match self.check(document) {
                    Ok(change) => changes.extend(change),
                    Err(refused) => problems.extend(refused),
                },
                (Some(Found::Broken { problems: broken, .. }), []) => problems.extend(broken),
                (last, others) => problems.extend(duplicates(&id, others.iter().chain(&last))),
            }
        }
        let (refused, accepted) = self.accept(changes);
        changed.extend(accepted);
        problems.extend(refused);
        self.fleet.plan(NOW);
        problems.extend(self.unresolved());
        (problems, changed)
    }

    fn forget_unless(&mut self, is_meant: impl Fn(&ObjectId, &Accepted) -> bool) -> Vec<Change> {
        let gone: Vec<_> = self.accepted.extract_if(.., |id, a| !is_meant(id, a)).collect();
        for ((kind, name), _) in &gone {
            self.fleet.remove(*kind, name);
        }
        let change = |(id, accepted): (ObjectId, Accepted)| Change {
            id,
            kind: ChangeKind::Removed,
            file: accepted.document.place.file,
        };
        gone.into_iter().map(change).collect()
    }

    /// Whether `document` says something new that can be served.
    fn check(&mut self, document: Document) -> Result<Option<Accepted>, Vec<ManifestProblem>> {
        if let Some(accepted) = self.accepted.get_mut(&document.id)
            && accepted.document.text == document.text
        {
            // The lines around it may have moved.
            accepted.document = document;
            accepted.is_current = true;
            return Ok(None);
        }
        match demand(&document.object) {
            Ok(demand) => Ok(Some(Accepted { document, demand, is_current: true })),
            Err(problems) => Err(locate_all(&document, &problems)),
        }
    }

    /// Serves `changes`, except those that refer to what is not there while their last form did
    /// not: these are refused like any other manifest that cannot be served.
    fn accept(&mut self, changes: Vec<Accepted>) -> (Vec<ManifestProblem>, Vec<Change>) {
        let mut before = self.fleet.clone();
        before.plan(NOW);
        let before: BTreeSet<_> = dangling(&before).collect();
        let mut changed = BTreeMap::new();
        let mut last = BTreeMap::new();
        for change in changes {
            self.fleet.apply(change.demand.clone());
            let id = change.document.id.clone();
            let file = change.document.place.file.clone();
            let mut kind = ChangeKind::Added;
            if let Some(previous) = self.accepted.insert(id.clone(), change) {
                last.insert(id.clone(), previous);
                kind = ChangeKind::Changed;
            }
            changed.insert(id.clone(), Change { id, kind, file });
        }
        let mut refused = Vec::new();
        loop {
            let mut trial = self.fleet.clone();
            trial.plan(NOW);
            let newly: BTreeSet<_> = dangling(&trial)
                .filter(|found| !before.contains(found))
                .map(|(id, _)| id)
                .collect();
            let bad: Vec<_> = last.keys().filter(|id| newly.contains(id)).cloned().collect();
            // Each round puts at least one back, so there are no more rounds than changes.
            if bad.is_empty() {
                return (refused, changed.into_values().collect());
            }
            for id in bad {
                let Some(previous) = last.remove(&id) else { continue };
                changed.remove(&id);
                self.fleet.apply(previous.demand.clone());
                if let Some(change) = self.accepted.insert(id.clone(), previous) {
                    refused.extend(locate_all(&change.document, trial.problems(id.0, &id.1)));
                }
            }
        }
    }

    /// What the last plan found wrong with what is served.
    fn unresolved(&self) -> Vec<ManifestProblem> {
        let planned = self.fleet.all_problems().flat_map(|(kind, name, problems)| {
            // A bad key is told once, where it stands: in its Secret.
            let told = problems.iter().filter(|problem| problem.reason != Reason::InvalidKey);
            self.locate_in(kind, name, told)
        });
        let keys = self.accepted.values().filter_map(|accepted| match &accepted.demand {
            Demand::Secret(secret) => {
                Some(self.locate_in(Kind::Secret, secret.name(), secret.problems().iter()))
            }
            Demand::Model(_) | Demand::Tenant(_) | Demand::Pipeline(_) => None,
        });
        planned.chain(keys.flatten()).collect()
    }

    fn locate_in<'a>(
        &self,
        kind: Kind,
        name: &Name,
        problems: impl Iterator<Item = &'a Problem>,
    ) -> Vec<ManifestProblem> {
        let Some(accepted) = self.accepted.get(&(kind, name.clone())) else { return Vec::new() };
        let locate = |problem| {
            let located = locate(&accepted.document, problem);
            let line = located.line.filter(|_| accepted.is_current);
            ManifestProblem { line, ..located }
        };
        problems.map(locate).collect()
    }
}

/// References of objects to what is not there, in the last plan of `fleet`.
fn dangling(fleet: &Fleet) -> impl Iterator<Item = (ObjectId, String)> {
    fleet.all_problems().flat_map(|(kind, name, problems)| {
        let dangling = problems.iter().filter(|problem| is_reference(problem.reason));
        dangling.map(move |problem| ((kind, name.clone()), problem.message.clone()))
    })
}

const fn is_reference(reason: Reason) -> bool {
    match reason {
        Reason::UnknownModel
        | Reason::ModelNotShared
        | Reason::ModelNotGranted
        | Reason::UnknownTenant
        | Reason::UnknownSecret => true,
        Reason::InvalidValue
        | Reason::OutOfRange
        | Reason::InvalidLength
        | Reason::InvalidCount
        | Reason::Duplicate
        | Reason::SourceNotAllowed
        | Reason::DigestRequired
        | Reason::InvalidTemplate
        | Reason::UnknownInput
        | Reason::UnknownStep
        | Reason::Cycle
        | Reason::SecretNotReadable
        | Reason::SecretTooLarge
        | Reason::InvalidKey
        | Reason::KeyNotUnique
        | Reason::NotEnoughNodes
        | Reason::NoNodeAdmits
        | Reason::DoesNotFit
        | Reason::ClusterOnly => false,
    }
}

fn demand(object: &Object) -> Result<Demand, Vec<Problem>> {
    match object {
        Object::Model(model) => validate::model(model, Site::OneMachine).map(Demand::Model),
        Object::Tenant(tenant) => validate::tenant(tenant, Site::OneMachine).map(Demand::Tenant),
        Object::Pipeline(pipeline) => validate::pipeline(pipeline).map(Demand::Pipeline),
        Object::Secret(secret) => validate::secret(secret).map(Demand::Secret).map_err(|error| {
            let path = "metadata.name".to_owned();
            vec![Problem { path, reason: Reason::InvalidValue, message: error.to_string() }]
        }),
    }
}

fn locate_all(document: &Document, problems: &[Problem]) -> Vec<ManifestProblem> {
    problems.iter().map(|problem| locate(document, problem)).collect()
}

/// Says where in its file a problem is.
fn locate(document: &Document, problem: &Problem) -> ManifestProblem {
    let line = match (document.id.0, problem.path.strip_prefix("data")) {
        // What a Secret says as a text is data all the same.
        (Kind::Secret, Some(entry)) => {
            let (data, texts) = (&problem.path, format!("stringData{entry}"));
            document.tree.find(&texts).unwrap_or_else(|| document.tree.line_of(data))
        }
        _ => document.tree.line_of(&problem.path),
    };
    ManifestProblem {
        file: document.place.file.clone(),
        line: Some(line),
        cause: Cause::refused(problem),
    }
}

/// Two manifests of one object: neither is taken, since either may be the one that is meant.
fn duplicates<'a>(
    id: &ObjectId,
    found: impl Iterator<Item = &'a Found> + Clone,
) -> Vec<ManifestProblem> {
    let places = found.filter_map(|found| match found {
        Found::Whole(document) => Some((&document.place, document.tree.line())),
        Found::Broken { place, .. } => Some((place, place.lines_before.saturating_add(1))),
        Found::Unnamed(_) => None,
    });
    let places: Vec<_> = places.map(|(place, line)| (&place.file, line)).collect();
    let object = format!("{} {}", id.0, id.1);
    let problem = |&(file, line): &(&Arc<str>, usize)| {
        let also = places.iter().find(|other| **other != (file, line))?;
        let also = format!("{}:{}", also.0, also.1);
        let cause = Cause::DuplicateObject { object: object.clone(), also };
        Some(ManifestProblem { file: file.clone(), line: Some(line), cause })
    };
    places.iter().filter_map(problem).collect()
}
