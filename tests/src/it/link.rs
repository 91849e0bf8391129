//! Operator and agent, and agent and agent, over real sockets and real TLS.

mod attacks;
mod config_maps;
mod fleet;
mod life;
mod load;
mod operator;
mod peers;
mod raw;
mod skew;
mod slices;
mod words;
mod world;
