//! The free blocks of a volume, as one row of numbers.
//!
//! Blocks are given out in order and never come back, so a place is only a position in the row
//! of all free blocks; where that is on disk follows from the few gaps between them.

/// A run of blocks of a file: where in the file, where on disk, how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) logical: u32,
    pub(super) physical: u64,
    pub(super) count: u32,
}

/// The longest run that one extent can describe.
const MAX_EXTENT: u32 = 32_768;

/// The free blocks.
#[derive(Debug, Default)]
pub(crate) struct Space {
    /// Position, first block, and count of every run, in rising order.
    runs: Vec<(u32, u64, u32)>,
    total: u32,
}

impl Space {
    /// Adds free blocks behind all others.
    pub(super) fn add(&mut self, block: u64) {
        match self.runs.last_mut() {
            Some((_, first, count)) if *first + u64::from(*count) == block => *count += 1,
            _ => self.runs.push((self.total, block, 1)),
        }
        self.total += 1;
    }

    /// How many there are.
    pub(crate) fn total(&self) -> u32 {
        self.total
    }

    /// The block at a position.
    pub(super) fn block(&self, position: u32) -> u64 {
        self.run(position, 1).map_or(0, |(block, _)| block)
    }

    /// The block at a position, and how many up to `most` follow it without a gap.
    fn run(&self, position: u32, most: u32) -> Option<(u64, u32)> {
        let at = self.runs.partition_point(|run| run.0 <= position);
        let (start, first, count) = self.runs.get(at.checked_sub(1)?)?;
        let into = position - start;
        let left = count.checked_sub(into).filter(|left| *left > 0)?;
        Some((first + u64::from(into), left.min(most)))
    }

    /// The extents of a file whose block ranges (first, count) are at `position` and behind it.
    /// Beyond the last free block there are none.
    pub(super) fn extents<'a>(
        &'a self,
        mut position: u32,
        ranges: &'a [(u32, u32)],
    ) -> impl Iterator<Item = Extent> + 'a {
        let mut ranges = ranges.iter().copied();
        let mut current = (0, 0);
        std::iter::from_fn(move || {
            while current.1 == 0 {
                current = ranges.next()?;
            }
            let (physical, count) = self.run(position, current.1.min(MAX_EXTENT))?;
            let extent = Extent {
                logical: current.0,
                physical,
                count,
            };
            current = (current.0 + count, current.1 - count);
            position += count;
            Some(extent)
        })
    }

    /// Calls `used` for every run of blocks among the first `count`.
    pub(super) fn used(&self, count: u32, mut used: impl FnMut(u64, u32)) {
        for (start, first, length) in &self.runs {
            if *start < count {
                used(*first, (*length).min(count - start));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_go_around_gaps_and_holes() {
        let mut space = Space::default();
        for block in (10..13).chain(20..40_000) {
            space.add(block);
        }
        assert_eq!(space.total(), 3 + 39_980);
        let extents = |position, ranges: &[(u32, u32)]| {
            let found = space.extents(position, ranges);
            found
                .map(|extent| (extent.logical, extent.physical, extent.count))
                .collect::<Vec<_>>()
        };
        assert_eq!(extents(0, &[(0, 5)]), [(0, 10, 3), (3, 20, 2)]);
        assert_eq!(extents(2, &[(7, 1), (9, 2)]), [(7, 12, 1), (9, 20, 2)]);
        assert_eq!(
            extents(3, &[(0, 32_769)]),
            [(0, 20, 32_768), (32_768, 32_788, 1)]
        );
        assert_eq!(extents(39_982, &[(0, 2)]), [(0, 39_999, 1)]);
        assert_eq!(extents(0, &[]), []);
        assert_eq!(space.block(3), 20);
        let mut used = Vec::new();
        space.used(4, |first, count| used.push((first, count)));
        assert_eq!(used, [(10, 3), (20, 1)]);
    }
}
