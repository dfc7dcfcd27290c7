//! An answer on its way to the client that is stored once its body is whole.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::HeaderValue;
use pingora_cache::key::HashBinary;
use smallvec::SmallVec;

use super::changed::Place;
use super::entry::{Entry, Index, Meta};
use super::flow::{Flow, Flowing};
use super::lent::Lent;
use super::memory::Filling;
use super::pieces::{self, Part};
use super::stored::{Laid, Told};
use super::tags::Tags;
use super::turns::{Turn, Verdict};
use super::{Cache, Key, StoredHead};
use crate::wire::answer::AnswerHead;

/// What becomes of an answer on its way to the client.
pub enum Keeping {
    Nothing,
    Storing(Box<Storing>),
    /// It is only counted, by how many more bytes it may have: was it too long before, and is it short enough now?
    Measuring(Index, usize),
}

/// An answer that is stored once its body is whole.
pub struct Storing {
    pub(super) turn: Option<Turn>,
    pub(super) key: Key,
    pub(super) place: Place,
    pub(super) index: Index,
    /// Where it was looked for.
    pub(super) sought: Index,
    pub(super) variance: Option<HashBinary>,
    pub(super) fresh_until: SystemTime,
    /// The next one may have it without asking.
    pub(super) lasts: bool,
    pub(super) created: SystemTime,
    pub(super) epoch: SystemTime,
    pub(super) stale_while_revalidate: u32,
    pub(super) stale_if_error: u32,
    pub(super) asked: u64,
    pub(super) tags: Option<Tags>,
    /// It has fields for them.
    pub(super) tagged: bool,
    pub(super) on_disk: bool,
    pub(super) in_redis: bool,
    pub(super) fallback: u32,
    /// Where the answer has none.
    pub(super) date: Option<HeaderValue>,
    /// Fields that are not stored, in lower case.
    pub(super) withheld: SmallVec<[Box<[u8]>; 1]>,
    pub(super) filling: Filling,
    /// It is one, and belongs here. Where its route keeps parts.
    pub(super) part: Option<(Part, Index, SystemTime)>,
    /// Where its parts are, which are of no use beside it.
    pub(super) parts: Option<Index>,
    pub(super) most: usize,
    /// Those who wait have been told that it comes.
    pub(super) told: bool,
    /// Of the longest body that the route, and the memory, stores.
    pub(super) left: usize,
}

impl Keeping {
    pub fn is_storing(&self) -> bool {
        matches!(self, Keeping::Storing(_))
    }

    /// Whether the answer may have fields for tags: of one that is stored it is known.
    pub fn may_be_tagged(&self) -> bool {
        match self {
            Keeping::Storing(storing) => storing.tagged,
            _ => true,
        }
    }

    /// What the client is told of when the answer was made, where the service has not.
    pub fn date(&self) -> Option<&HeaderValue> {
        match self {
            Keeping::Storing(storing) => storing.date.as_ref(),
            _ => None,
        }
    }

    /// A piece of the body.
    pub fn add(&mut self, cache: &Cache, data: &[u8]) {
        match self {
            Keeping::Nothing => {}
            Keeping::Measuring(_, left) => match left.checked_sub(data.len()) {
                Some(less) => *left = less,
                None => *self = Keeping::Nothing,
            },
            Keeping::Storing(storing) => match storing.left.checked_sub(data.len()) {
                Some(less) => {
                    storing.left = less;
                    storing.filling.add(data);
                    if !storing.filling.is_wanted() {
                        self.give_up();
                    }
                }
                None => {
                    cache.became_long(storing.sought);
                    self.give_up();
                }
            },
        }
    }

    /// Its body is not all here yet: those who wait for it may have what comes, if they know how long it will be.
    pub fn flows(&mut self, answer: &AnswerHead) {
        if let Keeping::Storing(storing) = self
            && !storing.told
        {
            storing.tell(answer);
        }
    }

    /// The body as it comes, for its own client, who is slower.
    pub fn share(&mut self) -> Option<(Arc<Flow>, Lent)> {
        match self {
            Keeping::Storing(storing) => {
                let flow = storing.filling.share();
                Some((flow.clone(), Lent::flowing(&storing.key, storing.variance, flow)))
            }
            _ => None,
        }
    }

    /// Whether the disk has to catch up before more of it comes.
    pub fn is_full(&self) -> bool {
        matches!(self, Keeping::Storing(storing) if storing.filling.full().is_some())
    }

