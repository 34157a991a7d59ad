//! The real server and the real client around real processes, without a guest.

use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use crate::server::Server;
use crate::socket::Socket;
use crate::testing::{Agent, bounded, until};
use banger_guest_api::client::{self, ExecOutput, ExecReceiver, ExecSender};
use banger_guest_api::frame::{self, Frame, Kind};
use banger_guest_api::{
    ByteString, Exec, ExecEvent, ExecInput, Open, PROTOCOL_VERSION, Request, STDIN_WINDOW, TtySize,
};

impl Agent {
    async fn exec(&self, exec: Exec) -> (ExecSender, ExecReceiver) {
        client::exec(&self.socket(), exec).await.unwrap()
    }

    async fn run(&self, exec: Exec) -> Finished {
        let (sender, receiver) = self.exec(exec).await;
        finish(receiver, sender).await
    }
}

#[derive(Debug, Default, PartialEq)]
struct Finished {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    last: Option<ExecOutput>,
}

impl Finished {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    fn refused(&self) -> (i32, &str) {
        match &self.last {
            Some(ExecOutput::Refused { code, message }) => (*code, message),
            other => panic!("not refused: {other:?}"),
        }
    }
}

async fn finish(mut receiver: ExecReceiver, _sender: ExecSender) -> Finished {
    let mut finished = Finished::default();
    loop {
        match receiver.next().await.unwrap() {
            ExecOutput::Started { .. } => {}
            ExecOutput::Stdout(bytes) => finished.stdout.extend(bytes),
            ExecOutput::Stderr(bytes) => finished.stderr.extend(bytes),
            last => {
                finished.last = Some(last);
                return finished;
            }
        }
    }
}

fn argv(arguments: &[&str]) -> Exec {
    Exec {
        argv: arguments
            .iter()
            .map(|argument| ByteString::from(*argument))
            .collect(),
        workdir: Some("/".into()),
        ..Exec::default()
    }
}

fn sh(script: &str) -> Exec {
    argv(&["sh", "-c", script])
}

macro_rules! agent_tests {
    ($($name:ident($agent:ident) $body:block)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            bounded(async {
                let $agent = Agent::start();
                $body
            }).await;
        }
    )*};
}

/// Whether a process exists and is not a zombie.
fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('Z'))
    })
}

fn exists(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

async fn started(receiver: &mut ExecReceiver) -> u32 {
    match receiver.next().await.unwrap() {
        ExecOutput::Started { pid } => pid,
        other => panic!("not started: {other:?}"),
    }
}

async fn read_until(receiver: &mut ExecReceiver, wanted: &str) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        match receiver.next().await.unwrap() {
            ExecOutput::Stdout(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
            ExecOutput::Started { .. } => {}
            other => panic!("{other:?} before {wanted:?}, after {text:?}"),
        }
    }
    text
}

