//! Whether a program works, asked before it takes a call.
//!
//! ```ignore
//! impl Health for Counter {
//!     fn check() -> Result<(), String> {
//!         match counted("one two") {
//!             2 => Ok(()),
//!             other => Err(format!("it counts {other} words in two")),
//!         }
//!     }
//! }
//!
//! realm_guest::export_health!(Counter);
//! ```

/// A program that says whether it works. One that does not is never put in the place of one that does.
pub trait Health {
    /// A sentence for people where it does not. Must not call the host: no tenant is known yet.
    fn check() -> Result<(), String>;
}

/// Exports a type that implements [`Health`] as what this component says of itself.
#[macro_export]
macro_rules! export_health {
    ($program:ty) => {
        const _: () = {
            struct Exported;

            impl $crate::health_bindings::exports::realm::tenant::health::Guest for Exported {
                fn check() -> ::core::result::Result<(), ::std::string::String> {
                    <$program as $crate::health::Health>::check()
                }
            }

            $crate::health_bindings::export_checked!(
                Exported with_types_in $crate::health_bindings
            );
        };
    };
}
