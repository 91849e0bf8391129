//! The door from outside, over real sockets on loopback.

// `cfg(test)`, which always holds here, tells clippy that the helpers are tests too.
#[cfg(test)]
mod drain;
#[cfg(test)]
mod embeddings;
#[cfg(test)]
mod http;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod openai;
#[cfg(test)]
mod program;
#[cfg(test)]
mod server;
#[cfg(test)]
mod socket;
#[cfg(test)]
mod tls;
