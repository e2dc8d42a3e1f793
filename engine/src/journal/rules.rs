//! The rule of recovery, as a table: what to do at the first place K where no valid batch stands.

/// What recovery saw at and beyond K.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Findings {
    /// Anything but zeros, from K to the end of the newest segment file.
    pub(super) has_bytes: bool,
    /// A later batch of the same incarnation (or of a newer one), or the header of a later segment, says
    /// that K was durable.
    pub(super) later_claim: bool,
    /// A checkpoint or the file `durable-end` says that K was durable.
    pub(super) recorded: bool,
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The journal ends before K and there is nothing behind.
    End,
    /// K is the torn tail of a write that was never acknowledged: it is discarded.
    Cut,
    /// K was durable and is not what was written: the node refuses to start.
    Damage(&'static str),
}

/// One row; `None` stands for either.
#[derive(Debug)]
pub(super) struct Rule {
    has_bytes: Option<bool>,
    later_claim: Option<bool>,
    recorded: Option<bool>,
    pub(super) verdict: Verdict,
}

/// The first row that fits decides. A batch is acknowledged only after its sync, and whatever is written
/// after that sync claims it: so a K that nobody claims was never acknowledged, but for the very last batch,
/// whose damage cannot be told from a torn tail.
pub(super) const RULES: [Rule; 4] = [
    Rule {
        has_bytes: None,
        later_claim: Some(true),
        recorded: None,
        verdict: Verdict::Damage("what was written later says that it was durable"),
    },
    Rule {
        has_bytes: None,
        later_claim: Some(false),
        recorded: Some(true),
        verdict: Verdict::Damage("a checkpoint or the last stop recorded that it was durable"),
    },
    Rule { has_bytes: Some(true), later_claim: Some(false), recorded: Some(false), verdict: Verdict::Cut },
    Rule { has_bytes: Some(false), later_claim: Some(false), recorded: Some(false), verdict: Verdict::End },
];

impl Rule {
    pub(super) fn fits(&self, findings: &Findings) -> bool {
        let is = |condition: Option<bool>, found: bool| condition.is_none_or(|c| c == found);
        is(self.has_bytes, findings.has_bytes)
            && is(self.later_claim, findings.later_claim)
            && is(self.recorded, findings.recorded)
    }
}

/// Looks the findings up.
pub(super) fn decide(findings: &Findings) -> Verdict {
    let fitting = RULES.iter().find(|rule| rule.fits(findings));
    fitting.map_or(Verdict::Damage("no rule of recovery fits"), |rule| rule.verdict)
}
