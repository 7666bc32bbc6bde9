//! Who is let in: programs of this machine. A loopback address alone does not keep out what a browser here was given
//! by a page of somebody else's: it says where it comes from in `Origin`, or names the machine by a name of its own.

use std::{
    future::{Future, Ready, ready},
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll},
};

use jsonrpsee::{
    core::BoxError,
    server::{HttpBody, HttpRequest, HttpResponse},
};
use tower::{Layer, Service};

const FORBIDDEN: u16 = 403;

/// Puts a [`Door`] before a service.
#[derive(Clone, Copy, Debug)]
pub(super) struct DoorLayer;

impl<S> Layer<S> for DoorLayer {
    type Service = Door<S>;

    fn layer(&self, service: S) -> Self::Service {
        Door { service }
    }
}

/// A service that answers programs of this machine alone.
#[derive(Clone, Debug)]
pub(super) struct Door<S> {
    service: S,
}

/// An answer that is there at once, or the service's.
#[derive(Debug)]
pub(super) enum Answer<F> {
    Refused(Ready<Result<HttpResponse, BoxError>>),
    Service(Pin<Box<F>>),
}

impl<F: Future<Output = Result<HttpResponse, BoxError>>> Future for Answer<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Refused(answer) => Pin::new(answer).poll(context),
            Self::Service(answer) => answer.as_mut().poll(context),
        }
    }
}

impl<S> Service<HttpRequest> for Door<S>
where
    S: Service<HttpRequest, Response = HttpResponse, Error = BoxError>,
{
    type Response = HttpResponse;
    type Error = BoxError;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: HttpRequest) -> Self::Future {
        match refusal(&request) {
            Some(why) => Answer::Refused(ready(forbidden(why))),
            None => Answer::Service(Box::pin(self.service.call(request))),
        }
    }
}

fn refusal(request: &HttpRequest) -> Option<&'static str> {
    if request.headers().contains_key("origin") {
        return Some("a devnet takes no requests of web pages\n");
    }
    let named = request.headers().get("host").map(|host| host.to_str().unwrap_or_default());
    let is_here = named.or_else(|| request.uri().host()).is_some_and(is_loopback);
    (!is_here).then_some("a devnet is asked as localhost, 127.0.0.1 or [::1], and as nobody else\n")
}

/// Whether a host, with or without a port, is this machine by a name that nobody else gives.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn forbidden(why: &'static str) -> Result<HttpResponse, BoxError> {
    let mut response = HttpResponse::new(HttpBody::from(why));
    *response.status_mut() = FORBIDDEN.try_into()?;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_named_by_loopback_names_alone() {
        for host in ["localhost", "LOCALHOST:9944", "127.0.0.1", "127.0.0.1:9944", "127.8.8.8:1", "[::1]", "[::1]:9944"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            ":9944",
            "devnet.example",
            "localhost.example",
            "127.0.0.1.example:80",
            "0.0.0.0",
            "192.0.2.1",
            "[::2]:1",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
