//! One HTTP/1 exchange over the daemon's unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_model::{Code, Error, Result};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::ErrorResponse;

/// How long the daemon may take to begin its answer: it answers everything at once and does
/// long work in operations.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The largest answer that is not a stream: a list of a few thousand VMs is 4 MiB.
const ANSWER_MAX: usize = 64 << 20;

/// What a request carries.
type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A connection on which one request can be made.
pub(super) struct Connection {
    socket: PathBuf,
    sender: SendRequest<Body>,
    driver: Driver,
}

/// The task that moves the connection's bytes; the connection ends with it.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Connects.
    pub(super) async fn open(socket: &Path) -> Result<Connection> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|error| unreachable(socket, error))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| went_away(socket).because(error))?;
        let driver = Driver(tokio::spawn(async move {
            // A failure shows in the request or in the body, where it is reported.
            connection.await.ok();
        }));
        Ok(Connection {
            socket: socket.to_owned(),
            sender,
            driver,
        })
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn request(
        mut self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "bangerd");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(
                Full::new(Bytes::from(body.unwrap_or_default()))
                    .map_err(|never| match never {})
                    .boxed_unsync(),
            )
            .map_err(|error| Error::internal("cannot write a request").because(error))?;
        let answer = tokio::time::timeout(ANSWER_WITHIN, self.sender.send_request(request)).await;
        match answer {
            Ok(Ok(response)) => Ok(Answer {
                socket: self.socket,
                response,
                _driver: self.driver,
            }),
            Ok(Err(error)) => Err(went_away(&self.socket).because(error)),
            Err(_) => Err(Error::new(
                Code::DaemonUnavailable,
                format!(
                    "the daemon did not answer within {} seconds",
                    ANSWER_WITHIN.as_secs()
                ),
            )
            .hint(
                "`banger daemon stop` ends it; the next command starts a new one, and VMs live on",
            )),
        }
    }
}

impl Connection {
    /// Sends a stream of bytes and waits for the head of the answer, however long that takes.
    pub(super) async fn upload<S>(mut self, path: &str, input: S) -> Result<Answer>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let body = StreamBody::new(input.map_ok(Frame::data)).boxed_unsync();
        let request = Request::builder()
            .method(Method::PUT)
            .uri(path)
            .header(header::HOST, "bangerd")
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .body(body)
            .map_err(|error| Error::internal("cannot write a request").because(error))?;
        match self.sender.send_request(request).await {
            Ok(response) => Ok(Answer {
                socket: self.socket,
                response,
                _driver: self.driver,
            }),
            Err(error) => Err(went_away(&self.socket).because(error)),
        }
    }
}

/// The head of an answer, its body still to come.
pub(super) struct Answer {
    socket: PathBuf,
    response: Response<Incoming>,
    _driver: Driver,
}

impl Answer {
    /// The status.
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The release in `Server: bangerd/<release>`.
    pub(super) fn daemon_version(&self) -> Option<String> {
        let server = self.response.headers().get(header::SERVER)?;
        let version = server.to_str().ok()?.strip_prefix("bangerd/")?;
        Some(version.to_owned())
    }

    /// The next piece of the body; `None` at its proper end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.response.body_mut().frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(went_away(&self.socket).because(error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole body as JSON.
    pub(super) async fn json<T: DeserializeOwned>(self) -> Result<T> {
        let (bytes, _) = self.read().await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(
                Code::DaemonUnavailable,
                "the daemon answered something else than this release expects",
            )
            .hint("`banger daemon stop` ends it; the next command starts one of this release")
            .because(error)
        })
    }

    /// Takes the body without looking at it.
    pub(super) async fn finish(self) -> Result<()> {
        self.read().await.map(drop)
    }

    /// The error that this answer is.
    pub(super) async fn into_error(self) -> Error {
        let status = self.status();
        match self.read().await {
            Ok((bytes, _)) => match serde_json::from_slice::<ErrorResponse>(&bytes) {
                Ok(body) => body.error.into(),
                Err(_) => Error::internal(format!("the daemon answered {status}")),
            },
            Err(error) => error,
        }
    }

    async fn read(self) -> Result<(Bytes, StatusCode)> {
        let status = self.response.status();
        let body = Limited::new(self.response.into_body(), ANSWER_MAX);
        match body.collect().await {
            Ok(collected) => Ok((collected.to_bytes(), status)),
            Err(error) => Err(went_away(&self.socket).because(error)),
        }
    }
}

fn unreachable(socket: &Path, error: io::Error) -> Error {
    let code = match error.kind() {
        io::ErrorKind::PermissionDenied => Code::Unsafe,
        _ => Code::DaemonUnavailable,
    };
    Error::new(
        code,
        format!("cannot reach the daemon at `{}`", socket.display()),
    )
    .hint("`banger doctor` shows what is wrong on this machine")
    .because(error)
}

/// The connection broke before the answer was complete.
pub(super) fn went_away(socket: &Path) -> Error {
    Error::new(
        Code::DaemonUnavailable,
        format!("the daemon at `{}` went away", socket.display()),
    )
    .hint("`banger vm list` starts it again and shows what became of your VMs")
}
