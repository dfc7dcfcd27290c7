use super::*;
use crate::exchange::Exchange;
use crate::head::RequestHead;
use bytes::Bytes;
use pingora_cache::HitStatus;
use pingora_cache::key::CacheHashKey;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

pub(crate) fn policy() -> CachePolicy {
    CachePolicy {
        ttl: Duration::from_secs(30),
        max_body: 1024,
        key_headers: Box::new([]),
        handed: Box::new([]),
        query: policy::QueryKey::All,
        statuses: Box::new([200, 204, 404]),
    }
}

fn answer(fields: &[(&'static str, &str)]) -> ResponseHeader {
    let mut answer = ResponseHeader::build(200, None).unwrap();
    for (name, value) in fields {
        answer.append_header(*name, *value).unwrap();
    }
    answer
}

pub(crate) fn seen<'a>(head: &'a RequestHead) -> impl Fn(&HeaderName) -> Vec<&'a [u8]> {
    |name| {
        head.headers().filter(|(known, _)| known.eq_ignore_ascii_case(name.as_str().as_bytes())).map(|(_, value)| value).collect()
    }
}

fn asked(policy: &CachePolicy, head: &RequestHead) -> Use {
    rules::request(head, false, &Credentials::default(), policy, |_| false)
}

/// What is found at once, for a request that may use the cache.
fn at_once(cache: &'static Cache, policy: &CachePolicy, head: &RequestHead) -> Option<(Bytes, Outcome)> {
    if matches!(asked(policy, head), Use::Bypass(_)) {
        return None;
    }
    let hit = cache.fresh(policy, key(head, &Exchange::for_tests(), seen(head), "r", policy), seen(head))?;
    Some((hit.body().clone(), hit.outcome()))
}

/// Walks pingora's state machine the way its proxy does. What the client gets, and what the cache says it did.
async fn serve(
    cache: &'static Cache,
    method: &str,
    fields: &[(&str, &str)],
    origin: Option<(&ResponseHeader, &[u8])>,
) -> (Vec<u8>, Outcome) {
    let (policy, head) = (policy(), RequestHead::build(method, "/a", fields));
    let found = at_once(cache, &policy, &head);
    let mut http = HttpCache::new();
    let used = cache.enable(&mut http, &policy, asked(&policy, &head));
    if http.enabled() {
        http.set_cache_key(key(&head, &Exchange::for_tests(), seen(&head), "r", &policy));
        if !http.cacheable_prediction() {
            http.bypass();
        }
    }
    while http.enabled() {
        let Some((meta, hit)) = http.cache_lookup().await.unwrap() else {
            if http.is_cache_locked() {
                http.cache_lock_wait().await;
                continue;
            }
            on_miss(&mut http, used);
            break;
        };
        if http.cache_key().variance_bin().is_none()
            && let Some(variance) = vary(&policy, &meta, seen(&head))
            && !http.cache_vary_lookup(variance, &meta)
        {
            continue;
        }
        let fresh = meta.is_fresh(SystemTime::now());
        let status = match on_hit(used, fresh) {
            Some(_) => HitStatus::ForceMiss,
            None if fresh => HitStatus::Fresh,
            None => HitStatus::Expired,
        };
        http.cache_found(meta, hit, status);
        if status == HitStatus::Fresh {
            let body = http.hit_handler().read_body().await.unwrap().unwrap_or_default();
            let outcome = Outcome::of(&http, used);
            http.finish_hit_handler().await.unwrap();
            cache.count(outcome);
            // The short way must come to the same.
            assert_eq!(at_once(cache, &policy, &head), Some((body.clone(), outcome)));
            return (body.to_vec(), outcome);
        }
        if status == HitStatus::ForceMiss {
            on_miss(&mut http, used);
        }
        break;
    }
    assert_eq!(found, None, "the short way finds what pingora's does not");
    let (answer, body) = origin.expect("nobody should have asked the backend");
    if http.enabled() || http.bypassing() {
        match store(answer, &policy) {
            RespCacheable::Cacheable(meta) => {
                if http.bypassing() {
                    http.response_became_cacheable();
                    on_miss(&mut http, used);
                }
                if http.enabled() {
                    let variance = vary(&policy, &meta, seen(&head));
                    http.set_cache_meta(meta);
                    http.update_variance(variance);
                    http.set_miss_handler().await.unwrap();
                }
            }
            RespCacheable::Uncacheable(reason) => {
                if !http.bypassing() {
                    http.response_became_uncacheable(reason);
                }
                http.disable(reason);
            }
        }
    }
    let outcome = Outcome::of(&http, used);
    if http.enabled() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        http.miss_handler().unwrap().write_body(Bytes::copy_from_slice(body), true).await.unwrap();
        http.finish_miss_handler().await.unwrap();
    }
    cache.count(outcome);
    (body.to_vec(), outcome)
}

