//! `realm pipeline`: pipelines of a folder of manifests or of a cluster, and a run through a door.

use std::{collections::BTreeSet, process::ExitCode};

use anyhow::{Context as _, bail};
use realm_crds::{Pipeline, PipelineSpec};
use serde_json::{Map, Value, json};

use crate::{
    args::{ListArgs, PipelineCommand, PipelineRunArgs},
    cluster::Served as _,
    door::Door,
    home::Home,
    manifests, output,
    serve::state,
    table::Table,
    target::{self, Target},
};

const COLUMNS: [&str; 6] = ["NAME", "STATE", "STEPS", "INPUTS", "OUTPUTS", "TENANTS"];

pub(crate) async fn run(home: &Home, command: PipelineCommand) -> anyhow::Result<ExitCode> {
    match command {
        PipelineCommand::List(args) => list(home, &args).await?,
        PipelineCommand::Run(args) => call(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(home: &Home, args: &ListArgs) -> anyhow::Result<()> {
    let mut table = Table::headed(COLUMNS);
    match Target::open(home, &args.target).await? {
        Target::Machine(folder) => {
            let reading = folder.read();
            let problems = state::problems(reading.clone());
            for (document, pipeline) in target::objects::<Pipeline>(&reading) {
                if target::is_listed(args, document) {
                    let state = manifests::within(document, &problems).next();
                    let state = state.map_or("Valid", |problem| problem.cause.reason());
                    let name = document.id.1.to_string();
                    table.add(row(name, state.to_owned(), &pipeline.spec));
                }
            }
        }
        Target::Cluster(cluster) => {
            for pipeline in cluster.list::<Pipeline>(&target::scope(args, &cluster), "").await? {
                let name = target::full_name(&pipeline.metadata);
                table.add(row(name, pipeline.said().state(), &pipeline.spec));
            }
        }
    }
    output::table(&table, "no pipelines")
}

fn row(name: String, state: String, spec: &PipelineSpec) -> [String; 6] {
    let PipelineSpec { inputs, steps, outputs, tenants } = spec;
    let inputs: Vec<_> = inputs.iter().map(|input| input.name.as_str()).collect();
    let outputs: Vec<_> = outputs.iter().map(|output| output.name.as_str()).collect();
    let steps = steps.len().to_string();
    [name, state, steps, inputs.join(","), outputs.join(","), tenants.join(",")]
}

/// Runs a pipeline, telling each step as it begins, and prints what it gives.
async fn call(args: PipelineRunArgs) -> anyhow::Result<()> {
    let PipelineRunArgs { pipeline, inputs, url, key, ca, insecure_plaintext } = args;
    let input = inputs.iter().map(|text| input(text)).collect::<anyhow::Result<Map<_, _>>>()?;
    let params = json!({ "pipeline": pipeline, "input": input });
    let door = Door::parse(&url, ca, insecure_plaintext)?;
    let mut begun = BTreeSet::new();
    let result = door.call(&key, "pipeline", params, |step| {
        if begun.insert(step.to_owned()) {
            output::note(format!("step {}", manifests::one_line(step)));
        }
    });
    print(&result.await?)
}

/// `name=text`, or `name:=value` for what is no text.
fn input(text: &str) -> anyhow::Result<(String, Value)> {
    let (name, value) = text
        .split_once('=')
        .with_context(|| format!("`{text}` is no input; write `name=text` or `name:=value`"))?;
    let (name, value) = match name.strip_suffix(':') {
        Some(name) => {
            let value = serde_json::from_str(value)
                .with_context(|| format!("`{value}` is no number, `true` or `false`"))?;
            (name, value)
        }
        None => (name, Value::from(value)),
    };
    if name.is_empty() {
        bail!("`{text}` names no input");
    }
    Ok((name.to_owned(), value))
}

/// Prints the only output as it is, and of several each under its name.
fn print(result: &Value) -> anyhow::Result<()> {
    let outputs = result.get("outputs").and_then(Value::as_object);
    let outputs = outputs.context("the door gave no outputs")?;
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    for (name, value) in outputs {
        if outputs.len() > 1 {
            output::line(format!("{name}:"))?;
        }
        output::line(text(value))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_a_text_unless_it_says_that_it_is_a_value() {
        assert_eq!(input("text=5").unwrap(), ("text".to_owned(), json!("5")));
        assert_eq!(input("text=a=b:=c").unwrap(), ("text".to_owned(), json!("a=b:=c")));
        assert_eq!(input("count:=5").unwrap(), ("count".to_owned(), json!(5)));
        assert_eq!(input("on:=true").unwrap(), ("on".to_owned(), json!(true)));
        for wrong in ["text", "=x", ":=5", "count:=five"] {
            assert!(input(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_row_names_what_goes_in_and_what_comes_out() {
        let spec = serde_saphyr::from_str(
            "{inputs: [{name: text}], steps: [{name: s, model: {name: m}, prompt: p, maxTokens: 1}], \
             outputs: [{name: o, step: s}], tenants: [a, b]}",
        );
        let row = row("shop/p".to_owned(), "Ready".to_owned(), &spec.unwrap());
        assert_eq!(row, ["shop/p", "Ready", "1", "text", "o", "a,b"]);
    }
}
