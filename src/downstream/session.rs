//! [`Downstream`] as a custom session of Pingora's, for the proxy road.

use std::ops::{Deref, DerefMut};
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_error::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::Instant;

use super::{AWAITS_SWITCH, CLIENT_GONE, CLIENT_STALLED, CONTINUE_AFTER, Downstream, EARLY_ANSWER, MAY_SWITCH, NO_ANSWER, Wire};
use crate::wait::Pace;

/// Stands in until the request is on its way; no road asks before.
static NO_REQUEST: LazyLock<RequestHeader> = LazyLock::new(|| http::Request::new(()).into_parts().0.into());

type MessageReader = Box<dyn futures_core::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>;

#[async_trait]
impl Session for Downstream {
    fn req_header(&self) -> &RequestHeader {
        self.request.as_deref().unwrap_or(&NO_REQUEST)
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.request.get_or_insert_with(|| Box::new(NO_REQUEST.clone()))
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.at_work().next_piece().await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        let mut down = self.at_work();
        while down.read_body().await?.is_some() {}
        Ok(())
    }

    async fn write_response_header(&mut self, resp: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.at_work().write_head(resp, end).await
    }

    async fn write_response_header_ref(&mut self, resp: &ResponseHeader, end: bool) -> Result<()> {
        self.at_work().write_head(Box::new(resp.clone()), end).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        let mut down = self.at_work();
        let written = Downstream::write_body(&mut down, data, end).await;
        down.noticed(written)
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        let wants = self.takes_trailers;
        let mut down = self.at_work();
        let written = down.finish_with(trailers, wants).await;
        down.noticed(written)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut down = self.at_work();
        let written = down.write_tasks(tasks).await;
        down.noticed(written)
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.pace = timeout.map(|silence| match self.pace {
            Some(pace) => Pace { silence, ..pace },
            None => Pace { silence, grace: silence, rate: 0 },
        });
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.pace.map(|pace| pace.silence)
    }

    fn set_write_timeout(&mut self, _timeout: Option<Duration>) {}

    fn get_write_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_total_drain_timeout(&mut self, _timeout: Option<Duration>) {}

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        None
    }

    fn request_summary(&self) -> String {
        // Without the query, which can carry credentials.
        let request = self.req_header();
        let path = request.uri.path();
        format!("{} {}", request.method, path.get(..path.len().min(256)).unwrap_or_default())
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.response.as_deref()
    }

    async fn shutdown(&mut self, _code: u32, _ctx: &str) {
        match &mut self.at_work().wire {
            Some(Wire::H1(wire)) => wire.close_after(),
            Some(Wire::H2(stream)) => stream.reset(h2::Reason::INTERNAL_ERROR),
            None => {}
        }
    }

    fn is_body_done(&mut self) -> bool {
        let down = self.at_work();
        !down.awaits_switch() && down.attempt_is_read()
    }

    async fn finish(&mut self) -> Result<()> {
        Downstream::finish(&mut self.at_work()).await
    }

    fn is_body_empty(&mut self) -> bool {
        let down = self.at_work();
        !down.awaits_switch() && down.body_is_empty()
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        let mut down = self.at_work();
        let read = down.piece_or_end(no_body_expected).await;
        down.noticed(read)
    }

    fn body_bytes_sent(&self) -> usize {
        self.body_sent as usize
    }

    fn body_bytes_read(&self) -> usize {
        self.body_read as usize
    }

    fn digest(&self) -> Option<&Digest> {
        None
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        None
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new()
    }

    fn enable_retry_buffering(&mut self) {
        self.keep_for_replay();
        // Called at the beginning of each attempt. What a policy has had read, and what an earlier attempt has read, comes first.
        self.replaying = match &self.buffered {
            Some(body) => !body.is_empty(),
            None => self.retry.as_ref().is_some_and(|retry| !retry.truncated && !retry.bytes.is_empty()),
        };
        // Of this attempt, not of one before.
        self.asked = None;
        // Called once the head is sent, with the framing that an empty body has.
        let _ = self.fate.switch.compare_exchange(MAY_SWITCH, AWAITS_SWITCH, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.buffered.is_none() && self.retry.as_ref().is_some_and(|retry| retry.truncated)
    }

    /// Nothing: what is sent again is read again (see [`Downstream::next_piece`]). Pingora would send this before it listens to the
    /// backend, and take a backend that refuses the request meanwhile for a broken one.
    fn get_retry_buffer(&self) -> Option<Bytes> {
        None
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<MessageReader> {
        None
    }

    fn restore_custom_message_reader(&mut self, _reader: MessageReader) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }

    fn is_upgrade_req(&self) -> bool {
        let request = self.req_header();
        request.version == http::Version::HTTP_11 && request.headers.contains_key(http::header::UPGRADE)
    }

    fn was_upgraded(&self) -> bool {
        self.response.as_ref().is_some_and(|answer| answer.status == http::StatusCode::SWITCHING_PROTOCOLS)
    }
}

