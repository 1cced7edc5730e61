//! A bad connection: a proxy that lets bytes through at a rate, or breaks off after so many.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

/// The most that one read takes.
const READ: usize = 64 << 10;
/// A rate is kept in steps of this.
const STEP: Duration = Duration::from_millis(100);

/// A proxy in front of an engine.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    rate: watch::Sender<Option<usize>>,
    cut: Arc<AtomicUsize>,
}

impl Proxy {
    /// Stands between clients and `target`. Towards the engine its buffer is as small as the kernel allows, so that what it
    /// does not read stays with the engine.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (rate, rates) = watch::channel(None);
        let cut = Arc::new(AtomicUsize::new(usize::MAX));
        let cuts = Arc::clone(&cut);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let socket = TcpSocket::new_v4().expect("a socket");
                socket.set_recv_buffer_size(4096).expect("a small buffer");
                let Ok(engine) = socket.connect(target).await else { continue };
                tokio::spawn(pass(client, engine, rates.clone(), cuts.load(Ordering::Relaxed)));
            }
        });
        Self { address, rate, cut }
    }

    /// From now on only so many bytes a second come from the engine; any number with `None`, nothing with 0.
    pub fn limit(&self, rate: Option<usize>) {
        self.rate.send_replace(rate);
    }

    /// The next connection breaks off when so many bytes have come from the engine.
    pub fn cut_after(&self, bytes: usize) {
        self.cut.store(bytes, Ordering::Relaxed);
    }
}

async fn pass(client: TcpStream, engine: TcpStream, mut rate: watch::Receiver<Option<usize>>, mut left: usize) {
    for stream in [&client, &engine] {
        stream.set_nodelay(true).expect("no delay");
    }
    let ((mut from_client, mut to_client), (mut from_engine, mut to_engine)) =
        (client.into_split(), engine.into_split());
    let up = async { tokio::io::copy(&mut from_client, &mut to_engine).await.map(drop) };
    let down = async {
        let mut buffer = vec![0; READ];
        while left > 0 {
            let now = *rate.borrow_and_update();
            let most = match now {
                None => READ,
                Some(0) => {
                    if rate.changed().await.is_err() {
                        break;
                    }
                    continue;
                }
                Some(rate) => {
                    tokio::time::sleep(STEP).await;
                    (rate * usize::try_from(STEP.as_millis()).unwrap_or(1) / 1000).clamp(1, READ)
                }
            };
            let most = most.min(left);
            let count = from_engine.read(&mut buffer[..most]).await?;
            if count == 0 {
                break;
            }
            to_client.write_all(&buffer[..count]).await?;
            left -= count;
        }
        std::io::Result::Ok(())
    };
    // Whichever ends takes both connections with it.
    tokio::select! {
        _ = up => {}
        _ = down => {}
    }
}
