use std::sync::Arc;

use proptest::prelude::*;

use super::*;

/// Reads every document of a file.
fn parse_all(text: &str) -> Vec<Found> {
    let place = |lines_before| Place { file: Arc::from("f.yaml"), lines_before };
    split(text).into_iter().filter_map(|(line, text)| parse(place(line), text)).collect()
}

/// Each document in a line: the object it is, or its problems.
fn check(text: &str, expected: &[&str]) {
    let shown: Vec<_> = parse_all(text)
        .iter()
        .flat_map(|found| match found {
            Found::Whole(document) => vec![format!("{} {}", document.id.0, document.id.1)],
            Found::Broken { problems, .. } => problems.iter().map(ToString::to_string).collect(),
            Found::Unnamed(problem) => vec![format!("? {problem}")],
        })
        .collect();
    assert_eq!(shown, expected);
}

const MODEL: &str = "\
apiVersion: realm.dev/v1alpha1
kind: Model
metadata:
  name: tiny
spec:
  sources:
  - file:///tiny.gguf
";

#[test]
fn each_kind_is_read_into_its_type() {
    let text = format!(
        "# The tiny one.
{MODEL}---
# Nothing here.
--- # A comment on the marker.
apiVersion: realm.dev/v1alpha1
kind: Tenant
metadata: {{name: acme, namespace: shop}}
spec: {{models: [{{name: tiny}}]}}
---
apiVersion: v1
kind: Secret
metadata: {{name: acme-keys}}
stringData: {{first: text}}
---
apiVersion: realm.dev/v1alpha1
kind: Pipeline
metadata: {{name: digest}}
spec:
  steps:
  - name: one
    model: {{name: tiny}}
    prompt: |
      Hello
      ---not a marker
    maxTokens: 5
  outputs: [{{name: text, step: one}}]
  tenants: [acme]
"
    );
    let expected = [
        "Model default/tiny",
        "Tenant shop/acme",
        "Secret default/acme-keys",
        "Pipeline default/digest",
    ];
    check(&text, &expected);
    check(&text.replace('\n', "\r\n"), &expected);
}

#[test]
fn a_wrong_document_does_not_touch_the_next() {
    let text = format!("a: [1, 2\n---\n{MODEL}");
    let found = parse_all(&text);
    assert!(matches!(&found[..], [Found::Unnamed(_), Found::Whole(_)]), "{found:?}");
}

#[test]
fn an_unknown_field_is_refused_with_its_line() {
    check(
        &MODEL.replace("spec:", "spec:\n  sorces: []"),
        &[
            "f.yaml:6: unknown field `sorces`, expected one of sources, sha256, parts, sourceSecret, adapterOf, context, kvBlocks, kvCache, allowedNamespaces, placement, prefetch, replicas, scaling (Malformed)",
        ],
    );
    check(
        &MODEL.replace("  name: tiny", "  name: tiny\n  nmespace: x"),
        &["f.yaml:5: unknown field `metadata.nmespace` (UnknownField)"],
    );
    check(&format!("{MODEL}sepc: {{}}\n"), &["f.yaml:8: unknown field `sepc` (UnknownField)"]);
}

#[test]
fn a_value_of_another_type_is_told_with_its_field_and_what_it_takes() {
    let tenant = "apiVersion: realm.dev/v1alpha1\nkind: Tenant\nmetadata: {name: acme}\nspec:\n";
    for (spec, expected) in [
        (
            "  weight: abc\n",
            "f.yaml:5: spec.weight: `abc` is not a whole number from 0 to 4294967295 (Malformed)",
        ),
        (
            "  limits:\n    program: {fuel: -3}\n",
            "f.yaml:6: spec.limits.program.fuel: `-3` is not a whole number from 0 to 18446744073709551615 (Malformed)",
        ),
        (
            "  suspended: 'yes'\n",
            "f.yaml:5: spec.suspended: `yes` is not true or false (Malformed)",
        ),
        ("  models: tiny\n", "f.yaml:5: spec.models: `tiny` is not a list (Malformed)"),
        ("  limits: 3\n", "f.yaml:5: spec.limits: `3` is not a mapping of fields (Malformed)"),
        ("  weight: [1]\n", "f.yaml:5: spec.weight: takes one value (Malformed)"),
    ] {
        check(&format!("{tenant}{spec}"), &[expected]);
    }
}

