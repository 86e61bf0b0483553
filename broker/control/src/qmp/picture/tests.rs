use super::*;
use crate::qmp::fake::{launcher, serve};
use crate::qmp::session;
use crate::qmp::tests::{block, linked};
use bulkhead_plan::{DeviceConfig, DeviceSlot};
use rustix::fd::OwnedFd;
use rustix::process::{Resource, Rlimit, setrlimit};
use std::sync::mpsc::Receiver as Given;
use std::sync::{Arc, Mutex};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tonic::{Request, Response, Status};

/// What a display does when it is asked for a picture.
#[derive(Clone, Copy, Debug)]
enum Draws {
    /// Writes so many bytes.
    Bytes(usize),
    /// Writes as long as anybody reads; whether that has ended goes into the flag.
    Endlessly,
    Refuses,
}

struct Display {
    given: Mutex<Given<OwnedFd>>,
    draws: Draws,
    ended: Arc<Mutex<bool>>,
}

/// Byte `i` of every picture.
fn pixel(i: usize) -> u8 {
    (i.wrapping_mul(2_654_435_761) >> 7) as u8
}

fn draw(to: OwnedFd, draws: Draws, ended: &Mutex<bool>) {
    use std::io::Write as _;
    let mut to = std::fs::File::from(to);
    let mut at = 0;
    let most = if let Draws::Bytes(most) = draws { most } else { usize::MAX };
    while at < most {
        let piece: Vec<u8> = (at..most.min(at + 10_000)).map(pixel).collect();
        if to.write_all(&piece).is_err() {
            *ended.lock().unwrap() = true;
            return;
        }
        at += piece.len();
    }
}

type Answered<T> = Result<Response<T>, Status>;

fn missing<T>() -> Answered<T> {
    Err(Status::unimplemented(""))
}

#[tonic::async_trait]
impl v1::process_server::Process for Display {
    async fn call(&self, _: Request<v1::Call>) -> Answered<v1::CallReply> {
        let to = self.given.lock().unwrap().try_recv().unwrap();
        if let Draws::Refuses = self.draws {
            return Err(Status::failed_precondition("there is no picture"));
        }
        let (draws, ended) = (self.draws, self.ended.clone());
        tokio::task::spawn_blocking(move || draw(to, draws, &ended)).await.unwrap();
        Ok(Response::new(v1::CallReply::default()))
    }
    async fn inspect(&self, _: Request<v1::Empty>) -> Answered<v1::Registers> {
        missing()
    }
    async fn facts(&self, _: Request<v1::Empty>) -> Answered<v1::FactsReply> {
        missing()
    }
    async fn statistics(&self, _: Request<v1::Empty>) -> Answered<v1::Counters> {
        missing()
    }
    async fn ping(&self, _: Request<v1::PingRequest>) -> Answered<v1::PingReply> {
        missing()
    }
    async fn configure(&self, _: Request<v1::Settings>) -> Answered<v1::Settings> {
        missing()
    }
    async fn start(&self, _: Request<v1::Empty>) -> Answered<v1::Empty> {
        missing()
    }
    async fn stop(&self, _: Request<v1::Empty>) -> Answered<v1::Empty> {
        missing()
    }
    async fn reset(&self, _: Request<v1::Empty>) -> Answered<v1::Empty> {
        missing()
    }
    async fn save(&self, _: Request<v1::Empty>) -> Answered<v1::State> {
        missing()
    }
    async fn load(&self, _: Request<v1::State>) -> Answered<v1::Empty> {
        missing()
    }
    async fn set_log_level(&self, _: Request<v1::LogLevel>) -> Answered<v1::LogLevel> {
        missing()
    }
}

/// A client of a machine with such a display. Must be called inside of a runtime.
struct Client {
    stream: UnixStream,
    ended: Arc<Mutex<bool>>,
}

impl Client {
    async fn connect(draws: Draws) -> Self {
        let (mut shared, socket) = linked(false);
        let config = DeviceConfig::Vfb { devid: 0 };
        shared.plan.devices = vec![DeviceSlot { slot: 2, name: "vfb".into(), config }];
        let given = Mutex::new(launcher(socket, shared.launcher.clone()));
        let ended = Arc::new(Mutex::new(false));
        serve(&shared, 2, Display { given, draws, ended: ended.clone() });
        let (stream, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(session(Arc::new(shared), Connection::Socket(theirs)));
        let mut client = Self { stream, ended };
        client.line().await;
        client.ask(r#"{"execute":"qmp_capabilities"}"#).await;
        client
    }

    async fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.stream.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            line.push(self.stream.read_u8().await.unwrap());
        }
        String::from_utf8(line).unwrap()
    }

    async fn ask(&mut self, text: &str) -> String {
        self.stream.write_all(text.as_bytes()).await.unwrap();
        self.line().await
    }