agent_tests! {
    streams_are_separate_and_codes_exact(agent) {
        let done = agent.run(sh("echo out; echo err >&2; exit 7")).await;
        assert_eq!((done.text(), &*done.stderr), ("out\n", &b"err\n"[..]));
        assert_eq!(done.last, Some(ExecOutput::Exited(7)));
        for code in [0, 1, 125, 255] {
            let done = agent.run(sh(&format!("exit {code}"))).await;
            assert_eq!(done.last, Some(ExecOutput::Exited(code)));
        }
    }

    death_by_signal_is_told_apart(agent) {
        for signal in [9, 15, 11] {
            let done = agent.run(sh(&format!("kill -{signal} $$"))).await;
            assert_eq!(done.last, Some(ExecOutput::Signalled(signal)));
        }
    }

    arguments_arrive_exactly(agent) {
        let odd = ["", " ", "a b", "$HOME", "*", "\n", "'\"\\", "-n"];
        let mut exec = argv(&["printf", "%s|"]);
        exec.argv.extend(odd.iter().map(|text| ByteString::from(*text)));
        exec.argv.push(ByteString::from(vec![0xff, 0xfe]));
        let done = agent.run(exec).await;
        let mut expected: Vec<u8> = odd.iter().flat_map(|text| [text.as_bytes(), b"|"].concat()).collect();
        expected.extend(b"\xff\xfe|");
        assert_eq!(done.stdout, expected);
    }

    the_environment_is_the_base_and_what_was_asked(agent) {
        let mut exec = argv(&["env"]);
        exec.env = vec![("A".into(), "b c=d".into()), ("PATH".into(), "/usr/bin:/bin".into())];
        let done = agent.run(exec).await;
        let mut lines: Vec<&str> = done.text().lines().collect();
        lines.sort_unstable();
        let names: Vec<&str> = lines.iter().filter_map(|line| line.split('=').next()).collect();
        assert_eq!(names, ["A", "HOME", "HOSTNAME", "LOGNAME", "PATH", "SHELL", "USER"]);
        assert!(lines.contains(&"A=b c=d") && lines.contains(&"PATH=/usr/bin:/bin"));
    }

    a_command_starts_clean(agent) {
        let done = agent.run(sh("umask; ls /proc/self/fd; grep -E '^Sig(Blk|Ign)' /proc/self/status")).await;
        let text = done.text();
        assert!(text.starts_with("0022\n0\n1\n2\n3\nSig"), "3 is the listing's own: {text}");
        assert!(text.contains("SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"), "{text}");
    }

    a_command_runs_as_whom_it_should(agent) {
        if rustix::process::geteuid().is_root() {
            let exec = Exec { user: Some("4321:8765".into()), ..sh("id -u; id -G; echo $HOME; echo x > /proc/self/oom_score_adj; exit 4") };
            let done = agent.run(exec).await;
            assert_eq!((done.text(), done.last.clone()), ("4321\n8765\n/\n", Some(ExecOutput::Exited(4))));
            let tty = Some(TtySize { rows: 1, cols: 1 });
            let exec = Exec { user: Some("4321".into()), tty, ..sh("echo x > $(tty)") };
            assert_eq!(agent.run(exec).await.last, Some(ExecOutput::Exited(0)), "its own terminal");
        } else {
            eprintln!("skipped: only root may become somebody else");
        }
    }

    what_cannot_run_is_refused_with_its_code(agent) {
        let done = agent.run(argv(&["no-such-program"])).await;
        assert_eq!(done.refused(), (127, "no such program in PATH: `no-such-program`"));
        assert_eq!(agent.run(argv(&["/no/such"])).await.refused().0, 127);
        assert_eq!(agent.run(argv(&[""])).await.refused().0, 127);
        assert_eq!(agent.run(argv(&["/etc/passwd"])).await.refused().0, 126);
        assert_eq!(agent.run(argv(&["/etc"])).await.refused().0, 126);
        let script = agent.directory.path().join("script");
        banger_testing::write_program(&script, "#!/no/such/interpreter\n");
        let refused = agent.run(argv(&[script.to_str().unwrap()])).await;
        assert_eq!(refused.refused().0, 126);
        let nowhere = Exec { workdir: Some("/no/such".into()), ..argv(&["true"]) };
        assert_eq!(agent.run(nowhere).await.refused().0, 125);
        let nobody = Exec { user: Some("no-such-user".into()), ..argv(&["true"]) };
        assert_eq!(agent.run(nobody).await.refused().0, 125);
        let mut odd = argv(&["true"]);
        odd.env.push(("A=B".into(), "".into()));
        assert_eq!(agent.run(odd).await.refused().0, 125);
        assert_eq!(agent.run(argv(&["true", "a\0b"])).await.refused().0, 125);
    }

    a_script_without_interpreter_is_the_shells(agent) {
        let script = agent.directory.path().join("script");
        banger_testing::write_program(&script, "echo \"$0 $1\"\n");
        let path = script.to_str().unwrap();
        assert_eq!(agent.run(argv(&[path, "x"])).await.text(), format!("{path} x\n"));
    }

    a_missing_directory_is_made_when_asked(agent) {
        let wanted = agent.directory.path().join("made/on/the/way");
        let exec = Exec {
            workdir: Some(wanted.as_os_str().to_owned().into()),
            create_workdir: true,
            ..argv(&["pwd"])
        };
        for _ in 0..2 {
            assert_eq!(agent.run(exec.clone()).await.text().trim(), wanted.to_str().unwrap());
        }
        let file = Exec { workdir: Some("/etc/passwd/x".into()), create_workdir: true, ..argv(&["pwd"]) };
        let done = agent.run(file).await;
        let (code, message) = done.refused();
        assert_eq!(code, 125);
        assert!(message.contains("cannot make the directory"), "{message}");
    }

    streams_may_be_opened_by_name(agent) {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root may become somebody else");
            return;
        }
        let exec = Exec { user: Some("4321".into()), ..sh("echo out > /dev/stdout; echo err > /dev/stderr") };
        let done = agent.run(exec).await;
        assert_eq!((done.text(), &*done.stderr), ("out\n", &b"err\n"[..]));
    }

    a_directory_may_be_closed_to_the_user(agent) {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root may become somebody else");
            return;
        }
        let closed = agent.directory.path().join("closed");
        std::fs::DirBuilder::new().mode(0o700).create(&closed).unwrap();
        let workdir = Some(closed.as_os_str().to_owned().into());
        let exec = Exec { user: Some("4321".into()), workdir, ..sh("id -u") };
        assert_eq!(agent.run(exec).await.text(), "4321\n", "as container runtimes do");
    }

    a_program_for_another_machine_is_not_the_shells(agent) {
        let program = agent.directory.path().join("foreign");
        let mut elf = std::fs::read("/bin/true").unwrap();
        elf[18] = 183;
        banger_testing::write_program(&program, elf);
        let done = agent.run(argv(&[program.to_str().unwrap()])).await;
        let (code, message) = done.refused();
        assert_eq!(code, 126);
        assert!(message.contains("no program for this machine"), "{message}");
    }

    a_program_in_the_path_that_lacks_its_loader_is_not_missing(agent) {
        let directory = agent.directory.path();
        let script = directory.join("lost");
        banger_testing::write_program(&script, "#!/no/such/interpreter\n");
        let mut exec = argv(&["lost"]);
        exec.env = vec![("PATH".into(), directory.as_os_str().to_owned().into())];
        assert_eq!(agent.run(exec).await.refused().0, 126);
    }

    an_environment_may_be_large(agent) {
        let mut exec = argv(&["env"]);
        exec.env = (0..10_000).map(|n| (format!("V{n}").into(), "value".into())).collect();
        exec.env.push(("V7".into(), "last".into()));
        let done = agent.run(exec).await;
        let count = done.text().lines().filter(|line| line.starts_with('V')).count();
        assert_eq!(count, 10_000);
        assert!(done.text().contains("\nV7=last\n"));
    }

    stdin_comes_back_byte_for_byte(agent) {
        let mut input = vec![0; 3 * STDIN_WINDOW + 12345];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for byte in &mut input {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
        let (sender, receiver) = agent.exec(Exec { stdin: true, ..argv(&["cat"]) }).await;
        let output = tokio::spawn(finish(receiver, sender.clone()));
        sender.send_stdin(&input).await.unwrap();
        sender.close_stdin().await.unwrap();
        let done = output.await.unwrap();
        assert_eq!(done.last, Some(ExecOutput::Exited(0)));
        assert!(done.stdout == input, "{} of {} bytes", done.stdout.len(), input.len());
    }

    without_stdin_there_is_an_end_at_once(agent) {
        assert_eq!(agent.run(argv(&["cat"])).await.last, Some(ExecOutput::Exited(0)));
    }

    signals_pass_input_that_nobody_reads(agent) {
        let (sender, mut receiver) = agent.exec(Exec { stdin: true, ..argv(&["sleep", "1000"]) }).await;
        started(&mut receiver).await;
        // More than the window and the pipe: this can never be sent whole.
        let blocked = sender.clone();
        let stdin = tokio::spawn(async move { blocked.send_stdin(&vec![0; 4 * STDIN_WINDOW]).await });
        sender.signal(15).await.unwrap();
        assert_eq!(receiver.next().await.unwrap(), ExecOutput::Signalled(15));
        stdin.await.unwrap().unwrap_err();
    }

    input_for_a_command_that_stopped_reading_is_thrown_away(agent) {
        let (sender, receiver) = agent.exec(Exec { stdin: true, ..sh("exec <&-; read -r x </dev/null; sleep 0.2; echo done") }).await;
        let output = tokio::spawn(finish(receiver, sender.clone()));
        let sent = sender.send_stdin(&vec![0; 8 * STDIN_WINDOW]).await;
        drop(sent);
        assert_eq!(output.await.unwrap().text(), "done\n");
    }

    a_slow_host_loses_nothing(agent) {
        let (sender, mut receiver) = agent.exec(sh("head -c 5000000 /dev/zero; echo end >&2")).await;
        started(&mut receiver).await;
        // The command is now blocked on a full pipe behind a full socket.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let done = finish(receiver, sender).await;
        assert_eq!((done.stdout.len(), &*done.stderr), (5_000_000, &b"end\n"[..]));
    }

    a_host_that_reads_nothing_can_still_signal(agent) {
        let (sender, mut receiver) = agent.exec(argv(&["yes"])).await;
        let pid = started(&mut receiver).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        sender.signal(9).await.unwrap();
        until(|| !exists(pid)).await;
        assert_eq!(finish(receiver, sender).await.last, Some(ExecOutput::Signalled(9)));
    }

    a_background_process_does_not_hold_the_session(agent) {
        let (sender, mut receiver) = agent.exec(sh("sleep 1000 & echo $!")).await;
        let text = read_until(&mut receiver, "\n").await;
        assert_eq!(receiver.next().await.unwrap(), ExecOutput::Exited(0));
        let pid: i32 = text.trim().parse().unwrap();
        assert!(exists(pid.unsigned_abs()), "it lives on");
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
        drop(sender);
    }

    a_background_writer_does_not_hold_the_session(agent) {
        let done = agent.run(sh("yes & exit 3")).await;
        assert_eq!(done.last, Some(ExecOutput::Exited(3)));
    }

    output_written_just_before_the_end_arrives(agent) {
        for _ in 0..50 {
            let done = agent.run(sh("head -c 200000 /dev/zero; exit 5")).await;
            assert_eq!((done.stdout.len(), done.last), (200_000, Some(ExecOutput::Exited(5))));
        }
    }

    a_hang_up_reaches_the_group_and_leaves_no_zombie(agent) {
        let (sender, mut receiver) = agent.exec(sh("sleep 1000 & echo $! $$; wait")).await;
        let text = read_until(&mut receiver, "\n").await;
        let pids: Vec<u32> = text.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        assert!(pids.iter().all(|pid| is_alive(*pid)));
        drop((sender, receiver));
        until(|| pids.iter().all(|pid| !is_alive(*pid))).await;
        until(|| !exists(pids[1])).await;
    }

    a_hang_up_is_seen_while_output_is_blocked(agent) {
        let (sender, mut receiver) = agent.exec(argv(&["yes"])).await;
        let pid = started(&mut receiver).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop((sender, receiver));
        until(|| !exists(pid)).await;
    }

    a_command_may_outlive_a_hang_up(agent) {
        let (sender, mut receiver) = agent.exec(sh("trap '' HUP; echo $$; while :; do sleep 0.05; done")).await;
        let text = read_until(&mut receiver, "\n").await;
        let pid: i32 = text.trim().parse().unwrap();
        drop((sender, receiver));
        until(|| agent.server.connections() == 0).await;
        assert!(is_alive(pid.unsigned_abs()));
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
        until(|| !exists(pid.unsigned_abs())).await;
    }

    a_terminal_is_one(agent) {
        let size = TtySize { rows: 33, cols: 77 };
        let exec = Exec { tty: Some(size), stdin: true, ..sh("tty; stty size; echo $TERM; cat; echo end") };
        let (sender, mut receiver) = agent.exec(exec).await;
        let text = read_until(&mut receiver, "xterm\r\n").await;
        assert!(text.starts_with("/dev/pts/") && text.contains("\r\n33 77\r\n"), "{text:?}");
        sender.send_stdin(b"line\npart").await.unwrap();
        sender.close_stdin().await.unwrap();
        let done = finish(receiver, sender).await;
        assert!(done.text().contains("line\r\n") && done.text().ends_with("part\r\nend\r\n") || done.text().ends_with("partend\r\n"), "{:?}", done.text());
        assert_eq!(done.last, Some(ExecOutput::Exited(0)));
    }

    a_terminal_has_job_control_and_sizes(agent) {
        let exec = Exec {
            tty: Some(TtySize { rows: 10, cols: 20 }),
            stdin: true,
            ..sh("trap 'stty size' WINCH; trap 'echo interrupted; exit 3' INT; echo ready; while :; do sleep 0.02; done")
        };
        let (sender, mut receiver) = agent.exec(exec).await;
        read_until(&mut receiver, "ready").await;
        sender.resize(TtySize { rows: 11, cols: 21 }).await.unwrap();
        read_until(&mut receiver, "11 21").await;
        sender.send_stdin(&[3]).await.unwrap();
        let done = finish(receiver, sender).await;
        assert!(done.text().contains("interrupted"), "{:?}", done.text());
        assert_eq!(done.last, Some(ExecOutput::Exited(3)));
    }

    a_terminal_delivers_its_last_output(agent) {
        for _ in 0..50 {
            let exec = Exec { tty: Some(TtySize { rows: 1, cols: 1 }), ..sh("head -c 3000 /dev/zero; echo; echo last") };
            let done = agent.run(exec).await;
            assert!(done.text().ends_with("last\r\n"), "{:?}", done.text().len());
        }
    }

    a_closed_terminal_hangs_up(agent) {
        let exec = Exec { tty: Some(TtySize { rows: 1, cols: 1 }), stdin: true, ..sh("echo $$; sleep 1000") };
        let (sender, mut receiver) = agent.exec(exec).await;
        let text = read_until(&mut receiver, "\n").await;
        let pid: u32 = text.trim().parse().unwrap();
        drop((sender, receiver));
        until(|| !exists(pid)).await;
    }

    the_login_shell_is_one(agent) {
        let exec = Exec { argv: vec![], stdin: true, workdir: None, ..Exec::default() };
        let (sender, receiver) = agent.exec(exec).await;
        sender.send_stdin(b"echo \"$0\"\n").await.unwrap();
        sender.close_stdin().await.unwrap();
        let done = finish(receiver, sender).await;
        assert!(done.text().lines().any(|line| line.starts_with('-')), "{:?}", done.text());
    }

    a_thousand_commands(agent) {
        for number in 0..1000 {
            let done = agent.run(argv(&["/bin/sh", "-c", &format!("echo {number}; exit {}", number % 256)])).await;
            assert_eq!((done.text(), done.last.clone()), (format!("{number}\n").as_str(), Some(ExecOutput::Exited(number % 256))));
        }
        until(|| agent.server.connections() == 0).await;
    }

    many_at_once(agent) {
        let mut sessions = tokio::task::JoinSet::new();
        for number in 0..100 {
            let socket = agent.socket();
            sessions.spawn(async move {
                let (sender, receiver) = client::exec(&socket, sh(&format!("sleep 0.1; echo {number}"))).await.unwrap();
                let done = finish(receiver, sender).await;
                assert_eq!(done.text(), format!("{number}\n"));
            });
        }
        while let Some(session) = sessions.join_next().await {
            session.unwrap();
        }
    }

    connections_are_bounded(agent) {
        let idle: Vec<_> = {
            let mut idle = Vec::new();
            for _ in 0..256 {
                idle.push(client::connect(&agent.socket(), 1024).await.unwrap());
            }
            idle
        };
        until(|| agent.server.connections() == 256).await;
        let error = client::info(&agent.socket()).await.unwrap_err();
        assert!(error.message().contains("256 connections"), "{error:?}");
        let (_sender, mut receiver) = agent.exec(argv(&["true"])).await;
        let error = receiver.next().await.unwrap_err();
        assert!(error.message().contains("256 connections"), "{error:?}");
        drop(idle);
        until(|| agent.server.connections() == 0).await;
        client::info(&agent.socket()).await.unwrap();
    }

    questions_are_answered(agent) {
        let info = client::info(&agent.socket()).await.unwrap();
        assert_eq!((info.version, info.init), (PROTOCOL_VERSION, None));
        assert!(!info.kernel.is_empty() && info.boot_id.len() == 36);
    }
}

