//! The checks that every kind needs: names, numbers, texts and lists.

use std::{collections::HashSet, fmt::Display};

use realm_crds::ObjectMeta;

use crate::{
    name::{Name, is_label},
    problem::{Findings, Reason},
};

/// The object's name, which becomes part of other names and so must be a label.
pub(super) fn name(metadata: &ObjectMeta, findings: &mut Findings) -> Option<Name> {
    match Name::of(metadata) {
        Ok(name) if name.is_label() => Some(name),
        Ok(name) => {
            let message =
                format!("`{}` is not a DNS label: at most 63 of a-z, 0-9 and inner -", name.name());
            findings.add("metadata.name", Reason::InvalidValue, message);
            None
        }
        Err(error) => {
            findings.add("metadata.name", Reason::InvalidValue, error.to_string());
            None
        }
    }
}

/// The object that `name` and `namespace` refer to; an empty namespace is the object's own.
pub(super) fn reference(
    path: &str,
    (namespace, name): (&str, &str),
    own: &Name,
    findings: &mut Findings,
) -> Option<Name> {
    let namespace = if namespace.is_empty() { own.namespace() } else { namespace };
    Name::new(namespace, name)
        .map_err(|error| findings.add(path, Reason::InvalidValue, error.to_string()))
        .ok()
}

/// Namespaces or names in a list where each may stand once.
pub(super) fn labels<'a>(
    path: &str,
    values: impl IntoIterator<Item = &'a String>,
    findings: &mut Findings,
) {
    for (i, value) in values.into_iter().enumerate() {
        if !is_label(value) {
            let message =
                format!("`{value}` is not a DNS label: at most 63 of a-z, 0-9 and inner -");
            findings.add(format!("{path}[{i}]"), Reason::InvalidValue, message);
        }
    }
}

pub(super) fn range<T: Copy + PartialOrd + Display>(
    path: &str,
    value: T,
    (min, max): (T, T),
    findings: &mut Findings,
) {
    if value < min || value > max {
        findings.add(path, Reason::OutOfRange, format!("{value} is not from {min} to {max}"));
    }
}

/// Characters, as the API server counts them.
pub(super) fn length(path: &str, text: &str, (min, max): (u32, u32), findings: &mut Findings) {
    let count = text.chars().count();
    if !within(count, min, max) {
        let message = format!("{count} characters are not from {min} to {max}");
        findings.add(path, Reason::InvalidLength, message);
    }
}

/// Whether a list is of a length worth reading on.
pub(super) fn count(
    path: &str,
    count: usize,
    (min, max): (u32, u32),
    findings: &mut Findings,
) -> bool {
    let is_within = within(count, min, max);
    if !is_within {
        let message = format!("{count} entries are not from {min} to {max}");
        findings.add(path, Reason::InvalidCount, message);
    }
    is_within
}

fn within(count: usize, min: u32, max: u32) -> bool {
    u32::try_from(count).is_ok_and(|count| (min..=max).contains(&count))
}

/// Entries of one list whose names are the same. `path` makes the path of an entry.
pub(super) fn unique<'a>(
    names: impl IntoIterator<Item = &'a str>,
    path: impl Fn(usize) -> String,
    findings: &mut Findings,
) {
    let mut seen = HashSet::new();
    for (i, name) in names.into_iter().enumerate() {
        if !seen.insert(name) {
            findings.add(path(i), Reason::Duplicate, format!("`{name}` is there already"));
        }
    }
}
