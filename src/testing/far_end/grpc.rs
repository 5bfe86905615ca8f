//! The far end over HTTP/2: the same script, told in gRPC.
//!
//! What the collector says in protobuf is translated: a success becomes a message and `grpc-status: 0`, a refusal the code
//! its body names, with `RetryInfo` for a `Retry-After` in seconds. Everything else (a page, a redirect, a 404 in plain
//! text) goes out as it is, as a proxy in the place of the far end would say it.

use super::socket::{HALF_SEEN, Shared, news};
use super::{Answer, Manner, Request, find};
use crate::otlp::Status as Details;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

type Frames = Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, h2::Error>> + Send>>;
type Said = Response<StreamBody<Frames>>;

/// The frame before a message.
const PREFIX: usize = 5;

/// Serves one connection to its end.
pub(super) async fn converse(stream: TcpStream, shared: Arc<Shared>) {
    // Whatever ends it, the client sees a reset: nothing is ended politely here but by the client.
    let _ = stream.set_zero_linger();
    let reset = Arc::new(Notify::new());
    let service = {
        let reset = reset.clone();
        hyper::service::service_fn(move |request| answer(request, shared.clone(), reset.clone()))
    };
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = connection => {}
        () = reset.notified() => {}
    }
}

async fn answer(request: http::Request<Incoming>, shared: Arc<Shared>, reset: Arc<Notify>) -> Result<Said, h2::Error> {
    let (head, mut body) = request.into_parts();
    let cut = shared.collector().cuts_the_body(Instant::now());
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(h2::Reason::CANCEL.into()) };
        whole.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        let len = whole.get(1..PREFIX).and_then(|len| len.try_into().ok()).map_or(u32::MAX, u32::from_be_bytes);
        if cut && whole.len() as u64 >= u64::from(len) / 2 {
            break;
        }
    }
    if cut {
        news(&shared);
        reset.notify_one();
        return never().await;
    }
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut headers: Vec<_> = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    headers.extend(head.uri.authority().map(|authority| (":authority".to_owned(), authority.to_string())));
    let request =
        Request { method: head.method.to_string(), path: head.uri.path().to_owned(), headers, body: whole.freeze() };
    let answer = shared.collector().answer(Instant::now(), &request);
    news(&shared);
    perform(answer, &reset).await
}

async fn never() -> Result<Said, h2::Error> {
    std::future::pending().await
}

async fn perform(answer: Answer, reset: &Arc<Notify>) -> Result<Said, h2::Error> {
    match answer.manner {
        Manner::AtOnce => {}
        Manner::After(pause) => sleep(pause).await,
        Manner::Never => return never().await,
        Manner::Reset | Manner::Refused => {
            reset.notify_one();
            return never().await;
        }
        Manner::ResetStream(reason) => return Err(h2::Reason::from(reason).into()),
        Manner::ResetMidAnswer => {
            let message = framed(&answer.body);
            let half = message.slice(..message.len() / 2);
            let reset = reset.clone();
            let cut = stream::once(async move {
                sleep(HALF_SEEN).await;
                reset.notify_one();
                std::future::pending::<Result<Frame<Bytes>, h2::Error>>().await
            });
            let frames = stream::iter([Ok(Frame::data(half))]).chain(cut);
            return Ok(said(200, &grpc(), Box::pin(frames)));
        }
    }
    let is_ours = find(&answer.headers, "content-type") == Some("application/x-protobuf");
    Ok(match (is_ours, answer.status) {
        (false, status) => {
            let frames = (!answer.body.is_empty()).then(|| Ok(Frame::data(Bytes::from(answer.body))));
            said(status, &answer.headers, Box::pin(stream::iter(frames)))
        }
        (true, 200) => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let frames = [Ok(Frame::data(framed(&answer.body))), Ok(Frame::trailers(trailers))];
            said(200, &grpc(), Box::pin(stream::iter(frames)))
        }
        (true, _) => refusal(&answer),
    })
}

fn grpc() -> Vec<(String, String)> {
    vec![("content-type".to_owned(), "application/grpc".to_owned())]
}

fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX + message.len());
    out.extend_from_slice(&[0]);
    out.extend_from_slice(&u32::try_from(message.len()).expect("a short answer").to_be_bytes());
    out.extend_from_slice(message);
    out.freeze()
}

fn said(status: u16, headers: &[(String, String)], frames: Frames) -> Said {
    let mut response = Response::new(StreamBody::new(frames));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// Trailers alone, as a server refuses.
fn refusal(answer: &Answer) -> Said {
    let said_of_it = Details::decode(&answer.body).unwrap_or_default();
    let code = match answer.status {
        413 => Code::ResourceExhausted,
        422 => Code::InvalidArgument,
        _ => Code::from(said_of_it.code),
    };
    let after = find(&answer.headers, "retry-after").and_then(|value| value.parse().ok()).map(Duration::from_secs);
    refused(code, &said_of_it.message, after)
}

fn refused(code: Code, message: &str, after: Option<Duration>) -> Said {
    let details = Details { code: code as i32, message: message.to_owned(), retry_delay: after };
    let details = if after.is_some() { details.encode(crate::otlp::Encoding::Protobuf) } else { Vec::new() };
    let status = Status::with_details(code, message, details.into());
    let (head, ()) = status.into_http::<()>().into_parts();
    let mut response = said(200, &[], Box::pin(stream::empty()));
    *response.headers_mut() = head.headers;
    response
}

/// The head of a refusal with any code, for [`Act::Grpc`](super::Act::Grpc).
pub(super) fn head(code: Code, message: &str, after: Option<Duration>) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    refused(code, message, after).headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}
