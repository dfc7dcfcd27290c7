//! The metrics as Prometheus sees them: names, help and labels.
//!
//! Everything is read when it is scraped, and nothing is copied before. Series that never counted are left out.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};

use super::histogram::Totals;
use super::metrics::{CLASSES, METHODS, RouteMetrics, RouteTotals, Series};
use crate::tally::Reading;

/// A family's name without the prefix, its kind and its help.
struct Family {
    name: &'static str,
    kind: MetricType,
    help: &'static str,
}

const fn family(name: &'static str, kind: MetricType, help: &'static str) -> Family {
    Family { name, kind, help }
}

const REQUESTS: Family =
    family("portcullis_requests_total", MetricType::COUNTER, "Requests by route, method and class of the answer's status.");
const DURATION: Family = family(
    "portcullis_request_duration_seconds",
    MetricType::HISTOGRAM,
    "From a request's first byte in to its answer's last byte out.",
);
const RECEIVED: Family = family("portcullis_received_bytes_total", MetricType::COUNTER, "Body bytes from clients.");
const SENT: Family = family("portcullis_sent_bytes_total", MetricType::COUNTER, "Body bytes to clients.");
const UPSTREAM: Family = family(
    "portcullis_upstream_duration_seconds",
    MetricType::HISTOGRAM,
    "From a request sent to an endpoint to the head of its answer, or to its failure.",
);
const RETRIES: Family = family("portcullis_upstream_retries_total", MetricType::COUNTER, "Attempts beyond a request's first.");
const HEALTHY: Family = family("portcullis_upstream_healthy", MetricType::GAUGE, "1 if the endpoint gets traffic, 0 if not.");
const REFUSALS: Family =
    family("portcullis_refusals_total", MetricType::COUNTER, "Requests that the gateway refused, by policy and reason.");
const ROUTE_REFUSALS: Family = family(
    "portcullis_route_refusals_total",
    MetricType::COUNTER,
    "Requests that the gateway refused, by route, policy and reason.",
);
const ANSWERS: Family = family(
    "portcullis_answers_total",
    MetricType::COUNTER,
    "Answers by route, service and status; what the gateway answers once the service is chosen counts as the service's.",
);
const CONSUMERS: Family = family(
    "portcullis_consumer_requests_total",
    MetricType::COUNTER,
    "Requests by consumer and class of the answer's status, where `metrics.consumers` asks for it.",
);
const ROUTE_CACHE: Family =
    family("portcullis_route_cache_requests_total", MetricType::COUNTER, "Requests by route and what its cache did.");
const ROUTE_SAVED: Family = family(
    "portcullis_route_cache_bytes_total",
    MetricType::COUNTER,
    "Body bytes that clients got from a route's cache, and its service did not send.",
);
const ROUTE_BACKGROUND: Family = family(
    "portcullis_route_cache_background_total",
    MetricType::COUNTER,
    "Fetches for a route's cache that no client waited for, by what came of them: `validated`, `stored`, `not_stored`, `found`, `failed`.",
);
const CACHE: Family = family("portcullis_cache_requests_total", MetricType::COUNTER, "Requests by what the cache did.");
const CONNECTIONS: Family = family("portcullis_connections", MetricType::GAUGE, "Open client connections.");
const REFUSED: Family = family(
    "portcullis_connections_refused_total",
    MetricType::COUNTER,
    "Connections that were closed before their first request, by reason.",
);
const TLS_FAILURES: Family =
    family("portcullis_tls_handshake_failures_total", MetricType::COUNTER, "TLS handshakes with clients that failed.");
const IN_FLIGHT: Family = family("portcullis_in_flight", MetricType::GAUGE, "Requests that are being served.");
const RELOADS: Family = family("portcullis_reloads_total", MetricType::COUNTER, "Configurations that were applied or refused.");
const LAST_RELOAD: Family = family(
    "portcullis_config_last_reload_successful",
    MetricType::GAUGE,
    "Whether the last attempt to load a configuration succeeded.",
);
const LAST_SUCCESS: Family = family(
    "portcullis_config_last_reload_success_timestamp_seconds",
    MetricType::GAUGE,
    "When a configuration was applied last, in seconds since 1970.",
);
const GENERATION: Family =
    family("portcullis_config_generation", MetricType::GAUGE, "The generation of the configuration in force.");
