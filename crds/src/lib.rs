//! The resources of Realm, `Tenant`, `Model` and `Pipeline`, as Rust types and YAML.
