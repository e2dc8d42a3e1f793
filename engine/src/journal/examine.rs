//! The first half of recovery: finds the valid end of the journal and what is known to be durable, and
//! changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Cut;
use super::batch::{BLOCK_BYTES, BatchHeader, BatchSequence, is_zero};
use super::chain::Chain;
use super::file::SegmentFile;
use super::index::SegmentIndex;
use super::mark::Mark;
use super::rules::{Findings, Verdict, decide};
use super::segment::{HeaderRead, SegmentHeader, segment_path};
use super::walk::{CHUNK_BYTES, Step, Walker};
use crate::disk::Disk;
use crate::error::{Error, Result};

/// What a journal's folder holds.
#[derive(Debug)]
pub(super) struct Examined {
    /// Segments with batches of the journal, oldest first; the last is `last`.
    pub(super) segments: Vec<u64>,
    pub(super) last: Option<LastSegment>,
    /// Newest batch that is known to have been durable: those after it may be only in the page cache.
    pub(super) durable: BatchSequence,
    /// The valid end.
    pub(super) chain: Chain,
    /// Highest incarnation that was seen anywhere.
    pub(super) incarnation: u64,
    /// Files whose rest behind an offset is superseded or unused.
    pub(super) excess: Vec<(u64, u64)>,
    /// Segments all of whose batches are superseded, or that hold nothing but a torn write.
    pub(super) discard: Vec<u64>,
    /// Prepared segments, all zeros, and their lengths.
    pub(super) blank: Vec<(u64, u64)>,
    pub(super) cut: Option<Cut>,
}

/// The newest segment that has a valid header.
#[derive(Debug)]
pub(super) struct LastSegment {
    pub(super) header: Arc<SegmentHeader>,
    pub(super) file: SegmentFile,
    pub(super) index: SegmentIndex,
}

type NumberedHeader = (u64, HeaderRead);

struct Examiner<'a> {
    disk: &'a Disk,
    dir: &'a Path,
    mark: &'a Mark,
    scratch: Vec<u8>,
}

/// What stands behind the valid end.
#[derive(Debug, Default)]
struct Beyond {
    has_bytes: bool,
    durable_claim: BatchSequence,
    incarnation: u64,
}

/// Examines the segments from the one that holds the newest recorded batch on; older ones are not read.
pub(super) fn examine(disk: &Disk, dir: &Path, numbers: &[u64], mark: &Mark) -> Result<Examined> {
    let mut examiner = Examiner { disk, dir, mark, scratch: Vec::new() };
    let (older, headers) = examiner.headers(numbers)?;
    let mut valid = Vec::new();
    let mut invalid = Vec::new();
    for (number, header) in headers {
        match header {
            HeaderRead::Valid(header) => valid.push(header),
            HeaderRead::Blank => invalid.push((number, "the header of a segment is missing")),
            HeaderRead::Invalid(detail) => invalid.push((number, detail)),
        }
    }
    let mut examined = Examined {
        segments: older,
        last: None,
        durable: mark.batch,
        chain: Chain::new(0, 0, vec![0; usize::from(mark.shards)]),
        incarnation: mark.incarnation,
        excess: Vec::new(),
        discard: Vec::new(),
        blank: Vec::new(),
        cut: None,
    };
    // A segment without a header in front of one that does not begin the journal: what it held is unknown.
    if let (Some(&(number, detail)), Some(first)) = (invalid.first(), valid.first())
        && number < first.number
        && first.first_batch > 1
    {
        return Err(examiner.damaged(number, 0, detail));
    }
    for (header, next) in valid.iter().zip(valid.iter().skip(1)) {
        examiner.closed(&mut examined, header, next, &invalid)?;
    }
    examiner.last(&mut examined, valid.last(), &invalid)?;
    Ok(examined)
}

