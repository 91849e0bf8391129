//! Samples become rows that add up.

use std::collections::BTreeMap;

use realm_core::name::TenantName;
use serde_json::{Map, Value};

use crate::metrics::samples::Sample;

/// What a row is of. Those of a model add up to the time that it has been loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// A tenant's use of a model.
    Engine,
    /// Time of a model's engine in which nobody wanted anything.
    Idle,
    /// Time of a model's engine that is nobody's in particular.
    Overhead,
    /// What a tenant's program did.
    Program,
}

impl What {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Idle => "idle",
            Self::Overhead => "overhead",
            Self::Program => "program",
        }
    }
}

/// What tells one row from another.
const NAMES: [&str; 4] = ["what", "model", "tenant", "pipeline"];

/// The numbers of a row, and what each is told as.
const NUMBERS: [(&str, &str); 7] = [
    ("prompt_tokens", "realm_engine_tenant_prompt_tokens_total"),
    ("cached_tokens", "realm_engine_tenant_cached_tokens_total"),
    ("generated_tokens", "realm_engine_tenant_generated_tokens_total"),
    ("device_seconds", "realm_engine_tenant_device_seconds_total"),
    ("kv_block_seconds", "realm_engine_tenant_kv_block_seconds_total"),
    ("program_fuel", "realm_program_fuel_total"),
    ("program_host_calls", "realm_program_host_calls_total"),
];

/// An engine's time by what it did, whose computing is in the rows of tenants.
const TIMES: &str = "realm_engine_seconds_total";

/// The place of an engine's time among the numbers.
const DEVICE_SECONDS: usize = 3;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    model: String,
    what: What,
    tenant: String,
    pipeline: String,
}

impl Key {
    fn names(&self) -> [&str; NAMES.len()] {
        let Self { model, what, tenant, pipeline } = self;
        [what.as_str(), model, tenant, pipeline]
    }
}

/// Who has used how much.
#[derive(Debug, Default)]
pub(super) struct Rows(BTreeMap<Key, [Option<f64>; NUMBERS.len()]>);

impl Rows {
    /// Adds what one agent says; `false` where it says nothing of use.
    pub(super) fn add<'a>(&mut self, samples: impl Iterator<Item = Sample<'a>>) -> bool {
        let mut is_any = false;
        for sample in samples {
            is_any |= sample.name.starts_with("realm_agent_");
            let Some((key, at)) = place(&sample) else { continue };
            let row = self.0.entry(key).or_default();
            if let Some(number) = row.get_mut(at) {
                *number = Some(number.unwrap_or(0.0) + sample.value);
            }
        }
        is_any
    }

    /// Keeps what this tenant has used.
    pub(super) fn retain(&mut self, tenant: &TenantName) {
        self.0.retain(|key, _| key.tenant == tenant.as_str());
    }

    /// Lines with a head, and nothing where a row has no such name or number. No name holds a comma.
    pub(super) fn csv(&self) -> impl Iterator<Item = String> {
        let columns = NAMES.into_iter().chain(NUMBERS.map(|(column, _)| column));
        let head = columns.collect::<Vec<_>>().join(",");
        let lines = self.0.iter().map(|(key, numbers)| {
            let names = key.names().into_iter().map(str::to_owned);
            let numbers = numbers.iter().map(|number| number.map_or_else(String::new, text));
            names.chain(numbers).collect::<Vec<_>>().join(",")
        });
        std::iter::once(head).chain(lines)
    }

    /// A list of objects, without the names and numbers that a row does not have.
    pub(super) fn json(&self) -> Value {
        let object = |(key, numbers): (&Key, &[Option<f64>; NUMBERS.len()])| {
            let names = NAMES.into_iter().zip(key.names()).filter(|(_, name)| !name.is_empty());
            let names = names.map(|(column, name)| (column.to_owned(), Value::from(name)));
            let numbers = NUMBERS.iter().zip(numbers).filter_map(|((column, _), number)| {
                // Without a decimal point where it is whole, as counts are.
                let number = serde_json::from_str(&text((*number)?)).ok()?;
                Some(((*column).to_owned(), Value::Number(number)))
            });
            Value::Object(names.chain(numbers).collect::<Map<_, _>>())
        };
        self.0.iter().map(object).collect()
    }
}

