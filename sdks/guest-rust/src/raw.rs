//! JSON as it was sent, where the order of keys matters: read as a value, an object has lost it.

/// The text of a member of an object; of several of that name the last, as everywhere.
///
/// `object` is JSON that has been read before: what is not yields nothing.
pub(crate) fn member<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    let mut found = None;
    let mut rest = object.trim_start().strip_prefix('{')?.trim_start();
    while rest.starts_with('"') {
        let (key, after) = rest.split_at_checked(value_len(rest)?)?;
        let value = after.trim_start().strip_prefix(':')?.trim_start();
        let (value, after) = value.split_at_checked(value_len(value)?)?;
        if miniserde::json::from_str::<String>(key).is_ok_and(|key| key == name) {
            found = Some(value.trim_end());
        }
        rest = after.trim_start().strip_prefix(',').unwrap_or_default().trim_start();
    }
    found
}

/// How many bytes the value has that `text` begins with, and perhaps blanks behind it.
fn value_len(text: &str) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => {
                in_string = !in_string;
                if !in_string && depth == 0 {
                    return Some(at + 1);
                }
            }
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b',' | b'}' | b']' if depth == 0 => return Some(at),
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}
