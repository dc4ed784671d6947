//! One binary for all integration tests: it links once and shares one harness.

mod compatibility;
mod documents;
mod lock_contract;
mod race;
mod store_properties;
