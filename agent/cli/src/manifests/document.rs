//! From the text of a file to its objects.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use realm_crds::ObjectMeta;
use realm_plan::{Kind, Name, NameError};
use serde::de::DeserializeOwned;

use super::{
    Cause, Document, Found, ManifestProblem, Object, ObjectId, Place, malformed,
    tree::{Tree, TreeError},
};

/// Fields that an object of each kind may have at its head. A status is what a server wrote, and
/// is passed over as a server does.
const OUR_FIELDS: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];
const SECRET_FIELDS: &[&str] =
    &["apiVersion", "kind", "metadata", "type", "data", "stringData", "immutable"];

/// Fields of `metadata` that people write, and those that come with an object out of a cluster.
const METADATA_FIELDS: &[&str] = &[
    "name",
    "namespace",
    "labels",
    "annotations",
    "creationTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "uid",
];

/// The documents of a file, each with the number of lines before it.
///
/// A line that begins with `---` and a blank or its end always begins a document: YAML allows it
/// nowhere else. So a document with an error ends where the next begins.
pub(super) fn split(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut begin, mut lines_before, mut at) = (0, 0, 0_usize);
    for (line_number, line) in text.split_inclusive('\n').enumerate() {
        let is_marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.trim_start().len() < rest.len() || rest.is_empty());
        if is_marker {
            documents.push((lines_before, text.get(begin..at).unwrap_or_default()));
            (begin, lines_before) = (at, line_number);
        }
        at = at.saturating_add(line.len());
    }
    documents.push((lines_before, text.get(begin..).unwrap_or_default()));
    documents
}

/// Reads one document; `None` if there is nothing but comments.
pub(crate) fn parse(place: Place, text: &str) -> Option<Found> {
    let problem =
        |line, cause| ManifestProblem { file: place.file.clone(), line: Some(line), cause };
    let tree = match Tree::read(text, place.lines_before) {
        Ok(tree) => tree.filter(|tree| !tree.is_empty())?,
        Err(TreeError { line, message }) => {
            return Some(Found::Unnamed(problem(line, Cause::syntax(&message))));
        }
    };
    let id = match identify(&tree) {
        Ok(id) => id,
        Err((line, cause)) => return Some(Found::Unnamed(problem(line, cause))),
    };
    let mut problems: Vec<_> = unknown_fields(&tree, id.0)
        .map(|(field, line)| problem(line, Cause::UnknownField(super::problem::one_line(&field))))
        .collect();
    match read(id.0, text, place.lines_before, &tree) {
        Ok(object) if problems.is_empty() => {
            Some(Found::Whole(Document { id, place, text: text.into(), object, tree }))
        }
        Ok(_) => Some(Found::Broken { id, place, problems }),
        Err((line, cause)) => {
            problems.push(problem(line, cause));
            Some(Found::Broken { id, place, problems })
        }
    }
}

fn identify(tree: &Tree) -> Result<ObjectId, (usize, Cause)> {
    if !tree.is_mapping() {
        return Err((tree.line(), Cause::syntax("the document is not a mapping of fields")));
    }
    let [api_version, kind] =
        ["apiVersion", "kind"].map(|field| tree.text(&[field]).unwrap_or_default());
    let kind = match (api_version, kind) {
        ("realm.dev/v1alpha1", "Model") => Kind::Model,
        ("realm.dev/v1alpha1", "Tenant") => Kind::Tenant,
        ("realm.dev/v1alpha1", "Pipeline") => Kind::Pipeline,
        ("v1", "Secret") => Kind::Secret,
        _ => {
            let [api_version, kind] = [api_version, kind].map(super::problem::one_line);
            return Err((tree.line_of("kind"), Cause::UnknownKind { api_version, kind }));
        }
    };
    let [name, namespace] =
        ["name", "namespace"].map(|field| tree.text(&["metadata", field]).map(str::to_owned));
    let name = Name::of(&ObjectMeta { name, namespace, ..ObjectMeta::default() });
    match name {
        Ok(name) => Ok((kind, name)),
        Err(error) => {
            let field = match error {
                NameError::Namespace(_) => "metadata.namespace",
                NameError::Missing | NameError::Name(_) => "metadata.name",
            };
            let message = super::problem::one_line(&error.to_string());
            Err((tree.line_of(field), Cause::InvalidName(message)))
        }
    }
}

/// Fields around the spec that mean nothing; within it the type refuses them.
fn unknown_fields(tree: &Tree, kind: Kind) -> impl Iterator<Item = (String, usize)> {
    let known = match kind {
        Kind::Model | Kind::Tenant | Kind::Pipeline => OUR_FIELDS,
        Kind::Secret => SECRET_FIELDS,
    };
    let head = tree
        .fields(&[])
        .filter(|(field, _)| !known.contains(field))
        .map(|(field, line)| (field.to_owned(), line));
    let metadata = tree
        .fields(&["metadata"])
        .filter(|(field, _)| !METADATA_FIELDS.contains(field))
        .map(|(field, line)| (format!("metadata.{field}"), line));
    head.chain(metadata)
}

fn read(
    kind: Kind,
    text: &str,
    lines_before: usize,
    tree: &Tree,
) -> Result<Object, (usize, Cause)> {
    match kind {
        Kind::Model => typed(text, lines_before, tree).map(Box::new).map(Object::Model),
        Kind::Tenant => typed(text, lines_before, tree).map(Box::new).map(Object::Tenant),
        Kind::Pipeline => typed(text, lines_before, tree).map(Box::new).map(Object::Pipeline),
        // What a reader says of a wrong value may quote it, and these are secrets.
        Kind::Secret => {
            let secret = typed(text, lines_before, tree).map(Box::new).map(Object::Secret);
            secret.map_err(|(line, _)| {
                let message = "not a Secret: `data` holds base64 and `stringData` holds texts";
                (line, Cause::malformed(message))
            })
        }
    }
}

fn typed<T: DeserializeOwned>(
    text: &str,
    lines_before: usize,
    tree: &Tree,
) -> Result<T, (usize, Cause)> {
    // A snippet would spread over lines; file and line say where to look. What an API server takes
    // for a text is no boolean here, nor the other way round.
    let options =
        serde_saphyr::options! { with_snippet: false, strict_booleans: true, no_schema: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location().and_then(|location| {
            let line = usize::try_from(location.line()).ok()?.saturating_add(lines_before);
            Some((line, usize::try_from(location.column()).ok()?))
        });
        let value = place.and_then(|(line, column)| tree.value_at(line, column));
        let message = malformed::message(error.without_snippet(), value);
        (place.map_or_else(|| tree.line(), |(line, _)| line), Cause::malformed(&message))
    })
}

#[cfg(test)]
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a wrong index fails the test, as it should"
)]
mod tests;
