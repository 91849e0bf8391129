//! Small words of sentences for people.

use std::fmt::Display;

/// A number of things whose plural ends in `s`: `1 node`, `2 nodes`.
pub fn counted<N: Copy + Display + PartialEq + From<u8>>(number: N, noun: &str) -> String {
    let plural = if number == N::from(1) { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_told_as_one() {
        let told = [0_u32, 1, 2].map(|number| counted(number, "node"));
        assert_eq!(told, ["0 nodes", "1 node", "2 nodes"]);
    }
}
