//! The store against real servers, a real `pip` and a real disk, all on this machine.

mod disk;
mod file;
mod pip;
mod server;
mod sharing;
mod web;
mod web_faults;
mod world;