impl Examiner<'_> {
    /// Headers of the segments that are to be examined, and the numbers of the older ones.
    fn headers(&self, numbers: &[u64]) -> Result<(Vec<u64>, Vec<NumberedHeader>)> {
        let mut headers = Vec::new();
        let mut older = 0;
        for (index, &number) in numbers.iter().enumerate().rev() {
            let file = self.open(number)?;
            let header = SegmentHeader::read(&file)?;
            let mut is_enough = false;
            if let HeaderRead::Valid(header) = &header {
                header.check_belongs(file.path(), number, self.mark.journal_id, self.mark.shards)?;
                // Not "or the next batch": a recovery that was interrupted may have left batches after the
                // recorded one in the segment before as well.
                is_enough = header.first_batch <= self.mark.batch;
            }
            headers.push((number, header));
            if is_enough {
                older = index;
                break;
            }
        }
        headers.reverse();
        Ok((numbers[..older].to_vec(), headers))
    }

    /// Checks a segment that another one follows. Its batches end where the next one's begin: what stands
    /// behind was copied into the next one, or was torn.
    fn closed(
        &mut self,
        examined: &mut Examined,
        header: &Arc<SegmentHeader>,
        next: &SegmentHeader,
        invalid: &[(u64, &'static str)],
    ) -> Result<()> {
        if next.first_batch < header.first_batch {
            return Err(self.damaged(next.number, 0, "it begins before the segment that precedes it"));
        }
        let (mut walker, mut chain, mut index) = self.begin(header)?;
        let fault = self.walk(&mut walker, header, &mut chain, &mut index, next.first_batch, &mut 0)?;
        if chain.last_batch + 1 < next.first_batch {
            let (offset, detail) = fault;
            let lost = invalid.iter().find(|(n, _)| (header.number..next.number).contains(n));
            return Err(match lost {
                Some(&(number, detail)) if offset.is_none() => self.damaged(number, 0, detail),
                _ => self.verdict_of_damage(header.number, offset.unwrap_or(index.end), detail, true),
            });
        }
        if chain.last_checksum != next.previous_checksum || chain.last_sequence != next.base {
            return Err(self.damaged(next.number, 0, "it does not continue the segment that precedes it"));
        }
        examined.incarnation = examined.incarnation.max(header.incarnation);
        if header.first_batch == next.first_batch {
            examined.discard.push(header.number);
            return Ok(());
        }
        if walker.file().len()? > index.end {
            examined.excess.push((header.number, index.end));
        }
        examined.segments.push(header.number);
        Ok(())
    }

    /// Checks the newest segment and decides on what stands behind its last valid batch.
    fn last(
        &mut self,
        examined: &mut Examined,
        header: Option<&Arc<SegmentHeader>>,
        invalid: &[(u64, &'static str)],
    ) -> Result<()> {
        let mut fault = (None, "the batch is missing");
        let mut at = None;
        let mut claimed = 0;
        if let Some(header) = header {
            let (mut walker, mut chain, mut index) = self.begin(header)?;
            claimed = header.first_batch - 1;
            fault = self.walk(&mut walker, header, &mut chain, &mut index, u64::MAX, &mut claimed)?;
            at = Some((header.number, index.end));
            examined.segments.push(header.number);
            examined.incarnation = examined.incarnation.max(header.incarnation);
            examined.chain = chain;
            let file = walker.file().clone();
            examined.last = Some(LastSegment { header: header.clone(), file, index });
        }
        examined.durable = examined.durable.max(claimed);
        let trailing = invalid.iter().filter(|&&(n, _)| header.is_none_or(|h| n > h.number));
        let discarded = invalid.iter().filter(|&&(n, _)| header.is_some_and(|h| n < h.number));
        examined.discard.extend(discarded.map(|&(number, _)| number));
        let lost = examined.chain.last_batch + 1;
        let mut beyond = Beyond::default();
        if let Some(last) = &examined.last {
            let (file, from) = (last.file.clone(), fault.0.unwrap_or(last.index.end));
            self.look_beyond(&file, from, lost, last.header.incarnation, &mut beyond)?;
        }
        for &(number, detail) in trailing {
            let file = self.open(number)?;
            let mut here = Beyond::default();
            let incarnation = header.map_or(0, |h| h.incarnation);
            self.look_beyond(&file, 0, lost, incarnation, &mut here)?;
            if here.has_bytes {
                examined.discard.push(number);
                if !beyond.has_bytes {
                    (at, fault) = (Some((number, 0)), (Some(0), detail));
                }
            } else {
                examined.blank.push((number, file.len()?));
            }
            beyond.has_bytes |= here.has_bytes;
            beyond.durable_claim = beyond.durable_claim.max(here.durable_claim);
            beyond.incarnation = beyond.incarnation.max(here.incarnation);
        }
        examined.incarnation = examined.incarnation.max(beyond.incarnation);
        let findings = Findings {
            has_bytes: beyond.has_bytes,
            later_claim: beyond.durable_claim >= lost,
            recorded: self.mark.batch >= lost,
        };
        let (number, offset) = at.unwrap_or((1, 0));
        let offset = fault.0.unwrap_or(offset);
        match decide(&findings) {
            Verdict::End => {}
            Verdict::Cut => {
                examined.cut = Some(Cut { file: self.path(number), offset, batch: lost, detail: fault.1.to_owned() });
            }
            Verdict::Damage(_) => {
                return Err(self.verdict_of_damage(number, offset, fault.1, findings.later_claim));
            }
        }
        Ok(())
    }

    fn begin(&self, header: &Arc<SegmentHeader>) -> Result<(Walker, Chain, SegmentIndex)> {
        let file = self.open(header.number)?;
        let chain = Chain::new(header.first_batch - 1, header.previous_checksum, header.base.clone());
        Ok((Walker::over(file, header)?, chain, SegmentIndex::new(header)))
    }

    /// Follows valid batches up to `limit`. Returns what ended the walk: where and why, without a place when
    /// there was nothing more.
    fn walk(
        &mut self,
        walker: &mut Walker,
        header: &SegmentHeader,
        chain: &mut Chain,
        index: &mut SegmentIndex,
        limit: BatchSequence,
        claimed: &mut BatchSequence,
    ) -> Result<(Option<u64>, &'static str)> {
        while chain.last_batch + 1 < limit {
            match walker.step()? {
                Step::End { .. } => return Ok((None, "the batch is missing")),
                Step::Invalid { offset, detail } => return Ok((Some(offset), detail)),
                Step::Batch { offset, batch } => {
                    if let Err(fault) = batch.check(&mut self.scratch) {
                        return Ok((Some(offset), fault.detail));
                    }
                    if let Err(detail) = chain.follow(&batch) {
                        return Ok((Some(offset), detail));
                    }
                    index.add(header, batch.header.total_bytes(), batch.runs());
                    *claimed = (*claimed).max(batch.header.durable_up_to);
                }
            }
        }
        Ok((None, "the batch is missing"))
    }

    /// Looks at every block of a file from `from` on for batches after `lost` that say what was durable.
    /// Those of older incarnations say nothing. Newer ones count as well: a copy that an interrupted recovery
    /// left claims no more than that recovery knew, so it never contradicts a torn tail, whereas a real
    /// batch of an incarnation whose segment header is damaged does.
    fn look_beyond(
        &self,
        file: &SegmentFile,
        from: u64,
        lost: BatchSequence,
        incarnation: u64,
        beyond: &mut Beyond,
    ) -> Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES];
        debug_assert!(from.is_multiple_of(BLOCK_BYTES as u64));
        let mut at = from;
        loop {
            let length = file.read_at(&mut chunk, at)?;
            let bytes = &chunk[..length];
            if length == 0 {
                return Ok(());
            }
            if !is_zero(bytes) {
                beyond.has_bytes = true;
                for block in bytes.chunks(BLOCK_BYTES).filter(|block| BatchHeader::may_begin(block)) {
                    if let Ok(header) = BatchHeader::decode(block)
                        && header.journal_id == self.mark.journal_id
                        && header.incarnation >= incarnation
                        && header.sequence > lost
                    {
                        beyond.durable_claim = beyond.durable_claim.max(header.durable_up_to);
                        beyond.incarnation = beyond.incarnation.max(header.incarnation);
                    }
                }
            }
            at += length as u64;
        }
    }

    fn verdict_of_damage(&self, number: u64, offset: u64, detail: &str, later_claim: bool) -> Error {
        let findings = Findings { has_bytes: true, later_claim, recorded: !later_claim };
        match decide(&findings) {
            Verdict::Damage(why) => self.damaged(number, offset, &format!("{detail}, and {why}")),
            Verdict::Cut | Verdict::End => self.damaged(number, offset, detail),
        }
    }

    fn damaged(&self, number: u64, offset: u64, detail: &str) -> Error {
        Error::Damaged { file: self.path(number), offset, detail: detail.to_owned() }
    }

    fn open(&self, number: u64) -> Result<SegmentFile> {
        SegmentFile::open(self.disk, self.dir, number)
    }

    fn path(&self, number: u64) -> PathBuf {
        segment_path(self.dir, number)
    }
}
