//! The door from outside, over real sockets on loopback.

mod drain;
mod http;
mod limits;
mod openai;
mod program;
mod server;
mod socket;
mod tls;
