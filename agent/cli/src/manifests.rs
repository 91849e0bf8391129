//! The manifests of one machine: a folder of YAML files in place of an API server.
//!
//! In order: [`watch`] says that something may have changed, [`folder`] reads every file,
//! [`document`] takes a file apart and reads each object into its type, with [`tree`] to say on
//! which line something is. What comes out is a [`Reading`]; whether the objects can be served is
//! not decided here.

use std::{collections::BTreeSet, sync::Arc};

use realm_crds::{Model, Pipeline, Secret, Tenant};
use realm_plan::{Kind, Name};

mod document;
mod edit;
mod folder;
mod malformed;
mod problem;
mod tree;
mod watch;

pub(crate) use document::parse;
pub(crate) use edit::{create, suspend};
pub(crate) use folder::read;
pub(crate) use problem::{Cause, ManifestProblem, one_line};
pub(crate) use tree::Tree;
pub(crate) use watch::Watch;

/// Which object.
pub(crate) type ObjectId = (Kind, Name);

/// Where a document begins: a file by its name in the folder, and the lines before the document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) file: Arc<str>,
    pub(crate) lines_before: usize,
}

/// Those of `problems` that are about what stands in a document.
pub(crate) fn within<'a>(
    document: &Document,
    problems: &'a BTreeSet<ManifestProblem>,
) -> impl Iterator<Item = &'a ManifestProblem> {
    let Place { file, lines_before } = document.place.clone();
    let lines = lines_before..=lines_before.saturating_add(document.text.lines().count());
    problems.iter().filter(move |problem| {
        problem.file == file && problem.line.is_none_or(|line| lines.contains(&line))
    })
}

/// One object as its manifest has it.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) id: ObjectId,
    pub(crate) place: Place,
    /// The YAML it was read from, which [`parse`] reads again after a restart.
    pub(crate) text: Arc<str>,
    pub(crate) object: Object,
    pub(crate) tree: Tree,
}

/// An object of a kind that is served. Its own fields are not checked yet.
#[derive(Clone, Debug)]
pub(crate) enum Object {
    Model(Box<Model>),
    Tenant(Box<Tenant>),
    Pipeline(Box<Pipeline>),
    Secret(Box<Secret>),
}

/// What one document of a file turned out to be.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    Whole(Document),
    /// It says which object it is, but the object cannot be read.
    Broken {
        id: ObjectId,
        place: Place,
        problems: Vec<ManifestProblem>,
    },
    /// It does not even say which object it is.
    Unnamed(ManifestProblem),
}

/// Everything that the folder holds at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    pub(crate) found: Vec<Found>,
    /// Files, and the folder itself, that could not be read.
    pub(crate) problems: Vec<ManifestProblem>,
    /// Files of which some part is unknown, so that an object that is missing from them now may
    /// still be meant.
    pub(crate) unclear: BTreeSet<Arc<str>>,
    /// The folder itself could not be read, so that any object may still be meant.
    pub(crate) is_unclear: bool,
}
