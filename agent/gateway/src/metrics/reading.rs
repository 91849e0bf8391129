//! Families that are read when Prometheus asks: what others know, told in its form.

use prometheus::{
    core::{Collector, Desc},
    proto,
};
use realm_core::engine::Distribution;

/// A family that is read when Prometheus asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// `realm_<part>_<noun>_<unit>`.
    pub name: &'static str,
    pub help: &'static str,
    pub kind: FamilyKind,
    /// Names of labels whose values are a closed set.
    pub labels: &'static [&'static str],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    /// Only grows.
    Counter,
    Gauge,
    /// Of times in seconds.
    Histogram,
}

/// One value of a [`Family`], with a value for each of its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    labels: Vec<String>,
    value: SampleValue,
}

#[derive(Clone, Debug, PartialEq)]
pub enum SampleValue {
    Number(f64),
    Times(Distribution),
}

impl Sample {
    pub fn new(labels: impl Into<Vec<String>>, value: impl Into<SampleValue>) -> Self {
        Self { labels: labels.into(), value: value.into() }
    }
}

impl From<f64> for SampleValue {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<Distribution> for SampleValue {
    fn from(times: Distribution) -> Self {
        Self::Times(times)
    }
}

/// A registered [`Family`] and where its values come from.
pub(super) struct Reading {
    family: Family,
    desc: Desc,
    read: Box<dyn Fn() -> Vec<Sample> + Send + Sync>,
}

impl Reading {
    pub(super) fn new(
        family: Family,
        read: impl Fn() -> Vec<Sample> + Send + Sync + 'static,
    ) -> prometheus::Result<Self> {
        let labels = family.labels.iter().map(|&label| label.to_owned()).collect();
        let desc = Desc::new(family.name.into(), family.help.into(), labels, [].into())?;
        Ok(Self { family, desc, read: Box::new(read) })
    }
}

impl Collector for Reading {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let mut family = proto::MetricFamily::default();
        family.set_name(self.family.name.to_owned());
        family.set_help(self.family.help.to_owned());
        family.set_field_type(match self.family.kind {
            FamilyKind::Counter => proto::MetricType::COUNTER,
            FamilyKind::Gauge => proto::MetricType::GAUGE,
            FamilyKind::Histogram => proto::MetricType::HISTOGRAM,
        });
        let samples = (self.read)().into_iter();
        family.set_metric(samples.filter_map(|sample| metric(self.family, sample)).collect());
        vec![family]
    }
}

/// A sample with the wrong number of labels or the wrong kind of value would be a bug of the
/// wiring; it is left out rather than allowed to take the other families down.
fn metric(family: Family, sample: Sample) -> Option<proto::Metric> {
    let Sample { labels, value } = sample;
    if labels.len() != family.labels.len() {
        return None;
    }
    let pairs = family.labels.iter().zip(labels).map(|(name, value)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value);
        pair
    });
    let mut metric = proto::Metric::from_label(pairs.collect());
    match (family.kind, value) {
        (FamilyKind::Counter, SampleValue::Number(number)) => {
            let mut counter = proto::Counter::default();
            counter.set_value(number);
            metric.set_counter(counter);
        }
        (FamilyKind::Gauge, SampleValue::Number(number)) => {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(number);
            metric.set_gauge(gauge);
        }
        (FamilyKind::Histogram, SampleValue::Times(times)) => {
            metric.set_histogram(histogram(times));
        }
        _ => return None,
    }
    Some(metric)
}

fn histogram(times: Distribution) -> proto::Histogram {
    let Distribution { buckets, count, seconds_total } = times;
    let buckets = buckets.into_iter().map(|(bound, at_most)| {
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(at_most);
        bucket
    });
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(count);
    histogram.set_sample_sum(seconds_total);
    histogram
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn times_are_told_as_a_histogram_and_a_value_of_another_kind_not_at_all() {
        let family = Family {
            name: "realm_engine_wait_seconds",
            help: "Waits.",
            kind: FamilyKind::Histogram,
            labels: &["model"],
        };
        let times =
            Distribution { buckets: vec![(0.5, 2), (1.0, 3)], count: 4, seconds_total: 9.5 };
        let samples = vec![
            Sample::new(["default/a".to_owned()], times),
            Sample::new(["default/b".to_owned()], 1.0),
        ];
        let reading = Reading::new(family, move || samples.clone()).unwrap();
        let text = TextEncoder::new().encode_to_string(&reading.collect()).unwrap();
        for line in [
            r#"realm_engine_wait_seconds_bucket{model="default/a",le="0.5"} 2"#,
            r#"realm_engine_wait_seconds_bucket{model="default/a",le="1"} 3"#,
            r#"realm_engine_wait_seconds_bucket{model="default/a",le="+Inf"} 4"#,
            r#"realm_engine_wait_seconds_sum{model="default/a"} 9.5"#,
            r#"realm_engine_wait_seconds_count{model="default/a"} 4"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("default/b"), "{text}");
    }
}
