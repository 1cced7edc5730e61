//! Listening sockets, and the connections that come from them.
//!
//! A listener is never closed by a connection's failure; when the process is out of descriptors it waits a little, and
//! the backlog keeps the clients.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};

use super::dispatch::Arrival;
use super::request::Peer;
use super::{App, Phase};

/// How long the accept loop waits when the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that wait in the kernel, for each listener.
const BACKLOG: u32 = 4096;

/// The sockets that the engine listens on; they outlive restarts, and pass to the next process by inheritance.
#[derive(Debug)]
pub struct Listeners {
    tcp: TcpListener,
    unix: UnixListener,
    unix_path: PathBuf,
}

/// The environment variable by which a process that replaces itself tells the next one its listeners' descriptors.
const INHERITED: &str = "DXFLOW_LISTENERS";

/// The addresses that the engine will listen on. They are its own already, and nobody can connect yet.
#[derive(Debug)]
pub struct Reserved {
    tcp: Tcp,
    unix_path: PathBuf,
}

#[derive(Debug)]
enum Tcp {
    Bound(tokio::net::TcpSocket),
    /// Taken over from the process that this one replaces: clients wait in their backlogs.
    Open(TcpListener, UnixListener),
}

impl Reserved {
    /// Binds the TCP address, or takes over the sockets of the process that this one replaces. The Unix socket is going
    /// to be at `unix_path`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn new(address: &str, unix_path: &Path) -> io::Result<Self> {
        let unix_path = unix_path.to_owned();
        if let Some((tcp, unix)) = inherited() {
            tcp.set_nonblocking(true)?;
            unix.set_nonblocking(true)?;
            let tcp = Tcp::Open(TcpListener::from_std(tcp)?, UnixListener::from_std(unix)?);
            return Ok(Self { tcp, unix_path });
        }
        let address: SocketAddr = std::net::ToSocketAddrs::to_socket_addrs(address)?
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the address names nothing"))?;
        let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self { tcp: Tcp::Bound(socket), unix_path })
    }

    /// The TCP address, with the port that was picked.
    ///
    /// # Errors
    /// When the socket does not know it.
    pub fn address(&self) -> io::Result<SocketAddr> {
        match &self.tcp {
            Tcp::Bound(socket) => socket.local_addr(),
            Tcp::Open(listener, _) => listener.local_addr(),
        }
    }

    /// Lets clients connect, now that there is somebody to answer them: whoever finds the port open finds the keys and the
    /// Unix socket too.
    ///
    /// # Errors
    /// When somebody else listens there, or the Unix socket cannot be made.
    pub fn listen(self) -> io::Result<Listeners> {
        let (tcp, unix) = match self.tcp {
            Tcp::Open(tcp, unix) => (tcp, unix),
            Tcp::Bound(socket) => {
                let unix = bind_unix(&self.unix_path)?;
                (socket.listen(BACKLOG)?, unix)
            }
        };
        Ok(Listeners { tcp, unix, unix_path: self.unix_path })
    }
}

impl From<Listeners> for Reserved {
    fn from(listeners: Listeners) -> Self {
        Self { tcp: Tcp::Open(listeners.tcp, listeners.unix), unix_path: listeners.unix_path }
    }
}

impl Listeners {
    /// The environment variable, and its value, that hands the listeners to a process which this one is about to
    /// become; their descriptors stay open through `execve` from now on.
    ///
    /// # Errors
    /// When a descriptor cannot be marked.
    pub fn inheritance(&self) -> io::Result<(&'static str, String)> {
        let descriptors = [self.tcp.as_raw_fd(), self.unix.as_raw_fd()];
        for descriptor in [rustix::fd::AsFd::as_fd(&self.tcp), rustix::fd::AsFd::as_fd(&self.unix)] {
            rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty())?;
        }
        Ok((INHERITED, format!("{},{}", descriptors[0], descriptors[1])))
    }

    /// Undoes [`inheritance`](Self::inheritance), when the process did not become another after all.
    pub fn keep(&self) {
        for descriptor in [rustix::fd::AsFd::as_fd(&self.tcp), rustix::fd::AsFd::as_fd(&self.unix)] {
            let _ = rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::CLOEXEC);
        }
    }
}

/// Binds a socket in place of a stale one. It is made under another name and renamed, so that it is never there with
/// other permissions than the owner's.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let fresh = path.with_extension("sock.new");
    let _ = std::fs::remove_file(&fresh);
    let listener = std::os::unix::net::UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, path)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

fn inherited() -> Option<(std::net::TcpListener, std::os::unix::net::UnixListener)> {
    let text = std::env::var(INHERITED).ok()?;
    let (tcp, unix) = text.split_once(',')?;
    let (tcp, unix): (RawFd, RawFd) = (tcp.parse().ok()?, unix.parse().ok()?);
    adopt(tcp, unix)
}

