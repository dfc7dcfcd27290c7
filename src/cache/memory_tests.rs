use super::*;
use pingora_cache::storage::{MissFinishType, PurgeOutcome, PurgeTarget, PurgeType};
use pingora_cache::trace::Span;
use pingora_cache::{CacheKey, CacheMeta, Storage};
use pingora_http::ResponseHeader;
use std::time::{Duration, SystemTime};

fn meta(fields: &[(&'static str, &str)]) -> CacheMeta {
    let mut header = ResponseHeader::build(200, None).unwrap();
    for (name, value) in fields {
        header.append_header(*name, *value).unwrap();
    }
    let now = SystemTime::now();
    CacheMeta::new(now + Duration::from_secs(60), now, 0, 0, header)
}

async fn write(tier: &'static MemoryTier, key: &CacheKey, meta: &CacheMeta, chunks: &[&[u8]]) -> usize {
    let mut fill = tier.get_miss_handler(key, meta, &Span::inactive().handle()).await.unwrap();
    for (at, chunk) in chunks.iter().enumerate() {
        fill.write_body(Bytes::copy_from_slice(chunk), at + 1 == chunks.len()).await.unwrap();
    }
    match fill.finish().await.unwrap() {
        MissFinishType::Created(size) => size,
        MissFinishType::Appended(..) => panic!("appended"),
    }
}

async fn read(tier: &'static MemoryTier, key: &CacheKey) -> Option<(CacheMeta, Vec<u8>)> {
    let (meta, mut hit) = tier.lookup(key, &Span::inactive().handle()).await.unwrap()?;
    let mut body = Vec::new();
    while let Some(chunk) = hit.read_body().await.unwrap() {
        body.extend_from_slice(&chunk);
    }
    Some((meta, body))
}

fn key(name: &str) -> CacheKey {
    CacheKey::new(name, "")
}

#[tokio::test]
async fn what_goes_in_comes_out() {
    let tier = MemoryTier::new(1 << 20);
    let stored = meta(&[("etag", "\"a\""), ("x", "1"), ("x", "2"), ("transfer-encoding", "chunked")]);
    assert!(write(tier, &key("a"), &stored, &[b"hello ", b"world"]).await > 11);
    let (found, body) = read(tier, &key("a")).await.unwrap();
    assert_eq!(body, b"hello world");
    assert_eq!(found.fresh_until(), stored.fresh_until());
    assert_eq!((found.created(), found.epoch(), found.variance()), (stored.created(), stored.epoch(), None));
    assert_eq!(found.headers().get_all("x").iter().count(), 2);
    assert_eq!(found.headers().get("content-length").unwrap(), "11");
    assert!(!found.headers().contains_key("transfer-encoding"));
    assert!(read(tier, &key("b")).await.is_none());
    write(tier, &key("empty"), &meta(&[]), &[]).await;
    assert_eq!(read(tier, &key("empty")).await.unwrap().1, b"");
}

#[tokio::test]
async fn a_hit_copies_no_body_and_can_seek() {
    let tier = MemoryTier::new(1 << 20);
    write(tier, &key("a"), &meta(&[]), &[b"0123456789"]).await;
    let span = Span::inactive().handle();
    let (_, mut one) = tier.lookup(&key("a"), &span).await.unwrap().unwrap();
    let (_, mut two) = tier.lookup(&key("a"), &span).await.unwrap().unwrap();
    let (first, second) = (one.read_body().await.unwrap().unwrap(), two.read_body().await.unwrap().unwrap());
    assert_eq!(first.as_ptr(), second.as_ptr());
    for (start, end, expected) in [(2, Some(4), &b"23"[..]), (8, None, b"89"), (0, Some(99), b"0123456789")] {
        one.seek(start, end).unwrap();
        assert_eq!(one.read_body().await.unwrap().unwrap(), expected);
        assert!(one.read_body().await.unwrap().is_none());
    }
    for (start, end) in [(10, None), (11, Some(12)), (5, Some(5)), (6, Some(2))] {
        assert!(one.seek(start, end).is_err());
    }
}

#[tokio::test]
async fn equal_hashes_are_not_equal_keys() {
    let tier = MemoryTier::new(1 << 20);
    let (mut one, mut two) = (key("one"), key("two"));
    one.set_primary_bin_override([7; 16]);
    two.set_primary_bin_override([7; 16]);
    write(tier, &one, &meta(&[]), &[b"secret"]).await;
    assert!(read(tier, &two).await.is_none());
    assert!(read(tier, &one).await.is_some());
    assert!(!tier.update_meta(&two, &meta(&[]), &Span::inactive().handle()).await.unwrap());
    let mut variant = one.clone();
    variant.set_variance_key([1; 16]);
    assert!(read(tier, &variant).await.is_none());
    let mut german = meta(&[]);
    german.set_variance([1; 16]);
    write(tier, &variant, &german, &[b"de"]).await;
    // Two variants may share a place: then there is one of them.
    let mut other = one.clone();
    other.set_variance_key([1 + super::super::entry::VARIANTS; 16]);
    assert!(read(tier, &other).await.is_none());
    assert_eq!(read(tier, &one).await.unwrap().1, b"secret");
    assert_eq!(read(tier, &variant).await.unwrap().1, b"de");
    let tagged = CacheKey::new("one", "tag");
    assert!(read(tier, &tagged).await.is_none());
}

#[tokio::test]
async fn purge_and_expire() {
    let tier = MemoryTier::new(1 << 20);
    let span = Span::inactive().handle();
    let compact = key("a").to_compact();
    let target = PurgeTarget::Active(&compact);
    assert_eq!(tier.purge(target, PurgeType::Invalidation, &span).await.unwrap(), PurgeOutcome::NotFound);
    assert_eq!(tier.expire(target, &span).await.unwrap(), PurgeOutcome::NotFound);
    write(tier, &key("a"), &meta(&[]), &[b"x"]).await;
    assert_eq!(tier.expire(target, &span).await.unwrap(), PurgeOutcome::Expired);
    let (stale, body) = read(tier, &key("a")).await.unwrap();
    assert!(!stale.is_fresh(SystemTime::now()));
    assert_eq!(body, b"x");
    assert_eq!(tier.purge(target, PurgeType::Invalidation, &span).await.unwrap(), PurgeOutcome::Purged(None));
    assert!(read(tier, &key("a")).await.is_none());
    assert_eq!((tier.stats().entries, tier.stats().bytes), (0, 0));
    write(tier, &key("b"), &meta(&[]), &[b"x"]).await;
    tier.purges.note(&crate::cache::Purge::Everything, false);
    assert!(read(tier, &key("b")).await.is_none());
}

#[tokio::test]
async fn metadata_changes_only_in_the_entry_that_was_validated() {
    let tier = MemoryTier::new(1 << 20);
    let span = Span::inactive().handle();
    let old = meta(&[("etag", "1")]);
    assert!(!tier.update_meta(&key("a"), &old, &span).await.unwrap(), "it was never stored");
    assert!(read(tier, &key("a")).await.is_none());
    write(tier, &key("a"), &old, &[b"x"]).await;
    let long = "v".repeat(5000);
    let mut fresh = CacheMeta::new(old.fresh_until() + Duration::from_secs(9), old.created(), 0, 0, old.response_header_copy());
    fresh.response_header_mut().insert_header("x-long", &long).unwrap();
    let before = tier.stats().bytes;
    assert!(tier.update_meta(&key("a"), &fresh, &span).await.unwrap());
    assert!(tier.stats().bytes >= before + 5000);
    let (found, body) = read(tier, &key("a")).await.unwrap();
    assert_eq!((found.fresh_until(), body.as_slice()), (fresh.fresh_until(), &b"x"[..]));
    assert_eq!(found.headers().get("content-length").unwrap(), "1");
    // Purged and stored anew: the late validation belongs to another body.
    write(tier, &key("a"), &meta(&[("etag", "2")]), &[b"y"]).await;
    assert!(!tier.update_meta(&key("a"), &fresh, &span).await.unwrap());
    assert_eq!(read(tier, &key("a")).await.unwrap().0.headers().get("etag").unwrap(), "2");
}

#[tokio::test]
async fn what_is_said_of_one_body_is_not_said_of_the_one_that_took_its_place() {
    let tier = MemoryTier::new(1 << 20);
    let (index, key, told) = (Index::of(&key("a")), key("a"), meta(&[("etag", "1")]));
    write(tier, &key, &told, &[b"x"]).await;
    let old = tier.find(&index, key.primary_key(), "").unwrap();
    // Another one inherits what the first was created.
    write(tier, &key, &told, &[b"y"]).await;
    let new = tier.find(&index, key.primary_key(), "").unwrap();
    assert_eq!(old.meta.created, new.meta.created);
    let refresh = |of: &Entry| tier.refresh(index, key.primary_key(), "", of.meta.clone(), Some(of.number));
    assert!(!refresh(&old));
    assert!(refresh(&new) && refresh(&new), "and once it was refreshed it is still itself");
}

#[tokio::test]
async fn what_is_cut_short_or_too_long_is_dropped_in_silence() {
    let tier = MemoryTier::new(1 << 20);
    assert_eq!(write(tier, &key("short"), &meta(&[("content-length", "9")]), &[b"x"]).await, 0);
    assert_eq!(write(tier, &key("over"), &meta(&[("content-length", "1")]), &[b"xy"]).await, 0);
    let chunk = vec![0u8; 60_000];
    assert_eq!(write(tier, &key("long"), &meta(&[]), &[&chunk[..]; 30]).await, 0);
    assert_eq!(write(tier, &key("claim"), &meta(&[("content-length", "99999999999999")]), &[b"x"]).await, 0);
    for name in ["short", "over", "long", "claim"] {
        assert!(read(tier, &key(name)).await.is_none(), "{name}");
    }
    // Aborted: dropped without `finish`.
    let mut fill = tier.get_miss_handler(&key("cut"), &meta(&[]), &Span::inactive().handle()).await.unwrap();
    fill.write_body(Bytes::from_static(b"half"), false).await.unwrap();
    assert!(tier.stats().bytes > 0);
    drop(fill);
    assert!(read(tier, &key("cut")).await.is_none());
    let stats = tier.stats();
    assert_eq!((stats.entries, stats.bytes, stats.stored, stats.rejected), (0, 0, 0, 5));
}

#[tokio::test]
async fn arriving_bodies_have_a_bound_of_their_own() {
    let tier = MemoryTier::new(1 << 20);
    let span = Span::inactive().handle();
    let mut fills = Vec::new();
    for at in 0..100 {
        let mut fill = tier.get_miss_handler(&key(&at.to_string()), &meta(&[]), &span).await.unwrap();
        fill.write_body(Bytes::from(vec![0; 10_000]), false).await.unwrap();
        fills.push(fill);
        assert!(tier.stats().bytes <= (1 << 20) / 8);
    }
    for fill in fills {
        fill.finish().await.unwrap();
    }
    let stats = tier.stats();
    assert_eq!((stats.stored, stats.rejected), (13, 87));
    let nothing = MemoryTier::new(0);
    assert_eq!(write(nothing, &key("a"), &meta(&[]), &[b"x"]).await, 0);
    assert!(read(nothing, &key("a")).await.is_none());
}

/// A small generator, so that a failure can be repeated.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 11) as usize
}

#[tokio::test]
async fn the_bound_holds_under_random_inserts() {
    for capacity in [20_000, 1 << 20, 40 << 20] {
        let tier = MemoryTier::new(capacity);
        let mut state = 0x9e37_79b9_7f4a_7c15;
        let body = vec![7u8; capacity / 10];
        for _ in 0..3000 {
            let name = (next(&mut state) % 700).to_string();
            let length = next(&mut state) % body.len() / (1 + next(&mut state) % 50);
            let padding = "p".repeat(next(&mut state) % 300);
            write(tier, &key(&name), &meta(&[("x-padding", &padding)]), &[&body[..length]]).await;
            if let Some((_, found)) = read(tier, &key(&name)).await {
                assert_eq!(found.len(), length);
            }
            if next(&mut state).is_multiple_of(10) {
                let compact = key(&(next(&mut state) % 700).to_string()).to_compact();
                let span = Span::inactive().handle();
                tier.purge(PurgeTarget::Active(&compact), PurgeType::Invalidation, &span).await.unwrap();
            }
            assert!(tier.stats().bytes <= capacity as u64, "{:?}", tier.stats());
        }
        let stats = tier.stats();
        assert!(stats.evicted > 0 && stats.stored > 0 && stats.entries > 0, "{capacity} {stats:?}");
        let counted: usize = tier.store.iter().map(|(_, entry)| Entry::clone(&entry).weighed().weight).sum();
        assert_eq!(counted as u64, stats.bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_during_eviction_see_whole_bodies() {
    let tier = MemoryTier::new(400_000);
    let tasks: Vec<_> = (0..8u64)
        .map(|seed| {
            tokio::spawn(async move {
                let (mut state, mut hits) = (seed * 7919 + 1, 0);
                for _ in 0..2000 {
                    let number = next(&mut state) % 64;
                    let name = key(&number.to_string());
                    // Every byte of a body is its key's number, and its length depends on it.
                    let expected = vec![number as u8; 1000 + number * 150];
                    match read(tier, &name).await {
                        Some((_, body)) => {
                            assert!(body == expected);
                            hits += 1;
                        }
                        None => drop(write(tier, &name, &meta(&[]), &[&expected[..500], &expected[500..]]).await),
                    }
                    assert!(tier.stats().bytes <= 400_000);
                }
                hits
            })
        })
        .collect();
    let mut hits = 0;
    for task in tasks {
        hits += task.await.unwrap();
    }
    assert!(hits > 0 && tier.stats().evicted > 0);
}

#[tokio::test]
async fn how_long_an_answer_may_be_grows_with_the_store() {
    assert_eq!(MemoryTier::new(64 << 20).most(0), 8 << 20);
    let tier = MemoryTier::new(1 << 30);
    assert!(tier.most(0) >= 40 << 20, "{}", tier.most(0));
    let body = vec![b'x'; 40 << 20];
    assert!(write(tier, &key("large"), &meta(&[]), &[&body]).await > body.len());
    assert_eq!(read(tier, &key("large")).await.unwrap().1.len(), body.len());
}
