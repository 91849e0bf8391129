//! What is wrong with an object, for its owner to read.

use std::fmt;

/// Problems reported of one object: more than anybody fixes before trying again, and a bound on
/// what a hostile manifest can make us write.
pub(crate) const PROBLEMS_MAX: usize = 64;

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, such as `spec.steps[1].prompt`.
    pub path: String,
    pub reason: Reason,
    /// The cause with its numbers, for people.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.path, self.message, self.reason.as_str())
    }
}

/// Why, for programs: each is a reason of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A text is not of the form it must have.
    InvalidValue,
    /// A number is below its least or above its greatest value.
    OutOfRange,
    /// A text is empty or too long.
    InvalidLength,
    /// A list is empty or too long.
    InvalidCount,
    /// Two entries of a list have the same name.
    Duplicate,
    /// A source has a scheme that is not served, or not served here.
    SourceNotAllowed,
    /// A source that anybody could have changed has no digest to check it by.
    DigestRequired,
    /// A template holds something besides `{{ inputs.name }}` and `{{ steps.name }}`.
    InvalidTemplate,
    /// A name that no input of the pipeline has.
    UnknownInput,
    /// A name that no step of the pipeline has.
    UnknownStep,
    /// Steps wait for each other.
    Cycle,
    /// No such model in the object's own namespace.
    UnknownModel,
    /// No such model in the other namespace, or none that allows this one.
    ModelNotShared,
    /// A tenant of the pipeline has no right to a model that the pipeline uses.
    ModelNotGranted,
    /// No such tenant in the pipeline's namespace.
    UnknownTenant,
    /// No such Secret in the object's own namespace.
    UnknownSecret,
    /// The operator may not read the Secret.
    SecretNotReadable,
    /// A Secret holds more than is kept of it.
    SecretTooLarge,
    /// An entry of a Secret is not an API key.
    InvalidKey,
    /// The same API key belongs to several tenants, and so opens none.
    KeyNotUnique,
    /// More replicas are wanted than there are nodes.
    NotEnoughNodes,
    /// No node has the labels and the accelerator that a model asks for.
    NoNodeAdmits,
    /// A replica of a model needs more memory than any admitted node has free.
    DoesNotFit,
    /// A field that only a cluster can serve.
    ClusterOnly,
}

impl Reason {
    /// The reason as conditions spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidValue => "InvalidValue",
            Self::OutOfRange => "OutOfRange",
            Self::InvalidLength => "InvalidLength",
            Self::InvalidCount => "InvalidCount",
            Self::Duplicate => "Duplicate",
            Self::SourceNotAllowed => "SourceNotAllowed",
            Self::DigestRequired => "DigestRequired",
            Self::InvalidTemplate => "InvalidTemplate",
            Self::UnknownInput => "UnknownInput",
            Self::UnknownStep => "UnknownStep",
            Self::Cycle => "Cycle",
            Self::UnknownModel => "UnknownModel",
            Self::ModelNotShared => "ModelNotShared",
            Self::ModelNotGranted => "ModelNotGranted",
            Self::UnknownTenant => "UnknownTenant",
            Self::UnknownSecret => "UnknownSecret",
            Self::SecretNotReadable => "SecretNotReadable",
            Self::SecretTooLarge => "SecretTooLarge",
            Self::InvalidKey => "InvalidKey",
            Self::KeyNotUnique => "KeyNotUnique",
            Self::NotEnoughNodes => "NotEnoughNodes",
            Self::NoNodeAdmits => "NoNodeAdmits",
            Self::DoesNotFit => "DoesNotFit",
            Self::ClusterOnly => "ClusterOnly",
        }
    }
}

/// All problems of one object, gathered while it is read.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Problem>);

impl Findings {
    pub(crate) fn add(
        &mut self,
        path: impl Into<String>,
        reason: Reason,
        message: impl Into<String>,
    ) {
        if self.0.len() < PROBLEMS_MAX {
            self.0.push(Problem { path: path.into(), reason, message: message.into() });
        }
    }

    /// The value that was read, unless something about the object is wrong.
    ///
    /// A part that could not be read is `None` and has left its problem here.
    pub(crate) fn prove<T>(self, value: Option<T>) -> Result<T, Vec<Problem>> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self.0),
        }
    }

    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.0
    }
}
