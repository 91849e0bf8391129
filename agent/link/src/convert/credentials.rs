//! What opens the sources of models.

use std::collections::btree_map::Entry;

use realm_core::{name::ModelName, supply::Credentials};
use realm_proto::link::v1 as proto;

use super::{ConvertError, named};

pub(crate) fn credentials_from(
    credentials: proto::Credentials,
) -> Result<Credentials, ConvertError> {
    let proto::Credentials { models } = credentials;
    let mut all = Credentials::default();
    for proto::Credential { model, secret } in models {
        if secret.is_empty() {
            return Err(ConvertError::Missing { field: "credentials.secret" });
        }
        match all.0.entry(named("credentials.model", &model, ModelName::parse)?) {
            Entry::Vacant(free) => free.insert(secret),
            Entry::Occupied(_) => {
                let field = "credentials.model";
                return Err(ConvertError::Duplicate { field, name: model });
            }
        };
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(model: &str, secret: &[u8]) -> proto::Credential {
        proto::Credential { model: model.to_owned(), secret: secret.to_vec() }
    }

    fn check(models: Vec<proto::Credential>, expected: &str) {
        let error = credentials_from(proto::Credentials { models }).unwrap_err();
        assert!(error.to_string().contains(expected), "{error} does not say `{expected}`");
    }

    #[test]
    fn credentials_name_each_model_once_and_are_never_empty() {
        check(vec![credential("tiny", b"x")], "`credentials.model` holds no name");
        check(vec![credential("a/b", b"")], "`credentials.secret` is missing");
        check(vec![credential("a/b", b"x"), credential("a/b", b"y")], "`a/b` twice");
        let all = credentials_from(proto::Credentials { models: vec![credential("a/b", b"x")] });
        assert_eq!(all.unwrap().0.len(), 1);
    }
}
