//! What clients were told is done, which has to be in the stream for ever, and once.
#![allow(clippy::unwrap_used)]

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;

/// A line of the answer to a batch.
#[derive(Deserialize)]
struct Answer<'a> {
    status: u16,
    #[serde(borrow)]
    body: Body<'a>,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    transaction_id: Option<Cow<'a, str>>,
}

/// A line of a node's events; the last one is a cursor.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    data: Option<Data<'a>>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    transaction_id: Cow<'a, str>,
    #[serde(borrow)]
    reference_id: Option<Cow<'a, str>>,
}

/// The references of requests that were answered with 201, with the transactions that the answers named.
#[derive(Default)]
pub(crate) struct Acknowledged(HashMap<String, String>);

impl Acknowledged {
    /// Takes the answers to a batch, of whose items `reference_of` knows the references.
    pub(crate) fn take(&mut self, answers: &str, reference_of: impl Fn(u64) -> String) {
        for (item, answer) in (0..).zip(answers.lines()) {
            let answer: Answer<'_> = serde_json::from_str(answer).unwrap();
            if answer.status == 201 {
                let before = self.0.insert(reference_of(item), answer.body.transaction_id.unwrap().into_owned());
                assert_eq!(before, None, "{} was answered twice", reference_of(item));
            }
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether each is among a node's events once, as the transaction that was answered.
    ///
    /// # Errors
    /// The first that is not.
    pub(crate) fn are_in(&self, events: &str) -> Result<(), String> {
        let mut found: HashMap<Cow<'_, str>, Cow<'_, str>> = HashMap::new();
        for line in events.lines() {
            let line: Line<'_> = serde_json::from_str(line).unwrap();
            let Some(Data { transaction_id, reference_id: Some(reference) }) = line.data else { continue };
            if let Some(before) = found.insert(reference.clone(), transaction_id.clone()) {
                return Err(format!("{reference} was done twice: as {before} and as {transaction_id}"));
            }
        }
        for (reference, answered) in &self.0 {
            match found.get(reference.as_str()) {
                Some(transaction) if transaction == answered => {}
                Some(transaction) => {
                    return Err(format!("{reference} was answered as {answered}, and is {transaction}"));
                }
                None => return Err(format!("{reference} was acknowledged as {answered} and is not in the stream")),
            }
        }
        Ok(())
    }
}
