//! A repository into a guest.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use banger_guest_api::CopyIn;
use banger_guest_api::client;
use banger_model::{Code, Error, Result};

use super::Remote;
use crate::Summary;
use crate::plan::Plan;
use crate::stop::Stop;

impl Remote {
    /// Copies a repository in as it was planned. It takes the place of what was there at once
    /// and whole; until then, and after an error, everything is as it was. `temporary` is an
    /// existing directory on the host with room for the repository's objects. `carried` is told
    /// the bytes of each piece of the archive. Dropping the future ends the copy; `carried` is
    /// dropped once nothing works on it here any more and `temporary` is empty again.
    ///
    /// # Errors
    /// Those of [`Plan::write_archive`] and [`client::copy_in`].
    pub async fn copy_in(
        &self,
        plan: Arc<Plan>,
        temporary: &Path,
        carried: impl Fn(u64) + Send + 'static,
    ) -> Result<Summary> {
        let request = CopyIn {
            path: self.path.clone().into(),
            name: "repo".into(),
            owner: owner(&self.path),
            keep_owners: false,
            exact: true,
            replace: true,
        };
        let temporary = temporary.to_owned();
        let (outcome, written) = tokio::sync::oneshot::channel();
        let stop = Stop::default();
        let given_up = stop.on_drop();
        let write = move |archive: &mut dyn Write| {
            let summary = plan.write_archive_until(&stop, &temporary, Counted(archive, &carried));
            let result = match &summary {
                Ok(summary) => Ok(summary.copied),
                // Ours to explain: the guest only sees an archive without an end.
                Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
            };
            // Nobody waits for it when the copy was given up.
            outcome.send(summary).ok();
            result
        };
        let copied =
            client::copy_in_until(&self.agent, request, write, move || drop(given_up)).await;
        match (copied, written.await) {
            (_, Ok(Err(error))) if error.code() != Code::Cancelled => Err(error),
            (Err(error), _) => Err(error),
            (Ok(_), Ok(summary)) => summary,
            (Ok(_), Err(_)) => Err(Error::internal("the copy ended without a result")),
        }
    }
}

/// Tells how many bytes of an archive are written.
struct Counted<'a, W, F>(W, &'a F);

impl<W: Write, F: Fn(u64)> Write for Counted<'_, W, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.0.write(bytes)?;
        self.1(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Who owns a workspace at this path: the user whose home it is in, by the custom of `/home`.
fn owner(path: &OsStr) -> Option<String> {
    let rest = path.as_bytes().strip_prefix(b"/home/")?;
    let user = rest.split(|byte| *byte == b'/').next()?;
    String::from_utf8(user.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_home_owns_what_is_copied_there() {
        let owner = |path: &str| owner(OsStr::new(path));
        assert_eq!(owner("/home/dev/repo").as_deref(), Some("dev"));
        assert_eq!(owner("/root/repo"), None);
    }
}