const BUILD: Family = family("portcullis_build_info", MetricType::GAUGE, "Always 1; the labels tell the build.");
const LOG_LINES: Family = family("portcullis_access_log_lines_total", MetricType::COUNTER, "Access log lines written.");
const LOG_DROPPED: Family = family(
    "portcullis_access_log_dropped_total",
    MetricType::COUNTER,
    "Access log lines dropped because the output did not keep up.",
);
const LOG_SUPPRESSED: Family = family(
    "portcullis_access_log_suppressed_total",
    MetricType::COUNTER,
    "Access log lines of refusals left out because their client had more than `access_log.refusals_per_client`.",
);
const LOG_ERRORS: Family =
    family("portcullis_access_log_errors_total", MetricType::COUNTER, "Failures to write or open the access log's output.");

/// Reads the series for the registry.
pub(super) struct Scrape {
    series: Arc<Series>,
    /// The registry tells collectors apart by their descriptors and asks for nothing else: one is enough.
    identity: Option<Desc>,
}

type Label<'a> = (&'static str, &'a str);

impl Scrape {
    pub fn new(series: Arc<Series>) -> Self {
        let identity = Desc::new(REQUESTS.name.to_owned(), REQUESTS.help.to_owned(), Vec::new(), HashMap::new()).ok();
        Scrape { series, identity }
    }

    fn routes(&self) -> Vec<MetricFamily> {
        let (mut requests, mut durations, mut received, mut sent) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut refusals, mut cached, mut saved, mut fetched) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut add = |route: &RouteMetrics| {
            let totals = route.totals();
            if totals.requests() == 0 {
                return;
            }
            let label = ("route", &*route.route);
            push_requests(&mut requests, &totals, label);
            durations.push(histogram(&totals.duration, &[label]));
            received.push(counter(totals.bytes_in, &[label]));
            sent.push(counter(totals.bytes_out, &[label]));
            if let Some((states, bytes)) = route.cache() {
                cached.extend(states.into_iter().map(|(state, count)| counter(count, &[label, ("state", state)])));
                saved.push(counter(bytes, &[label]));
            }
            let counts = route.background().into_iter();
            fetched.extend(counts.map(|(outcome, count)| counter(count, &[label, ("outcome", outcome)])));
            let counts = route.refusals().into_iter();
            refusals
                .extend(counts.map(|((policy, reason), count)| counter(count, &[label, ("policy", policy), ("reason", reason)])));
        };
        add(&self.series.no_route);
        self.series.routes().iter().for_each(|route| add(route));
        let answers = self.series.answers();
        let answers = answers.iter().flat_map(|answers| {
            let label = |(status, count): (String, u64)| {
                counter(count, &[("route", &answers.route), ("service", &answers.service), ("status", &status)])
            };
            answers.counts().into_iter().map(label)
        });
        vec![
            of(REQUESTS, requests),
            of(ROUTE_CACHE, cached),
            of(ROUTE_SAVED, saved),
            of(ROUTE_BACKGROUND, fetched),
            of(ANSWERS, answers),
            of(DURATION, durations),
            of(RECEIVED, received),
            of(SENT, sent),
            of(ROUTE_REFUSALS, refusals),
        ]
    }

    fn services(&self) -> Vec<MetricFamily> {
        let services = self.series.services();
        let durations = services
            .iter()
            .map(|service| (service, service.totals()))
            .filter(|(_, totals)| totals.count() > 0)
            .map(|(service, totals)| histogram(&totals, &[("service", &service.service)]));
        let retries = services.iter().map(|service| counter(service.retries.sum(), &[("service", &service.service)]));
        let endpoints = self.series.endpoints();
        let healthy = endpoints.iter().map(|endpoint| {
            gauge(endpoint.is_healthy().into(), &[("service", &endpoint.service), ("endpoint", &endpoint.endpoint)])
        });
        vec![of(UPSTREAM, durations), of(RETRIES, retries), of(HEALTHY, healthy)]
    }

    fn listeners(&self) -> Vec<MetricFamily> {
        let listeners = self.series.listeners();
        let connections = listeners.iter().map(|listener| gauge(listener.connections(), &[("listener", &listener.listener)]));
        let refused = listeners.iter().flat_map(|listener| {
            let counts = listener.refused.counts().into_iter();
            counts.map(|((reason, _), count)| counter(count, &[("listener", &listener.listener), ("reason", reason)]))
        });
        vec![of(CONNECTIONS, connections), of(REFUSED, refused)]
    }

    fn gateway(&self) -> Vec<MetricFamily> {
        let series = &self.series;
        let refusals = series.refusals.counts().into_iter();
        let refusals = refusals.map(|((policy, reason), count)| counter(count, &[("policy", policy), ("reason", reason)]));
        let consumers = series.consumers.counts().into_iter();
        let consumers = consumers.map(|(name, class, count)| counter(count, &[("consumer", &name), ("status_class", class)]));
        let cache = series.cache.counts().into_iter().map(|(state, count)| counter(count, &[("state", state)]));
        let reloads = [("applied", &series.reloads_applied), ("refused", &series.reloads_refused)];
        let reloads = reloads.map(|(result, count)| counter(count.sum(), &[("result", result)]));
        let build: Vec<Label<'_>> = std::iter::once(("version", &*series.version))
            .chain(series.build.iter().map(|(name, value)| (*name, &**value)))
            .collect();
        vec![
            of(REFUSALS, refusals),
            of(CONSUMERS, consumers),
            of(CACHE, cache),
            of(TLS_FAILURES, [counter(series.tls_failures.sum(), &[])]),
            of(IN_FLIGHT, [gauge(series.in_flight.level(), &[])]),
            of(RELOADS, reloads),
            of(LAST_RELOAD, [gauge(series.last_reload_applied.load(Ordering::Relaxed).into(), &[])]),
            of(LAST_SUCCESS, [gauge(series.last_applied_at.load(Ordering::Relaxed), &[])]),
            of(GENERATION, [gauge(series.generation.load(Ordering::Relaxed), &[])]),
            of(BUILD, [gauge(1, &build)]),
        ]
    }

    fn tallies(&self) -> Vec<MetricFamily> {
        let family = |reading: Reading| {
            let kind = if reading.is_counter { MetricType::COUNTER } else { MetricType::GAUGE };
            let series = reading.values.iter().map(|(labels, value)| {
                let labels: Vec<Label<'_>> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
                if reading.is_counter { counter(*value, &labels) } else { gauge(*value, &labels) }
            });
            of(Family { name: reading.name, kind, help: reading.help }, series)
        };
        self.series.tallies.read().into_iter().map(family).collect()
    }

    fn access_log(&self) -> Vec<MetricFamily> {
        let Some(stats) = self.series.access_log.get() else { return Vec::new() };
        vec![
            of(LOG_LINES, [counter(stats.written(), &[])]),
            of(LOG_DROPPED, [counter(stats.dropped(), &[])]),
            of(LOG_SUPPRESSED, [counter(stats.suppressed(), &[])]),
            of(LOG_ERRORS, [counter(stats.errors(), &[])]),
        ]
    }
}

