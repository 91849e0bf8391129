//! Desired state in, report out: ledger, diff, apply.
