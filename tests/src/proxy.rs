//! A wire that is bad on purpose: a TCP proxy on loopback that delays, throttles, stalls, falls silent and cuts, as a test says
//! while it runs.
//!
//! ```text
//! client ──▶ reader ─ pieces, each with the time when it is due ─▶ writer ──▶ server      Way::Up
//!        ◀── writer ◀─────────────────────────────────────────── reader ◀──               Way::Down
//! ```
//!
//! What a proxy cannot do is lose or reorder packets: for that there are namespaces with a filter.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use crate::port::listen;

/// Bytes that one read takes: small enough that a slow wire delivers something several times a second.
const PIECE_BYTES_MAX: usize = 4 << 10;

/// Pieces of one direction that are under way. With the sockets' own buffers it is what a sender believes to be sent.
const PIECES_MAX: usize = 64;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From who connected to who listens.
    Up,
    /// The other one.
    Down,
}

/// How a connection ends that is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// RST to both sides.
    Reset,
    /// FIN to both sides, as if each had been closed by the other.
    Close,
}

/// What the wire does to everything that passes. The default does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    /// Each piece arrives so much later.
    pub delay: Duration,
    /// Each direction of each connection carries no more than this in a second; 0 for no limit.
    pub bytes_per_second: u64,
    /// Nothing passes in this direction; what was sent waits.
    pub stalled: Option<Way>,
    /// Nothing passes at all, and who connects now is let in and never hears of anybody, not even later.
    pub silent: bool,
    /// Each connection is cut when it has carried so many bytes, both ways together.
    pub cut_after: Option<(u64, Cut)>,
}

/// What has happened on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Carried {
    /// Connections that were let in.
    pub connections: u64,
    /// Connections that were cut, by order or by their bytes.
    pub cuts: u64,
    /// Bytes that reached the server.
    pub bytes_up: u64,
    /// Bytes that reached the client.
    pub bytes_down: u64,
}

/// A proxy. Dropped, everything on it is closed.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    wire: Arc<Wire>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Wire {
    server: SocketAddr,
    orders: watch::Sender<Orders>,
    connections: AtomicU64,
    cuts: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

/// What a test has ordered. Numbers rise, and a connection compares them with those under which it began.
#[derive(Debug, Clone, Copy)]
struct Orders {
    weather: Weather,
    cuts: u64,
    how: Cut,
    abandoned: u64,
}

/// One connection's view.
#[derive(Debug)]
struct Line<'a> {
    wire: &'a Wire,
    born: Orders,
    carried: AtomicU64,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Weather {
    /// Some weather or other; a third of it is fine.
    pub fn drawn(random: &mut fastrand::Rng) -> Self {
        let mut weather = Self::default();
        let cut = if random.bool() { Cut::Reset } else { Cut::Close };
        let delay = Duration::from_millis(random.u64(1..60));
        match random.u8(..9) {
            0..3 => {}
            3 => weather.delay = delay,
            4 => weather.bytes_per_second = random.u64(20_000..2_000_000),
            5 => weather.cut_after = Some((random.u64(1..400_000), cut)),
            6 => (weather.delay, weather.cut_after) = (delay, Some((random.u64(1..40_000), cut))),
            7 => weather.stalled = Some(if random.bool() { Way::Up } else { Way::Down }),
            _ => weather.silent = true,
        }
        weather
    }
}

impl Proxy {
    /// Stands before `server`, in fine weather.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = listen().await;
        let address = listener.local_addr().expect("it was just bound");
        let orders = Orders { weather: Weather::default(), cuts: 0, how: Cut::Close, abandoned: 0 };
        let wire = Arc::new(Wire {
            server,
            orders: watch::Sender::new(orders),
            connections: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&wire)));
        Self { address, wire, accepting }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on; connections that are open are not excepted.
    pub fn set(&self, weather: Weather) {
        self.wire.orders.send_modify(|orders| orders.weather = weather);
    }

    /// Cuts every connection that is open, abandoned ones too.
    pub fn cut(&self, how: Cut) {
        self.wire.orders.send_modify(|orders| {
            orders.cuts += 1;
            orders.how = how;
        });
    }

    /// Nothing passes on the connections that are open, ever again, and neither side is told: half-open, as when a machine on the
    /// way has forgotten them. New ones are as good as the weather.
    pub fn abandon(&self) {
        self.wire.orders.send_modify(|orders| orders.abandoned += 1);
    }

    /// Fine weather, and an end to what was abandoned or stalled.
    pub fn heal(&self) {
        self.set(Weather::default());
        self.cut(Cut::Reset);
    }

    /// What has happened so far.
    pub fn carried(&self) -> Carried {
        let wire = &self.wire;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Carried {
            connections: read(&wire.connections),
            cuts: read(&wire.cuts),
            bytes_up: read(&wire.bytes_up),
            bytes_down: read(&wire.bytes_down),
        }
    }
}

async fn accept(listener: TcpListener, wire: Arc<Wire>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                wire.connections.fetch_add(1, Ordering::Relaxed);
                open.spawn(serve(client, Arc::clone(&wire)));
            }
            Some(_) = open.join_next() => {}
        }
    }
}

