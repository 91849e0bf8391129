//! A file of manifests: its documents, each object's type, and what the planner says of it.
//!
//! The command line is no library, so its reader is compiled into this target from its sources.
#![no_main]

use libfuzzer_sys::fuzz_target;
use realm_fuzz::InputFile;
use realm_plan::{
    Problem,
    validate::{self, Site},
};

use self::cli::manifests::{self, Cause, Document, Found, Object};

#[path = "../../../agent/cli/src"]
#[expect(dead_code, unused_imports, reason = "the command line needs more of it")]
mod cli {
    pub(crate) mod manifests;
}

thread_local! {
    static FILE: InputFile = InputFile::new("input.yaml");
}

fuzz_target!(|bytes: &[u8]| {
    let reading = FILE.with(|file| {
        file.hold(bytes);
        manifests::read(file.folder())
    });
    for problem in &reading.problems {
        assert!(!problem.to_string().contains('\n'));
    }
    for found in reading.found {
        match found {
            Found::Whole(document) => check(&document),
            Found::Broken { problems, .. } => {
                assert!(!problems.is_empty());
                problems.iter().for_each(|problem| assert!(!problem.to_string().contains('\n')));
            }
            Found::Unnamed(problem) => assert!(!problem.to_string().contains('\n')),
        }
    }
});

/// Validates the object for both sites and says where each problem is.
fn check(document: &Document) {
    let again = manifests::parse(document.place.clone(), &document.text);
    assert!(matches!(again, Some(Found::Whole(_))), "what a restart reads is what was read");
    for site in [Site::OneMachine, Site::Cluster] {
        for problem in problems(&document.object, site) {
            let line = document.tree.line_of(&problem.path);
            assert!(line > document.place.lines_before, "{} on line {line}", problem.path);
            assert!(!Cause::refused(&problem).to_string().contains('\n'));
        }
    }
}

fn problems(object: &Object, site: Site) -> Vec<Problem> {
    let problems = match object {
        Object::Model(model) => validate::model(model, site).err(),
        Object::Tenant(tenant) => validate::tenant(tenant, site).err(),
        Object::Pipeline(pipeline) => validate::pipeline(pipeline).err(),
        Object::Secret(secret) => {
            validate::secret(secret).ok().map(|valid| valid.problems().to_vec())
        }
    };
    problems.unwrap_or_default()
}
