//! Names of things: `namespace/name`, the identity in keys, metrics, ledger and batch.

use std::{fmt, sync::Arc};

use thiserror::Error;

/// Longest `namespace` or `name` part, in bytes: a DNS-1123 label (RFC 1123), as Kubernetes requires.
const PART_LEN_MAX: usize = 63;

/// Why a text is not a name.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// The text is not two parts with one `/` between them.
    #[error("`{0}` is not of the form namespace/name")]
    NotTwoParts(String),
    /// One part is empty, too long, or holds something besides `a-z`, `0-9` and inner `-`.
    #[error(
        "`{0}` is not a DNS label: 1 to 63 of a-z, 0-9 and -, starting and ending with a letter or digit"
    )]
    NotALabel(String),
}

fn check_label(part: &str) -> Result<(), NameError> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends_well =
        bytes.first().is_some_and(|&b| inner(b)) && bytes.last().is_some_and(|&b| inner(b));
    if ends_well && bytes.len() <= PART_LEN_MAX && bytes.iter().all(|&b| inner(b) || b == b'-') {
        Ok(())
    } else {
        Err(NameError::NotALabel(part.to_owned()))
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name of `name` in `namespace`.
            pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
                check_label(namespace)?;
                check_label(name)?;
                Ok(Self(format!("{namespace}/{name}").into()))
            }

            /// Reads `namespace/name`.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                let (namespace, name) =
                    text.split_once('/').ok_or_else(|| NameError::NotTwoParts(text.to_owned()))?;
                Self::new(namespace, name)
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }

            pub fn namespace(&self) -> &str {
                self.0.split_once('/').expect("a name is made of two parts").0
            }

            pub fn name(&self) -> &str {
                self.0.split_once('/').expect("a name is made of two parts").1
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

name!(
    /// A tenant, `namespace/name`.
    TenantName
);
name!(
    /// A model, `namespace/name`.
    ModelName
);
name!(
    /// A pipeline, `namespace/name`.
    PipelineName
);
name!(
    /// A group of tenants of one namespace that share what they make public, `namespace/name`.
    GroupName
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_two_dns_labels() {
        assert_eq!(TenantName::parse("default/acme").unwrap().name(), "acme");
        for bad in ["acme", "/acme", "a/", "A/b", "a/b/c", "a/-b", "a/b-", "a/b c"] {
            TenantName::parse(bad).unwrap_err();
        }
        ModelName::new("a", &"b".repeat(64)).unwrap_err();
    }
}
