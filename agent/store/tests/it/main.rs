//! The store against real servers, a real `pip` and a real disk, all on this machine.

// The attribute tells the linter that helpers in these modules are test code too.
#[cfg(test)]
mod config_map;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod file;
#[cfg(test)]
mod head;
#[cfg(test)]
mod hub;
#[cfg(test)]
mod oci;
#[cfg(test)]
mod pip;
#[cfg(test)]
mod pvc;
#[cfg(test)]
mod real;
#[cfg(test)]
mod s3;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod server;
#[cfg(test)]
mod sharing;
#[cfg(test)]
mod split;
#[cfg(test)]
mod web;
#[cfg(test)]
mod web_faults;
#[cfg(test)]
mod world;