    /// Asks for a picture and compares it piece by piece, so that the test keeps none of it.
    async fn picture(&mut self, bytes: usize) {
        self.stream.write_all(br#"{"execute":"x-bulkhead-screenshot","id":[1]}"#).await.unwrap();
        assert_eq!(self.bytes(18).await, br#"{"return":{"png":""#);
        let mut at = 0;
        while at < bytes {
            let n = BLOCK.min(bytes - at);
            let text = self.bytes(n.div_ceil(3) * 4).await;
            assert!(at + n == bytes || !text.contains(&b'='), "padding within the text");
            let png = base64::prelude::BASE64_STANDARD.decode(text).unwrap();
            assert!(png.len() == n && png.iter().zip(at..).all(|(byte, i)| *byte == pixel(i)), "after {at}");
            at += n;
        }
        assert_eq!(self.line().await, "\"},\"id\":[1]}\r\n");
    }
}

#[test]
fn pictures_of_every_length_arrive_whole() {
    for bytes in [0, 1, 2, 3, 4, 100_000, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK] {
        block(async {
            let mut client = Client::connect(Draws::Bytes(bytes)).await;
            client.picture(bytes).await;
            client.picture(bytes).await;
        });
    }
}

#[test]
fn a_display_that_refuses_a_picture_is_quoted() {
    let answer = block(async {
        Client::connect(Draws::Refuses).await.ask(r#"{"execute":"x-bulkhead-screenshot","id":1}"#).await
    });
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((&answer["error"]["desc"], &answer["id"]), (&json!("there is no picture"), &json!(1)));
}

/// A number of control's profile.
fn profile(name: &str) -> u64 {
    let text = include_str!("../../../../../policy/profiles/control.toml");
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.trim().strip_prefix('='));
    line.unwrap().trim().parse().unwrap()
}

/// The most bytes that this process has had in memory.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// A picture of 64 MiB, twice in base 64, was more than control may have: a compromised display killed it.
#[test]
fn a_hostile_picture_that_kills_control_by_its_own_limit() {
    const CHILD: &str = "BULKHEAD_TEST_PICTURE";
    const NAME: &str = "qmp::picture::tests::a_hostile_picture_that_kills_control_by_its_own_limit";
    if std::env::var_os(CHILD).is_none() {
        // In a process of its own, because limits and peaks are a process's.
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let out = child.args(["--exact", NAME, "--nocapture"]).env(CHILD, "1").output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && said.contains("1 passed"), "{:?}: {said}", out.status);
        return;
    }
    let data = profile("data");
    setrlimit(Resource::Data, Rlimit { current: Some(data), maximum: Some(data) }).unwrap();
    let before = peak();
    block(async {
        let mut client = Client::connect(Draws::Bytes(PICTURE)).await;
        client.picture(PICTURE).await;
        for draws in [Draws::Bytes(PICTURE + 1), Draws::Bytes(64 << 20), Draws::Endlessly] {
            let mut client = Client::connect(draws).await;
            for _ in 0..2 {
                let answer = client.ask(r#"{"execute":"x-bulkhead-screenshot"}"#).await;
                assert!(answer.contains("the picture has more than 8 MiB"), "an answer of {} bytes", answer.len());
            }
            let alive = client.ask(r#"{"execute":"query-status"}"#).await;
            assert!(alive.contains("running"), "{alive}");
            assert!(*client.ended.lock().unwrap() || matches!(draws, Draws::Bytes(n) if n <= PICTURE + BLOCK));
        }
    });
    let grown = peak() - before;
    let most = profile("memory") / 2;
    assert!(grown < most, "{grown} bytes of the {most} that a picture may take");
}

#[test]
fn a_picture_that_never_ends_or_never_begins() {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    rustix::io::ioctl_fionbio(&read, true).unwrap();
    rustix::io::write(&write, b"a beginning").unwrap();
    let got = block(async {
        let pipe = Receiver::from_owned_fd_unchecked(read).unwrap();
        collect(pipe, Duration::from_millis(1)).await
    });
    assert!(matches!(got, Err(PictureError::Unfinished)));
    assert_eq!(rustix::io::write(&write, b"more").unwrap_err(), rustix::io::Errno::PIPE, "nobody reads it any more");
}

/// Pictures are in memory one at a time, and a client that takes nothing does not keep the others from theirs.
#[test]
fn a_client_that_takes_nothing_of_its_picture() {
    let (stalled, other) = block(async {
        let (read, write) = UnixStream::pair().unwrap();
        let lock: Arc<tokio::sync::Mutex<()>> = Arc::default();
        let turn = lock.clone().lock_owned().await;
        let blocks = (0..PICTURE / BLOCK).map(|_| vec![0; BLOCK]).collect();
        let sent =
            Screenshot { blocks, _turn: turn }.send(&mut Connection::Socket(write), Duration::from_millis(1)).await;
        drop(read);
        (sent, lock.try_lock().is_ok())
    });
    assert_eq!(stalled.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    assert!(other, "the next one has its turn");
}
