//! `realm:tenant/log`: a program's lines, few and only for those who look for them.

use super::Host;
use crate::{
    bindings::realm::tenant::log::{self, Level},
    refusal::cut,
};

/// Lines kept of one call: enough to follow a program, and at a thousand calls a second still
/// less than a disk minds.
pub(crate) const LINES_MAX: u64 = 32;

impl log::Host for Host {
    /// Always at debug, whatever level the program gives: how often it logs is up to the tenant.
    fn emit(&mut self, level: Level, message: String) -> wasmtime::Result<()> {
        let call = self.enter()?;
        if call.log_lines.take(1) {
            let message = cut(message);
            tracing::debug!(parent: &call.span, program_level = ?level, "{message}");
        }
        Ok(())
    }
}