/// A session that has its connection in hand; it is put back on the shelf when this is dropped.
struct AtWork<'a>(&'a mut Downstream);

impl Deref for AtWork<'_> {
    type Target = Downstream;

    fn deref(&self) -> &Downstream {
        self.0
    }
}

impl DerefMut for AtWork<'_> {
    fn deref_mut(&mut self) -> &mut Downstream {
        self.0
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        if let Some(shelf) = &self.0.shelf {
            shelf.put(&mut self.0.wire);
        }
    }
}

impl Downstream {
    fn at_work(&mut self) -> AtWork<'_> {
        if let Some(shelf) = &self.shelf {
            shelf.take(&mut self.wire);
        }
        AtWork(self)
    }

    /// Notes what the road is told about its client.
    fn noticed<T>(&self, done: Result<T>) -> Result<T> {
        if let Err(error) = &done {
            if error.etype == CLIENT_STALLED {
                self.fate.stalled.store(true, Ordering::Relaxed);
            }
            if let Some(shelf) = &self.shelf {
                shelf.is_known();
            }
        }
        done
    }

    /// The backend shall say whether the client, which waits for `100 Continue`, is to send its body.
    pub fn withhold(&mut self) {
        self.withheld = Some(None);
    }

    /// Whether all of the body was read, for this attempt.
    fn attempt_is_read(&self) -> bool {
        !self.replaying && (self.spared || self.buffered.is_some() || self.wire_body_done())
    }

    /// The next piece of the body, and once there is none, the client's end.
    async fn piece_or_end(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if !no_body_expected && !self.attempt_is_read() && !self.awaits_switch() {
            if let Some(due) = &mut self.withheld {
                let due = *due.get_or_insert_with(|| Instant::now() + CONTINUE_AFTER);
                let _ = tokio::time::timeout_at(due, self.unasked()).await;
                self.withheld = None;
            }
            return self.next_piece().await;
        }
        match self.answer_due() {
            Some(due) => tokio::time::timeout_at(due, self.gone()).await.map_err(|_| Error::new(NO_ANSWER))?,
            None => self.gone().await,
        }
        Err(Error::new(CLIENT_GONE))
    }

    async fn write_tasks(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        if !self.answered && !self.attempt_is_read() && tasks.iter().any(HttpTask::is_end) {
            // The whole answer is here before the whole request is.
            self.give_up_body();
        }
        let mut end = false;
        for task in tasks {
            end = self.write_task(task).await? || end;
        }
        if !end {
            self.flush().await?;
            return Ok(false);
        }
        Downstream::finish(self).await?;
        if self.ends_early() {
            // Pingora would go on to send the whole body, and then take the connection for a good one. It keeps none that failed.
            return Err(Error::new(EARLY_ANSWER));
        }
        Ok(true)
    }

    /// The next piece of the body, for this attempt.
    async fn next_piece(&mut self) -> Result<Option<Bytes>> {
        if std::mem::take(&mut self.replaying) {
            return Ok(self.buffered.clone().or_else(|| self.replay()));
        }
        if self.buffered.is_some() {
            return Ok(None);
        }
        self.read_body().await
    }

    async fn write_task(&mut self, task: HttpTask) -> Result<bool> {
        match task {
            HttpTask::Header(answer, end) => {
                self.write_head(answer, end).await?;
                Ok(end)
            }
            HttpTask::Body(data, end) | HttpTask::UpgradedBody(data, end) => {
                if let Some(data) = data {
                    Downstream::write_body(self, data, false).await?;
                }
                Ok(end)
            }
            HttpTask::Trailer(Some(trailers)) => {
                self.finish_with(*trailers, self.takes_trailers).await?;
                Ok(true)
            }
            HttpTask::Trailer(None) | HttpTask::Done => Ok(true),
            HttpTask::Failed(error) => Err(error),
        }
    }
}
