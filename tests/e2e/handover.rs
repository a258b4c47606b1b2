//! An agent and a collector, two daemons with a bad wire between them: each record is handed over once.
//!
//! ```text
//! senders ─▶ agent ── its log ──▶ exporter weir ─▶ proxy ─▶ receiver weir ──▶ its log ── collector ─▶ a backend that
//!                                                                              ▲                      never takes
//!                                                                              └── read when both have stopped
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `pair.rs` | the two, and what is between them |
//! | `kill.rs` | both killed at random, over a wire that is bad at random |
//! | `loss.rs` | packets lost at random, in a network of their own |
//! | `copies.rs` | folders of agents that are wiped, restored, doubled |
//! | `restart.rs` | orderly restarts under load |
//! | `churn.rs` | thousands of streams, thousands of names |
//! | `rolling.rs` | twenty agents, restarted in turn |
//! | `simulated.rs` | the sessions of both in a simulation: thousands of seeds |
//! | `stores.rs` | folders of collectors that are wiped, restored |

mod churn;
mod copies;
mod kill;
mod loss;
mod pair;
mod restart;
mod rolling;
mod simulated;
mod stores;
