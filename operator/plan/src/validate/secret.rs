//! Secrets that hold the digests of API keys.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::collections::BTreeMap;

use realm_crds::{KeyEntry, Secret};

use crate::{
    desired::{ApiKey, Sha256},
    name::{Name, NameError},
    problem::{Findings, Problem, Reason},
};

/// Longest value of one key: the digest, an expiry and their names take less than 200 bytes.
const ENTRY_BYTES_MAX: usize = 1024;

/// Keys in one Secret: as many as fit into the 1 MiB that Kubernetes allows it, at 128 bytes each.
const ENTRIES_MAX: usize = 8192;

/// The keys of one Secret. Only [`secret`] and [`withheld`] make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidSecret {
    name: Name,
    pub(crate) keys: Vec<ApiKey>,
    /// What is wrong with the other entries, for the tenants that name this Secret.
    pub(crate) problems: Vec<Problem>,
    /// Why it opens no source, for the models that name this Secret. What it should hold for them
    /// only the sources know.
    pub(crate) opens_nothing: Option<Problem>,
}

impl ValidSecret {
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// What is wrong with entries of the Secret, each at the path of its entry.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The same with its keys, for one that opens no source of a model.
    #[must_use]
    pub fn opening_nothing(self, reason: Reason, message: String) -> Self {
        Self { opens_nothing: Some(of_all(reason, message)), ..self }
    }
}

/// A Secret of which nothing is kept, and why: it holds no key and opens no source.
pub fn withheld(name: Name, reason: Reason, message: String) -> ValidSecret {
    let problem = of_all(reason, message);
    let opens_nothing = Some(problem.clone());
    ValidSecret { name, keys: Vec::new(), problems: vec![problem], opens_nothing }
}

/// A problem of all entries.
fn of_all(reason: Reason, message: String) -> Problem {
    Problem { path: "data".to_owned(), reason, message }
}

/// Reads the keys of `raw`. An entry that is not a key opens nothing and is reported; the others
/// count, so that a slip in one entry never delays the revocation of another.
pub fn secret(raw: &Secret) -> Result<ValidSecret, NameError> {
    let name = Name::of(&raw.metadata)?;
    let mut findings = Findings::default();
    let mut keys = Vec::new();
    for (i, (entry, value)) in entries(raw).into_iter().enumerate() {
        let path = format!("data[{entry}]");
        if i >= ENTRIES_MAX {
            let message = format!("entries beyond the first {ENTRIES_MAX} are not read");
            findings.add(path, Reason::InvalidCount, message);
            break;
        }
        match key(name.name(), entry, value) {
            Ok(key) => keys.push(key),
            Err(message) => findings.add(path, Reason::InvalidKey, message),
        }
    }
    Ok(ValidSecret { name, keys, problems: findings.into_problems(), opens_nothing: None })
}

/// The entries in the order of their names; `stringData` wins, as it does in the API server.
fn entries(raw: &Secret) -> BTreeMap<&str, &[u8]> {
    let data = raw.data.iter().flatten().map(|(name, value)| (name.as_str(), value.0.as_slice()));
    let strings =
        raw.string_data.iter().flatten().map(|(name, value)| (name.as_str(), value.as_bytes()));
    data.chain(strings).collect()
}

/// Reads one entry. Its text never goes into the message: it may be a key put there by mistake.
fn key(secret: &str, entry: &str, value: &[u8]) -> Result<ApiKey, String> {
    if value.len() > ENTRY_BYTES_MAX {
        return Err(format!("{} bytes are more than {ENTRY_BYTES_MAX}", value.len()));
    }
    let KeyEntry { sha256, expires_at, disabled } =
        serde_json::from_slice(value).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            format!(
                "not a JSON object of sha256, expiresAt (RFC 3339) and disabled (line {line}, column {column})"
            )
        })?;
    let sha256 =
        sha256.parse::<Sha256>().map_err(|_| "sha256 is not 64 hexadecimal digits".to_owned())?;
    // A time before the epoch is long past, as is the epoch itself.
    let expires_at = expires_at.map(|at| u64::try_from(at.as_second()).unwrap_or(0));
    Ok(ApiKey { name: format!("{secret}/{entry}"), sha256, expires_at, disabled })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str) -> ValidSecret {
        let yaml = format!("{{apiVersion: v1, kind: Secret, metadata: {{name: keys}}, {body}}}");
        secret(&serde_saphyr::from_str(&yaml).unwrap()).unwrap()
    }

    fn digest(digit: &str) -> String {
        digit.repeat(64)
    }

    #[test]
    fn every_entry_is_a_key() {
        let (a, b) = (digest("a"), digest("b"));
        let body = format!(
            r#"stringData: {{
                 alice: '{{"sha256": "{a}"}}',
                 bob: '{{"sha256": "{b}", "expiresAt": "2030-01-01T00:00:00Z", "disabled": true}}' }}"#
        );
        let secret = check(&body);
        assert_eq!(secret.problems, []);
        let [alice, bob] = secret.keys.as_slice() else { panic!("{:?}", secret.keys) };
        assert_eq!(
            (alice.name.as_str(), alice.expires_at, alice.disabled),
            ("keys/alice", None, false)
        );
        assert_eq!(
            (bob.name.as_str(), bob.expires_at, bob.disabled),
            ("keys/bob", Some(1_893_456_000), true)
        );
        assert_eq!(bob.sha256.to_string(), b);
    }

    #[test]
    fn string_data_replaces_data_of_the_same_name() {
        // The data is {"sha256":"x"} in base64, which is not a digest.
        let body = format!(
            r#"data: {{a: eyJzaGEyNTYiOiJ4In0=}}, stringData: {{a: '{{"sha256":"{}"}}'}}"#,
            digest("c")
        );
        let secret = check(&body);
        assert_eq!((secret.keys.len(), secret.problems.len()), (1, 0));
        assert_eq!(check("data: {a: eyJzaGEyNTYiOiJ4In0=}").problems.len(), 1);
    }

    #[test]
    fn a_bad_entry_opens_nothing_and_leaves_the_others() {
        let good = digest("d");
        let body = format!(
            r#"stringData: {{
                 plain: 'rk-secret', text: '"rk-secret"', short: '{{"sha256": "ab"}}',
                 extra: '{{"sha256": "{good}", "scope": "rk-secret"}}',
                 when: '{{"sha256": "{good}", "expiresAt": "rk-secret"}}',
                 good: '{{"sha256": "{good}"}}' }}"#
        );
        let secret = check(&body);
        assert_eq!(secret.keys.iter().map(|key| &key.name).collect::<Vec<_>>(), ["keys/good"]);
        assert_eq!(secret.problems.len(), 5);
        for problem in &secret.problems {
            assert_eq!(problem.reason, Reason::InvalidKey);
            assert!(!problem.message.contains("rk-secret"), "{problem}");
        }
    }
}
