//! What the user brings along: files, the git identity, variables, a repository's tools.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use banger_tests::World;
use banger_tests::repository::HostRepository;

use banger_tests::scenario::{Scenario, pure};

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure(
        "file-sync",
        "the user's files are in the guest before its first command",
        files,
    ),
    pure(
        "sync-trouble-is-a-warning",
        "what cannot be copied is a warning with its reason",
        trouble,
    )
    .with_plain_guests(),
    pure(
        "sync-git-identity",
        "git in the guest knows the user",
        git_identity,
    )
    .with_plain_guests(),
    pure(
        "sync-env-file",
        "variables from a file, as docker reads it",
        env_file,
    )
    .with_plain_guests(),
    pure(
        "bootstrap-precondition",
        "a repository's tools without a network are refused before anything is made",
        tools,
    ),
    pure(
        "sync-tools-bootstrap",
        "a repository's tools are installed before the command",
        bootstrap,
    )
    .with_plain_guests(),
];

fn home(w: &World, path: &str) -> PathBuf {
    w.root().join("home").join(path)
}

fn write(w: &World, path: &str, content: &str, mode: u32) {
    let path = home(w, path);
    fs::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
    fs::write(&path, content).expect("write a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
}

fn exec(w: &World, vm: &str, script: &str) -> String {
    w.banger(["vm", "exec", vm, "--", "sh", "-c", script])
        .ok()
        .out()
}

fn files(w: &World) {
    write(w, ".aws/credentials", "one", 0o644);
    write(w, ".aws/bin/helper", "#!/bin/sh\necho helped\n", 0o755);
    symlink("credentials", home(w, ".aws/link")).expect("link");
    write(w, "script", "#!/bin/sh\n", 0o755);
    write(w, ".ssh/authorized_keys", "the host's own", 0o600);
    write(w, ".ssh/config", "Host *\n", 0o600);
    let absolute = home(w, "script");
    w.configure(&format!(
        "[[file_sync]]\nhost = \"~/.aws\"\n\
         [[file_sync]]\nhost = \"{}\"\nguest = \"/root/.local/share/x/script\"\nmode = \"0750\"\n\
         [[file_sync]]\nhost = \"~/script\"\n\
         [[file_sync]]\nhost = \"~/.ssh\"\n",
        absolute.display()
    ));
    let shown = w.banger(["config", "show"]).ok().out();
    assert!(shown.contains("~/.aws -> ~/.aws"), "{shown}");
    // As early as any command can run.
    let made = w.banger(["vm", "run", "-d", "--name", "box"]).ok();
    assert!(!made.err().contains("warning"), "{}", made.err());
    let modes = "cd /root && stat -c '%a %U:%G %n' . .aws .aws/bin .aws/bin/helper \
                 .aws/credentials .local .local/share/x/script script .ssh .ssh/config";
    assert_eq!(
        exec(w, "box", modes),
        "755 root:root .\n700 root:root .aws\n700 root:root .aws/bin\n\
         700 root:root .aws/bin/helper\n600 root:root .aws/credentials\n\
         700 root:root .local\n750 root:root .local/share/x/script\n\
         600 root:root script\n700 root:root .ssh\n600 root:root .ssh/config\n"
    );
    let content = "cd /root/.aws && readlink link && cat link && ./bin/helper && \
                   grep -c '^ssh-ed25519' ../.ssh/authorized_keys; \
                   grep -c own ../.ssh/authorized_keys";
    let out = w
        .banger(["vm", "exec", "box", "--", "sh", "-c", content])
        .out();
    assert_eq!(out, "credentials\nonehelped\n1\n0\n");

    // What changed counts at the next start, and so does a changed configuration, without
    // another daemon. What the guest has besides stays.
    let daemon = w.daemon_pid();
    exec(
        w,
        "box",
        "echo own > /root/.aws/own; echo mine > /root/script",
    );
    write(w, ".aws/credentials", "two", 0o644);
    w.configure("[[file_sync]]\nhost = \"~/.aws\"\nmode = \"0640\"\n");
    w.banger(["vm", "restart", "box"]).ok();
    let after = "cd /root/.aws && cat credentials own ../script && stat -c %a credentials .";
    assert_eq!(exec(w, "box", after), "twoown\nmine\n640\n700\n");
    assert_eq!(w.daemon_pid(), daemon);

    // An entry that cannot be is refused by name wherever the configuration is read.
    w.configure("[[file_sync]]\nhost = \"~/../x\"\n");
    let refused = w.banger(["config", "show"]).expect_code(1).err();
    for part in ["line 2", "`file_sync[0].host`", "`..`"] {
        assert!(refused.contains(part), "{refused}");
    }
    w.banger(["vm", "stop", "box"]).ok();
    let started = w.banger(["vm", "start", "box"]).ok();
    assert!(started.err().contains("`file_sync[0].host`"), "{started:?}");
    w.banger(["vm", "delete", "box"]).ok();
}

fn trouble(w: &World) {
    write(w, "here", "here", 0o600);
    w.configure(
        "[[file_sync]]\nhost = \"~/absent\"\n\
         [[file_sync]]\nhost = \"/dev/null\"\nguest = \"~/null\"\n\
         [[file_sync]]\nhost = \"~/big\"\n\
         [[file_sync]]\nhost = \"~/here\"\nguest = \"~/in/the/way\"\n\
         [[file_sync]]\nhost = \"~/here\"\n",
    );
    fs::create_dir(home(w, "big")).expect("make a directory");
    let big = fs::File::create(home(w, "big/file")).expect("make a file");
    big.set_len(300 << 20).expect("make it large");
    let doctor = w.banger(["doctor"]).out();
    assert!(doctor.contains("missing: `~/absent`"), "{doctor}");

    w.banger(["vm", "create", "--no-start", "--name", "box"])
        .ok();
    let started = w.banger(["vm", "start", "box", "--output", "json"]).ok();
    let warnings = &started.json()[0]["warnings"];
    let warnings: Vec<_> = warnings
        .as_array()
        .expect("a list")
        .iter()
        .map(|warning| warning.as_str().expect("text"))
        .collect();
    assert_eq!(warnings.len(), 3, "{warnings:#?}");
    for (warning, parts) in warnings.iter().zip([
        ["`~/absent` is not copied", "does not exist"],
        [
            "`/dev/null` is not copied",
            "neither a file nor a directory",
        ],
        ["`~/big` is not copied", "256M"],
    ]) {
        assert!(parts.iter().all(|part| warning.contains(part)), "{warning}");
        assert_eq!(
            started.err().matches(warning).count(),
            1,
            "{}",
            started.err()
        );
    }
    assert_eq!(
        exec(w, "box", "cat /root/in/the/way /root/here"),
        "herehere"
    );

    // In the guest something may be in the way, and no link there leads a copy elsewhere.
    exec(
        w,
        "box",
        "cd /root && rm -r in here && mkdir here && mkdir /srv/in && ln -s /srv/in in",
    );
    let restarted = w.banger(["vm", "restart", "box"]).ok().err();
    for entry in ["in the guest: `/root/in`", "`/root/here`"] {
        assert!(restarted.contains(entry), "{restarted}");
    }
    assert_eq!(exec(w, "box", "ls /srv/in"), "");
    w.banger(["vm", "delete", "box"]).ok();
}

fn git_identity(w: &World) {
    let name = "Ada \\\"the # first\\\" [Łovelace]";
    write(
        w,
        ".gitconfig",
        &format!("[user]\n\tname = \"{name}\"\n\temail = ada@localhost\n\tsigningkey = x\n"),
        0o600,
    );
    w.banger(["vm", "run", "-d", "--name", "box"]).ok();
    exec(w, "box", "useradd --create-home dev");
    let commit = "cd && git init -q repo && cd repo && git commit -q --allow-empty -m x && \
                  git log -1 --format='%an <%ae> %cn' && git config --get user.signingkey";
    let said = "Ada \"the # first\" [Łovelace] <ada@localhost> Ada \"the # first\" [Łovelace]\n";
    for user in ["root", "dev"] {
        let commit = [
            "vm", "exec", "--user", user, "box", "--", "sh", "-c", commit,
        ];
        let done = w.banger(commit).expect_code(1);
        assert_eq!(done.out(), said, "{user}: {}", done.err());
    }

    // The guest's own configuration is kept and wins; the host's is renewed at every start.
    exec(
        w,
        "box",
        "git config --system core.editor true && git config --global user.name Own",
    );
    write(
        w,
        ".gitconfig",
        "[user]\n\tname = Two\n\temail = two@localhost\n",
        0o600,
    );
    w.banger(["vm", "restart", "box"]).ok();
    let ask = "cd /root/repo && git var GIT_AUTHOR_IDENT | cut -d'>' -f1 && \
               git config core.editor && su dev -c 'cd; git config user.name'";
    assert_eq!(exec(w, "box", ask), "Own <two@localhost\ntrue\nTwo\n");

    // Without an identity on the host there is none, and no git there is no error.
    fs::remove_file(home(w, ".gitconfig")).expect("remove a file");
    w.banger(["vm", "stop", "box"]).ok();
    w.banger(["daemon", "stop"]).ok();
    let mut start = w.banger_command(["vm", "start", "box"]);
    start.env("PATH", w.path_without("git"));
    banger_tests::Running::start(start, None).finish().ok();
    assert_eq!(
        exec(w, "box", "cat /etc/gitconfig"),
        "[core]\n\teditor = true\n"
    );
    w.banger(["vm", "delete", "box"]).ok();
}

fn env_file(w: &World) {
    let bad = w.root().join("bad");
    fs::write(&bad, "A=1\n# c\nB C=hunter2\n").expect("write a file");
    let refused = w
        .banger(["vm", "run", "--rm", "--env-file", "bad", "--", "true"])
        .expect_code(125)
        .err();
    assert!(refused.contains("bad`, line 3: "), "{refused}");
    assert!(!refused.contains("hunter2"), "{refused}");
    assert!(w.vms().is_empty());

    fs::write(
        w.root().join("one"),
        "\u{feff}A=1\r\n  # comment\n\nB=\"two\" # kept \nHERE\nNOT_HERE\nC=one\n",
    )
    .expect("write a file");
    fs::write(w.root().join("two"), "C=two\nLAST=two\nTOKEN=hunter2\n").expect("write a file");
    let flags = [
        "--env-file",
        "one",
        "--env-file",
        "two",
        "--env",
        "LAST=flag",
    ];
    let script = "printf '%s|' \"$A\" \"$B\" \"$HERE\" \"${NOT_HERE-unset}\" \"$C\" \"$LAST\" \
                  \"$TOKEN\"";
    let expected = "1|\"two\" # kept |from here|unset|two|flag|hunter2|";
    let tail = ["--", "sh", "-c", script];
    let run = |command: &[&str]| {
        let args = command.iter().chain(&flags).chain(&tail);
        let mut command = w.banger_command(args);
        command.env("HERE", "from here").env("BANGER_LOG", "trace");
        let done = banger_tests::Running::start(command, None).finish().ok();
        assert_eq!(done.out(), expected);
        assert!(!done.err().contains("hunter2"), "{}", done.err());
    };
    run(&["vm", "run", "--name", "box"]);
    run(&["vm", "exec", "box"]);
    let log = fs::read_to_string(w.state().join("bangerd.log")).expect("read the log");
    assert!(!log.contains("hunter2"), "values are never logged");
    w.banger(["vm", "delete", "box"]).ok();
}

fn tools(w: &World) {
    let host = HostRepository::small(w, "repo");
    for file in [".mise.toml", "mise.toml", ".tool-versions"] {
        host.write(file, b"");
        host.git_words(&["add", file]);
        let run = |flags: &[&str], code| {
            let args = ["vm", "run", "--rm"].iter().chain(flags);
            let args = args.chain(&["repo", "--", "true"]);
            w.banger(args).expect_code(code).err()
        };
        let refused = run(&[], 125);
        for part in [file, "`--nat`", "`--no-bootstrap`"] {
            assert!(refused.contains(part), "{refused}");
        }
        w.configure("[vm_defaults]\nnat = true\n");
        assert!(run(&["--nat=false"], 125).contains("`--no-bootstrap`"));
        w.configure("");
        assert!(w.vms().is_empty(), "refused before anything is made");
        host.git_words(&["rm", "-q", "--force", file]);
    }
}

/// A `mise` that installs one tool and needs no network.
const FAKE_MISE: &str = "#!/bin/sh\necho \"mise $*\"\n[ \"$1\" = install ] || exit 0\n\
    [ ! -e fail ] || { printf 'no such \\033[2Jtool\\n' >&2; exit 4; }\n\
    mkdir -p ~/.local/share/mise/shims && cd ~/.local/share/mise/shims && \
    printf '#!/bin/sh\\necho tool in $PWD\\n' > tool && chmod 755 tool\n";

fn bootstrap(w: &World) {
    write(w, "mise", FAKE_MISE, 0o755);
    w.configure(
        "[[file_sync]]\nhost = \"~/mise\"\nguest = \"~/.local/bin/mise\"\nmode = \"0755\"\n",
    );
    let host = HostRepository::small(w, "repo");
    host.write("mise.toml", b"");
    host.commit("tools");
    let repo = host.path().to_str().expect("text");
    let run = |flags: &[&'static str]| {
        let args = ["vm", "run", "--nat"].iter().chain(flags).copied();
        w.banger(args.chain([repo, "--", "tool"]))
    };
    let done = run(&["--name", "box"]).ok();
    assert!(done.out().starts_with("tool in "), "{done:?}");
    for line in ["mise trust mise.toml\n", "mise install\n"] {
        assert!(done.err().contains(line), "{}", done.err());
    }
    // A login shell sets its own PATH.
    let login = ["vm", "exec", "box", "--", "bash", "-lc", "cd /; tool"];
    assert_eq!(w.banger(login).ok().out(), "tool in /\n");
    w.banger(["vm", "delete", "box"]).ok();

    host.write("fail", b"");
    host.commit("no tools");
    for (flags, shown) in [
        (&["--rm"][..], "\nno such tool\n"),
        (&["--rm", "-q"], "| no such"),
    ] {
        let failed = run(flags).expect_code(125);
        assert_eq!(failed.out(), "");
        for part in [shown, "`mise.toml`", "ended with code 4", "--no-bootstrap"] {
            assert!(failed.err().contains(part), "{flags:?}: {}", failed.err());
        }
    }
    assert!(w.vms().is_empty());
}
