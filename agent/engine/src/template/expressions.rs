//! How long the expressions of a template are, before anything compiles them.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

/// Bytes of one expression, its texts apart. The longest in use have some hundreds.
///
/// Compiling takes the square of an expression's length, so a template that is nothing but such
/// expressions takes about a second, and one that is a single one would take half a minute.
const CODE_BYTES_MAX: usize = 2 << 10;

/// Bytes of one expression with its texts, or of one comment: four times the longest in use. It also
/// bounds what a template can pass off as either, behind a `raw` block, that is none.
const EXPRESSION_BYTES_MAX: usize = 8 << 10;

/// Refuses a template in which an expression is too long.
pub(super) fn check(source: &str) -> Result<(), String> {
    let mut rest = source;
    while let Some((_, after)) = rest.split_once('{') {
        rest = after;
        let (begun, (code, left)) = if let Some(comment) = after.strip_prefix('#') {
            (comment, (0, comment.split_once("#}").map_or("", |(_, left)| left)))
        } else if let Some(expression) = after.strip_prefix(['{', '%']) {
            (expression, measure(expression))
        } else {
            continue;
        };
        let whole = begun.len().saturating_sub(left.len());
        for (bytes, max) in [(code, CODE_BYTES_MAX), (whole, EXPRESSION_BYTES_MAX)] {
            if bytes > max {
                return Err(format!("an expression has {bytes} bytes; {max} are the most"));
            }
        }
        rest = left;
    }
    Ok(())
}

/// The bytes of the expression that `text` begins with, its texts apart, and what follows it. It
/// ends where the compiler ends it: at the first `}}` or `%}` outside of texts and brackets.
fn measure(text: &str) -> (usize, &str) {
    let (mut bytes, mut depth) = (0_usize, 0_usize);
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        let here = text.get(at..).unwrap_or_default();
        if depth == 0 && (here.starts_with("}}") || here.starts_with("%}")) {
            return (bytes, here.get(2..).unwrap_or_default());
        }
        match c {
            '"' | '\'' => skip_text(&mut chars, c),
            '(' | '[' | '{' => depth = depth.saturating_add(1),
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        bytes = bytes.saturating_add(c.len_utf8());
    }
    (bytes, "")
}

/// Goes behind the end of a text that `quote` began.
fn skip_text(chars: &mut std::str::CharIndices<'_>, quote: char) {
    while let Some((_, c)) = chars.next() {
        if c == quote {
            return;
        }
        if c == '\\' {
            chars.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_in_use_has_short_expressions_whatever_its_texts() {
        let (text, data) = ("x".repeat(3_000), "x".repeat(20_000));
        let code = "+ a".repeat(600);
        for source in [
            format!("{data}{{{{ '{text}' + \"it\\\"s {text}\" }}}}{data}"),
            format!("{{{{ a {code} }}}}{data}{{% set a = a {code} -%}}{{{{ a {code} }}}}"),
            format!("{{{{ {{'a': {{}}}} }}}}{data}{{{{ a }}}}"),
            format!("{{# don't {{{{ {text} #}}{{{{ a }}}}"),
        ] {
            check(&source).unwrap();
        }
    }

    #[test]
    fn an_expression_that_takes_long_to_compile_is_refused() {
        let code = "+a".repeat(5_000);
        for source in [
            format!("{{{{ a{code} }}}}"),
            format!("{{% if a{code} %}}"),
            format!("{{{{ '}}}}'{code} }}}}"),
            format!("{{{{ {{'a': {{}}}}{code} }}}}"),
            format!("{{{{ a{code}"),
            format!("{{# {{{{ ' #}}{{{{ a{code} }}}}"),
            format!("{{% raw %}}{{{{ '{{% endraw %}}{{{{ a{code} }}}}"),
            format!("{{% raw %}}{{#{{% endraw %}}{{{{ a{code} }}}}"),
        ] {
            check(&source).unwrap_err();
        }
    }
}
