//! The table: what a plugin does, and what the operator reads.

/// One plugin that does one harmful thing.
pub(crate) struct Case {
    /// What it is called, and the second half of its configured id.
    pub(crate) name: &'static str,
    /// Which guest, as what.
    pub(crate) role: Role,
    /// Its settings, as YAML inside of braces.
    pub(crate) settings: &'static str,
    /// `limits:`, as YAML inside of braces.
    pub(crate) limits: &'static str,
    /// Lines of the log: each must have the id and all of these words; a word may be `this|that`.
    pub(crate) reads: &'static [&'static [&'static str]],
    /// Figures of the id, with their kinds, that are above zero.
    pub(crate) counts: &'static [(&'static str, &'static str)],
    /// The status that its own senders get, where it receives.
    pub(crate) answers: Option<u16>,
    /// It needs names that lead where this story wants them to.
    pub(crate) by_name: bool,
    /// It uses up what others need, as the operator lets it: it has a daemon of its own where others share one.
    pub(crate) alone: bool,
}

/// Which guest, as what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// `hostile.wasm` as an exporter.
    Exporter,
    /// `hostile.wasm` as a receiver.
    Receiver,
    /// `errand.wasm`, which has a WASI, as an exporter.
    Errand,
}

impl Case {
    /// The configured id.
    pub(crate) fn id(&self) -> String {
        match self.role {
            Role::Exporter | Role::Receiver => format!("hostile/{}", self.name),
            Role::Errand => format!("errand/{}", self.name),
        }
    }

    /// The id with its section, as figures name it.
    pub(crate) fn section(&self) -> String {
        match self.role {
            Role::Exporter | Role::Errand => format!("exporters/{}", self.id()),
            Role::Receiver => format!("receivers/{}", self.id()),
        }
    }
}

/// A harmless exporter, for the cases to differ from. Deadlines are such that a test can wait for them.
const PLAIN: Case = Case {
    name: "",
    role: Role::Exporter,
    settings: "",
    limits: "memory_mib: 16, cpu_deadline: 1s, call_deadline: 60s",
    reads: &[],
    counts: &[],
    answers: None,
    by_name: false,
    alone: false,
};

/// Room for answers of tens of mebibytes.
const ROOMY: &str = "memory_mib: 128, cpu_deadline: 1s, call_deadline: 60s";

/// A short time for the whole call, for those who wait.
const SHORT: &str = "memory_mib: 16, cpu_deadline: 1s, call_deadline: 2s";

/// Time enough for the calls that a guest may make, on a machine that does much else.
const PATIENT: &str = "memory_mib: 16, cpu_deadline: 20s, call_deadline: 60s";

/// As ends are told: plugin, version and the call.
const PUSH: &str = "plugin hostile 6.6.6 (hostile/";

