//! Prometheus' text format, as far as Realm writes it: a name, labels, a number.

/// One number of one series.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample<'a> {
    pub(crate) name: &'a str,
    labels: Vec<(&'a str, &'a str)>,
    pub(crate) value: f64,
}

impl<'a> Sample<'a> {
    pub(crate) fn label(&self, name: &str) -> Option<&'a str> {
        self.labels.iter().find(|(label, _)| *label == name).map(|(_, value)| *value)
    }
}

/// The samples of a text. Lines that are none, comments among them, are passed over, and so are
/// those whose labels have escapes: no name of ours needs any.
pub(crate) fn parse(text: &str) -> impl Iterator<Item = Sample<'_>> {
    text.lines().filter(|line| !line.starts_with('#') && !line.contains('\\')).filter_map(sample)
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = series.split_once('{') else {
        return Some(Sample { name: series, labels: Vec::new(), value });
    };
    let mut rest = labels.strip_suffix('}')?;
    let mut labels = Vec::new();
    while let Some((label, quoted)) = rest.split_once("=\"") {
        let (value, behind) = quoted.split_once('"')?;
        labels.push((label, value));
        rest = behind.strip_prefix(',').unwrap_or(behind);
    }
    rest.is_empty().then_some(Sample { name, labels, value })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sample_has_a_name_labels_and_a_number() {
        let text = "# HELP a b\n# TYPE a counter\na 3\nb{model=\"d/m\",tenant=\"-\"} 0.25\n\
                    c{x=\"1\\\"\"} 1\nd{x=\"1\"\ne{x=1} 2\nnothing\n";
        let samples: Vec<_> = parse(text).collect();
        let b = vec![("model", "d/m"), ("tenant", "-")];
        assert_eq!(
            samples,
            [
                Sample { name: "a", labels: Vec::new(), value: 3.0 },
                Sample { name: "b", labels: b, value: 0.25 }
            ]
        );
        assert_eq!((samples[1].label("tenant"), samples[1].label("state")), (Some("-"), None));
    }

    proptest! {
        #[test]
        fn whatever_an_address_says_is_read_or_passed_over(text in ".{0,200}") {
            for _ in parse(&text) {}
        }
    }
}
