//! `realm:tenant/store`: what the tenant's programs keep from one call to the next.

use realm_core::refusal::Refusal;

use super::{Host, HostCall};
use crate::{
    bindings::realm::tenant::store,
    refusal::{Ended, HostError},
};

/// Bytes that cost as much as a host call.
const HOST_CALL_BYTES: usize = 1 << 10;

/// Takes what so many bytes cost besides the call itself.
fn pay(call: &HostCall, bytes: usize) -> Result<(), Ended> {
    call.host_calls.take(u64::try_from(bytes / HOST_CALL_BYTES).unwrap_or(u64::MAX))
}

impl store::Host for Host {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<Vec<u8>>> {
        let call = self.enter()?;
        let value = call.store.get(&key);
        pay(call, value.as_ref().map_or(0, |value| value.len()))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> Result<(), HostError> {
        let call = self.enter()?;
        pay(call, key.len().saturating_add(value.len()))?;
        call.store.set(key, value).map_err(|refusal: Refusal| refusal.into())
    }

    fn delete(&mut self, key: String) -> wasmtime::Result<bool> {
        Ok(self.enter()?.store.delete(&key))
    }

    fn keys(&mut self, prefix: String, after: Option<String>) -> wasmtime::Result<Vec<String>> {
        let call = self.enter()?;
        let keys = call.store.keys(&prefix, after.as_deref());
        pay(call, keys.iter().map(String::len).fold(0, usize::saturating_add))?;
        Ok(keys)
    }
}