/// One connection from its beginning to its end.
async fn serve(mut client: TcpStream, wire: Arc<Wire>) {
    let mut orders = wire.orders.subscribe();
    let born = *orders.borrow_and_update();
    if born.weather.silent {
        let how = cut_ordered(&mut orders, born).await;
        return end(&wire, how, client, None);
    }
    let Ok(mut server) = TcpStream::connect(wire.server).await else {
        // Nobody is there: the client hears of it as it would without us, a moment later.
        return reset(&client);
    };
    // Neither may fail: both are connected.
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let line = Line { wire: &wire, born, carried: AtomicU64::new(0) };
    let cut = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = line.carry(Way::Up, from_client, to_server);
        let down = line.carry(Way::Down, from_server, to_client);
        tokio::select! {
            how = cut_ordered(&mut orders, born) => Some(how),
            ended = async { tokio::try_join!(up, down) } => ended.err(),
        }
    };
    if let Some(how) = cut {
        end(&wire, how, client, Some(server));
    }
}

/// Waits until connections of this age are cut.
async fn cut_ordered(orders: &mut watch::Receiver<Orders>, born: Orders) -> Cut {
    match orders.wait_for(|orders| orders.cuts > born.cuts).await {
        Ok(orders) => orders.how,
        // The proxy is gone.
        Err(_) => Cut::Reset,
    }
}

fn end(wire: &Wire, how: Cut, client: TcpStream, server: Option<TcpStream>) {
    wire.cuts.fetch_add(1, Ordering::Relaxed);
    if how == Cut::Reset {
        reset(&client);
        server.iter().for_each(reset);
    }
}

/// Its drop will send RST; where that cannot be ordered the other side has gone already.
fn reset(stream: &TcpStream) {
    stream.set_zero_linger().ok();
}

