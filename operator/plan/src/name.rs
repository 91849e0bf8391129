//! Which object: its kind, and its name in a namespace.

use std::{fmt, sync::Arc};

use realm_crds::ObjectMeta;
use thiserror::Error;

/// Longest namespace, in bytes: a DNS-1123 label, as Kubernetes requires.
const NAMESPACE_LEN_MAX: usize = 63;

/// Longest name, in bytes: a DNS-1123 subdomain, as Kubernetes requires.
const NAME_LEN_MAX: usize = 253;

/// The namespace of an object that names none, as `kubectl` has it.
const NAMESPACE_DEFAULT: &str = "default";

/// What sort of object a demand is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Model,
    Tenant,
    Pipeline,
    Secret,
}

impl Kind {
    /// The kind as manifests spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Model => "Model",
            Self::Tenant => "Tenant",
            Self::Pipeline => "Pipeline",
            Self::Secret => "Secret",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text does not name an object.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NameError {
    #[error("the name is missing")]
    Missing,
    #[error("`{0}` is not a namespace: at most 63 of a-z, 0-9 and inner -")]
    Namespace(String),
    #[error("`{0}` is not a name: at most 253 of a-z, 0-9, inner - and .")]
    Name(String),
}

/// An object's `namespace/name`, unique among the objects of its kind.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    namespace: Arc<str>,
    name: Arc<str>,
}

impl Name {
    /// The name of `name` in `namespace`.
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
        if !is_label(namespace) {
            return Err(NameError::Namespace(namespace.to_owned()));
        }
        if name.len() > NAME_LEN_MAX || !name.split('.').all(is_name_part) {
            return Err(NameError::Name(name.to_owned()));
        }
        Ok(Self { namespace: namespace.into(), name: name.into() })
    }

    /// The name an object gives itself, in the namespace `default` if it gives none.
    pub fn of(metadata: &ObjectMeta) -> Result<Self, NameError> {
        let name = metadata.name.as_deref().ok_or(NameError::Missing)?;
        Self::new(metadata.namespace.as_deref().unwrap_or(NAMESPACE_DEFAULT), name)
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the name can become part of other names, as those of our own kinds do.
    pub(crate) fn is_label(&self) -> bool {
        is_label(&self.name)
    }

    /// What an object in `namespace` calls this one.
    pub(crate) fn alias_in(&self, namespace: &str) -> String {
        if self.namespace() == namespace { self.name.to_string() } else { self.to_string() }
    }
}

/// Whether `text` is a DNS-1123 label.
pub(crate) fn is_label(text: &str) -> bool {
    text.len() <= NAMESPACE_LEN_MAX && is_name_part(text)
}

fn is_name_part(text: &str) -> bool {
    let is_end = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(is_end)
        && bytes.last().is_some_and(is_end)
        && bytes.iter().all(|b| is_end(b) || *b == b'-')
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(namespace: &str, name: &str) -> Result<String, NameError> {
        Name::new(namespace, name).map(|name| name.to_string())
    }

    #[test]
    fn a_name_is_a_label_and_a_subdomain() {
        assert_eq!(check("default", "a-1.b").unwrap(), "default/a-1.b");
        for namespace in ["", "a.b", "A", "-a", "a-", &"a".repeat(64)] {
            assert_eq!(check(namespace, "a"), Err(NameError::Namespace(namespace.to_owned())));
        }
        for name in ["", ".", "a.", ".a", "a..b", "a/b", "a_b", &"a".repeat(254)] {
            assert_eq!(check("a", name), Err(NameError::Name(name.to_owned())));
        }
    }

    #[test]
    fn an_alias_is_bare_at_home_and_full_abroad() {
        let name = Name::new("models", "small").unwrap();
        assert_eq!(name.alias_in("models"), "small");
        assert_eq!(name.alias_in("default"), "models/small");
    }
}
