//! What a server or an agent tells Prometheus, for commands that tell people.

pub(crate) mod samples;
pub(crate) mod scrape;