impl Line<'_> {
    /// Carries one direction until it is closed.
    ///
    /// # Errors
    /// How the connection is to be cut, because a side is gone or the bytes are used up.
    async fn carry(
        &self,
        way: Way,
        from: impl AsyncRead + Unpin,
        to: impl AsyncWrite + Unpin,
    ) -> Result<(), Cut> {
        let (sender, receiver) = mpsc::channel(PIECES_MAX);
        tokio::try_join!(self.read(from, sender), self.write(way, to, receiver))?;
        Ok(())
    }

    async fn read(
        &self,
        mut from: impl AsyncRead + Unpin,
        pieces: mpsc::Sender<(Instant, Bytes)>,
    ) -> Result<(), Cut> {
        let mut buffer = [0; PIECE_BYTES_MAX];
        loop {
            let count = from.read(&mut buffer).await.map_err(|_| Cut::Reset)?;
            if count == 0 {
                return Ok(());
            }
            let due = Instant::now() + self.wire.orders.borrow().weather.delay;
            let piece = Bytes::copy_from_slice(&buffer[..count]);
            if pieces.send((due, piece)).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn write(
        &self,
        way: Way,
        mut to: impl AsyncWrite + Unpin,
        mut pieces: mpsc::Receiver<(Instant, Bytes)>,
    ) -> Result<(), Cut> {
        let mut orders = self.wire.orders.subscribe();
        let passes = |orders: &Orders| {
            let weather = orders.weather;
            orders.abandoned == self.born.abandoned && !weather.silent && weather.stalled != Some(way)
        };
        let count = match way {
            Way::Up => &self.wire.bytes_up,
            Way::Down => &self.wire.bytes_down,
        };
        while let Some((due, piece)) = pieces.recv().await {
            sleep_until(due).await;
            let weather = orders.wait_for(passes).await.map_err(|_| Cut::Reset)?.weather;
            if weather.bytes_per_second > 0 {
                sleep(Duration::from_secs_f64(piece.len() as f64 / weather.bytes_per_second as f64)).await;
            }
            let bytes = piece.len() as u64;
            let before = self.carried.fetch_add(bytes, Ordering::Relaxed);
            let cut = self.born.weather.cut_after.or(weather.cut_after);
            let cut = cut.filter(|(after, _)| before + bytes >= *after);
            // What still fits goes out first, so that messages are torn at any byte.
            let passing = cut.map_or(bytes, |(after, _)| after.saturating_sub(before)).min(bytes);
            to.write_all(&piece[..usize::try_from(passing).expect("no more than the piece")])
                .await
                .map_err(|_| Cut::Reset)?;
            count.fetch_add(passing, Ordering::Relaxed);
            if let Some((_, how)) = cut {
                return Err(how);
            }
        }
        // The reader met an end: it is passed on unless the wire is dead.
        orders.wait_for(passes).await.map_err(|_| Cut::Reset)?;
        to.shutdown().await.map_err(|_| Cut::Reset)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::wait::until;

    /// How long may pass until something happens that must.
    const SOON: Duration = Duration::from_secs(20);

    /// How long nothing is awaited.
    const NOTHING: Duration = Duration::from_millis(150);

    /// A server that gives back what it gets, and a proxy before it.
    async fn echo() -> (Proxy, JoinHandle<()>) {
        let listener = listen().await;
        let address = listener.local_addr().expect("it was just bound");
        let serving = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                open.spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await.ok();
                });
            }
        });
        (Proxy::start(address).await, serving)
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(proxy.address()).await.expect("it listens")
    }

    /// Sends, and waits for the same back.
    async fn passes(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<bool> {
        stream.write_all(text).await?;
        let mut back = vec![0; text.len()];
        let read = timeout(NOTHING, stream.read_exact(&mut back)).await;
        match read {
            Ok(read) => read.map(|_| back == text),
            Err(_) => Ok(false),
        }
    }

    /// Scenario: fine weather, a delay, a stall each way, and fine weather again, on one connection.
    /// Guarantees: bytes pass unaltered, late where they are delayed, not at all while they are stalled, and all of them after.
    #[tokio::test]
    async fn a_wire_delays_and_stalls_and_loses_nothing() {
        let (proxy, serving) = echo().await;
        let mut stream = connect(&proxy).await;
        assert!(passes(&mut stream, b"fine").await.expect("it is open"));
        let delay = Duration::from_millis(40);
        proxy.set(Weather { delay, ..Weather::default() });
        let since = Instant::now();
        assert!(passes(&mut stream, b"late").await.expect("it is open"));
        assert!(since.elapsed() >= 2 * delay, "each way is late: {:?}", since.elapsed());
        for way in [Way::Up, Way::Down] {
            proxy.set(Weather { stalled: Some(way), ..Weather::default() });
            assert!(!passes(&mut stream, b"held").await.expect("it is open"), "{way:?} is stalled");
            proxy.set(Weather::default());
            let mut back = [0; 4];
            timeout(SOON, stream.read_exact(&mut back)).await.expect("it comes").expect("it is open");
            assert_eq!(&back, b"held");
        }
        assert_eq!(proxy.carried(), Carried { connections: 1, cuts: 0, bytes_up: 16, bytes_down: 16 });
        serving.abort();
    }

    /// Scenario: a connection is cut by order, by RST and by FIN; another by its bytes.
    /// Guarantees: RST is an error, FIN is an end, and exactly the bytes before the cut have passed.
    #[tokio::test]
    async fn a_wire_is_cut_as_it_is_told() {
        let (proxy, serving) = echo().await;
        let mut stream = connect(&proxy).await;
        assert!(passes(&mut stream, b"fine").await.expect("it is open"));
        proxy.cut(Cut::Reset);
        let error = timeout(SOON, stream.read_u8()).await.expect("it ends").expect_err("it is reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let mut stream = connect(&proxy).await;
        assert!(passes(&mut stream, b"fine").await.expect("it is open"));
        proxy.cut(Cut::Close);
        let error = timeout(SOON, stream.read_u8()).await.expect("it ends").expect_err("it is closed");
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
        proxy.set(Weather { cut_after: Some((10_007, Cut::Close)), ..Weather::default() });
        let before = proxy.carried();
        let mut stream = connect(&proxy).await;
        stream.write_all(&[7; 30_000]).await.ok();
        let cut = until(SOON, async || (proxy.carried().cuts == before.cuts + 1).then_some(())).await;
        assert!(cut.is_some(), "it is cut");
        let carried = proxy.carried();
        let passed = carried.bytes_up + carried.bytes_down - before.bytes_up - before.bytes_down;
        assert_eq!(passed, 10_007);
        serving.abort();
    }

    /// Scenario: a wire falls silent, with a connection on it and another one made meanwhile; a third is abandoned.
    /// Guarantees: none of them hears anything and none is closed; what was open before the silence goes on after it, the others
    /// never do; a new one is fine.
    #[tokio::test]
    async fn a_silent_wire_tells_nobody() {
        let (proxy, serving) = echo().await;
        let mut before = connect(&proxy).await;
        assert!(passes(&mut before, b"fine").await.expect("it is open"));
        proxy.set(Weather { silent: true, ..Weather::default() });
        let mut within = connect(&proxy).await;
        assert!(!passes(&mut before, b"mute").await.expect("it is not closed"));
        assert!(!passes(&mut within, b"mute").await.expect("it is not closed"));
        proxy.set(Weather::default());
        let mut back = [0; 4];
        timeout(SOON, before.read_exact(&mut back)).await.expect("it comes").expect("it is open");
        assert!(!passes(&mut within, b"mute").await.expect("it is not closed"));
        proxy.abandon();
        assert!(!passes(&mut before, b"mute").await.expect("it is not closed"));
        let mut after = connect(&proxy).await;
        assert!(passes(&mut after, b"fine").await.expect("it is open"));
        proxy.heal();
        assert!(timeout(SOON, within.read_u8()).await.expect("it ends").is_err());
        assert!(timeout(SOON, before.read_u8()).await.expect("it ends").is_err());
        serving.abort();
    }
}
