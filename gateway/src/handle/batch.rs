//! Many operations in one request: read whole, executed in windows, answered item by item when all are
//! durable.

use std::collections::VecDeque;

use meed_schemas::command::Request;
use meed_schemas::http::problem::{self, Kind, Problem};
use meed_schemas::http::views::BatchWriter;
use meed_schemas::http::{BatchError, BatchFormat, Decoded, Operation, decode_batch, status_of, write_answer};
use meed_schemas::outcome::Reply as Outcome;

use super::desk::{Desk, Identifier, ProgramFacts, refused, status};
use super::unanswered;
use crate::body::BodyFormat;
use crate::config::Settings;
use crate::metrics::ItemCounts;
use crate::reach::Window;
use crate::reply::{Media, Reply};

/// Most commands of a batch that get their permits together, all or none.
const WINDOW_ITEMS: usize = 1_000;
/// Bytes that a permit counts for one item.
const ITEM_BYTES: u32 = 512;

/// What became of an item.
enum Item {
    /// Refused before it reached its account.
    Refused(Problem),
    /// Sent to its account; its answer is still to come.
    Sent,
    /// Answered.
    Answered(Outcome),
}

/// Commands of one window: no more than there are permits for when nothing else is under way, whatever their accounts.
/// A larger one would be refused for ever.
fn window_items(settings: &Settings) -> usize {
    let commands = settings.admission_commands.min(settings.admission_commands_per_shard) as usize;
    let items = settings.admission_bytes.as_usize() / ITEM_BYTES as usize;
    WINDOW_ITEMS.min(commands).min(items).max(1)
}

impl Desk<'_> {
    /// Executes a batch. `default` is the operation of items that name none.
    pub(super) async fn batch(&self, default: Option<Operation>) -> Result<Reply, Problem> {
        let format = match self.call.body_format {
            BodyFormat::Json => BatchFormat::Json,
            BodyFormat::NdJson => BatchFormat::Ndjson,
        };
        let found = self.find_program().await?;
        let currency = Self::currency_of(found.as_ref());
        let items_max = self.context.shared.settings.batch_items as usize;
        let decoded = decode_batch(&self.call.body, format, default, currency, items_max).map_err(|e| match e {
            BatchError::TooManyItems(most) => Problem::new(
                Kind::PayloadTooLarge,
                format!("A batch may have at most {most} items. Nothing was executed; send several batches."),
            ),
            BatchError::BadRequest(error) => error.into(),
        })?;
        let program = found.ok_or_else(|| Problem::of(Kind::UnknownProgram))?;
        let mut items = Vec::with_capacity(decoded.len());
        let mut under_way: VecDeque<(Vec<usize>, Window)> = VecDeque::new();
        let mut window: (Vec<usize>, Vec<Request>) = Default::default();
        let window_items = window_items(&self.context.shared.settings);
        for (index, item) in decoded.into_iter().enumerate() {
            let request = match item {
                Ok(item) => self.item_request(item).await,
                Err(error) => Err(error.into()),
            };
            match request {
                Ok(request) => {
                    items.push(Item::Sent);
                    window.0.push(index);
                    window.1.push(request);
                }
                Err(problem) => items.push(Item::Refused(problem)),
            }
            if window.0.len() == window_items {
                self.send_window(&mut window, &mut under_way, &mut items).await;
            }
        }
        self.send_window(&mut window, &mut under_way, &mut items).await;
        while let Some(sent) = under_way.pop_front() {
            take_answers(sent, &mut items).await;
        }
        let mut body = Vec::with_capacity(64 + items.len() * 512);
        let facts = self.facts(&program);
        let mut writer = BatchWriter::start(&mut body, format);
        let mut counts = ItemCounts::default();
        for item in items {
            self.write_item(&mut body, &mut writer, item, &facts, &mut counts);
        }
        writer.end(&mut body);
        self.context.metrics.batch(self.call.route.endpoint(), &counts);
        let media = match format {
            BatchFormat::Json => Media::Json,
            BatchFormat::Ndjson => Media::NdJson,
        };
        Ok(Reply::new(status(207), media, body))
    }

    async fn item_request(&self, mut item: Decoded<'_>) -> Result<Request, Problem> {
        if item.operation == Operation::Adjust && !self.call.caller.roles.admin {
            return Err(Problem::of(Kind::Forbidden));
        }
        let key = item.idempotency_key.take();
        let keys = self.keys(&mut item, key.as_deref())?;
        let identifier = item.account.take().unwrap_or_default();
        let field = if item.operation.is_till() { "user_identifier" } else { "account" };
        let account_id = self.resolve(Identifier::parse(identifier, field)?).await?;
        Ok(self.request(self.member(&account_id), item.command, keys))
    }

    async fn send_window(
        &self,
        window: &mut (Vec<usize>, Vec<Request>),
        under_way: &mut VecDeque<(Vec<usize>, Window)>,
        items: &mut [Item],
    ) {
        let (indexes, requests) = std::mem::take(window);
        if requests.is_empty() {
            return;
        }
        if under_way.len() == self.backend.windows_under_way()
            && let Some(sent) = under_way.pop_front()
        {
            take_answers(sent, items).await;
        }
        match self.backend.send_window(requests, ITEM_BYTES, self.admission_wait(), self.left()).await {
            Ok(sent) => under_way.push_back((indexes, sent)),
            Err(why) => {
                for index in indexes {
                    items[index] = Item::Refused(unanswered(why));
                }
            }
        }
    }

    fn write_item(
        &self,
        body: &mut Vec<u8>,
        writer: &mut BatchWriter,
        item: Item,
        facts: &ProgramFacts<'_>,
        counts: &mut ItemCounts,
    ) {
        let problem = match item {
            Item::Answered(Outcome::Executed { record, replayed }) => {
                let code = status_of(&record);
                counts.answered(code);
                return writer.item(body, code, replayed, |out| write_answer(out, &record, facts));
            }
            Item::Answered(Outcome::RefusedBefore { refusal, request_id }) => {
                let code = problem::refusal_status(&refusal);
                counts.answered(code);
                return writer.item(body, code, true, |out| problem::write_refusal(out, &refusal, &request_id, 0));
            }
            Item::Answered(Outcome::Refused(refusal)) => refused(&facts.program, &refusal),
            Item::Refused(problem) => problem,
            // An answer of another kind, or none: what became of it is to be asked by its key.
            Item::Answered(_) | Item::Sent => Problem::of(Kind::OutcomeUnknown),
        };
        counts.refused(problem.kind);
        writer.item(body, problem.kind.status(), false, |out| problem.write(out, self.call.request_id));
    }
}

async fn take_answers((indexes, call): (Vec<usize>, Window), items: &mut [Item]) {
    for (index, outcome) in indexes.into_iter().zip(call.answers().await) {
        items[index] = match outcome {
            Ok(outcome) => Item::Answered(outcome),
            Err(why) => Item::Refused(unanswered(why)),
        };
    }
}