fn text(number: f64) -> String {
    number.to_string()
}

/// Where a sample belongs, if it tells any use.
fn place(sample: &Sample<'_>) -> Option<(Key, usize)> {
    let label = |name| sample.label(name).unwrap_or_default().to_owned();
    let key = |what| Key {
        model: label("model"),
        what,
        tenant: label("tenant"),
        pipeline: label("pipeline"),
    };
    if sample.name == TIMES {
        let what = match sample.label("state")? {
            "idle" => What::Idle,
            "overhead" => What::Overhead,
            _ => return None,
        };
        return Some((key(what), DEVICE_SECONDS));
    }
    let at = NUMBERS.iter().position(|(_, metric)| *metric == sample.name)?;
    let what = if sample.label("model").is_some() { What::Engine } else { What::Program };
    Some((key(what), at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::samples;

    const TEXT: &str = r#"
realm_agent_generation 3
realm_engine_generated_tokens_total{model="default/m"} 7
realm_engine_seconds_total{model="default/m",state="computing"} 1.5
realm_engine_seconds_total{model="default/m",state="idle"} 8
realm_engine_seconds_total{model="default/m",state="overhead"} 0.5
realm_engine_tenant_device_seconds_total{model="default/m",pipeline="-",tenant="default/a"} 1.25
realm_engine_tenant_device_seconds_total{model="default/m",pipeline="default/p",tenant="default/a"} 0.25
realm_engine_tenant_generated_tokens_total{model="default/m",pipeline="-",tenant="default/a"} 7
realm_program_fuel_total{pipeline="-",tenant="default/a"} 12345678901
realm_program_fuel_total{pipeline="-",tenant="default/b"} 0
"#;

    fn rows(texts: &[&str]) -> Rows {
        let mut rows = Rows::default();
        for text in texts {
            assert!(rows.add(samples::parse(text)));
        }
        rows
    }

    #[test]
    fn what_an_agent_says_is_a_row_for_each_that_used_something() {
        let lines: Vec<_> = rows(&[TEXT]).csv().collect();
        assert_eq!(
            lines,
            [
                "what,model,tenant,pipeline,prompt_tokens,cached_tokens,generated_tokens,\
                 device_seconds,kv_block_seconds,program_fuel,program_host_calls",
                "program,,default/a,-,,,,,,12345678901,",
                "program,,default/b,-,,,,,,0,",
                "engine,default/m,default/a,-,,,7,1.25,,,",
                "engine,default/m,default/a,default/p,,,,0.25,,,",
                "idle,default/m,,,,,,8,,,",
                "overhead,default/m,,,,,,0.5,,,",
            ]
        );
    }

    #[test]
    fn what_several_agents_say_is_added_up_and_one_tenant_is_picked_out() {
        let mut rows = rows(&[TEXT, TEXT]);
        rows.retain(&TenantName::new("default", "a").unwrap());
        let expected = serde_json::json!([
            { "what": "program", "tenant": "default/a", "pipeline": "-",
              "program_fuel": 24_691_357_802_u64 },
            { "what": "engine", "model": "default/m", "tenant": "default/a", "pipeline": "-",
              "generated_tokens": 14, "device_seconds": 2.5 },
            { "what": "engine", "model": "default/m", "tenant": "default/a",
              "pipeline": "default/p", "device_seconds": 0.5 },
        ]);
        assert_eq!(rows.json(), expected);
    }

    #[test]
    fn metrics_of_something_else_tell_no_use() {
        assert!(!Rows::default().add(samples::parse("go_goroutines 7\n")));
    }
}
