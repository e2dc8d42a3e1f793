//! Every test of the contract once more, through a front: what it answers is what the owner answers.
#![allow(clippy::unwrap_used)]
#![allow(clippy::duplicate_mod, reason = "each file of tests brings its own client and node")]

#[path = "contract_accounts.rs"]
mod contract_accounts;
#[path = "contract_corners.rs"]
mod contract_corners;
#[path = "contract_earn.rs"]
mod contract_earn;
#[path = "contract_history.rs"]
mod contract_history;
#[path = "contract_holds.rs"]
mod contract_holds;
#[path = "contract_idempotency.rs"]
mod contract_idempotency;
#[path = "contract_input.rs"]
mod contract_input;
#[path = "contract_programs.rs"]
mod contract_programs;
#[path = "contract_reversals.rs"]
mod contract_reversals;
#[path = "contract_tills.rs"]
mod contract_tills;