#[tokio::test]
async fn a_miss_then_hits_for_get_and_head() {
    let cache = Cache::new(1 << 20);
    let origin = answer(&[("content-length", "5"), ("age", "10")]);
    let head = serve(cache, "HEAD", &[], Some((&origin, b""))).await;
    assert_eq!(head.1, Outcome::Miss { stored: false });
    let first = serve(cache, "GET", &[], Some((&origin, b"hello"))).await;
    assert_eq!(first, (b"hello".to_vec(), Outcome::Miss { stored: true }));
    for method in ["GET", "HEAD"] {
        let (body, outcome) = serve(cache, method, &[], None).await;
        assert_eq!(body, b"hello");
        assert!(matches!(outcome, Outcome::Hit { ttl: 18..=20 }), "{outcome:?}");
    }
    let bypass = serve(cache, "GET", &[("cookie", "a=b")], Some((&origin, b"mine"))).await;
    assert_eq!(bypass, (b"mine".to_vec(), Outcome::Bypass(Bypass::Credentials)));
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.bypassed, stats.memory.stored), (2, 2, 1, 1));
    let the_key = key(&RequestHead::build("GET", "/a", &[]), &Exchange::for_tests(), |_| [], "r", &policy());
    assert!(cache.purge(&the_key).await && !cache.purge(&the_key).await);
    assert_eq!(serve(cache, "GET", &[], Some((&origin, b"again"))).await.1, Outcome::Miss { stored: true });
}

