//! Whoever a call is made for, as the engine sees it: where the request's body comes from, and who wants to know what happens.

use bytes::Bytes;
use http::HeaderMap;
use pingora_error::{Error, ErrorType, Result};

use crate::transcode::Pay;
use crate::wire::answer::AnswerHead;

/// See the module. All that waits is cancel-safe.
pub trait Client: Send {
    /// The body, where it is whole in memory.
    fn buffered(&self) -> Option<&Bytes>;

    /// Whether nothing of a body came or will come.
    fn body_is_empty(&self) -> bool;

    /// Whether the client waits for `100 Continue` before it sends its body.
    fn is_continue_owed(&self) -> bool;

    /// From now on what is read of the body is kept, up to so many bytes, so that it can be sent a second time.
    fn keep_for_replay(&mut self, most: usize);

    /// What was read of the body so far, if all of it was kept.
    fn replay(&self) -> Option<Bytes>;

    /// Whether the whole body, or all that was read of it, is still at hand, and nothing of an answer has been passed on.
    fn can_replay(&self) -> bool;

    /// When the whole body was there, if it came in pieces.
    fn uploaded(&self) -> Option<std::time::Instant>;

    /// The next piece of the body, `None` at its end.
    ///
    /// # Errors
    /// The body does not come as it should, or nobody is left to send it.
    fn read_body(&mut self) -> impl Future<Output = Result<Option<Bytes>>> + Send;

    /// The fields that came behind the body, once its end was read.
    fn trailers(&self) -> Option<HeaderMap>;

    /// Waits until something of the body is there, or its end, without asking for it.
    fn unasked(&mut self) -> impl Future<Output = ()> + Send;

