//! The custom resource definitions, as the API server takes them and as `yaml/` holds them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::{Model, Pipeline, Tenant};

/// The definitions of every kind, in the order Model, Pipeline, Tenant.
pub fn definitions() -> [CustomResourceDefinition; 3] {
    [Model::crd(), Pipeline::crd(), Tenant::crd()].map(with_known_formats)
}

/// Names integers the way the API server knows them: it warns about `uint32` and `uint64`.
/// Their ranges are in `minimum` and `maximum`, so nothing is lost.
fn with_known_formats(definition: CustomResourceDefinition) -> CustomResourceDefinition {
    let mut value = serde_json::to_value(definition).expect("a definition is plain data");
    rename_formats(&mut value);
    serde_json::from_value(value).expect("only the text of formats has changed")
}

/// Recursion ends with the schema, whose depth our own types bound.
fn rename_formats(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(format)) = fields.get_mut("format")
                && format.starts_with("uint")
            {
                "int64".clone_into(format);
            }
            fields.values_mut().for_each(rename_formats);
        }
        Value::Array(items) => items.iter_mut().for_each(rename_formats),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use super::*;

    #[test]
    fn the_yaml_files_are_current() {
        let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        // A chart can be packaged with files of its own folder only.
        let folders = ["yaml", "../charts/realm/files/crds"].map(|folder| crate_dir.join(folder));
        let files = |definition: &CustomResourceDefinition| {
            let name = format!("{}.yaml", definition.spec.names.plural);
            folders.clone().map(|folder| folder.join(&name))
        };
        let all = definitions().map(|definition| (files(&definition), definition));
        for (files, definition) in all {
            let expected = serde_saphyr::to_string(&definition).unwrap();
            for file in files {
                if env::var_os("REALM_BLESS").is_some() {
                    fs::write(&file, &expected).unwrap();
                }
                let found = fs::read_to_string(&file).unwrap_or_default();
                let shown = file.display();
                assert!(found == expected, "{shown} is not current; REALM_BLESS=1 rewrites it");
            }
        }
    }

    /// Paths of strings, lists and maps in `schema` whose size nothing bounds.
    fn unbounded(path: &str, schema: &Value, found: &mut Vec<String>) {
        let has = |key: &str| !schema[key].is_null();
        let is_bounded = match schema["type"].as_str() {
            Some("string") => has("maxLength") || has("enum"),
            Some("array") => has("maxItems"),
            Some("object") => has("properties") || has("maxProperties"),
            Some("integer" | "number") => has("maximum"),
            _ => schema["type"] == "boolean",
        };
        if !is_bounded {
            found.push(path.to_owned());
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            unbounded(&format!("{path}.{name}"), property, found);
        }
        for inner in ["items", "additionalProperties"] {
            if has(inner) {
                unbounded(&format!("{path}[]"), &schema[inner], found);
            }
        }
    }

    #[test]
    fn everything_in_a_spec_is_bounded_so_that_rules_have_a_cost() {
        let mut found = Vec::new();
        for definition in definitions() {
            let value = serde_json::to_value(&definition).unwrap();
            let spec =
                &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
            assert!(spec["properties"].is_object(), "{spec}");
            unbounded(&definition.spec.names.kind, spec, &mut found);
        }
        assert_eq!(found, Vec::<String>::new());
    }
}
