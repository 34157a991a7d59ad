//! One maker per name.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use banger_model::{Code, Error, ImageName, Result};

/// The names of images that are being made, replaced or removed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims(Arc<Mutex<HashSet<ImageName>>>);

impl Claims {
    /// Takes a name for as long as the claim is kept.
    ///
    /// # Errors
    /// `conflict` when somebody else has it.
    pub(crate) fn take(&self, name: &ImageName) -> Result<Claim> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.insert(name.clone()) {
            return Err(Error::new(
                Code::Conflict,
                format!("the image `{name}` is being made or removed by somebody else"),
            )
            .hint("wait for that to end and try again"));
        }
        Ok(Claim {
            claims: self.clone(),
            name: name.clone(),
        })
    }
}

/// A name that nobody else may make or remove; given back when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Claims,
    name: ImageName,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut names = self.claims.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_maker_at_a_time() {
        let claims = Claims::default();
        let (one, other) = ("one".parse().unwrap(), "other".parse().unwrap());
        let claim = claims.take(&one).unwrap();
        assert_eq!(claims.take(&one).unwrap_err().code(), Code::Conflict);
        claims.take(&other).unwrap();
        drop(claim);
        claims.take(&one).unwrap();
    }
}
