//! What the command makes, and what it leaves alone.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tempfile::TempDir;
use weir_model::{BoxFuture, Ledger};
use weir_net::address::Egress;
use weir_net::certificate::Identity;
use weir_net::client::{Client, ClientSettings, SendLimits};
use weir_net::client_tls::ClientTls;
use weir_net::listen::{Bound, Handler, Peer, Settings};
use weir_net::reply::text;
use weir_net::roots::Trust;
use weir_net::tls::{MinVersion, ServerTls, TlsConfig};
use weir_net::{Drain, ReplyBody};

use super::*;
use crate::config;

const DAY: Duration = Duration::from_secs(24 * 3600);

const LIMITS: SendLimits = SendLimits { timeout: Duration::from_secs(20), response_bytes_max: 1000 };

fn folder() -> TempDir {
    TempDir::with_prefix("weir-cert-").expect("a folder")
}

fn wish(name: &str) -> Wish {
    Wish::new(name, Vec::new(), vec!["127.0.0.1".parse().expect("an address")], None).expect("a name")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it was made").permissions().mode() & 0o777
}

fn failure<T: std::fmt::Debug>(of: anyhow::Result<T>) -> String {
    format!("{:#}", of.expect_err("it is refused"))
}

/// Says whom it sees.
struct Seer;

impl Handler for Seer {
    fn handle(
        self: Arc<Self>,
        _: Request<Incoming>,
        peer: Arc<Peer>,
    ) -> BoxFuture<'static, Response<ReplyBody>> {
        let name = peer.identity.as_ref().map(|identity| identity.to_string()).unwrap_or_default();
        Box::pin(async move { text(StatusCode::OK, name) })
    }
}

/// Whom a listener sees in the host that dials with this pair.
async fn seen(dir: &Path, name: &str, addr: SocketAddr) -> Result<String, String> {
    let file = |name: String| dir.join(name);
    let identity = Some((file(format!("{name}.pem")), file(format!("{name}.key"))));
    let trust =
        Trust { ca_file: Some(file("ca.pem".into())), identity, crl_file: Some(file("ca.crl".into())) };
    let tls = ClientTls::load(trust).expect("the files fit");
    let url = format!("https://{addr}/");
    let egress = Egress::new([url.parse().expect("a URL")]).expect("one origin");
    let outlet = Client::new(ClientSettings::new(Ledger::new(64 << 20))).outlet_with(egress, tls);
    let request = Request::get(url).body(Bytes::new()).expect("a request");
    let answer = outlet.send(request, LIMITS).await.map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(answer.body()).into_owned())
}

/// Scenario: an authority is made, two hosts get their pairs; one listens by its pair, the other dials it by its own. Then the
/// other's certificate is revoked.
/// Guarantees: each knows the other, by the URI of the name; keys are for their owner alone, also in a folder for its owner alone;
/// who is revoked is refused after the next look, and the rest is not.
#[tokio::test]
async fn pairs_listen_and_dial_until_they_are_revoked() {
    let top = folder();
    let dir = top.path().join("of us");
    let now = SystemTime::now();
    let said = init(&dir, "Example", 100, now).expect("nothing is there");
    assert!(said.contains(&format!("next: weir cert issue HOST --dir {}", dir.display())), "{said}");
    for name in ["collector", "web-1", "web-2"] {
        issue(&dir, None, &wish(name), now).expect("it is issued");
        assert_eq!(
            (mode(&dir.join(format!("{name}.key"))), mode(&dir.join(format!("{name}.pem")))),
            (0o600, 0o644)
        );
    }
    assert_eq!((mode(&dir), mode(&dir.join("ca.key"))), (0o700, 0o600));
    let tls = ServerTls::load(TlsConfig {
        cert_file: dir.join("collector.pem"),
        key_file: dir.join("collector.key"),
        client_ca_file: Some(dir.join("ca.pem")),
        crl_file: Some(dir.join("ca.crl")),
        min_version: MinVersion::Tls13,
    });
    let tls = tls.expect("the files fit");
    let settings = Settings { tls: Some(Arc::clone(&tls)), ..Settings::default() };
    let bound = Bound::bind("127.0.0.1:0", settings).expect("an address");
    let addr = bound.local_addr();
    let serving = tokio::spawn(bound.serve(Arc::new(Seer), Drain::new()));
    assert_eq!(seen(&dir, "web-1", addr).await.as_deref(), Ok("urn:weir:host:web-1"));
    let said = revoke(&dir, &dir.join("web-1.pem"), now).expect("it is ours");
    assert!(said.contains("urn:weir:host:web-1 is revoked"), "{said}");
    tls.look();
    assert!(seen(&dir, "web-1", addr).await.is_err());
    assert_eq!(seen(&dir, "web-2", addr).await.as_deref(), Ok("urn:weir:host:web-2"));
    serving.abort();
}

