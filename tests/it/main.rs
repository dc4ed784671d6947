//! One binary for all integration tests: it links once and shares one harness ([`sandbox`]).

mod compatibility;
mod damage;
mod documents;
mod fairness;
mod kill;
mod last_seat;
mod ledger;
mod library;
mod lock_contract;
mod logs;
mod machine;
mod mount;
mod order;
mod power_cut;
mod race;
mod sandbox;
mod sharing;
mod signals;
mod store_properties;
mod strace;
mod update;
mod write_back_error;
