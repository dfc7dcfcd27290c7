use super::*;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;

fn listeners(count: usize) -> Vec<(String, TcpListener)> {
    (0..count).map(|n| (format!("public#{n}"), TcpListener::bind("127.0.0.1:0").unwrap())).collect()
}

fn borrowed(listeners: &[(String, TcpListener)]) -> Vec<(String, BorrowedFd<'_>)> {
    listeners.iter().map(|(name, listener)| (name.clone(), listener.as_fd())).collect()
}

/// What a process that sends exactly this, with these descriptors, makes of the receiver.
fn receive_from(bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let (old, new) = UnixStream::pair().unwrap();
    let wire = Wire::new(&old, TRANSFER).unwrap();
    let (preamble, rest) = bytes.split_at(bytes.len().min(9));
    wire.send(preamble).unwrap();
    if !rest.is_empty() {
        wire.send_with(rest, descriptors).unwrap();
    }
    drop(old);
    receive_listeners(&new).map(|listeners| listeners.len())
}

fn message(version: u8, numbers: &[u32], tail: &[u8]) -> Vec<u8> {
    let mut out = vec![version];
    numbers.iter().for_each(|number| out.extend(number.to_be_bytes()));
    out.extend_from_slice(tail);
    out
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn two_hundred_listeners_are_adopted() {
    let (old, new) = UnixStream::pair().unwrap();
    let theirs = listeners(200);
    let addresses: Vec<SocketAddr> = theirs.iter().map(|(_, listener)| listener.local_addr().unwrap()).collect();
    let sender = thread::spawn(move || {
        send_listeners(&old, &borrowed(&theirs)).unwrap();
        await_acknowledgement(&old, Duration::from_secs(5)).unwrap();
    });
    let adopted = receive_listeners(&new).unwrap();
    acknowledge(&new).unwrap();
    // From here on the old process's copies are closed.
    sender.join().unwrap();
    assert_eq!(adopted.len(), 200);
    for (n, ((name, descriptor), address)) in adopted.into_iter().zip(addresses).enumerate() {
        assert_eq!(name, format!("public#{n}"));
        assert!(rustix::io::fcntl_getfd(&descriptor).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        let listener = TcpListener::from(descriptor);
        assert_eq!(listener.local_addr().unwrap(), address);
        let client = TcpStream::connect(address).unwrap();
        assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
    }
}

#[test]
fn any_number_fits_its_batches() {
    for count in [0, 1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH] {
        let (old, new) = UnixStream::pair().unwrap();
        let theirs = listeners(count);
        let sender = thread::spawn(move || send_listeners(&old, &borrowed(&theirs)).unwrap());
        assert_eq!(receive_listeners(&new).unwrap().len(), count);
        sender.join().unwrap();
    }
}

#[test]
fn a_connection_that_waited_is_not_lost() {
    let (old, new) = UnixStream::pair().unwrap();
    let theirs = listeners(1);
    let client = TcpStream::connect(theirs[0].1.local_addr().unwrap()).unwrap();
    send_listeners(&old, &borrowed(&theirs)).unwrap();
    let adopted = receive_listeners(&new).unwrap().remove(0).1;
    drop(theirs);
    assert_eq!(TcpListener::from(adopted).accept().unwrap().1, client.local_addr().unwrap());
}

#[test]
fn a_truncated_message_is_refused_and_leaks_nothing() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let whole = message(VERSION, &[1, 3, 1, 3, 3], b"a#0");
    assert_eq!(receive_from(&whole, &[socket.as_fd()]).unwrap(), 1);
    // nextest runs a test per process; with other tests beside this one, the count would not hold still.
    let alone = std::env::var_os("NEXTEST").is_some();
    let before = open_descriptors();
    for end in 0..whole.len() {
        let error = receive_from(&whole[..end], &[socket.as_fd()]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{end}");
    }
    assert!(!alone || open_descriptors() == before);
}

#[test]
fn what_is_not_as_announced_is_refused() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(socket.local_addr().unwrap()).unwrap();
    let one = [socket.as_fd()];
    let two = [socket.as_fd(), other.as_fd()];
    let no_listener = [connected.as_fd()];
    let many = [socket.as_fd(); 64];
    let cases: [(&str, Vec<u8>, &[BorrowedFd<'_>]); 14] = [
        ("another version", message(2, &[1, 3, 1, 3, 3], b"a#0"), &one),
        ("too many descriptors", message(VERSION, &[4097, 3, 1, 3, 3], b"a#0"), &one),
        ("absurd numbers", message(VERSION, &[u32::MAX, u32::MAX, u32::MAX, u32::MAX], b""), &one),
        ("too many names", message(VERSION, &[1, 65537, 1, 3, 3], b"a#0"), &one),
        ("fewer descriptors", message(VERSION, &[2, 6, 2, 6, 3], b"a#0\0\0\0\x03a#1"), &one),
        ("more descriptors", message(VERSION, &[1, 3, 1, 3, 3], b"a#0"), &two),
        ("an empty batch", message(VERSION, &[1, 3, 0, 0], b""), &one),
        ("a batch beyond the total", message(VERSION, &[1, 3, 2, 6, 3], b"a#0\0\0\0\x03a#1"), &two),
        ("a batch beyond the bound", message(VERSION, &[65, 3, 65, 3], b""), &many),
        ("a long name", message(VERSION, &[1, 3, 1, 3, 4], b"a#00"), &one),
        ("a short name", message(VERSION, &[1, 3, 1, 3, 2], b"a#"), &one),
        ("a name that is no text", message(VERSION, &[1, 2, 1, 2, 2], b"\xff\xfe"), &one),
        ("two of one name", message(VERSION, &[2, 6, 2, 6, 3], b"a#0\0\0\0\x03a#0"), &two),
        ("no listening socket", message(VERSION, &[1, 3, 1, 3, 3], b"a#0"), &no_listener),
    ];
    for (what, bytes, descriptors) in cases {
        let error = receive_from(&bytes, descriptors).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{what}: {error}");
    }
    assert!(receive_from(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", &one).is_err());
}

#[test]
fn more_descriptors_than_fit_are_closed() {
    let (old, new) = UnixStream::pair().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    old.set_nonblocking(false).unwrap();
    (&old).write_all(&message(VERSION, &[1, 3], b"")).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(200))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [socket.as_fd(); 200];
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(&old, &[IoSlice::new(&[0, 0, 0, 1, 0, 0, 0, 3])], &mut control, SendFlags::empty()).unwrap();
    assert_eq!(receive_listeners(&new).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn what_is_too_much_is_not_sent() {
    let (old, _new) = UnixStream::pair().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let named = |names: Vec<String>| names.into_iter().map(|name| (name, socket.as_fd())).collect::<Vec<_>>();
    for names in [
        (0..=MOST_DESCRIPTORS).map(|n| n.to_string()).collect(),
        vec!["x".repeat(MOST_NAMES + 1)],
        vec!["same".to_owned(), "same".to_owned()],
    ] {
        assert_eq!(send_listeners(&old, &named(names)).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

#[test]
fn silence_times_out() {
    let (old, new) = UnixStream::pair().unwrap();
    let began = Instant::now();
    let error = await_acknowledgement(&old, Duration::from_millis(80)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!((Duration::from_millis(70)..Duration::from_secs(5)).contains(&began.elapsed()));
    // A byte now and then does not extend the time.
    let wire = Wire::new(&new, Duration::from_millis(200)).unwrap();
    let dripping = thread::spawn(move || {
        for _ in 0..100 {
            if (&old).write_all(b"\0").is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    let began = Instant::now();
    assert_eq!(wire.receive_into(&mut [0; 1000]).unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(began.elapsed() < Duration::from_secs(1));
    drop(new);
    dripping.join().unwrap();
}

#[test]
fn only_an_acknowledgement_acknowledges() {
    let (old, new) = UnixStream::pair().unwrap();
    (&new).write_all(b"x").unwrap();
    assert_eq!(await_acknowledgement(&old, Duration::from_secs(1)).unwrap_err().kind(), io::ErrorKind::InvalidData);
    drop(new);
    assert_eq!(await_acknowledgement(&old, Duration::from_secs(1)).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn this_process_is_its_own_peer() {
    let (old, _new) = UnixStream::pair().unwrap();
    check_peer(&old).unwrap();
}

#[test]
fn the_socket_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/upgrade.sock");
    let listener = bind_socket(&path).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
    assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
    drop(listener);
    drop(bind_socket(&path).unwrap());
    std::fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(bind_socket(&path).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(mode(path.parent().unwrap()), 0o755, "left alone");
    std::fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o700)).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    assert_eq!(bind_socket(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    assert!(bind_socket(Path::new("upgrade.sock")).is_err());
}
