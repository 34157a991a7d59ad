//! Random identifiers.

use banger_model::{Error, Result, VmId};

/// This many random bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: usize) -> Result<String> {
    let mut buffer = vec![0; bytes];
    fill(&mut buffer)?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A VM id.
pub(crate) fn vm_id() -> Result<VmId> {
    let mut bytes = [0; 6];
    fill(&mut bytes)?;
    Ok(VmId::from_bytes(bytes))
}

/// One of `choices`, which is not empty.
pub(crate) fn pick<'a>(choices: &[&'a str]) -> Result<&'a str> {
    let mut bytes = [0; 4];
    fill(&mut bytes)?;
    let number = u32::from_le_bytes(bytes) as usize;
    choices
        .get(number % choices.len().max(1))
        .copied()
        .ok_or_else(|| Error::internal("nothing to choose from"))
}

fn fill(buffer: &mut [u8]) -> Result<()> {
    getrandom::fill(buffer)
        .map_err(|error| Error::internal("the kernel gave no random bytes").because(error))
}
