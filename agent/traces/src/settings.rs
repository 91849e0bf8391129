//! What the command line and the environment say about traces, in the words of OpenTelemetry.

use realm_core::trace::{Ratio, Sampling};
use reqwest::Url;

use crate::TracesError;

/// Where a collector takes spans, below its base address.
const PATH: &str = "v1/traces";

/// How spans are sent.
const PROTOCOL: &str = "http/protobuf";

/// Where traces go, and which.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) endpoint: Url,
    pub(crate) sampling: Sampling,
}

impl Settings {
    /// Reads them; `None` where nothing is to be recorded. `flag` is a base address.
    pub(crate) fn read(
        flag: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, TracesError> {
        // An empty variable is as good as none, by the specification.
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let whole = variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let base = variable("OTEL_EXPORTER_OTLP_ENDPOINT");
        let endpoint = match (flag.filter(|flag| !flag.is_empty()), whole, base) {
            (Some(flag), _, _) => below(flag),
            (None, Some(whole), _) => whole,
            (None, None, Some(base)) => below(&base),
            (None, None, None) => return Ok(None),
        };
        let protocol = variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
            .or_else(|| variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
        if let Some(other) = protocol.filter(|protocol| protocol != PROTOCOL) {
            return Err(TracesError::Protocol(other));
        }
        let sampling =
            sampling(variable("OTEL_TRACES_SAMPLER"), variable("OTEL_TRACES_SAMPLER_ARG"))?;
        let endpoint = address(&endpoint)?;
        Ok((!sampling.is_never()).then_some(Self { endpoint, sampling }))
    }
}

fn below(base: &str) -> String {
    format!("{}/{PATH}", base.trim_end_matches('/'))
}

fn address(url: &str) -> Result<Url, TracesError> {
    match Url::parse(url) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") => Ok(parsed),
        Ok(_) => Err(unusable(url, "is neither http nor https".into())),
        Err(error) => Err(unusable(url, format!("is none: {error}"))),
    }
}

fn unusable(url: &str, problem: String) -> TracesError {
    TracesError::Endpoint { url: without_secrets(url), problem }
}

/// What can be told of an address that is none: neither user and password nor query and fragment.
fn without_secrets(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (place, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    // A password may have been written as it is, with characters that end the place of a host.
    let place = if query.contains('@') { "..." } else { place };
    let host = place.rsplit_once('@').map_or(place, |(_, host)| host);
    if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") }
}

fn sampling(sampler: Option<String>, argument: Option<String>) -> Result<Sampling, TracesError> {
    let (heeds_parent, kind) = match sampler.as_deref() {
        None => (true, "always_on"),
        Some(sampler) => match sampler.strip_prefix("parentbased_") {
            Some(own) => (true, own),
            None => (false, sampler),
        },
    };
    let ratio = match kind {
        "always_on" => Ratio::ALL,
        "always_off" => Ratio::NONE,
        "traceidratio" => ratio(argument)?,
        _ => return Err(TracesError::Sampler(sampler.unwrap_or_default())),
    };
    Ok(Sampling { heeds_parent, ratio })
}

/// The sampler's argument; every call where there is none, by the specification.
fn ratio(argument: Option<String>) -> Result<Ratio, TracesError> {
    let Some(argument) = argument else { return Ok(Ratio::ALL) };
    argument.parse().ok().and_then(Ratio::new).ok_or(TracesError::Ratio(argument))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flag: Option<&str>, set: &[(&str, &str)]) -> Result<Option<Settings>, TracesError> {
        Settings::read(flag, |name| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn endpoint(flag: Option<&str>, set: &[(&str, &str)]) -> Option<String> {
        read(flag, set).unwrap().map(|settings| settings.endpoint.to_string())
    }

    const BASE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://base:4318/");
    const WHOLE: (&str, &str) = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://whole/x");

    #[test]
    fn a_flag_comes_before_the_address_of_traces_and_that_before_the_one_of_everything() {
        let flag = Some("http://flag:1");
        assert_eq!(endpoint(flag, &[BASE, WHOLE]).unwrap(), "http://flag:1/v1/traces");
        assert_eq!(endpoint(None, &[BASE, WHOLE]).unwrap(), "https://whole/x");
        assert_eq!(endpoint(None, &[BASE]).unwrap(), "http://base:4318/v1/traces");
    }

    #[test]
    fn nothing_is_recorded_without_an_address_or_where_it_is_switched_off() {
        let off = [
            read(None, &[]),
            read(Some(""), &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]),
            read(None, &[BASE, ("OTEL_SDK_DISABLED", "TRUE")]),
            read(None, &[BASE, ("OTEL_TRACES_SAMPLER", "always_off")]),
        ];
        for settings in off {
            assert_eq!(settings.unwrap(), None);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_not_guessed() {
        for (set, says) in [
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")], "collector"),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "/")], "/v1/traces"),
            (vec![BASE, ("OTEL_TRACES_SAMPLER", "xray")], "`xray`"),
            (vec![BASE, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], "`grpc`"),
            (
                vec![
                    BASE,
                    ("OTEL_TRACES_SAMPLER", "traceidratio"),
                    ("OTEL_TRACES_SAMPLER_ARG", "2"),
                ],
                "`2`",
            ),
        ] {
            let error = read(None, &set).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn an_address_that_is_refused_is_told_without_what_may_be_secret() {
        for (url, told) in [
            ("ftp://me:hidden@collector/a?key=hidden#hidden", "ftp://collector/a "),
            ("http://me:hidden@collector:x/a?key=hidden", "http://collector:x/a "),
            ("me:hidden@collector:4318", " collector:4318 "),
            ("http://me:hidden?hidden@collector:x", "http://... "),
            ("http://collector:x/?hidden@hidden", "http://... "),
        ] {
            let error = address(url).unwrap_err().to_string();
            assert!(error.contains(told) && !error.contains("hidden"), "{error}");
        }
    }

    #[test]
    fn samplers_have_the_names_of_the_specification() {
        let check = |sampler, heeds_parent, ratio| {
            let argument = Some("0.25".to_owned());
            let ratio = Ratio::new(ratio).unwrap();
            let expected = Sampling { heeds_parent, ratio };
            assert_eq!(sampling(Some(String::from(sampler)), argument).unwrap(), expected);
        };
        check("always_on", false, 1.0);
        check("traceidratio", false, 0.25);
        check("parentbased_always_on", true, 1.0);
        check("parentbased_always_off", true, 0.0);
        check("parentbased_traceidratio", true, 0.25);
        let default = Sampling { heeds_parent: true, ratio: Ratio::ALL };
        assert_eq!(sampling(None, None).unwrap(), default);
    }
}
