//! CRC-32C, as ext4 computes it: no inversion at the end, so that pieces can be chained.

const TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// Continues `crc` with `bytes`; begin with all ones.
pub(super) fn crc32c(mut crc: u32, bytes: &[u8]) -> u32 {
    let mut eights = bytes.chunks_exact(8);
    for eight in &mut eights {
        let low = crc ^ u32::from_le_bytes([eight[0], eight[1], eight[2], eight[3]]);
        let index = |value: u32, shift: u32| (value >> shift & 0xff) as usize;
        crc = TABLES[7][index(low, 0)]
            ^ TABLES[6][index(low, 8)]
            ^ TABLES[5][index(low, 16)]
            ^ TABLES[4][index(low, 24)]
            ^ TABLES[3][usize::from(eight[4])]
            ^ TABLES[2][usize::from(eight[5])]
            ^ TABLES[1][usize::from(eight[6])]
            ^ TABLES[0][usize::from(eight[7])];
    }
    for byte in eights.remainder() {
        crc = crc >> 8 ^ TABLES[0][((crc ^ u32::from(*byte)) & 0xff) as usize];
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_standard_checksum_however_it_is_cut() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        let bytes: Vec<u8> = (0..100).collect();
        let whole = crc32c(!0, &bytes);
        for cut in 0..bytes.len() {
            assert_eq!(crc32c(crc32c(!0, &bytes[..cut]), &bytes[cut..]), whole);
        }
    }
}
