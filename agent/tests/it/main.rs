//! An agent driven through its two ends: what it is told to hold, and whom it lets in.

// The attribute tells the linter that helpers in these modules are test code too.
#[cfg(test)]
mod house;
#[cfg(test)]
mod residents;