#[expect(unsafe_code, reason = "descriptors that the process which this one replaced left open for it")]
fn adopt(tcp: RawFd, unix: RawFd) -> Option<(std::net::TcpListener, std::os::unix::net::UnixListener)> {
    // SAFETY: both numbers come from the process that this one replaced by execve, which left exactly these descriptors
    // open; nothing else in this process has touched them yet. Numbers that are not open sockets are refused below.
    let (tcp, unix) =
        unsafe { (std::net::TcpListener::from_raw_fd(tcp), std::os::unix::net::UnixListener::from_raw_fd(unix)) };
    if tcp.local_addr().is_err() || unix.local_addr().is_err() {
        std::mem::forget((tcp, unix));
        return None;
    }
    for descriptor in [rustix::fd::AsFd::as_fd(&tcp), rustix::fd::AsFd::as_fd(&unix)] {
        rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::CLOEXEC).ok()?;
    }
    Some((tcp, unix))
}

/// Serves the application on its listeners until it is told to stop.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    listeners: Listeners,
    graceful: GracefulShutdown,
    connections: Arc<Semaphore>,
    addresses: Addresses,
}

impl Server {
    /// A server of `app`.
    #[must_use]
    pub fn new(app: Arc<App>, listeners: Listeners) -> Self {
        let connections = Arc::new(Semaphore::new(app.config.get().server.max_connections as usize));
        Self { app, listeners, graceful: GracefulShutdown::new(), connections, addresses: Addresses::default() }
    }

    /// Accepts connections until the phase is no longer serving. The listeners stay open.
    pub async fn run(&self) {
        let mut phase = self.app.phase.subscribe();
        let stopping = async {
            let _ = phase.wait_for(|phase| *phase != Phase::Serving).await;
        };
        tokio::select! {
            () = stopping => {}
            () = self.accept_tcp() => {}
            () = self.accept_unix() => {}
        }
    }

    /// Waits for the requests in flight, at most `deadline`; returns the listeners.
    pub async fn drain(self, deadline: Duration) -> Listeners {
        let Self { listeners, graceful, .. } = self;
        if tokio::time::timeout(deadline, graceful.shutdown()).await.is_err() {
            tracing::warn!(?deadline, "connections were still busy at the deadline of the stop");
        }
        listeners
    }

    /// Takes the Unix socket's name away, when nobody will serve it.
    pub fn remove_unix_socket(listeners: &Listeners) {
        let _ = std::fs::remove_file(&listeners.unix_path);
    }

    async fn accept_tcp(&self) {
        loop {
            let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else { return };
            let (stream, peer) = match self.listeners.tcp.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.pause(&error).await;
                    continue;
                }
            };
            let address = peer.ip().to_canonical();
            let limit = self.app.config.get().server.max_connections_per_address;
            let Some(counted) = self.addresses.enter(address, limit) else {
                tracing::debug!(%address, limit, "a connection too many from one address");
                continue;
            };
            let _ = stream.set_nodelay(true);
            let local = stream.local_addr().ok().map(|address| address.ip());
            self.serve(stream, Peer::Tcp(address), local, (permit, Some(counted)));
        }
    }

    async fn accept_unix(&self) {
        loop {
            let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else { return };
            let stream = match self.listeners.unix.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    self.pause(&error).await;
                    continue;
                }
            };
            let own = rustix::process::geteuid().as_raw();
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == own || peer.uid() == 0 => {
                    let pid = peer.pid().unwrap_or(0);
                    self.serve(stream, Peer::Owner { pid }, None, permit);
                }
                Ok(peer) => tracing::warn!(uid = peer.uid(), "refused a peer of another user on the Unix socket"),
                Err(error) => tracing::warn!(%error, "a peer on the Unix socket has no credentials"),
            }
        }
    }

    async fn pause(&self, error: &io::Error) {
        if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
            tracing::error!(%error, "failed to accept a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }

    fn serve<I, K>(&self, stream: I, peer: Peer, local: Option<IpAddr>, kept: K)
    where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        K: Send + 'static,
    {
        let filter = TowerToHyperService::new(warp::service(Arc::clone(&self.app).filter()));
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            let upgrade = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>();
            let arrival =
                Arrival { peer, local, method: request.method().clone(), uri: request.uri().clone(), upgrade };
            request.extensions_mut().insert(arrival);
            let filter = filter.clone();
            async move {
                let response = hyper::service::Service::call(&filter, request).await;
                Ok::<_, Infallible>(response.unwrap_or_else(|never| match never {}))
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.app.config.get().server.header_timeout.0)
            .max_buf_size(64 * 1024)
            .max_headers(64);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(128)
            .max_header_list_size(64 * 1024)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(40));
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let connection = self.graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::trace!(%error, "a connection ended badly");
            }
            drop(kept);
        });
    }
}

/// How many connections each address has.
#[derive(Clone, Debug, Default)]
struct Addresses(Arc<Mutex<HashMap<IpAddr, u32>>>);

/// One connection of an address, as long as it is kept.
struct Counted {
    addresses: Addresses,
    address: IpAddr,
}

impl Addresses {
    fn enter(&self, address: IpAddr, limit: u32) -> Option<Counted> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Counted { addresses: self.clone(), address })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.addresses.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// Resolves when the engine goes down.
pub(crate) async fn stopping(mut phase: watch::Receiver<Phase>) -> bool {
    match phase.wait_for(|phase| *phase != Phase::Serving).await.map(|phase| *phase) {
        Ok(Phase::Stopping { retry }) => retry,
        Ok(Phase::Serving) | Err(_) => false,
    }
}
