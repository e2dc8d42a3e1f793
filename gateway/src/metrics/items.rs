//! What is counted of the items of batches.
//!
//! A batch is answered with 207 whatever became of its items, so they have counters of their own.

use std::fmt::Write as _;

use meed_schemas::http::problem::Kind;

use super::{CODES, CellOf, SHED, Shed, WorkerMetrics, add, code_index, head};
use crate::route::Endpoint;

/// The routes that take batches.
pub(super) const BATCHES: [Endpoint; 2] = [Endpoint::Batch, Endpoint::PosBatch];

/// What became of the items of one batch. Counted apart from the worker's cells, and added to them once: a batch may
/// have thousands.
#[derive(Debug, Default)]
pub struct ItemCounts {
    codes: [u64; CODES.len() + 1],
    shed: [u64; SHED.len()],
}

impl ItemCounts {
    /// An item was answered with this status.
    pub fn answered(&mut self, code: u16) {
        self.codes[code_index(code)] += 1;
    }

    /// An item has no answer of its account but this problem.
    pub fn refused(&mut self, kind: Kind) {
        self.answered(kind.status());
        if let Some(reason) = Shed::of(kind) {
            self.shed[reason as usize] += 1;
        }
    }
}

impl WorkerMetrics {
    /// A batch was answered.
    pub fn batch(&self, endpoint: Endpoint, counts: &ItemCounts) {
        let Some(route) = BATCHES.iter().position(|batch| *batch == endpoint) else { return };
        let codes = self.items[route].iter().zip(counts.codes);
        for (cell, count) in codes.chain(self.shed.iter().zip(counts.shed)) {
            if count > 0 {
                add(cell, count);
            }
        }
    }
}

/// The items of batches, in the Prometheus text format.
pub(super) fn render(out: &mut String, total: &dyn Fn(CellOf<'_>) -> u64) {
    head(out, "meed_batch_items_total", "counter", "Answered items of batches.");
    for (route, endpoint) in BATCHES.iter().enumerate() {
        for index in 0..=CODES.len() {
            let count = total(&|worker| &worker.items[route][index]);
            let code = CODES.get(index);
            // Failures stand here from the start: a rate does not see the first of a counter that begins with it.
            if count > 0 || code.is_some_and(|code| *code >= 500) {
                let code = code.map_or("other".to_owned(), u16::to_string);
                let route = endpoint.template();
                let _ = writeln!(out, "meed_batch_items_total{{route=\"{route}\",code=\"{code}\"}} {count}");
            }
        }
    }
}