/// Scenario: an authority is made where one is; a pair where one is, or where only one of its two files is.
/// Guarantees: each is refused with the file and with what to do instead; no file is another afterwards, and none was made.
#[test]
fn nothing_that_is_there_is_written_over() {
    let (dir, now) = (folder(), SystemTime::now());
    let dir = dir.path();
    init(dir, "Weir", 100, now).expect("nothing is there");
    issue(dir, None, &wish("web-1"), now).expect("nothing is there");
    fs::write(dir.join("web-2.pem"), "somebody's").expect("our folder");
    let content = || {
        let entries = fs::read_dir(dir).expect("our folder").map(|entry| entry.expect("readable").path());
        entries
            .map(|path| (path.clone(), fs::read(path).expect("readable")))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let before = content();
    let said = failure(init(dir, "Weir", 100, now));
    assert!(
        said.contains("ca.key is there already") && said.contains("weir cert issue HOST --dir"),
        "{said}"
    );
    let said = failure(issue(dir, None, &wish("web-1"), now));
    assert!(said.contains("web-1.key is there already") && said.contains("--out"), "{said}");
    let said = failure(issue(dir, None, &wish("web-2"), now));
    assert!(said.contains("web-2.pem is there already"), "{said}");
    assert_eq!(content(), before);
    issue(dir, Some(&dir.join("renewed")), &wish("web-1"), now).expect("that folder is new");
    assert_ne!(fs::read(dir.join("renewed/web-1.pem")).expect("made"), before[&dir.join("web-1.pem")]);
}

/// Scenario: names of hosts, addresses and agents, and names that are none: paths, the authority's own files, too long, empty.
/// Guarantees: a name stands in the certificate as what it is; nothing leads out of the folder or over the authority.
#[test]
fn a_name_is_a_file_and_stays_in_its_folder() {
    let (dir, now) = (folder(), SystemTime::now());
    init(dir.path(), "Weir", 100, now).expect("nothing is there");
    for (name, names) in [
        ("web-1.example", vec!["URI urn:weir:host:web-1.example", "DNS web-1.example"]),
        ("10.0.0.7", vec!["URI urn:weir:host:10.0.0.7", "IP 10.0.0.7"]),
        ("agent_7", vec!["URI urn:weir:host:agent_7"]),
    ] {
        let wish = Wish::new(name, Vec::new(), Vec::new(), None).expect("a name");
        let said = issue(dir.path(), None, &wish, now).expect("it is issued");
        assert_eq!(described(&dir.path().join(format!("{name}.pem"))).expect("it was made").names, names);
        assert_eq!(said.contains("no name that can be dialled"), name == "agent_7");
    }
    let extra = Wish::new("h", vec!["*.example".into()], vec!["::1".parse().expect("an address")], None);
    issue(dir.path(), None, &extra.expect("a name"), now).expect("it is issued");
    let names = described(&dir.path().join("h.pem")).expect("it was made").names;
    assert_eq!(names, ["URI urn:weir:host:h", "DNS h", "DNS *.example", "IP ::1"]);
    for name in ["", ".", "..", "../x", "a/b", "-h", "ca", "CA", "a b", "ä", &"x".repeat(65)] {
        let said = failure(Wish::new(name, Vec::new(), Vec::new(), None));
        assert!(said.contains("cannot name a host or an agent"), "{said}");
    }
    for dns in ["", "a..b", "-a", "10.0.0.1", "a b", "*"] {
        assert!(failure(Wish::new("h", vec![dns.into()], Vec::new(), None)).contains("--dns"), "{dns}");
    }
}

/// Scenario: certificates for more days than the authority has left; one without a wish; an authority that has expired, none, one
/// whose key is another's, and one whose key is no key.
/// Guarantees: nothing outlives its authority, and each refusal names the file or the folder, and the next thing to do.
#[test]
fn an_authority_signs_only_what_it_can_answer_for() {
    let (top, now) = (folder(), SystemTime::now());
    let dir = top.path().join("a");
    init(&dir, "Weir", 30, now).expect("nothing is there");
    let long = Wish::new("h", Vec::new(), Vec::new(), Some(31)).expect("a name");
    assert!(failure(issue(&dir, None, &long, now)).contains("expected fewer --days than 31"));
    issue(&dir, None, &wish("h"), now).expect("it is issued");
    let ends = |path: &Path| {
        let found = certificate::certificates_of(&fs::read(path).expect("made")).expect("certificates");
        Identity::of(&found[0]).expect("a certificate").not_after
    };
    assert_eq!(ends(&dir.join("h.pem")), ends(&dir.join("ca.pem")));
    let said = failure(issue(&dir, None, &wish("i"), now + 31 * DAY));
    assert!(said.contains("has expired") && said.contains("weir cert init"), "{said}");
    let none = top.path().join("none");
    let said = failure(issue(&none, None, &wish("i"), now));
    assert!(said.contains(&format!("weir cert init --dir {}", none.display())), "{said}");

    let other = top.path().join("b");
    init(&other, "Weir", 30, now).expect("nothing is there");
    fs::copy(other.join("ca.key"), dir.join("ca.key")).expect("our folders");
    assert!(failure(issue(&dir, None, &wish("i"), now)).contains("is not the key of"));
    fs::write(dir.join("ca.key"), "no key").expect("our folder");
    let said = failure(issue(&dir, None, &wish("i"), now));
    assert!(said.contains("ca.key: expected a private key"), "{said}");
    assert!(!dir.join("i.pem").exists() && !dir.join("i.key").exists());
}

/// Scenario: a certificate is revoked twice, another once; then one of another authority, the authority itself, a key; and while
/// somebody else is at work.
/// Guarantees: the list holds each once under a rising number; what is not this authority's is refused, and the list stays.
#[test]
fn a_list_holds_what_was_revoked_and_nothing_else() {
    let (top, now) = (folder(), SystemTime::now());
    let (dir, other) = (top.path().join("a"), top.path().join("b"));
    for dir in [&dir, &other] {
        init(dir, "Weir", 30, now).expect("nothing is there");
        ["one", "two"]
            .iter()
            .for_each(|name| drop(issue(dir, None, &wish(name), now).expect("it is issued")));
    }
    let list = || {
        let lists = certificate::lists_of(&fs::read(dir.join("ca.crl")).expect("made")).expect("lists");
        (lists[0].number, lists[0].revoked.len())
    };
    assert_eq!(list(), (1, 0));
    for (name, after) in [("one", (2, 1)), ("one", (2, 1)), ("two", (3, 2))] {
        revoke(&dir, &dir.join(format!("{name}.pem")), now).expect("it is ours");
        assert_eq!(list(), after, "{name}");
    }
    for (file, said) in [
        (other.join("one.pem"), "is not of the authority in"),
        (dir.join("ca.pem"), "is an authority"),
        (dir.join("one.key"), "holds no certificate"),
        (dir.join("absent.pem"), "absent.pem"),
    ] {
        let words = failure(revoke(&dir, &file, now));
        assert!(words.contains(said), "{words}");
    }
    fs::write(other.join("ca.crl.new"), "").expect("our folder");
    let said = failure(revoke(&other, &other.join("one.pem"), now));
    assert!(said.contains("ca.crl.new is there already"), "{said}");
    assert_eq!(list(), (3, 2));
}

/// Scenario: a pair, its authority and a list are shown: now, before they hold and after; a key is shown.
/// Guarantees: names, times and state are there; of a key nothing is shown.
#[test]
fn what_is_shown_is_what_is_there() {
    let (dir, now) = (folder(), UNIX_EPOCH + 20_000 * DAY);
    let dir = dir.path();
    init(dir, "Example", 30, now).expect("nothing is there");
    issue(dir, None, &wish("web-1"), now).expect("it is issued");
    let of = |name: &str, now| show(&dir.join(name), now).expect("it is shown");
    let shown = of("web-1.pem", now);
    for words in [
        "certificate CN=web-1, it holds",
        "identity     urn:weir:host:web-1",
        "names        URI urn:weir:host:web-1, DNS web-1, IP 127.0.0.1",
        "issued by    O=Example, CN=Example authority of Weir",
        " to Sun, 03 Nov 2024 00:00:00",
    ] {
        assert!(shown.contains(words), "{words} is not in\n{shown}");
    }
    assert!(of("web-1.pem", now - DAY).contains("it does not hold yet"));
    assert!(of("web-1.pem", now + 31 * DAY).contains("IT HAS EXPIRED"));
    assert!(of("ca.pem", now).contains("authority O=Example"));
    assert!(
        of("ca.crl", now).contains("revocation list 1 of O=Example, CN=Example authority of Weir, 0 revoked")
    );
    revoke(dir, &dir.join("web-1.pem"), now).expect("it is ours");
    assert!(of("ca.crl", now + 31 * DAY).contains("1 revoked, IT IS OUT OF DATE"));
    assert!(failure(show(&dir.join("web-1.key"), now)).contains("holds neither a certificate nor"));
}

/// Scenario: the lines that `issue` prints are pasted into a file, under a receiver that other machines reach and under an exporter;
/// the folder's name has blanks and a quote.
/// Guarantees: that file is a configuration, and its paths are those of the pair.
#[test]
fn the_lines_to_paste_are_a_configuration() {
    let (top, now) = (folder(), SystemTime::now());
    let dir = top.path().join("it's ours");
    init(&dir, "Weir", 30, now).expect("nothing is there");
    let said = issue(&dir, None, &wish("web-1"), now).expect("it is issued");
    let lines: Vec<&str> = said.lines().filter_map(|line| line.trim().strip_prefix("tls: ")).collect();
    let [listens, dials] = lines.as_slice() else { panic!("two lines in\n{said}") };
    let text = format!(
        "receivers:
  otlp: {{protocols: {{grpc: {{endpoint: '0.0.0.0:4317', tls: {listens}}}}}}}
exporters:
  otlp: {{endpoint: 'in.example:4317', tls: {dials}}}
service:
  queue: {{storage: memory}}
  pipelines: {{traces: {{receivers: [otlp], exporters: [otlp]}}}}
"
    );
    let file = top.path().join("weir.yaml");
    fs::write(&file, &text).expect("our folder");
    let draft = config::load(&file).unwrap_or_else(|report| panic!("{report}\n{text}"));
    let tls = draft.config().receivers.values().next().expect("one").value.tls();
    let files: Vec<_> = tls[0].files().into_iter().map(|file| file.value.clone()).collect();
    assert_eq!(files, ["web-1.pem", "web-1.key", "ca.pem", "ca.crl"].map(|name| dir.join(name)));
}

/// Scenario: the command line of each act, with all that it takes; and lines with a name, a file or a number that is missing or wrong.
/// Guarantees: the former mean what they say, and the latter are refused.
#[test]
fn the_command_line_is_understood() {
    use clap::Parser as _;

    use crate::command::{Arguments, Command};

    let parse = |line: &str| Arguments::try_parse_from(line.split(' ')).map(|arguments| arguments.command);
    let Ok(Command::Cert(Cert::Init { place, name, days })) = parse("weir cert init") else { panic!("init") };
    assert_eq!((place.dir.as_path(), name.as_str(), days), (Path::new("weir-certs"), "Weir", 3650));
    let line = "weir cert issue web-1 --dir d --out o --dns a --dns b --ip ::1 --ip 10.0.0.1 --days 7";
    let Ok(Command::Cert(Cert::Issue { name, place, out, dns, ip, days })) = parse(line) else {
        panic!("{line}")
    };
    assert_eq!(
        (name.as_str(), place.dir.as_path(), out.as_deref()),
        ("web-1", Path::new("d"), Some(Path::new("o")))
    );
    assert_eq!((dns, ip.len(), days), (vec!["a".to_owned(), "b".to_owned()], 2, Some(7)));
    assert!(
        matches!(parse("weir cert show a b"), Ok(Command::Cert(Cert::Show { files })) if files.len() == 2)
    );
    assert!(matches!(parse("weir cert revoke a --dir d"), Ok(Command::Cert(Cert::Revoke { .. }))));
    for line in
        ["issue", "issue a --ip b", "issue a --days 0", "issue a --days 36501", "init x", "show", "revoke"]
    {
        assert!(parse(&format!("weir cert {line}")).is_err(), "{line}");
    }
}