impl Collector for Scrape {
    fn desc(&self) -> Vec<&Desc> {
        self.identity.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        [self.routes(), self.services(), self.listeners(), self.gateway(), self.access_log(), self.tallies()]
            .into_iter()
            .flatten()
            .collect()
    }
}

fn push_requests(out: &mut Vec<Metric>, totals: &RouteTotals, route: Label<'_>) {
    for (method, classes) in METHODS.iter().zip(&totals.requests) {
        for (class, &count) in CLASSES.iter().zip(classes).filter(|(_, count)| **count > 0) {
            out.push(counter(count, &[route, ("method", method), ("status_class", class)]));
        }
    }
}

fn of(family: Family, metrics: impl IntoIterator<Item = Metric>) -> MetricFamily {
    let mut out = MetricFamily::default();
    out.set_name(family.name.to_owned());
    out.set_help(family.help.to_owned());
    out.set_field_type(family.kind);
    out.set_metric(metrics.into_iter().collect());
    out
}

fn labelled(labels: &[Label<'_>]) -> Metric {
    let pair = |(name, value): &Label<'_>| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}

fn counter(value: u64, labels: &[Label<'_>]) -> Metric {
    let mut counter = proto::Counter::default();
    counter.set_value(value as f64);
    let mut metric = labelled(labels);
    metric.set_counter(counter);
    metric
}

fn gauge(value: u64, labels: &[Label<'_>]) -> Metric {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value as f64);
    let mut metric = labelled(labels);
    metric.set_gauge(gauge);
    metric
}

fn histogram(totals: &Totals, labels: &[Label<'_>]) -> Metric {
    let bucket = |(bound, count)| {
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut histogram = proto::Histogram::default();
    histogram.set_sample_count(totals.count());
    histogram.set_sample_sum(totals.sum_seconds());
    histogram.set_bucket(totals.cumulative().map(bucket).collect());
    let mut metric = labelled(labels);
    metric.set_histogram(histogram);
    metric
}