/// A raw connection, for a host that does not keep the protocol.
fn raw(server: &Arc<Server>) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    server.admit(Socket::new(theirs)).unwrap();
    ours
}

fn send(stream: &mut UnixStream, message: &impl serde::Serialize) {
    frame::write(stream, &Frame::control(message).unwrap()).unwrap();
}

fn open_exec(stream: &mut UnixStream, exec: Exec) -> u32 {
    let request = Request::Exec(exec);
    send(
        stream,
        &Open {
            version: 1,
            request,
        },
    );
    match frame::read(stream).unwrap().unwrap().parse().unwrap() {
        ExecEvent::Started { pid } => pid,
        other => panic!("{other:?}"),
    }
}

fn wait_for_the_end_of(pid: u32) {
    while exists(pid) {
        std::thread::yield_now();
    }
}

#[test]
fn a_host_that_breaks_the_protocol_is_hung_up() {
    let server = Arc::new(Server::new(None));
    let too_much = [
        frame::header(Kind::Stdin, frame::MAX_PAYLOAD).to_vec(),
        vec![0; frame::MAX_PAYLOAD],
    ]
    .concat()
    .repeat(8);
    let garbage: [&[u8]; 6] = [
        &[0xff; 64],
        &frame::header(Kind::Stdout, 1),
        &frame::header(Kind::Control, 0),
        &frame::header(Kind::Control, 100_000),
        &[frame::header(Kind::Stdin, 0), frame::header(Kind::Stdin, 1)].concat(),
        &too_much,
    ];
    for bytes in garbage {
        let mut stream = raw(&server);
        let pid = open_exec(
            &mut stream,
            Exec {
                stdin: true,
                ..argv(&["sleep", "1000"])
            },
        );
        // The agent may hang up before it has taken everything.
        let sent = std::io::Write::write_all(&mut stream, bytes);
        wait_for_the_end_of(pid);
        drop((sent, stream));
    }
    while server.connections() > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn a_hang_up_inside_a_frame_is_a_hang_up() {
    let server = Arc::new(Server::new(None));
    for length in [1, 4, 5, 9] {
        let mut stream = raw(&server);
        let pid = open_exec(
            &mut stream,
            Exec {
                stdin: true,
                ..argv(&["sleep", "1000"])
            },
        );
        let bytes = [&frame::header(Kind::Stdin, 100)[..], &[0; 100]].concat();
        std::io::Write::write_all(&mut stream, &bytes[..length]).unwrap();
        drop(stream);
        wait_for_the_end_of(pid);
    }
}

#[test]
fn events_in_pieces_and_unknown_ones() {
    let server = Arc::new(Server::new(None));
    let mut stream = raw(&server);
    open_exec(&mut stream, argv(&["sleep", "1000"]));
    let mut bytes = Vec::new();
    let unknown = serde_json::json!({"type": "from_the_future", "x": 1});
    frame::write(&mut bytes, &Frame::control(&unknown).unwrap()).unwrap();
    let signal = ExecInput::Signal { signal: 15 };
    frame::write(&mut bytes, &Frame::control(&signal).unwrap()).unwrap();
    for byte in bytes {
        std::io::Write::write_all(&mut stream, &[byte]).unwrap();
    }
    let last = frame::read(&mut stream)
        .unwrap()
        .unwrap()
        .parse::<ExecEvent>()
        .unwrap();
    assert_eq!(last, ExecEvent::Signalled { signal: 15 });
}

#[test]
fn an_unknown_request_gets_an_answer() {
    let server = Arc::new(Server::new(None));
    let mut stream = raw(&server);
    send(
        &mut stream,
        &serde_json::json!({"version": 9, "request": {"type": "teleport"}}),
    );
    let answer = frame::read(&mut stream).unwrap().unwrap();
    assert!(
        String::from_utf8(answer.payload)
            .unwrap()
            .contains("does not know this request")
    );
}
