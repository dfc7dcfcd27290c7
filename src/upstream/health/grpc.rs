//! The protocol of gRPC health checks (`grpc.health.v1`), by hand: a message with one field each way.

use bytes::Bytes;

use crate::grpc::framed;

/// As much of an answer as is read: its frame's head, and a message with a number.
pub const LONGEST: usize = 64;
const SERVING: u64 = 1;

/// `HealthCheckRequest { service }`, framed. A service's name is at most 127 bytes long.
pub fn question(service: &str) -> Bytes {
    let mut message = Vec::with_capacity(service.len() + 2);
    if let Ok(length) = u8::try_from(service.len())
        && length > 0
    {
        // Field 1, a text of this length.
        message.extend([0x0A, length]);
        message.extend_from_slice(service.as_bytes());
    }
    framed(0, &message)
}

/// Whether this answer says that it serves.
pub fn judge(status: u16, grpc_status: Option<&str>, body: &[u8]) -> Result<(), String> {
    match grpc_status {
        None | Some("0") => {}
        Some("5") => return Err("the server knows no such service".to_owned()),
        Some("12") => return Err("the server does not implement grpc.health.v1.Health".to_owned()),
        Some(other) => return Err(format!("answered grpc-status {other}")),
    }
    if status != 200 {
        return Err(format!("answered {status}"));
    }
    match serving_status(body) {
        Some(SERVING) => Ok(()),
        Some(0) => Err("answered UNKNOWN".to_owned()),
        Some(2) => Err("answered NOT_SERVING".to_owned()),
        Some(3) => Err("answered SERVICE_UNKNOWN".to_owned()),
        _ => Err("answered what is no HealthCheckResponse".to_owned()),
    }
}

/// `HealthCheckResponse { status }`: an absent field is 0.
fn serving_status(body: &[u8]) -> Option<u64> {
    let (head, message) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes(head.get(1..)?.try_into().ok()?);
    // Compressed answers were not asked for.
    if head.first() != Some(&0) {
        return None;
    }
    match message.get(..usize::try_from(length).ok()?)? {
        [] => Some(0),
        [0x08, status] if *status < 0x80 => Some(u64::from(*status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speaks_the_protocol() {
        assert_eq!(&*question(""), [0, 0, 0, 0, 0]);
        assert_eq!(&*question("ab"), [0, 0, 0, 0, 4, 0x0A, 2, b'a', b'b']);
        assert_eq!(judge(200, None, &[0, 0, 0, 0, 2, 8, 1]), Ok(()));
        for (bytes, said) in [
            (&[0, 0, 0, 0, 2, 8, 2][..], "NOT_SERVING"),
            (&[0, 0, 0, 0, 0], "UNKNOWN"),
            (&[0, 0, 0, 0, 2, 8], "no HealthCheckResponse"),
            (&[1, 0, 0, 0, 2, 8, 1], "no HealthCheckResponse"),
            (&[], "no HealthCheckResponse"),
        ] {
            assert!(judge(200, None, bytes).unwrap_err().contains(said), "{bytes:?}");
        }
        assert!(judge(200, Some("12"), &[]).unwrap_err().contains("does not implement"));
        assert_eq!(judge(502, None, &[]), Err("answered 502".to_owned()));
    }
}