    /// Passes the service's `100 Continue` on.
    ///
    /// # Errors
    /// The client cannot be written to.
    fn say_continue(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Passes another interim answer on.
    ///
    /// # Errors
    /// The client cannot be written to.
    fn write_interim(&mut self, answer: &AnswerHead) -> impl Future<Output = Result<()>> + Send;

    /// The whole body, up to `most` bytes of it.
    ///
    /// # Errors
    /// It does not come as it should, is longer, or there is no memory for it.
    fn whole(&mut self, most: usize) -> impl Future<Output = Result<Bytes>> + Send;

    /// Takes so many bytes more of the memory that there is for bodies, for as long as the request.
    ///
    /// # Errors
    /// There is none left.
    fn pays(&mut self, bytes: usize) -> Result<()>;

    /// How much of that memory there may be for this request beside what it holds, were nobody else there.
    fn most_memory(&self) -> usize {
        usize::MAX
    }

    /// Does what takes of that memory for as long as it is done. `work` asks for so many bytes more before it takes them, and stops where it
    /// is told that there are none left.
    ///
    /// # Errors
    /// There are none left; what `work` has come to by then is dropped.
    fn pays_meanwhile<T>(&mut self, work: impl FnOnce(&mut Pay<'_>) -> T) -> std::result::Result<T, NoMemory> {
        let mut failed = None;
        let done = work(&mut |bytes| match self.pays(bytes) {
            Ok(()) => failed.is_none(),
            Err(error) => {
                failed = Some(error);
                false
            }
        });
        match failed {
            None => Ok(done),
            Some(error) => Err(NoMemory { error, ever: false }),
        }
    }

    /// The same for what is known to take so many bytes. It is not done where there are none left.
    ///
    /// # Errors
    /// There are none left.
    fn pays_while<T>(&mut self, bytes: usize, work: impl FnOnce() -> T) -> std::result::Result<T, NoMemory> {
        let done = self.pays_meanwhile(|pay| pay(bytes).then(work))?;
        done.ok_or_else(|| NoMemory { error: Error::new(ErrorType::InternalError), ever: false })
    }

    /// Waits until the client goes away.
    fn gone(&mut self) -> impl Future<Output = ()> + Send;

    /// Waits until the client goes away, and takes nothing in meanwhile.
    fn reset(&mut self) -> impl Future<Output = ()> + Send;
}

/// There is no memory left for what was to be done.
#[derive(Debug)]
pub struct NoMemory {
    pub error: Box<Error>,
    /// Nor would there be any, were nobody else there.
    pub ever: bool,
}

/// Who hears what passes between a client and the engine.
pub trait Ear: Send {
    /// A piece of the client's body was read, or its end.
    fn piece(&mut self, client: &impl Client, piece: Option<&Bytes>);

    /// The client is about to be told something of an answer.
    fn interim(&mut self) {}

    /// The client has gone. Waits until nobody else wants what comes of the call.
    fn unwanted(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// A client to whom somebody listens.
pub struct Overheard<'a, C, E> {
    pub client: &'a mut C,
    pub by: E,
}

impl<C: Client, E: Ear> Client for Overheard<'_, C, E> {
    fn buffered(&self) -> Option<&Bytes> {
        self.client.buffered()
    }

    fn body_is_empty(&self) -> bool {
        self.client.body_is_empty()
    }

    fn is_continue_owed(&self) -> bool {
        self.client.is_continue_owed()
    }

    fn keep_for_replay(&mut self, most: usize) {
        self.client.keep_for_replay(most);
    }

    fn replay(&self) -> Option<Bytes> {
        self.client.replay()
    }

    fn can_replay(&self) -> bool {
        self.client.can_replay()
    }

    fn uploaded(&self) -> Option<std::time::Instant> {
        self.client.uploaded()
    }

    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        let piece = self.client.read_body().await?;
        self.by.piece(self.client, piece.as_ref());
        Ok(piece)
    }

    fn trailers(&self) -> Option<HeaderMap> {
        self.client.trailers()
    }

    async fn unasked(&mut self) {
        self.client.unasked().await;
    }

    async fn say_continue(&mut self) -> Result<()> {
        self.client.say_continue().await
    }

    async fn write_interim(&mut self, answer: &AnswerHead) -> Result<()> {
        self.by.interim();
        self.client.write_interim(answer).await
    }

    async fn whole(&mut self, most: usize) -> Result<Bytes> {
        let known = self.client.buffered().is_some();
        let body = self.client.whole(most).await?;
        if !known {
            if !body.is_empty() {
                self.by.piece(self.client, Some(&body));
            }
            self.by.piece(self.client, None);
        }
        Ok(body)
    }

    fn pays(&mut self, bytes: usize) -> Result<()> {
        self.client.pays(bytes)
    }

    fn most_memory(&self) -> usize {
        self.client.most_memory()
    }

    fn pays_meanwhile<T>(&mut self, work: impl FnOnce(&mut Pay<'_>) -> T) -> std::result::Result<T, NoMemory> {
        self.client.pays_meanwhile(work)
    }

    async fn gone(&mut self) {
        self.client.gone().await;
        self.by.unwanted().await;
    }

    async fn reset(&mut self) {
        self.client.reset().await;
        self.by.unwanted().await;
    }
}

/// The gateway itself, with a body that it has made.
pub struct Own(pub Bytes);

impl Client for Own {
    fn buffered(&self) -> Option<&Bytes> {
        Some(&self.0)
    }

    fn body_is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn is_continue_owed(&self) -> bool {
        false
    }

    fn keep_for_replay(&mut self, _most: usize) {}

    fn replay(&self) -> Option<Bytes> {
        None
    }

    fn can_replay(&self) -> bool {
        true
    }

    fn uploaded(&self) -> Option<std::time::Instant> {
        None
    }

    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        Ok(None)
    }

    fn trailers(&self) -> Option<HeaderMap> {
        None
    }

    async fn unasked(&mut self) {}

    async fn say_continue(&mut self) -> Result<()> {
        Ok(())
    }

    async fn write_interim(&mut self, _answer: &AnswerHead) -> Result<()> {
        Ok(())
    }

    async fn whole(&mut self, _most: usize) -> Result<Bytes> {
        Ok(self.0.clone())
    }

    fn pays(&mut self, _bytes: usize) -> Result<()> {
        Ok(())
    }

    async fn gone(&mut self) {
        std::future::pending().await
    }

    async fn reset(&mut self) {
        std::future::pending().await
    }
}