#[test]
fn lines_are_those_of_the_file_in_every_document() {
    let text =
        format!("{MODEL}---\n{}", MODEL.replace("  sources:", "  replicas: many\n  sources:"));
    let found = parse_all(&text);
    let [Found::Whole(_), Found::Broken { id, problems, .. }] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(id.1.to_string(), "default/tiny");
    assert_eq!(problems[0].line, Some(14), "{}", problems[0]);
}

#[test]
fn lines_before_a_document_count_in_every_problem_and_cost_nothing() {
    // More than any memory could hold.
    let lines_before = 1 << 60;
    let unknown_kind = MODEL.replace("kind: Model", "kind: Modle");
    let texts = [
        ("---\na: 1\nb: [1, 2\n".to_owned(), 2..=4),
        (unknown_kind, 2..=2),
        (MODEL.replace("  name: tiny", "  name: tiny\n  nmespace: x"), 5..=5),
        (MODEL.replace("  sources:", "  replicas: many\n  sources:"), 6..=6),
    ];
    for (text, lines) in texts {
        let place = Place { file: Arc::from("f.yaml"), lines_before };
        let problem = match parse(place, &text) {
            Some(Found::Broken { problems, .. }) => problems[0].clone(),
            Some(Found::Unnamed(problem)) => problem,
            other => panic!("{other:?}"),
        };
        let line = problem.line.unwrap();
        assert!(lines.contains(&line.wrapping_sub(lines_before)), "{problem}");
    }
    let place = Place { file: Arc::from("f.yaml"), lines_before };
    let Some(Found::Whole(document)) = parse(place, MODEL) else { panic!("it is whole") };
    assert_eq!(document.tree.line_of("spec.sources"), lines_before + 6);
}

#[test]
fn a_document_that_does_not_say_what_it_is_has_no_name_and_a_line() {
    check(
        &MODEL.replace("kind: Model", "kind: Modle"),
        &[
            "? f.yaml:2: `Modle` of `realm.dev/v1alpha1` is none of Tenant, Model, Pipeline (realm.dev/v1alpha1) and Secret (v1) (UnknownKind)",
        ],
    );
    check(
        &MODEL.replace("  name: tiny", "  name: Tiny"),
        &[
            "? f.yaml:4: metadata: `Tiny` is not a name: at most 253 of a-z, 0-9, inner - and . (InvalidName)",
        ],
    );
    check(
        &MODEL.replace("  name: tiny", "  labels: {}"),
        &["? f.yaml:3: metadata: the name is missing (InvalidName)"],
    );
    check("- a\n- b\n", &["? f.yaml:1: the document is not a mapping of fields (Syntax)"]);
}

#[test]
fn a_missing_or_twice_given_field_is_refused() {
    let found = parse_all(&MODEL.replace("  sources:\n  - file:///tiny.gguf\n", "  replicas: 1\n"));
    let [Found::Broken { problems, .. }] = &found[..] else { panic!("{found:?}") };
    assert!(problems[0].to_string().contains("sources"), "{}", problems[0]);
    let found = parse_all(&format!("{MODEL}  replicas: 1\n  replicas: 2\n"));
    let [Found::Broken { problems, .. }] = &found[..] else { panic!("{found:?}") };
    assert_eq!(problems[0].line, Some(9), "{}", problems[0]);
}

#[test]
fn what_a_secret_holds_is_never_quoted() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\ndata:\n  a: 'hunter2!'\n";
    check(
        text,
        &["f.yaml:5: not a Secret: `data` holds base64 and `stringData` holds texts (Malformed)"],
    );
}

#[test]
fn an_object_out_of_a_cluster_is_taken_as_it_comes() {
    let text = MODEL.replace(
        "  name: tiny",
        "  name: tiny\n  uid: '1234'\n  resourceVersion: '7'\n  generation: 3\n  creationTimestamp: '2026-01-01T00:00:00Z'",
    );
    check(&format!("{text}status:\n  replicas: 1\n"), &["Model default/tiny"]);
}

proptest! {
    #[test]
    fn splitting_loses_nothing_and_counts_every_line(text in "(---|a: b|\n|- |# ){0,20}") {
        let documents = split(&text);
        prop_assert_eq!(documents.iter().map(|(_, text)| *text).collect::<String>(), text.clone());
        for (lines_before, part) in &documents {
            let at = part.as_ptr().addr() - text.as_ptr().addr();
            prop_assert_eq!(text[..at].matches('\n').count(), *lines_before);
        }
    }

    #[test]
    fn any_text_is_read_without_a_panic(text in "(---|kind: Model|metadata:|  name: a|[:\\[\\]{}&*|>'\"!%@]|\n| |a){0,40}") {
        parse_all(&text);
    }
}