    /// Waits until it has.
    pub async fn room(&self) {
        if let Keeping::Storing(storing) = self
            && let Some(long) = storing.filling.full()
        {
            long.room().await;
        }
    }

    /// Whether a whole body is `fit` to be stored. What is on disk alone, for want of room, nobody has looked at.
    pub fn is_fit(&mut self, fit: impl FnOnce(&[u8]) -> bool) -> bool {
        match self {
            Keeping::Storing(storing) => storing.filling.look(fit).unwrap_or(false),
            Keeping::Nothing | Keeping::Measuring(..) => true,
        }
    }

    /// It will not be stored: nobody need wait for its end.
    pub fn give_up(&mut self) {
        if let Keeping::Storing(storing) = std::mem::replace(self, Keeping::Nothing) {
            storing.turn.into_iter().for_each(|turn| turn.end(Verdict::Unfit));
        }
    }

    /// The body is whole. The number of what is stored of it, if anything is that others may be given.
    pub fn done(&mut self, cache: &Cache, answer: &AnswerHead) -> Option<u64> {
        match std::mem::replace(self, Keeping::Nothing) {
            Keeping::Nothing => None,
            Keeping::Measuring(sought, _) => {
                cache.became_short(sought);
                None
            }
            Keeping::Storing(storing) => storing.done(answer),
        }
    }
}

impl Storing {
    /// What is stored of it, with a body so long in all, of which so much stands here.
    #[inline]
    fn entry(&self, answer: &AnswerHead, length: usize, mark: &str, body: Bytes) -> Entry {
        let date = self.date.as_ref().map(HeaderValue::as_bytes);
        let told = Told { date, length, withheld: &self.withheld };
        let Laid { key, head, body } = match self.part {
            None => StoredHead::of_answer(answer, told, (&self.key.primary, body)),
            Some(_) => StoredHead::of_part(answer, told, (&self.key.primary, body)),
        };
        let meta = Meta {
            fresh_until: self.fresh_until,
            created: self.created,
            epoch: self.epoch,
            variance: self.variance,
            stale_while_revalidate: self.stale_while_revalidate,
            stale_if_error: self.stale_if_error,
            asked: self.asked,
            tags: self.tags.clone(),
            on_disk: self.on_disk,
            in_redis: self.in_redis,
            fallback: self.fallback,
            head,
        };
        Entry::laid(self.place, (key, mark), meta, body)
    }

    #[cold]
    fn tell(&mut self, answer: &AnswerHead) {
        self.told = true;
        // Of one without a length it is not known whether it is short enough, and what has to be asked about is for nobody else.
        let Some(length) = self.filling.promised().filter(|_| self.lasts) else { return };
        let Some(turn) = &self.turn else { return };
        let entry = Arc::new(self.entry(answer, length, "", Bytes::new()));
        turn.flows(Flowing { flow: self.filling.share(), length, entry });
    }

    fn part_done(self, (part, whole, created): (Part, Index, SystemTime), answer: &AnswerHead) {
        let entry = self.entry(answer, part.total, pieces::MARK, Bytes::new());
        let Storing { index, filling, most, .. } = self;
        let tier = filling.tier();
        if let Some(body) = filling.take(part.length) {
            tier.keep_part(index, entry, pieces::Arrived { part, body, whole: (whole, created), most });
        }
    }

    fn done(mut self: Box<Self>, answer: &AnswerHead) -> Option<u64> {
        if let Some(part) = self.part {
            self.part_done(part, answer);
            return None;
        }
        if let Some(parts) = self.parts {
            self.filling.tier().forget_parts(parts);
        }
        let length = self.filling.length();
        let stored = self.filling.whole().and_then(|body| {
            let entry = self.entry(answer, length, "", body);
            self.filling.store(self.index, entry)
        });
        let (turn, lasts) = (self.turn.take(), self.lasts);
        // What it has taken of memory is free by the time that somebody hears of it.
        drop(self);
        // What is not stored for want of room is another's turn: it may find some. What nobody else may have without asking is no news
        // to them.
        turn.into_iter().for_each(|turn| {
            turn.end(match stored {
                Some(_) if lasts => Verdict::Stored,
                Some(_) => Verdict::Unfit,
                None => Verdict::Failed,
            });
        });
        stored.map(|kept| kept.number)
    }
}
