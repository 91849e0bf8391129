//! Templates: text with `{{ inputs.name }}` and `{{ steps.name }}`, and nothing cleverer.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use realm_crds::pipeline::FIELD_LEN_MAX;

use crate::desired::{Template, TemplatePart};

/// Takes `text` apart, or says what it holds that is not a template.
pub(super) fn parse(text: &str) -> Result<Template, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        if !before.is_empty() {
            parts.push(TemplatePart::Text(before.to_owned()));
        }
        let (hole, after) = after.split_once("}}").ok_or("a `{{` is never closed")?;
        parts.push(reference(hole.trim())?);
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(TemplatePart::Text(rest.to_owned()));
    }
    Ok(Template(parts))
}

fn reference(hole: &str) -> Result<TemplatePart, String> {
    match hole.split_once('.') {
        Some(("inputs", name)) if is_field(name) => Ok(TemplatePart::Input(name.to_owned())),
        Some(("steps", name)) if is_field(name) => Ok(TemplatePart::Step(name.to_owned())),
        _ => Err(format!("`{{{{ {hole} }}}}` is neither inputs.name nor steps.name")),
    }
}

/// Whether `name` may name an input, a step or an output.
pub(super) fn is_field(name: &str) -> bool {
    u32::try_from(name.len()).is_ok_and(|len| len <= FIELD_LEN_MAX)
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The template in a form that shows its parts.
    fn check(text: &str) -> Result<String, String> {
        let show = |part: &TemplatePart| match part {
            TemplatePart::Text(text) => format!("[{text}]"),
            TemplatePart::Input(name) => format!("<input {name}>"),
            TemplatePart::Step(name) => format!("<step {name}>"),
        };
        parse(text).map(|template| template.0.iter().map(show).collect())
    }

    #[test]
    fn holes_become_references_and_the_rest_is_text() {
        assert_eq!(check("Say {{ inputs.x }}!").unwrap(), "[Say ]<input x>[!]");
        assert_eq!(check("{{steps.a-1}}{{ inputs.b_2 }}").unwrap(), "<step a-1><input b_2>");
        assert_eq!(check("a } }} { b").unwrap(), "[a } }} { b]");
        assert_eq!(check("").unwrap(), "");
    }

    #[test]
    fn anything_else_in_a_hole_is_refused() {
        for text in [
            "{{ x }}",
            "{{ inputs }}",
            "{{ inputs. }}",
            "{{ inputs.a.b }}",
            "{{ inputs.a | upper }}",
            "{{ env.HOME }}",
            "{{}}",
            "{{ inputs.a",
            "{{ {{ inputs.a }} }}",
            "{{ inputs.1a }}",
        ] {
            check(text).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn what_is_put_together_comes_apart_again(
            parts in prop::collection::vec(("[^{]{0,9}", "[a-z][a-z0-9_-]{0,9}", any::<bool>()), 0..6)
        ) {
            let mut text = String::new();
            let mut expected = Vec::new();
            for (before, name, is_input) in parts {
                text += &before;
                if !before.is_empty() {
                    expected.push(TemplatePart::Text(before));
                }
                let (of, part): (_, fn(String) -> TemplatePart) =
                    if is_input { ("inputs", TemplatePart::Input) } else { ("steps", TemplatePart::Step) };
                text.extend(["{{ ", of, ".", name.as_str(), " }}"]);
                expected.push(part(name));
            }
            prop_assert_eq!(parse(&text), Ok(Template(expected)));
        }

        #[test]
        fn no_text_breaks_the_parser(text in "[{} a.sinputep]{0,40}") {
            let _ = parse(&text);
        }
    }
}
