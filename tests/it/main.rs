//! One binary for all integration tests: it links once and shares one harness ([`sandbox`]).

mod compatibility;
mod damage;
mod documents;
mod fairness;
mod job;
mod job_output;
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
mod run;
mod sandbox;
mod sharing;
mod signals;
mod store_properties;
mod strace;
mod supervision;
mod terminal;
mod time_limit;
mod write_back_error;
