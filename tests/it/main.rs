//! One binary for all integration tests: it links once and shares one harness.

mod lock_contract;
mod race;
mod store_properties;
