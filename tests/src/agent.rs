//! An agent from below: its streams are opened and its messages written by the test, so that a thousand of them fit into one
//! process.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;
use tonic::Streaming;
use tonic::transport::Endpoint;
use weir_proto::weir::link::v1::link_service_client::LinkServiceClient;
use weir_proto::weir::link::v1::{
    AgentMessage, BundleHead, CollectorMessage, DataPart, Hello, LogFacts, Welcome, agent_message,
    collector_message,
};

/// Messages that wait to be written to a stream.
const MESSAGES_MAX: usize = 8;

/// The one log of such an agent.
const LOG: &str = "traces";

/// Lanes of a log.
const LANES: u64 = 16;

/// An agent with one log, all of whose records are in one lane.
#[derive(Debug, Clone)]
pub struct BareAgent {
    number: u64,
    incarnation: [u8; 16],
    epoch: u64,
    /// The place of its next record.
    next: u64,
}

/// A stream that was welcomed. Dropped, it breaks off.
#[derive(Debug)]
pub struct LinkStream {
    sender: mpsc::Sender<agent_message::Message>,
    answers: Streaming<CollectorMessage>,
    /// What the collector said first.
    pub welcome: Welcome,
    ordinal: u64,
}

impl BareAgent {
    /// The agent of this number.
    pub fn new(number: u64) -> Self {
        // A UUIDv7 of the distant past: nobody of this name was there before, so that any will do.
        let mut incarnation = [1; 16];
        incarnation[6] = 0x70;
        incarnation[8..].copy_from_slice(&(number | 1 << 63).to_be_bytes());
        Self { number, incarnation, epoch: 1, next: 1 }
    }

    /// Connects and says who it is.
    ///
    /// # Errors
    /// Why there is no stream: nobody was there, or it was not welcome.
    pub async fn open(&self, address: SocketAddr) -> Result<LinkStream, String> {
        let endpoint =
            Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
        let channel = endpoint.tcp_nodelay(true).connect().await.map_err(|error| error.to_string())?;
        let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
        let messages = stream::unfold(receiver, async |mut receiver| {
            let message = receiver.recv().await?;
            Some((AgentMessage { message: Some(message) }, receiver))
        });
        let hello = agent_message::Message::Hello(self.hello());
        sender.send(hello).await.map_err(|_| "the stream has ended".to_owned())?;
        let opened = LinkServiceClient::new(channel).open(messages).await;
        let mut answers = opened.map_err(|status| status.to_string())?.into_inner();
        match received(&mut answers).await? {
            collector_message::Message::Welcome(welcome) => {
                Ok(LinkStream { sender, answers, welcome, ordinal: 0 })
            }
            other => Err(format!("no welcome: {other:?}")),
        }
    }

    fn hello(&self) -> Hello {
        let log = LogFacts {
            name: LOG.to_owned(),
            incarnation: self.incarnation.to_vec(),
            next: self.next,
            epoch_first: 1,
            settled: 1,
            firsts: Vec::new(),
        };
        Hello {
            version_min: 1,
            version_max: 1,
            identity: format!("bare-{:05}", self.number),
            incarnation: self.incarnation.to_vec(),
            epoch: self.epoch,
            boot: self.incarnation.to_vec(),
            logs: vec![log],
            host: "tests".to_owned(),
            program: "bare".to_owned(),
            ..Hello::default()
        }
    }

    /// The next record as a bundle of its own, in one part.
    pub fn bundle(&mut self, stream: &mut LinkStream, body: Bytes, items: u32) -> agent_message::Message {
        let bytes = body.len() as u64;
        stream.ordinal += 1;
        let head = BundleHead {
            ordinal: stream.ordinal,
            log: 0,
            lane: u32::try_from(self.number % LANES).expect("a lane"),
            signal: 1,
            seqs: vec![self.next],
            items: vec![items],
            lengths: vec![u32::try_from(bytes).expect("a test's body is small")],
            sent_bytes: bytes,
            bytes,
            crc: crc32c::crc32c(&body),
            again: false,
        };
        self.next += 1;
        agent_message::Message::Data(DataPart { head: Some(head), body })
    }
}

impl LinkStream {
    /// Writes a message; false once the stream has ended.
    pub async fn send(&self, message: agent_message::Message) -> bool {
        self.sender.send(message).await.is_ok()
    }

    /// The next message of the collector.
    ///
    /// # Errors
    /// Why there is none.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn receive(&mut self) -> Result<collector_message::Message, String> {
        received(&mut self.answers).await
    }
}

async fn received(answers: &mut Streaming<CollectorMessage>) -> Result<collector_message::Message, String> {
    let answer = answers.message().await.map_err(|status| status.to_string())?;
    let message = answer.ok_or("the collector has ended the stream")?.message;
    message.ok_or_else(|| "an empty message".to_owned())
}
