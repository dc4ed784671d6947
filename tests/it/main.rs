//! One binary for all integration tests: it links once and shares one harness ([`sandbox`]).

mod bad_input;
mod compatibility;
mod damage;
mod documents;
mod fairness;
mod job_files;
mod kill;
mod last_seat;
mod ledger;
mod library;
mod lock_contract;
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
mod write_back_error;
