//! Sampling strategies: what Jaeger's clients ask for once a minute.
//!
//! What an operator writes has the form of Jaeger's own file of strategies, and means the same: the operations of the default
//! count for every service that does not name them itself, and an operation is sampled by probability or not on its own.

use serde::Deserialize;
use weir_guest::json::JsonWriter;
use weir_guest::wire::Encoder;

/// The probability of operations where a service is limited by rate, as in Jaeger.
const PROBABILITY_DEFAULT: f64 = 0.001;

/// Strategies, as Jaeger's file has them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Strategies {
    /// For services that have none of their own: everything, where nothing is written.
    pub default_strategy: Strategy,
    /// For one service each.
    pub service_strategies: Vec<ServiceStrategy>,
}

/// How much of what is sampled.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Strategy {
    /// What `param` means.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// A probability, or traces a second.
    pub param: f64,
    /// For single operations.
    pub operation_strategies: Vec<OperationStrategy>,
}

/// What a strategy's parameter means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A probability, 0 to 1.
    #[default]
    Probabilistic,
    /// Traces a second.
    RateLimiting,
}

impl Default for Strategy {
    fn default() -> Self {
        Self { kind: Kind::Probabilistic, param: 1.0, operation_strategies: Vec::new() }
    }
}

/// The strategy of one service.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceStrategy {
    /// As the client calls itself.
    pub service: String,
    /// What `param` means.
    #[serde(rename = "type", default)]
    pub kind: Kind,
    /// A probability, or traces a second.
    pub param: f64,
    /// For single operations.
    #[serde(default)]
    pub operation_strategies: Vec<OperationStrategy>,
}

/// The strategy of one operation.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperationStrategy {
    /// As the spans are called.
    pub operation: String,
    /// Only a probability has an effect: clients know nothing else of operations.
    #[serde(rename = "type", default)]
    pub kind: Kind,
    /// The probability.
    pub param: f64,
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer<'a> {
    kind: Kind,
    param: f64,
    operations: Option<Operations<'a>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Operations<'a> {
    probability: f64,
    each: Vec<(&'a str, f64)>,
}

impl Strategies {
    /// Every fault: where, as a JSON pointer below these strategies, and what.
    pub(crate) fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut check = |at: String, kind, param: f64| match kind {
            Kind::Probabilistic if !(0.0..=1.0).contains(&param) => {
                faults.push((at, format!("found {param}, expected a probability from 0 to 1")));
            }
            Kind::RateLimiting if !(0.0..=32_767.0).contains(&param) || param.fract() != 0.0 => {
                faults.push((
                    at,
                    format!("found {param}, expected a whole number of traces a second up to 32767"),
                ));
            }
            Kind::Probabilistic | Kind::RateLimiting => {}
        };
        let mut check_all = |at: &str, kind, param, operations: &[OperationStrategy]| {
            check(format!("{at}/param"), kind, param);
            for (number, operation) in operations.iter().enumerate() {
                check(format!("{at}/operation_strategies/{number}/param"), operation.kind, operation.param);
            }
        };
        let Strategy { kind, param, operation_strategies } = &self.default_strategy;
        check_all("/default_strategy", *kind, *param, operation_strategies);
        for (number, service) in self.service_strategies.iter().enumerate() {
            let at = format!("/service_strategies/{number}");
            check_all(&at, service.kind, service.param, &service.operation_strategies);
        }
        faults
    }

    /// The strategy of a service.
    pub(crate) fn of(&self, service: &str) -> Answer<'_> {
        let Strategy { kind, param, operation_strategies: common } = &self.default_strategy;
        match self.service_strategies.iter().find(|strategy| strategy.service == service) {
            None => Answer { kind: *kind, param: *param, operations: operations(*kind, *param, common, &[]) },
            Some(ServiceStrategy { kind, param, operation_strategies: own, .. }) => {
                Answer { kind: *kind, param: *param, operations: operations(*kind, *param, own, common) }
            }
        }
    }
}

/// The operations of a service, and of the default those that it does not name.
fn operations<'a>(
    kind: Kind,
    param: f64,
    own: &'a [OperationStrategy],
    common: &'a [OperationStrategy],
) -> Option<Operations<'a>> {
    let has_own = |name: &str| own.iter().any(|operation| operation.operation == name);
    let common = common.iter().filter(|operation| !has_own(&operation.operation));
    let all: Vec<&OperationStrategy> = own.iter().chain(common).collect();
    let probable = all.iter().filter(|operation| operation.kind == Kind::Probabilistic);
    let each = probable.map(|operation| (operation.operation.as_str(), operation.param)).collect();
    let probability = if kind == Kind::Probabilistic { param } else { PROBABILITY_DEFAULT };
    (!all.is_empty()).then_some(Operations { probability, each })
}

impl Answer<'_> {
    /// As Jaeger's HTTP endpoint answers. Both bounds of operations are there: Python's client adds to what it does not find.
    pub(crate) fn json(&self) -> Vec<u8> {
        let mut out = JsonWriter::with_capacity(256);
        let put = |out: &mut JsonWriter, json: String| out.raw(json.as_bytes());
        let (kind, sampling, of) = match self.kind {
            Kind::Probabilistic => ("PROBABILISTIC", "probabilisticSampling", "samplingRate"),
            Kind::RateLimiting => ("RATE_LIMITING", "rateLimitingSampling", "maxTracesPerSecond"),
        };
        put(&mut out, format!(r#"{{"strategyType":"{kind}","{sampling}":{{"{of}":{}}}"#, self.param));
        if let Some(Operations { probability, each }) = &self.operations {
            put(&mut out, format!(r#","operationSampling":{{"defaultSamplingProbability":{probability},"#));
            out.raw(br#""defaultLowerBoundTracesPerSecond":0,"perOperationStrategies":["#);
            for (place, (operation, probability)) in each.iter().enumerate() {
                out.raw(if place == 0 { br#"{"operation":"# } else { br#",{"operation":"# });
                out.string(operation.as_bytes());
                put(&mut out, format!(r#","probabilisticSampling":{{"samplingRate":{probability}}}}}"#));
            }
            out.raw(b"]}");
        }
        out.raw(b"}");
        out.into_bytes()
    }

    /// `jaeger.api_v2.SamplingStrategyResponse`.
    pub(crate) fn protobuf(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        match self.kind {
            Kind::Probabilistic => out.message(2, |probable| probable.double(1, self.param)),
            Kind::RateLimiting => {
                out.varint(1, 1);
                // A whole number up to 32767: it was checked.
                out.message(3, |limited| limited.nonzero_varint(1, self.param as u64));
            }
        }
        if let Some(Operations { probability, each }) = &self.operations {
            out.message(4, |operations| {
                operations.double(1, *probability);
                for (operation, probability) in each {
                    operations.message(3, |one| {
                        one.bytes(1, operation);
                        one.message(2, |probable| probable.double(1, *probability));
                    });
                }
            });
        }
        out.into_bytes()
    }
}
