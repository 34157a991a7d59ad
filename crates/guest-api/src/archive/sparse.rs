//! Files with holes, in the form GNU tar calls 1.0: the data begins with a map, decimal numbers
//! one per line (how many pieces, then each one's offset and length), padded to a block.

use std::io::{self, Read};

use super::header::{BLOCK, decimal_number};
use super::invalid;

/// More pieces than this are written as if the rest had no holes.
const MAX_PIECES: usize = 1 << 16;
/// The longest number.
const MAX_DIGITS: usize = 20;

/// A piece of a file that is not a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// The pieces of an open file of this size, in order; `None` when it has no holes, or its file
/// system cannot tell.
pub(super) fn pieces(file: &std::fs::File, size: u64) -> Option<Vec<Piece>> {
    use rustix::fs::{SeekFrom, seek};
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start.min(size),
            // A hole up to the end.
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => return None,
        };
        let end = if pieces.len() + 1 == MAX_PIECES {
            size
        } else {
            seek(file, SeekFrom::Hole(start)).ok()?.min(size)
        };
        if start < end {
            pieces.push(Piece {
                offset: start,
                length: end - start,
            });
        }
        // A file that shrinks meanwhile cannot hold us here.
        at = end.max(start).max(at + 1);
    }
    let whole = pieces.first().is_some_and(|piece| piece.length == size);
    (!whole).then_some(pieces)
}

/// The map, padded. A last empty piece marks the file's end, as GNU tar has it.
pub(super) fn encode(pieces: &[Piece], size: u64) -> Vec<u8> {
    let end = Piece {
        offset: size,
        length: 0,
    };
    let mut map = format!("{}\n", pieces.len() + 1);
    for piece in pieces.iter().chain([&end]) {
        map.push_str(&format!("{}\n{}\n", piece.offset, piece.length));
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// Reads the map from the beginning of an entry's data. Gives the pieces, which are in order,
/// do not overlap, and lie within `size`, and the bytes the map took.
///
/// # Errors
/// Those of the reader, and `InvalidData` for a map that is none.
pub(super) fn decode(reader: &mut impl Read, size: u64) -> io::Result<(Vec<Piece>, u64)> {
    let mut lines = Lines {
        reader,
        block: [0; BLOCK],
        at: BLOCK,
        taken: 0,
    };
    let count = lines.number()?;
    if count > MAX_PIECES as u64 + 1 {
        return Err(invalid("the archive holds a file of too many pieces"));
    }
    let mut pieces = Vec::new();
    let mut end = 0;
    for _ in 0..count {
        let piece = Piece {
            offset: lines.number()?,
            length: lines.number()?,
        };
        let next = piece.offset.checked_add(piece.length);
        if piece.offset < end || next.is_none_or(|next| next > size) {
            return Err(invalid("the archive holds a file whose pieces overlap"));
        }
        end = piece.offset + piece.length;
        pieces.push(piece);
    }
    Ok((pieces, lines.taken))
}

struct Lines<'a, R> {
    reader: &'a mut R,
    block: [u8; BLOCK],
    at: usize,
    taken: u64,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> io::Result<u64> {
        let mut line = Vec::with_capacity(MAX_DIGITS);
        loop {
            if self.at == BLOCK {
                self.reader.read_exact(&mut self.block)?;
                self.at = 0;
                self.taken += BLOCK as u64;
            }
            let byte = self.block[self.at];
            self.at += 1;
            if byte == b'\n' {
                return decimal_number(&line);
            }
            if line.len() == MAX_DIGITS {
                return decimal_number(b"");
            }
            line.push(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_map_survives(gaps in proptest::collection::vec((0u64..1 << 40, 1u64..1 << 40), 0..200)) {
            let mut at = 0;
            let pieces: Vec<Piece> = gaps
                .into_iter()
                .map(|(gap, length)| {
                    let offset = at + gap;
                    at = offset + length;
                    Piece { offset, length }
                })
                .collect();
            let bytes = encode(&pieces, at);
            let (mut read, taken) = decode(&mut bytes.as_slice(), at).unwrap();
            prop_assert_eq!(taken, bytes.len() as u64);
            prop_assert_eq!(read.pop(), Some(Piece { offset: at, length: 0 }));
            prop_assert_eq!(read, pieces);
        }

        #[test]
        fn garbage_never_panics(bytes in "[0-9\n]{0,2000}") {
            if let Ok((pieces, _)) = decode(&mut bytes.as_bytes(), 1000) {
                prop_assert!(pieces.iter().all(|piece| piece.offset + piece.length <= 1000));
            }
        }
    }

    #[test]
    fn maps_that_lie_are_refused() {
        let padded = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            bytes.resize(BLOCK, b'\n');
            bytes
        };
        for map in [
            "1\n0\n11\n",
            "2\n0\n5\n4\n1\n",
            "1\n18446744073709551615\n1\n",
            "99999999\n",
            "1\n99999999999999999999999\n1\n",
        ] {
            assert!(decode(&mut padded(map).as_slice(), 10).is_err(), "{map}");
        }
    }
}
