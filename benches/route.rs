//! What finding a route costs, at 10, 1,000 and 100,000 routes: a hot set of ten paths, which measures the algorithm, and a
//! thousand at random, which measures cache misses as well. Beside it matchit and wayfind on the same paths, which know neither hosts nor
//! predicates nor a second candidate. Run: `cargo bench --bench route`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::hint::black_box;

use divan::{Bencher, counter::ItemsCount};
use portcullis::head::RequestHead;
use portcullis::path::normalise;
use portcullis::problem::Problems;
use portcullis::route::{Found, Matcher, RouteTable};

const SIZES: [usize; 3] = [10, 1_000, 100_000];

/// How many lookups one sample makes.
const LOOKUPS: usize = 1_000;

fn main() {
    divan::main();
}

#[derive(Clone, Copy)]
enum Shape {
    Exact,
    Param,
    Mixed,
}

#[derive(Clone, Copy)]
enum Access {
    Hot,
    Random,
}

/// The number-th pattern, and a path that it matches.
fn pattern(shape: Shape, number: usize) -> (String, String) {
    let (group, exact) = (number % 97, format!("/api/v1/group{}/resource{number}", number % 97));
    match (shape, number % 3) {
        (Shape::Exact, _) | (Shape::Mixed, 0) => (exact.clone(), exact),
        (Shape::Param, _) | (Shape::Mixed, 1) => {
            (format!("/api/v2/group{group}/item{number}/{{id}}/detail"), format!("/api/v2/group{group}/item{number}/4711/detail"))
        }
        (Shape::Mixed, _) => (format!("/files/group{group}/tree{number}/*"), format!("/files/group{group}/tree{number}/a/b.txt")),
    }
}

/// Numbers of routes to ask for, the same for every router.
fn order(access: Access, routes: usize) -> Vec<usize> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as usize) % below
    };
    let hot: Vec<usize> = (0..10).map(|_| random(routes)).collect();
    (0..LOOKUPS)
        .map(|at| match access {
            Access::Hot => hot[at % hot.len()],
            Access::Random => random(routes),
        })
        .collect()
}

fn table(shape: Shape, routes: usize) -> RouteTable {
    let mut problems = Problems::default();
    let compile = |number| {
        let yaml = format!("{{ path: '{}', service: s }}", pattern(shape, number).0);
        Matcher::compile(&serde_yaml::from_str(&yaml).unwrap(), &mut problems).unwrap()
    };
    let matchers: Vec<Matcher> = (0..routes).map(compile).collect();
    let table = RouteTable::build(matchers.into_iter().enumerate(), &mut problems);
    assert!(problems.is_empty());
    table
}

fn portcullis(bencher: Bencher<'_, '_>, shape: Shape, access: Access, routes: usize) {
    let table = table(shape, routes);
    let heads: Vec<RequestHead> = order(access, routes)
        .into_iter()
        .map(|number| RequestHead::build("GET", &pattern(shape, number).1, &[("host", "shop.example.com")]))
        .collect();
    bencher.counter(ItemsCount::new(LOOKUPS)).bench(|| {
        for head in &heads {
            let found = table.find(black_box(head));
            assert!(matches!(found, Found::Route { .. }));
            black_box(found);
        }
    });
}

fn paths(shape: Shape, access: Access, routes: usize) -> Vec<String> {
    order(access, routes).into_iter().map(|number| pattern(shape, number).1).collect()
}

fn matchit(bencher: Bencher<'_, '_>, shape: Shape, access: Access, routes: usize) {
    let mut router = matchit::Router::new();
    for number in 0..routes {
        router.insert(pattern(shape, number).0.replace('*', "{*rest}"), number).unwrap();
    }
    let paths = paths(shape, access, routes);
    bencher.counter(ItemsCount::new(LOOKUPS)).bench(|| {
        for path in &paths {
            black_box(router.at(black_box(path)).unwrap());
        }
    });
}

fn wayfind(bencher: Bencher<'_, '_>, shape: Shape, access: Access, routes: usize) {
    let mut builder = wayfind::RouterBuilder::new();
    for number in 0..routes {
        let template = pattern(shape, number).0.replace("{id}", "<id>").replace('*', "<*rest>");
        builder.insert(&template, number).unwrap();
    }
    let router = builder.build();
    let paths = paths(shape, access, routes);
    bencher.counter(ItemsCount::new(LOOKUPS)).bench(|| {
        for path in &paths {
            black_box(router.search(black_box(path)).unwrap());
        }
    });
}

macro_rules! routers {
    ($($module:ident: $shape:expr, $access:expr;)*) => {$(
        mod $module {
            use super::*;

            #[divan::bench(args = SIZES)]
            fn portcullis(bencher: Bencher<'_, '_>, routes: usize) {
                super::portcullis(bencher, $shape, $access, routes);
            }

            #[divan::bench(args = SIZES)]
            fn matchit(bencher: Bencher<'_, '_>, routes: usize) {
                super::matchit(bencher, $shape, $access, routes);
            }

            #[divan::bench(args = SIZES)]
            fn wayfind(bencher: Bencher<'_, '_>, routes: usize) {
                super::wayfind(bencher, $shape, $access, routes);
            }
        }
    )*};
}

routers! {
    exact_hot: Shape::Exact, Access::Hot;
    exact_random: Shape::Exact, Access::Random;
    param_hot: Shape::Param, Access::Hot;
    param_random: Shape::Param, Access::Random;
    mixed_random: Shape::Mixed, Access::Random;
}

/// Loading: arranging compiled routes, ties and ids checked.
#[divan::bench(args = [1_000, 10_000], sample_count = 10)]
fn build(bencher: Bencher<'_, '_>, routes: usize) {
    let mut problems = Problems::default();
    let matchers: Vec<Matcher> = (0..routes)
        .map(|number| {
            let yaml = format!("{{ path: '{}', service: s }}", pattern(Shape::Mixed, number).0);
            Matcher::compile(&serde_yaml::from_str(&yaml).unwrap(), &mut problems).unwrap()
        })
        .collect();
    bencher
        .with_inputs(|| matchers.clone())
        .bench_values(|matchers| RouteTable::build(matchers.into_iter().enumerate(), &mut Problems::default()));
}

#[divan::bench(args = ["/api/v1/products/4711", "/api/./v1/%70roducts/a%2fb", "/api//v1/../x"])]
fn normalise_path(path: &str) -> usize {
    normalise(black_box(path).as_bytes()).unwrap().len()
}
