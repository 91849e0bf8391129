//! Every reason that an agent gives for what fails on its node is explained where people look.

use std::{collections::BTreeSet, fs};

use super::tidy::{production, root, rust_sources};

/// What agents are made of. The command line has reasons of its own.
const AGENTS: &[&str] =
    &["agent/src", "agent/core", "agent/engine", "agent/link", "agent/runtime", "agent/store"];

/// Why a link ended: told by the agent's log, and by no condition.
const LOGGED: &str = "agent/link/src/client/error.rs";

/// The heading of the document below which they stand, each first in a row of a table.
const HEADING: &str = "\n### On a node\n";

/// Reasons as code spells them: values of fields of that name, and what functions of it give. Only
/// literals are seen, so that [`hidden`] is to find nothing.
fn reasons(code: &str) -> BTreeSet<&str> {
    let fields = code.split("reason: \"").skip(1).filter_map(|rest| rest.split('"').next());
    let functions = code.split("fn reason(").skip(1).flat_map(|rest| {
        // Up to the end of the item, whether it stands alone or in an `impl`.
        let body = rest.split("\n}").next().unwrap_or(rest);
        let body = body.split("\n    }\n").next().unwrap_or(body);
        body.split('"').skip(1).step_by(2)
    });
    let is_camel = |text: &&str| {
        text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.chars().all(|c| c.is_ascii_alphanumeric())
    };
    fields.chain(functions).filter(is_camel).collect()
}

/// Reasons whose text is in a constant, where [`reasons`] does not see it.
fn hidden(code: &str) -> BTreeSet<&str> {
    let fields =
        code.split("reason: ").skip(1).filter_map(|rest| rest.split([',', ' ', '.']).next());
    let is_constant =
        |text: &&str| text.len() > 1 && text.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    fields.filter(is_constant).collect()
}

/// The reasons that a document explains in the first cells of its rows.
fn explained(document: &str) -> BTreeSet<&str> {
    let section = document.split_once(HEADING).map_or("", |(_, section)| section);
    let section = section.split("\n## ").next().unwrap_or(section);
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.split('|').next());
    rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_reason_of_an_agent_is_explained_in_the_operators_document() {
    let document = fs::read_to_string(root().join("operator/README.md")).unwrap();
    let explained = explained(&document);
    let sources: Vec<_> = rust_sources()
        .into_iter()
        .filter(|(file, _)| AGENTS.iter().any(|part| file.starts_with(part)))
        .filter(|(file, _)| !file.starts_with(LOGGED) && !file.ends_with("tests.rs"))
        .collect();
    let said: BTreeSet<&str> =
        sources.iter().flat_map(|(_, text)| reasons(production(text))).collect();
    for known in ["SourceUntrusted", "LoadFailed", "ProgramInvalid", "LedgerUnwritable"] {
        assert!(said.contains(known), "{known} is not found in the sources: {said:?}");
    }
    let hidden: Vec<_> = sources.iter().flat_map(|(_, text)| hidden(production(text))).collect();
    assert!(hidden.is_empty(), "write these where they are told: {hidden:?}");
    let missing: Vec<_> = said.difference(&explained).collect();
    assert!(missing.is_empty(), "operator/README.md does not explain {missing:?}");
    let gone: Vec<_> = explained.difference(&said).collect();
    assert!(gone.is_empty(), "operator/README.md explains what nobody says: {gone:?}");
}

#[test]
fn reasons_are_found_in_fields_and_in_functions() {
    let code = "
        Failure { reason: \"LoadFailed\", message: \"why\" }
        impl A {
    fn reason(&self) -> &'static str {
        match self { Self::B => \"Busy\", Self::C(_) => { \"NotFound\" } }
    }

    fn other(&self) -> &'static str { \"Other\" }
}
fn reason(error: &E) -> &'static str {
    \"Alone\"
}
const OTHER: &str = \"Other\";
";
    let found: Vec<_> = reasons(code).into_iter().collect();
    assert_eq!(hidden(code), BTreeSet::new());
    assert_eq!(hidden("Failure { reason: OTHER, message }"), BTreeSet::from(["OTHER"]));
    assert_eq!(found, ["Alone", "Busy", "LoadFailed", "NotFound"]);
}
