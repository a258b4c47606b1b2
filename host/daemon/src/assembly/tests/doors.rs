//! Every door that can ask who comes does ask, and refuses who has nothing to show or shows the wrong thing.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use weir_model::Ledger;
use weir_net::address::Egress;
use weir_net::client::{Client, ClientSettings, SendLimits};
use weir_net::client_tls::ClientTls;
use weir_net::roots::Trust;

use super::{FILE, Stage, data};

const LIMITS: SendLimits = SendLimits { timeout: Duration::from_secs(60), response_bytes_max: 1 << 20 };

/// One door of each kind that there is: native and of plugins, over gRPC and over HTTP, and a page.
fn file() -> String {
    let of = |name: &str| data().join(name).display().to_string();
    let tls = format!(
        "tls: {{cert_file: {}, key_file: {}, client_ca_file: {}}}",
        of("server.pem"),
        of("server.key"),
        of("ca.pem")
    );
    let (_, service) = FILE.split_once("service:").expect("it has one");
    let (service, _) = service.split_once("    traces:").expect("it has a pipeline");
    format!(
        "receivers:
  otlp: {{protocols: {{grpc: {{endpoint: '127.0.0.1:0', {tls}}}, http: {{endpoint: '127.0.0.1:0', {tls}}}}}}}
  opencensus: {{endpoint: '127.0.0.1:0', {tls}}}
  zipkin: {{endpoint: '127.0.0.1:0', {tls}}}
  jaeger: {{protocols: {{grpc: {{endpoint: '127.0.0.1:0'}}, thrift_http: {{endpoint: '127.0.0.1:0'}}}}, {tls}}}
  prometheusremotewrite: {{endpoint: '127.0.0.1:0', {tls}}}
exporters:
  debug:
  prometheus: {{endpoint: '127.0.0.1:0', {tls}}}
service:{service}    traces: {{receivers: [otlp, opencensus, zipkin, jaeger], exporters: [debug]}}
    metrics: {{receivers: [prometheusremotewrite], exporters: [prometheus]}}
"
    )
}

/// Writes a pair that an authority has issued which nobody trusts.
fn stranger(folder: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority =
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let made = params.signed_by(&key, &authority).expect("signed");
    let pair = (folder.join("stranger.pem"), folder.join("stranger.key"));
    std::fs::write(&pair.0, made.pem()).expect("our folder");
    std::fs::write(&pair.1, key.serialize_pem()).expect("our folder");
    pair
}

/// Whether a door gives an answer, of any kind.
async fn answers(addr: SocketAddr, trust: &Trust) -> Result<(), String> {
    let tls = ClientTls::load(trust.clone()).expect("the files fit");
    let url = format!("https://{addr}/");
    let egress = Egress::new([url.parse().expect("a URL")]).expect("one origin");
    let outlet = Client::new(ClientSettings::new(Ledger::new(64 << 20))).outlet_with(egress, tls);
    let request = Request::get(url).body(Bytes::new()).expect("a request");
    outlet.send(request, LIMITS).await.map(drop).map_err(|error| error.to_string())
}

/// Scenario: a door of each kind with `client_ca_file`; somebody without a certificate, somebody with another authority's, and somebody
/// with the right one ask each of them.
/// Guarantees: only the last gets an answer, at every door; each refusal is counted under the door's id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_door_refuses_a_wrong_and_a_missing_certificate() {
    let folder = TempDir::with_prefix("weir-stranger-").expect("a folder");
    let stage = Stage::start(&file()).await;
    let parts = &stage.daemon.parts;
    let doors = parts.doors.iter().chain(&parts.pages.doors);
    let doors: Vec<(String, SocketAddr)> = doors
        .flat_map(|(id, door)| {
            door.addresses.iter().map(move |(protocol, addr)| (format!("{id}/{protocol}"), *addr))
        })
        .collect();
    assert_eq!(doors.len(), 8, "{doors:?}");
    let of = |identity| Trust { ca_file: Some(data().join("ca.pem")), identity, crl_file: None };
    let known = (data().join("client.pem"), data().join("client.key"));
    for (name, addr) in doors {
        assert!(answers(addr, &of(None)).await.is_err(), "{name} serves who shows nothing");
        assert!(answers(addr, &of(Some(stranger(folder.path())))).await.is_err(), "{name} serves a stranger");
        answers(addr, &of(Some(known.clone()))).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let counts = parts.tls_counts();
    assert_eq!(counts.len(), 6, "{counts:?}");
    for (kind, id, counts) in counts {
        assert!(counts.handshakes_failed.get() >= 2, "{kind} {id}: {counts:?}");
    }
}
