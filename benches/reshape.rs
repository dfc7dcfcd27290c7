//! What it costs to filter and to reshape a body of 10 KiB, beside serde_json's reading and writing of the same.
//!
//! `cargo bench --bench reshape`. Compare within one run only.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::BytesCount;
use portcullis::json::{Filter, Mode, Pointer, Program, Tree};
use portcullis::policy::validate::json::{Limits, check_within};
use portcullis::schema::Schema;
use serde_json::{Value, json};

fn main() {
    divan::main();
}

/// An answer of 10 KiB as APIs give them: a list of records.
fn body() -> Vec<u8> {
    let mut text = String::from(r#"{"total":40,"items":["#);
    for number in 0.. {
        if number > 0 {
            text.push(',');
        }
        write!(
            text,
            r#"{{"id":{},"sku":"A-{number:05}","name":"A product with the name {number}","price":{number}.10,"cost":1.50,"tags":["new","sale"],"stock":{{"berlin":{number},"paris":0}},"active":true,"note":null}}"#,
            1_000_000_000_000u64 + number
        )
        .unwrap();
        if text.len() > 10 * 1024 {
            break;
        }
    }
    text.push_str("]}");
    text.into_bytes()
}

fn program(mode: Mode, places: &[&str]) -> Arc<Program> {
    let pointers: Vec<Pointer> = places.iter().map(|place| Pointer::parse(place).unwrap()).collect();
    Arc::new(Program::new(mode, &pointers))
}

#[divan::bench]
fn remove_on_the_stream(bencher: Bencher) {
    let (body, program) = (body(), program(Mode::Remove, &["/items/*/cost", "/items/*/stock"]));
    bencher.counter(BytesCount::new(body.len())).bench(|| Filter::whole(program.clone(), black_box(&body)).unwrap());
}

#[divan::bench]
fn keep_on_the_stream(bencher: Bencher) {
    let (body, program) = (body(), program(Mode::Keep, &["/total", "/items/*/id", "/items/*/name", "/items/*/price"]));
    bencher.counter(BytesCount::new(body.len())).bench(|| Filter::whole(program.clone(), black_box(&body)).unwrap());
}

#[divan::bench]
fn rename_and_filter(bencher: Bencher) {
    let (body, program) = (body(), program(Mode::Remove, &["/items/*/cost"]));
    bencher.counter(BytesCount::new(body.len())).bench(|| reshaped(black_box(&body), &program));
}

fn reshaped(body: &[u8], program: &Program) -> Vec<u8> {
    let mut tree = Tree::parse(body, 1 << 20).unwrap();
    let root = tree.root();
    let price = Pointer::parse("/items/*/price").unwrap();
    for id in tree.select(root, &price.0) {
        tree.rename(id, "amount").unwrap();
    }
    tree.keep(root, program);
    tree.write()
}

#[divan::bench]
fn check_rename_and_filter(bencher: Bencher) {
    let (body, program) = (body(), program(Mode::Remove, &["/items/*/cost"]));
    let limits = Limits { unique: true, ..Limits::deep(128) };
    bencher.counter(BytesCount::new(body.len())).bench(|| {
        check_within(black_box(&body), &limits).unwrap();
        reshaped(&body, &program)
    });
}

#[divan::bench]
fn schema_rename_and_filter(bencher: Bencher) {
    let (body, program) = (body(), program(Mode::Remove, &["/items/*/cost"]));
    let item = json!({ "type": "object", "required": ["id", "sku"], "properties": { "id": { "type": "integer" }, "price": { "type": "number" } } });
    let schema = json!({ "type": "object", "properties": { "items": { "type": "array", "items": item } } });
    let schema = Schema::compile(&schema, false).unwrap();
    bencher.counter(BytesCount::new(body.len())).bench(|| {
        let value: Value = serde_json::from_slice(black_box(&body)).unwrap();
        assert!(schema.is_valid(&value, 1_000_000));
        reshaped(&body, &program)
    });
}

#[divan::bench]
fn serde_json_reads_and_writes(bencher: Bencher) {
    let body = body();
    bencher.counter(BytesCount::new(body.len())).bench(|| {
        let value: Value = serde_json::from_slice(black_box(&body)).unwrap();
        serde_json::to_vec(&value).unwrap()
    });
}
