//! A stub resolver: asks recursive servers, over UDP and where an answer does not fit over TCP. It keeps nothing: whoever asks obeys the
//! lifetimes that it is told.
//!
//! Own code, for the one library that is well kept brings seventeen crates and a cache of its own, for three kinds of records that are asked
//! for every few seconds.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::message::{self, Answer};

/// How long one server has for an answer, and how often all of them are asked.
const PATIENCE: Duration = Duration::from_millis(1500);
const ROUNDS: usize = 2;
const CONFIGURATION: &str = "/etc/resolv.conf";
const MOST_SERVERS: usize = 3;

/// The servers to ask; those of the system if none are named.
#[derive(Clone)]
pub struct Stub(pub Vec<SocketAddr>);

impl Stub {
    /// The first answer of a server that can say anything: that there is such a name, or that there is none.
    ///
    /// # Errors
    /// No server has answered, or none that could.
    pub async fn ask(&self, name: &str, kind: u16) -> Result<Answer, String> {
        let of_system;
        let servers = if self.0.is_empty() {
            of_system = system_servers().await?;
            &of_system
        } else {
            &self.0
        };
        let mut why = "there is no server to ask".to_owned();
        for _ in 0..ROUNDS {
            for server in servers {
                match tokio::time::timeout(PATIENCE, ask_one(*server, name, kind)).await {
                    Ok(Ok(answer)) if matches!(answer.code, 0 | 3) => return Ok(answer),
                    Ok(Ok(answer)) => why = format!("{server} answers with the code {}", answer.code),
                    Ok(Err(error)) => why = format!("{server}: {error}"),
                    Err(_) => why = format!("{server} does not answer"),
                }
            }
        }
        Err(why)
    }
}

/// Read anew each time: the system's servers change with its networks.
async fn system_servers() -> Result<Vec<SocketAddr>, String> {
    let text = tokio::fs::read_to_string(CONFIGURATION).await.map_err(|error| format!("{CONFIGURATION}: {error}"))?;
    let named = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    Ok(named.take(MOST_SERVERS).map(|ip| SocketAddr::new(ip, 53)).collect())
}

async fn ask_one(server: SocketAddr, name: &str, kind: u16) -> Result<Answer, String> {
    let mut id = [0; 2];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| "no random number".to_owned())?;
    let question = message::question(u16::from_be_bytes(id), name, kind).ok_or("the name cannot be asked for")?;
    let said = |error: std::io::Error| error.to_string();
    let answer = over_udp(server, &question).await.map_err(said)?;
    if !answer.truncated {
        return Ok(answer);
    }
    over_tcp(server, &question).await.map_err(said)?.ok_or_else(|| "its answer over TCP is none".to_owned())
}

/// From a port of its own for each question, which whoever would answer in the server's place has to guess as well.
async fn over_udp(server: SocketAddr, question: &[u8]) -> std::io::Result<Answer> {
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut packet = [0; message::LARGEST_PACKET as usize];
    loop {
        let length = socket.recv(&mut packet).await?;
        // What is no answer to this is somebody else's, or too late.
        if let Some(answer) = packet.get(..length).and_then(|packet| message::answer(packet, question)) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &[u8]) -> std::io::Result<Option<Answer>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).unwrap_or_default();
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let mut packet = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut packet).await?;
    Ok(message::answer(&packet, question))
}
