//! Portcullis, an API gateway: the single front door for every service behind it.
//!
//! # The map, in the order of a request's journey
//!
//! | module | what it is for |
//! |---|---|
//! | [`serve`] | the process: workers, accept loops, connections, signals, reload, upgrade |
//! | [`listen`] | the door's parts: listeners, TLS, PROXY protocol, connection caps, whom to believe |
//! | [`wire`] | HTTP on the wire: strict heads and bodies in, answers out |
//! | [`downstream`] | the client's side of an exchange, the same for both protocols |
//! | [`head`], [`exchange`] | a request's head as every room sees it; what one request remembers, from its first byte to its log line |
//! | [`journey`] | one request's steps, and the log line it leaves whatever happens |
//! | [`reply`] | the answers of the gateway's own: refusals and errors (RFC 9457) |
//! | [`route`], [`path`] | which route a request takes |
//! | [`policy`] | the gauntlet: one folder per stage, in the order of execution |
//! | [`schema`] | JSON Schema: what a value may be |
//! | [`graphql`] | GraphQL by a schema: documents, types, values |
//! | [`cel`] | expressions over a request, for the policies that take them |
//! | [`forward`] | a request's way to its service, through the engine in [`upstream`] or to what the cache has, and the answer back |
//! | [`tcp`] | connections that are no HTTP, carried as they are: by port, or by the name that TLS asks for |
//! | [`breaker`] | not to ask what fails anyway: the arithmetic of circuit breakers |
//! | [`retry`] | when a request is sent again, and how much that may cost |
//! | [`limits`] | how many there may be: the arithmetic of limits and its memory |
//! | [`consumers`] | who uses the APIs, and by which credentials they are known |
//! | [`credentials`], [`sigv4`] | what the gateway shows to services to say who it is; signatures of AWS |
//! | [`jose`], [`oidc`] | signed tokens and their keys; what identity providers are asked |
//! | [`keys`] | API keys that are issued and revoked while the gateway runs |
//! | [`cache`] | answers that were given before |
//! | [`upstream`] | services, endpoints, balance, health |
//! | [`redis`] | the Redis that several gateways share |
//! | [`observe`], [`tally`] | access log and metrics; what rooms count for themselves |
//! | [`config`], [`node`], [`value`] | what people write |
//! | [`problem`], [`report`] | what is wrong with it, and where; how that is shown |
//! | [`snapshot`], [`ledger`] | one generation of the configuration; the state that outlives it |
//! | [`admin`] | the operator's API |
//! | [`embed`] | the same gateway on a stock Pingora server, ours or somebody else's |
//! | [`upgrade`], [`successor`] | handing the listening sockets to the next process |
//! | [`demo`] | the product in one command |
//! | [`cli`] | the commands |
//! | [`transcode`] | gRPC methods for clients that speak REST and JSON |
//! | [`function`] | functions of AWS Lambda for clients that speak HTTP |
//! | [`json`] | JSON as it is written, to the digit: filtered as it comes, edited as a tree, taken apart |
//! | [`address`] | where an endpoint is: an IP address with a port, or a Unix socket |
//! | [`authority`], [`via`] | a host's one spelling; the names of the gateways that a message has passed |
//! | [`carrier`], [`by`] | query parameters and cookies; what requests are told apart by |
//! | [`context`], [`fingerprint`] | what is there for what is compiled; what tells two configurations apart |
//! | [`cidr`], [`clock`], [`plain`], [`stripe`] | sets of addresses; the time of day; text that needs no escape; one of a thing per thread |
//! | [`grpc`] | what a gateway has to know of gRPC |
//! | [`core`], [`wait`] | what the workers share; waiting with a limit |
//!
//! # What stays true
//!
//! - A request sees one generation of the configuration, from its first byte to its log line.
//! - A configuration takes effect whole or not at all; every problem in it is reported, with its place.
//! - What is refused never touches a backend, and every refusal says who refused and why (RFC 9457).
//! - State lives in the [`ledger`], so a reload resets only what it changes.
//! - Nothing that a client or a backend sends can make the process panic or buffer without bound.
//!
//! # Dependencies
//!
//! A room may use the rooms on the lines above its own, and no others: neither one below nor one beside it. No exceptions; a test reads
//! this list and holds every import against it. A new room needs its place here.
//!
//! - types that know nobody: [`address`], [`authority`], [`clock`], [`fingerprint`], [`grpc`], [`json`], [`ledger`], [`path`], [`plain`], [`problem`], [`stripe`], [`tally`], [`upgrade`], [`wait`]
//! - [`graphql`], [`head`], [`node`], [`reply`], [`successor`]
//! - [`carrier`], [`report`], [`value`], [`via`]
//! - [`cidr`], [`context`], [`exchange`], [`sigv4`]
//! - [`cel`], [`jose`], [`redis`], [`schema`], [`wire`]
//! - [`breaker`], [`consumers`], [`limits`], [`oidc`], [`retry`], [`transcode`]
//! - [`by`], [`credentials`]
//! - [`function`]
//! - rooms that do not know each other: [`cache`], [`keys`], [`listen`], [`observe`], [`route`], [`upstream`]
//! - [`downstream`], [`policy`], [`tcp`]
//! - [`config`]
//! - [`snapshot`]
//! - [`core`]
//! - [`journey`]
//! - [`admin`], [`forward`]
//! - [`serve`]
//! - [`embed`]
//! - [`demo`]
//! - [`cli`]
//!
//! Pingora's proxy session is known to [`embed`] alone, the streams of HTTP/2 clients to [`downstream`], [`wire`] and [`serve`].

pub mod address;
pub mod admin;
pub mod authority;
pub mod breaker;
pub mod by;
pub mod cache;
pub mod carrier;
pub mod cel;
pub mod cidr;
pub mod cli;
pub mod clock;
pub mod config;
pub mod consumers;
pub mod context;
pub mod core;
pub mod credentials;
pub mod demo;
pub mod downstream;
pub mod embed;
pub mod exchange;
pub mod fingerprint;
pub mod forward;
pub mod function;
pub mod graphql;
pub mod grpc;
pub mod head;
pub mod jose;
pub mod journey;
pub mod json;
pub mod keys;

pub mod ledger;
pub mod limits;
pub mod listen;
pub mod node;
pub mod observe;
pub mod oidc;
pub mod path;
pub mod plain;
pub mod policy;
pub mod problem;
pub mod redis;
pub mod reply;
pub mod report;
pub mod retry;
pub mod route;
pub mod schema;
pub mod serve;
pub mod sigv4;
pub mod snapshot;
pub mod stripe;
pub mod successor;
pub mod tally;
pub mod tcp;
pub mod transcode;
pub mod upgrade;
pub mod upstream;
pub mod value;
pub mod via;
pub mod wait;
pub mod wire;
