//! `banger image load`

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use banger_api::{Client, LoadImage, Operation};
use banger_config::Paths;
use banger_model::{Code, Error, ImageName, IoContext, KernelName, Result};
use bytes::Bytes;
use clap::{Args, ValueHint};
use clap_complete::engine::ArgValueCandidates;
use futures_util::stream;
use tokio::sync::mpsc;

use crate::completion::kernel_names;
use crate::connect::{connect, warn_of_other_release};
use crate::exit::Exit;
use crate::operation::{Followed, OnSignal, follow};
use crate::signals::Signals;
use crate::ui::{Format, Progress, Ui};

/// How much is read at once.
const PIECE: usize = 256 << 10;
/// Pieces that are read ahead.
const AHEAD: usize = 4;

/// Make an image of an archive of `docker save`, or in the OCI layout
///
/// It may be compressed. Prints the name of the image.
#[derive(Args, Debug)]
pub(crate) struct LoadArgs {
    /// The archive; `-` reads it from standard input
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,

    /// Name of the image; the one in the archive when absent
    #[arg(long)]
    name: Option<ImageName>,

    /// Which image, when the archive has several
    #[arg(long, value_name = "REFERENCE")]
    select: Option<String>,

    /// Kernel that its machines boot; the catalog's default when absent
    #[arg(long, add = ArgValueCandidates::new(kernel_names))]
    kernel: Option<KernelName>,

    /// For which machine, where the archive has several: `linux/amd64` when absent
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
}

impl LoadArgs {
    /// Refuses to wait for an archive that somebody would have to type.
    pub(super) fn check(&self) -> Result<()> {
        if self.file != Path::new("-") || !std::io::stdin().is_terminal() {
            return Ok(());
        }
        Err(Error::new(
            Code::InvalidArgument,
            "`image load -` reads an archive from standard input, which is a terminal",
        )
        .hint("pipe it in, such as with `docker save IMAGE | banger image load -`"))
    }
}

pub(crate) async fn cmd_load(ui: &Ui, args: LoadArgs) -> Result<Exit> {
    let (source, length) = open(&args.file)?;
    let request = LoadImage {
        name: args.name.map(String::from),
        select: args.select,
        kernel: args.kernel.map(String::from),
        platform: args.platform,
        length,
    };
    let paths = Paths::from_env()?;
    let mut signals = Signals::listen()?;
    let client = connect(&paths).await?;
    let operation = client.load_image(&request).await?;
    warn_of_other_release(ui, &client);

    let problem = Arc::new(Mutex::new(None));
    let sending = send(&client, &operation, source, args.file, problem.clone());
    let progress = Progress::new(ui);
    let following = follow(
        ui,
        &client,
        &operation,
        &mut signals,
        progress,
        OnSignal::Cancel,
    );
    tokio::pin!(sending, following);
    let followed = tokio::select! {
        followed = &mut following => followed,
        // The outcome of the operation says what became of it.
        _ = &mut sending => following.await,
    };
    let own = problem
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    match (followed, own) {
        // Its failure is only that ours broke off.
        (Err(_), Some(error)) => Err(error),
        (Err(error), None) => Err(error),
        (Ok(Followed::Done), _) => {
            let name = client.operation(&operation.id).await?.subject;
            match ui.format() {
                Format::Table => ui.data(&name)?,
                Format::Json => ui.json(&client.image(&name).await?)?,
            }
            Ok(Exit::SUCCESS)
        }
        (
            Ok(Followed::Cancelled(signal) | Followed::TooLate(signal) | Followed::Left(signal)),
            _,
        ) => Ok(Exit::signal(signal.number())),
    }
}

type Source = Box<dyn Read + Send>;

/// Opens the archive; its length, when it is a file.
fn open(path: &Path) -> Result<(Source, Option<u64>)> {
    if path == Path::new("-") {
        return Ok((Box::new(std::io::stdin()), None));
    }
    let file = File::open(path).at("open", path)?;
    let found = file.metadata().at("look at", path)?;
    if found.is_dir() {
        return Err(Error::new(
            Code::InvalidArgument,
            format!("`{}` is a directory", path.display()),
        )
        .hint("pack an OCI layout first: `tar -C DIR -c . | banger image load -`"));
    }
    let length = found.is_file().then_some(found.len());
    Ok((Box::new(file), length))
}

/// Sends the archive. What goes wrong with reading it is left in `problem`.
async fn send(
    client: &Client,
    operation: &Operation,
    mut source: Source,
    path: PathBuf,
    problem: Arc<Mutex<Option<Error>>>,
) -> Result<()> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    // A thread of its own: reading may block for ever, and must not delay the exit.
    std::thread::Builder::new()
        .name("read the archive".to_owned())
        .spawn(move || {
            loop {
                let mut piece = vec![0; PIECE];
                let read = match source.read(&mut piece) {
                    Ok(0) => return,
                    Ok(read) => {
                        piece.truncate(read);
                        Ok(Bytes::from(piece))
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(error) => {
                        let broken = std::io::Error::from(error.kind());
                        *problem.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some(Error::io("read", &path, error));
                        Err(broken)
                    }
                };
                let last = read.is_err();
                if sender.blocking_send(read).is_err() || last {
                    return;
                }
            }
        })
        .map_err(|error| Error::internal("cannot start a thread").because(error))?;
    let pieces = stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    client.send_input(&operation.id, pieces).await
}
