//! Serves an exporter over HTTP: `GET /metrics` and `GET /healthz`.

use crate::{
    Exporter,
    http::{Answer, Head, read_head},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Connections served at one time; further ones are told to come back.
const MOST_CONNECTIONS: usize = 16;
/// How long a client may take for its request and for reading the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server that could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Nobody can listen there.
    #[error("can't listen on {address}")]
    Listen {
        /// The address asked for.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system gives no thread.
    #[error("can't start a thread")]
    Thread(#[source] io::Error),
}

/// A running server. It ends when it is stopped or dropped: connections are answered to their end first.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

/// Serves `exporter` on `address` (port 0: a free one, see [`Server::address`]) from a thread of its own.
///
/// Anybody who reaches the address can read the metrics; there is no encryption and no password. Listen on a loopback address, or
/// put a proxy before it.
///
/// ```
/// # use phase_metrics::{Exporter, serve};
/// # use phase_core::MonotonicClock;
/// use std::io::{Read, Write};
/// let server = serve("127.0.0.1:0", Exporter::new(MonotonicClock::new()))?;
/// let mut client = std::net::TcpStream::connect(server.address())?;
/// client.write_all(b"GET /healthz HTTP/1.1\r\n\r\n")?;
/// let mut answer = String::new();
/// client.read_to_string(&mut answer)?;
/// assert!(answer.starts_with("HTTP/1.1 200 OK"));
/// server.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`ServeError`].
pub fn serve(address: impl ToSocketAddrs + std::fmt::Debug, exporter: Exporter) -> Result<Server, ServeError> {
    let named = |source| ServeError::Listen { address: format!("{address:?}"), source };
    let listener = TcpListener::bind(&address).map_err(named)?;
    let address = listener.local_addr().map_err(named)?;
    let stopping = Arc::new(AtomicBool::new(false));
    let seen = stopping.clone();
    let listener = thread::Builder::new()
        .name("phase-metrics".to_owned())
        .spawn(move || listen(&listener, &exporter, &seen))
        .map_err(ServeError::Thread)?;
    Ok(Server { address, stopping, listener: Some(listener) })
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it, and waits until the connections it has are answered.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // The listener sleeps until somebody connects.
        let _ = TcpStream::connect_timeout(&reachable(self.address), PATIENCE);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

/// An address that means every interface can be listened on and not connected to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn listen(listener: &TcpListener, exporter: &Exporter, stopping: &AtomicBool) {
    let open = Arc::new(AtomicUsize::new(0));
    let mut answering: Vec<JoinHandle<()>> = Vec::new();
    for stream in listener.incoming() {
        if stopping.load(Ordering::Acquire) {
            break;
        }
        answering.retain(|thread| !thread.is_finished());
        // A client that is gone already is no reason to stop.
        let Ok(mut stream) = stream else { continue };
        let _ = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        let place = Place::take(&open);
        if place.is_none() {
            let _ = Answer::plain("503 Service Unavailable", "too many connections\n").write(&mut stream);
            continue;
        }
        let exporter = exporter.clone();
        let thread = thread::Builder::new().name("phase-metrics-answer".to_owned()).spawn(move || {
            let _place = place;
            answer(stream, &exporter);
        });
        answering.extend(thread);
    }
    for thread in answering {
        let _ = thread.join();
    }
}

/// One of the [`MOST_CONNECTIONS`], given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(open.clone());
        (open.fetch_add(1, Ordering::AcqRel) < MOST_CONNECTIONS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn answer(mut stream: TcpStream, exporter: &Exporter) {
    let begun = exporter.clock().now();
    // Every read may take its patience; all together no more than twice that.
    let head = read_head(&mut stream, || exporter.clock().now().since(begun) < PATIENCE);
    let gone = head == Head::Gone;
    if let Some(answer) = Answer::to(head, |format| exporter.render(format)) {
        // A client that does not want its answer misses nothing that we could tell it.
        let _ = answer.write(&mut stream);
    }
    let _ = stream.shutdown(if gone { Shutdown::Both } else { Shutdown::Write });
}

#[cfg(test)]
mod tests {
    use super::*;
    use phase_core::ManualClock;
    use std::io::{Read, Write};

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn it_answers_and_stops_and_frees_its_port() {
        let server = serve("127.0.0.1:0", Exporter::new(ManualClock::default())).unwrap();
        let address = server.address();
        assert!(ask(address, "GET /metrics HTTP/1.1\r\n\r\n").contains("\nphase_events_unlisted_total 0.0\n"));
        assert!(ask(address, "BREW /pot HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        server.stop();
        assert!(TcpListener::bind(address).is_ok());
    }

    #[test]
    fn it_serves_every_interface_and_says_when_a_port_is_taken() {
        let server = serve("0.0.0.0:0", Exporter::new(ManualClock::default())).unwrap();
        let error = serve(server.address(), Exporter::new(ManualClock::default())).unwrap_err();
        assert!(error.to_string().starts_with("can't listen on 0.0.0.0:"), "{error}");
        drop(server);
    }

    #[test]
    fn silent_clients_do_not_keep_others_out() {
        let server = serve("127.0.0.1:0", Exporter::new(ManualClock::default())).unwrap();
        let silent: Vec<_> = (0..4).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
        assert!(ask(server.address(), "GET /healthz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
        drop(silent);
        let places = Arc::new(AtomicUsize::new(0));
        let taken: Vec<_> = (0..MOST_CONNECTIONS).map(|_| Place::take(&places).unwrap()).collect();
        assert!(Place::take(&places).is_none());
        drop(taken);
        assert!(Place::take(&places).is_some());
    }
}