/// Every case.
pub(crate) const CASES: [Case; 39] = [
    // === It computes, recurses, grows ===
    Case {
        name: "loop",
        settings: "mode: loop",
        reads: &[&[PUSH, "exporter.push", "computed for longer than cpu_deadline 1s", "endless"]],
        counts: &[("ends", "cpu_deadline")],
        ..PLAIN
    },
    Case {
        name: "recurse",
        settings: "mode: recurse",
        reads: &[&[PUSH, "exporter.push", "call stack exhausted", "recurse"]],
        counts: &[("ends", "trap")],
        ..PLAIN
    },
    Case {
        name: "grow",
        settings: "mode: grow",
        reads: &[&[PUSH, "exporter.push", "memory limit 16 MiB reached, asked for 17 MiB"]],
        counts: &[("ends", "memory_limit")],
        ..PLAIN
    },
    Case {
        name: "grow-past-the-budget",
        settings: "mode: grow",
        limits: "memory_mib: 4096, cpu_deadline: 5s",
        reads: &[&[PUSH, "exporter.push", "memory budget of the process (", "used up, asked for"]],
        counts: &[("ends", "memory_limit")],
        alone: true,
        ..PLAIN
    },
    // === What it returns ===
    Case {
        name: "long-string",
        settings: "mode: long-answer",
        limits: ROOMY,
        reads: &[&[PUSH, "exporter.push", "fuel"]],
        counts: &[("ends", "trap")],
        ..PLAIN
    },
    Case {
        name: "list-bomb",
        settings: "mode: bomb-at-work, endpoint: 'http://<closed>'",
        reads: &[&[PUSH, "plugin.configure", "fuel"]],
        counts: &[("ends", "trap")],
        ..PLAIN
    },
    Case {
        name: "not-utf8",
        settings: "mode: not-utf8",
        reads: &[&[PUSH, "exporter.push", "utf-8"]],
        counts: &[("ends", "trap")],
        ..PLAIN
    },
    Case {
        name: "escapes",
        settings: "mode: odd-answer",
        reads: &[&["to the dead-letter log", r"\\u{1b}[31mred\\u{a}"]],
        counts: &[("pushes", "permanent")],
        ..PLAIN
    },
    // === It traps, panics, exits ===
    Case {
        name: "trap-in-push",
        settings: "mode: panic",
        reads: &[&[PUSH, "exporter.push", "unreachable", "unreachable_by_design"]],
        counts: &[("ends", "trap")],
        ..PLAIN
    },
    Case {
        name: "trap-in-configure",
        settings: "mode: trap-at-work, endpoint: 'http://<closed>'",
        reads: &[&[PUSH, "plugin.configure", "unreachable", "unreachable_by_design"]],
        counts: &[("ends", "trap")],
        ..PLAIN
    },
    Case {
        name: "panic",
        role: Role::Errand,
        settings: "mode: panic",
        reads: &[&[
            "plugin errand 1.0.0 (errand/panic)",
            "exporter.push",
            "unreachable",
            "; it said: ",
            "colours where there must be none",
        ]],
        counts: &[("ends", "trap")],
        ..PLAIN
    },
    Case {
        name: "exit",
        role: Role::Errand,
        settings: "mode: exit",
        reads: &[&["plugin errand 1.0.0 (errand/exit)", "called exit(1)", "; it said: going home"]],
        counts: &[("ends", "exit")],
        ..PLAIN
    },
    // === It waits, through us ===
    Case {
        name: "sleep",
        role: Role::Errand,
        settings: "mode: sleep",
        limits: SHORT,
        reads: &[&["plugin errand 1.0.0 (errand/sleep)", "took longer than call_deadline 2s"]],
        counts: &[("ends", "call_deadline")],
        ..PLAIN
    },
    Case {
        name: "wait",
        settings: "mode: wait-for-ever, endpoint: 'http://<slow>/v1/traces'",
        limits: SHORT,
        reads: &[&[PUSH, "exporter.push", "took longer than call_deadline 2s"]],
        counts: &[("ends", "call_deadline"), ("requests", "")],
        ..PLAIN
    },
    Case {
        name: "clock-for-ever",
        settings: "mode: clock-for-ever",
        limits: PATIENT,
        reads: &[&[PUSH, "exporter.push", "made more than 100000 host calls (limits.host_calls)"]],
        counts: &[("ends", "host_calls")],
        ..PLAIN
    },
    Case {
        name: "send-for-ever",
        settings: "mode: send-for-ever, target: 'http://127.0.0.1:1/'",
        limits: PATIENT,
        reads: &[&[PUSH, "exporter.push", "made more than 100000 host calls (limits.host_calls)"]],
        counts: &[("ends", "host_calls"), ("denials", "")],
        ..PLAIN
    },
    Case {
        name: "log-for-ever",
        settings: "mode: log-for-ever",
        limits: PATIENT,
        reads: &[&[PUSH, "exporter.push", "made more than 100000 host calls (limits.host_calls)"]],
        counts: &[("ends", "host_calls"), ("log_lines_suppressed", "")],
        ..PLAIN
    },
    // === It talks ===
    Case {
        name: "log-flood",
        settings: "mode: log-flood",
        reads: &[&["plugin=hostile", r"line\u{a}\u{1b}[2J", "n=0"]],
        counts: &[("log_lines_suppressed", ""), ("pushes", "accepted")],
        ..PLAIN
    },
    Case {
        name: "log-bomb",
        settings: "mode: log-bomb",
        limits: ROOMY,
        reads: &[&["plugin=hostile", "xxxxxxxx", "…"]],
        ..PLAIN
    },
    Case {
        name: "print",
        role: Role::Errand,
        settings: "mode: print",
        reads: &[&["plugin=errand", r"the first \u{1b}[2Jline"], &["plugin=errand", "the second"]],
        counts: &[("pushes", "accepted")],
        ..PLAIN
    },
    Case {
        name: "print-flood",
        role: Role::Errand,
        settings: "mode: print-flood",
        limits: PATIENT,
        reads: &[&["plugin=errand", "printed", "line 9999"]],
        counts: &[("log_lines_suppressed", ""), ("pushes", "accepted")],
        ..PLAIN
    },
    Case {
        name: "label-flood",
        settings: "mode: label-flood",
        counts: &[("meter_suppressed", ""), ("pushes", "accepted")],
        ..PLAIN
    },
    // === It reaches out ===
    Case {
        name: "host-by-name",
        settings: "mode: send-elsewhere, target: 'http://example.com/', endpoint: 'http://<granted>/'",
        reads: &[
            &[
                "request of a plugin denied",
                "http://example.com:80 is not granted; granted are: http://127.0.0.1:",
            ],
            &["exporter paused until an operator acts", "http://example.com:80 is not granted"],
        ],
        counts: &[("denials", "")],
        ..PLAIN
    },
    Case {
        name: "host-by-port",
        settings: "mode: send-elsewhere, target: 'http://<elsewhere>/', endpoint: 'http://<granted>/'",
        reads: &[&["request of a plugin denied", "is not granted; granted are: http://127.0.0.1:"]],
        counts: &[("denials", "")],
        ..PLAIN
    },
    Case {
        name: "host-by-address",
        settings: "mode: send-elsewhere, target: 'http://169.254.169.254/latest/meta-data', endpoint: 'http://<granted>/'",
        reads: &[&["request of a plugin denied", "http://169.254.169.254:80 is not granted; granted are:"]],
        counts: &[("denials", "")],
        ..PLAIN
    },
    Case {
        name: "host-mapped",
        settings: "mode: send-elsewhere, target: 'http://[::ffff:169.254.169.254]/', endpoint: 'http://<granted>/'",
        reads: &[&["request of a plugin denied", "::ffff:169.254.169.254", "is not granted; granted are:"]],
        counts: &[("denials", "")],
        ..PLAIN
    },
    Case {
        name: "metadata-granted",
        settings: "mode: send, endpoint: 'http://169.254.169.254/'",
        reads: &[
            &[
                "request of a plugin denied",
                "169.254.169.254 is a cloud metadata address, which is never reached",
            ],
            &["exporter paused until an operator acts", "cloud metadata address"],
        ],
        counts: &[("denials", "")],
        ..PLAIN
    },
    Case {
        name: "mapped-granted",
        settings: "mode: send, endpoint: 'http://[::ffff:169.254.169.254]/'",
        reads: &[&["request of a plugin denied", "is a cloud metadata address, which is never reached"]],
        counts: &[("denials", "")],
        ..PLAIN
    },
    Case {
        name: "metadata-by-resolution",
        settings: "mode: send, endpoint: 'http://metadata.test/'",
        reads: &[&[
            "request of a plugin denied",
            "http://metadata.test:80: 169.254.169.254 is a cloud metadata address, which is never reached",
        ]],
        counts: &[("denials", "")],
        by_name: true,
        ..PLAIN
    },
    Case {
        name: "loopback-by-resolution",
        settings: "mode: send, endpoint: 'http://inside.test:ELSEWHERE/'",
        reads: &[&[
            "request of a plugin denied",
            "http://inside.test:",
            "127.0.0.1 is a loopback address, which is reached only where the grant itself says localhost",
        ]],
        counts: &[("denials", "")],
        by_name: true,
        ..PLAIN
    },
    Case {
        name: "redirect",
        settings: "mode: send, endpoint: 'http://<granted>/moved'",
        reads: &[&["to the dead-letter log", "status 302"]],
        counts: &[("requests", ""), ("pushes", "permanent")],
        ..PLAIN
    },
    Case {
        name: "wasi",
        role: Role::Errand,
        settings: "mode: look",
        reads: &[&["to the dead-letter log", "environment 0 arguments 0 folders 0 socket false"]],
        counts: &[("pushes", "permanent")],
        ..PLAIN
    },
    // === The same as a receiver, while another one serves ===
    Case {
        name: "door-loop",
        settings: "mode: loop, listen: <door-loop>",
        reads: &[&[PUSH, "http-receiver.receive", "computed for longer than cpu_deadline 1s", "endless"]],
        counts: &[("ends", "cpu_deadline")],
        answers: Some(503),
        role: Role::Receiver,
        ..PLAIN
    },
    Case {
        name: "door-trap",
        settings: "mode: panic, listen: <door-trap>",
        reads: &[&[PUSH, "http-receiver.receive", "unreachable", "unreachable_by_design"]],
        counts: &[("ends", "trap")],
        answers: Some(503),
        role: Role::Receiver,
        ..PLAIN
    },
    Case {
        name: "door-grow",
        settings: "mode: grow, listen: <door-grow>",
        reads: &[&[PUSH, "http-receiver.receive", "memory limit 16 MiB reached, asked for 17 MiB"]],
        counts: &[("ends", "memory_limit")],
        answers: Some(503),
        role: Role::Receiver,
        ..PLAIN
    },
    Case {
        name: "door-long-body",
        settings: "mode: long-answer, listen: <door-long-body>",
        limits: ROOMY,
        reads: &[&[PUSH, "http-receiver.receive", "fuel"]],
        counts: &[("ends", "trap")],
        answers: Some(503),
        role: Role::Receiver,
        // It needs most of what plugins have together.
        alone: true,
        ..PLAIN
    },
    Case {
        name: "door-list-bomb",
        settings: "mode: list-bomb, listen: <door-list-bomb>",
        reads: &[&[PUSH, "http-receiver.receive", "fuel"]],
        counts: &[("ends", "trap")],
        answers: Some(503),
        role: Role::Receiver,
        ..PLAIN
    },
    Case {
        name: "door-not-utf8",
        settings: "mode: not-utf8, listen: <door-not-utf8>",
        reads: &[&[PUSH, "http-receiver.receive", "utf-8"]],
        counts: &[("ends", "trap")],
        answers: Some(503),
        role: Role::Receiver,
        ..PLAIN
    },
    Case {
        name: "door-odd-header",
        settings: "mode: odd-header, listen: <door-odd-header>",
        reads: &[&["answer of a plugin is not valid", r"a response with the header a b\\u{d}\\u{a}"]],
        answers: Some(503),
        role: Role::Receiver,
        ..PLAIN
    },
];
