//! Maps of sparse files: which pieces of a file an archive holds.

use banger_model::Result;

use super::Segment;
use super::header::number;
use crate::refuse;

/// A map while it is read: pieces in rising order that do not overlap.
#[derive(Debug)]
pub(super) struct Map {
    segments: Vec<Segment>,
    limit: usize,
    /// How many pieces were named, empty ones included.
    named: usize,
}

impl Map {
    /// An empty map that takes up to `limit` pieces.
    pub(super) fn new(limit: usize) -> Self {
        Map {
            segments: Vec::new(),
            limit,
            named: 0,
        }
    }

    /// Adds a piece. Empty ones, which mark the end, are dropped; adjacent ones become one.
    pub(super) fn add(&mut self, offset: u64, length: u64) -> Result<()> {
        self.named += 1;
        if self.named > self.limit {
            return Err(refuse(format!(
                "it is a sparse file of more than {} pieces",
                self.limit
            )));
        }
        let last = self.segments.last_mut();
        let end = last.as_ref().map_or(0, |last| last.offset + last.length);
        if offset < end
            || offset
                .checked_add(length)
                .is_none_or(|end| end > i64::MAX as u64)
        {
            return Err(refuse("the pieces of a sparse file overlap"));
        }
        match last {
            _ if length == 0 => {}
            Some(last) if offset == end => last.length += length,
            _ => self.segments.push(Segment { offset, length }),
        }
        Ok(())
    }

    /// Adds the pieces that a GNU header or an extension of it lists, up to the first blank.
    pub(super) fn add_list(&mut self, list: &[u8]) -> Result<()> {
        for pair in list.chunks_exact(24) {
            if pair[0] == 0 {
                break;
            }
            let read = |field: &[u8]| number(field).and_then(|value| u64::try_from(value).ok());
            let (Some(offset), Some(length)) = (read(&pair[..12]), read(&pair[12..])) else {
                return Err(refuse("the map of a sparse file has no numbers"));
            };
            self.add(offset, length)?;
        }
        Ok(())
    }

    pub(super) fn into_segments(self) -> Vec<Segment> {
        self.segments
    }
}

/// Refuses a map that does not fit a file of `size` bytes of which `stored` are in the archive.
pub(super) fn check(segments: &[Segment], size: u64, stored: u64) -> Result<()> {
    let end = segments.last().map_or(0, |last| last.offset + last.length);
    let total: u64 = segments.iter().map(|segment| segment.length).sum();
    if end > size || total != stored {
        return Err(refuse(
            "the map of a sparse file does not fit what is stored of it",
        ));
    }
    Ok(())
}