#[tokio::test]
async fn variants_do_not_mix() {
    let cache = Cache::new(1 << 20);
    let origin = answer(&[("content-length", "2"), ("vary", "Accept-Language")]);
    for round in 0..2 {
        for (language, body) in [(None, b"--"), (Some("de"), b"de"), (Some("en"), b"en")] {
            let fields: Vec<(&str, &str)> = language.map(|language| ("accept-language", language)).into_iter().collect();
            let (got, outcome) = serve(cache, "GET", &fields, Some((&origin, body))).await;
            assert_eq!(got, body);
            assert_eq!(matches!(outcome, Outcome::Hit { .. }), round == 1, "{language:?} {outcome:?}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_stored_is_remembered_until_it_can() {
    let cache = Cache::new(1 << 20);
    let private = answer(&[("content-length", "1"), ("cache-control", "private")]);
    assert_eq!(serve(cache, "GET", &[], Some((&private, b"p"))).await.1, Outcome::Miss { stored: false });
    assert_eq!(serve(cache, "GET", &[], Some((&private, b"p"))).await.1, Outcome::Predicted { stored: false });
    let public = answer(&[("content-length", "1")]);
    assert_eq!(serve(cache, "GET", &[], Some((&public, b"q"))).await.1, Outcome::Predicted { stored: true });
    assert!(matches!(serve(cache, "GET", &[], None).await.1, Outcome::Hit { .. }));
}

#[tokio::test]
async fn an_expired_answer_is_replaced_and_a_head_leaves_it_alone() {
    let cache = Cache::new(1 << 20);
    let short = answer(&[("content-length", "3"), ("cache-control", "max-age=1")]);
    serve(cache, "GET", &[], Some((&short, b"old"))).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(serve(cache, "HEAD", &[], Some((&short, b""))).await.1, Outcome::Miss { stored: false });
    assert_eq!(serve(cache, "GET", &[], Some((&short, b"new"))).await, (b"new".to_vec(), Outcome::Expired { stored: true }));
    assert_eq!(serve(cache, "GET", &[], None).await.0, b"new");
}

#[tokio::test]
async fn misses_at_the_same_time_ask_once() {
    let cache = Cache::new(1 << 20);
    let stored = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let stored = stored.clone();
            tokio::spawn(async move {
                let origin = answer(&[("content-length", "5")]);
                let (body, outcome) = serve(cache, "GET", &[], Some((&origin, b"hello"))).await;
                assert_eq!(body, b"hello");
                if outcome == (Outcome::Miss { stored: true }) {
                    stored.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(stored.load(Ordering::Relaxed), 1);
    assert_eq!(cache.stats().hits, 19);
}

#[tokio::test]
async fn variants_from_before_a_purge_are_gone() {
    let cache = Cache::new(1 << 20);
    let origin = answer(&[("content-length", "2"), ("vary", "Accept-Language")]);
    let (de, en) = ([("accept-language", "de")], [("accept-language", "en")]);
    for (fields, body) in [(de, b"de"), (en, b"en")] {
        serve(cache, "GET", &fields, Some((&origin, body))).await;
    }
    let the_key = key(&RequestHead::build("GET", "/a", &[]), &Exchange::for_tests(), |_| [], "r", &policy());
    assert!(cache.purge(&the_key).await);
    // The primary is stored anew; the old variant is still in the store, but it is not this primary's.
    assert_eq!(serve(cache, "GET", &de, Some((&origin, b"DE"))).await.0, b"DE");
    assert_eq!(serve(cache, "GET", &en, Some((&origin, b"EN"))).await.0, b"EN");
    assert_eq!(serve(cache, "GET", &en, None).await.0, b"EN");
}

#[tokio::test]
async fn one_cannot_be_stored_among_variants() {
    let cache = Cache::new(1 << 20);
    let stored = answer(&[("content-length", "2"), ("vary", "Accept-Language")]);
    let private = answer(&[("content-length", "2"), ("vary", "Accept-Language"), ("cache-control", "private")]);
    serve(cache, "GET", &[("accept-language", "de")], Some((&stored, b"de"))).await;
    serve(cache, "GET", &[("accept-language", "en")], Some((&private, b"en"))).await;
    // The predictor remembers the key, not the variant, and both ways ask it first.
    let (_, outcome) = serve(cache, "GET", &[("accept-language", "de")], Some((&stored, b"de"))).await;
    assert_eq!(outcome, Outcome::Predicted { stored: true });
}

#[tokio::test]
async fn a_client_that_has_it_gets_304() {
    let cache = Cache::new(1 << 20);
    let dated = ("last-modified", "Fri, 26 Mar 2010 00:05:00 GMT");
    let origin = answer(&[("content-length", "5"), ("etag", "W/\"v\""), dated, ("content-type", "text/plain")]);
    serve(cache, "GET", &[], Some((&origin, b"hello"))).await;
    let policy = policy();
    for (fields, expected) in [
        (&[][..], false),
        (&[("if-none-match", "\"v\"")], true),
        (&[("if-none-match", "\"u\""), ("if-none-match", "\"w\", W/\"v\"")], true),
        (&[("if-none-match", "*")], true),
        (&[("if-none-match", "\"u\"")], false),
        (&[("if-none-match", "")], false),
        (&[("if-modified-since", dated.1)], true),
        (&[("if-modified-since", "Fri, 26 Mar 2010 00:04:59 GMT")], false),
        (&[("if-modified-since", "yesterday")], false),
        // The tag goes first.
        (&[("if-none-match", "\"u\""), ("if-modified-since", dated.1)], false),
    ] {
        let head = RequestHead::build("GET", "/a", fields);
        let hit = cache.fresh(&policy, key(&head, &Exchange::for_tests(), seen(&head), "r", &policy), seen(&head)).unwrap();
        let unchanged = hit.not_modified(&head.method, seen(&head));
        assert_eq!(unchanged.is_some(), expected, "{fields:?}");
        if let Some(unchanged) = unchanged {
            let names: Vec<_> = unchanged.headers().map(|(name, _)| name.to_ascii_lowercase()).collect();
            assert_eq!((unchanged.status.as_u16(), names), (304, vec![b"etag".to_vec(), b"last-modified".to_vec()]));
        }
    }
}
