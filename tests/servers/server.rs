//! A server that runs, asked over HTTP.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::{Child, Command};
use weir_tests::client::HttpClient;
use weir_tests::wait::until;

/// How long a server may take to start, or to show what it was sent.
const DEADLINE: Duration = Duration::from_secs(120);

/// It ends with this.
pub(crate) struct Server {
    address: SocketAddr,
    http: HttpClient,
    _child: Child,
}

impl Server {
    /// Starts it and waits until it answers 200 under `path`.
    pub(crate) async fn start(mut command: Command, address: SocketAddr, path: &str) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let server = Self { address, http: HttpClient::default(), _child: child };
        let ready = until(DEADLINE, async || {
            let answer = server.http.get(address, path).await;
            answer.is_ok_and(|answer| answer.status() == 200).then_some(())
        });
        assert!(ready.await.is_some(), "{command:?} does not answer under {path}");
        server
    }

    /// What it shows under `path`, once it is as `wanted` says.
    pub(crate) async fn json(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        let found = until(DEADLINE, async || {
            let answer = self.http.get(self.address, path).await.ok()?;
            let seen: Option<Value> = serde_json::from_slice(answer.body()).ok();
            last = seen.clone().or(last.take());
            seen.filter(|seen| wanted(seen))
        });
        let found = found.await;
        found.unwrap_or_else(|| panic!("{path} shows {last:?}"))
    }
}
