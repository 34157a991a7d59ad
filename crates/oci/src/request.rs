//! One request and the places it is sent on to.

use banger_model::{Code, Error};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION, RANGE};
use hyper::{Request, Response, Uri};

use crate::failure::Failure;
use crate::http::{Http, host_of};
use crate::options::Options;
use crate::redirect;

/// How often one request may be sent elsewhere.
const MAX_REDIRECTS: usize = 5;

/// The head of an answer and who gave it.
pub(crate) struct Answer {
    pub(crate) host: String,
    pub(crate) response: Response<Incoming>,
}

/// What is asked for, besides the address.
#[derive(Clone, Copy, Default)]
pub(crate) struct Asked<'a> {
    /// For the first server only, never for one that the request is sent on to.
    pub(crate) login: Option<&'a HeaderValue>,
    pub(crate) accept: Option<&'static str>,
    pub(crate) range: Range,
}

/// Which bytes.
#[derive(Clone, Copy, Default)]
pub(crate) enum Range {
    #[default]
    All,
    /// From this one on.
    From(u64),
    /// Only the first: whoever answers says how many there are.
    First,
}

/// Asks `own`, and whoever it sends the request on to.
pub(crate) async fn follow(
    http: &Http,
    options: &Options,
    own: &Uri,
    asked: Asked<'_>,
) -> Result<Answer, Failure> {
    let mut uri = own.clone();
    for _ in 0..=MAX_REDIRECTS {
        let login = asked.login.filter(|_| redirect::same_server(&uri, own));
        let response = http.send(request(&uri, Asked { login, ..asked })?).await?;
        let host = host_of(&uri);
        if !redirect::is_redirect(response.status()) {
            return Ok(Answer { host, response });
        }
        let location = response.headers().get(LOCATION);
        uri = redirect::target(&uri, location, &options.insecure)?;
    }
    Err(Failure::lasting(
        Error::new(
            Code::FetchFailed,
            format!(
                "`{}` redirects more than {MAX_REDIRECTS} times",
                host_of(own)
            ),
        )
        .hint("ask whoever runs the server"),
    ))
}

/// A request for `uri`.
pub(crate) fn request(uri: &Uri, asked: Asked<'_>) -> Result<Request<Full<Bytes>>, Failure> {
    let mut request = Request::builder().uri(uri);
    if let Some(login) = asked.login {
        request = request.header(AUTHORIZATION, login);
    }
    if let Some(accept) = asked.accept {
        request = request.header(ACCEPT, accept);
    }
    match asked.range {
        Range::All | Range::From(0) => {}
        Range::From(from) => request = request.header(RANGE, format!("bytes={from}-")),
        Range::First => request = request.header(RANGE, "bytes=0-0"),
    }
    request
        .body(Full::default())
        .map_err(|error| Failure::lasting(Error::internal("cannot make a request").because(error)))
}
