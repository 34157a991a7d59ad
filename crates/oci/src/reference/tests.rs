use super::*;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn names_mean_what_docker_means_by_them() {
    let digest = format!("@sha256:{HEX}");
    let cases = [
        ("debian", "docker.io/library/debian:latest", "debian:latest"),
        ("debian:12", "docker.io/library/debian:12", "debian:12"),
        (
            "docker.io/debian:12",
            "docker.io/library/debian:12",
            "debian:12",
        ),
        (
            "docker.io/library/debian",
            "docker.io/library/debian:latest",
            "debian:latest",
        ),
        ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
        (
            "registry-1.docker.io/a/b",
            "docker.io/a/b:latest",
            "a/b:latest",
        ),
        (
            "grafana/grafana",
            "docker.io/grafana/grafana:latest",
            "grafana/grafana:latest",
        ),
        (
            "ghcr.io/a/b/c:x_1.2-3",
            "ghcr.io/a/b/c:x_1.2-3",
            "ghcr.io/a/b/c:x_1.2-3",
        ),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        (
            "localhost:5000/x",
            "localhost:5000/x:latest",
            "localhost:5000/x:latest",
        ),
        ("local/x", "docker.io/local/x:latest", "local/x:latest"),
        (
            "127.0.0.1:5000/x:1",
            "127.0.0.1:5000/x:1",
            "127.0.0.1:5000/x:1",
        ),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
        (
            "[2001:DB8::1]/x",
            "[2001:db8::1]/x:latest",
            "[2001:db8::1]/x:latest",
        ),
        (
            "Registry.Example/x",
            "registry.example/x:latest",
            "registry.example/x:latest",
        ),
        (
            "a__b/c--d/e.f_g",
            "docker.io/a__b/c--d/e.f_g:latest",
            "a__b/c--d/e.f_g:latest",
        ),
        ("r.io:443/x:V1", "r.io:443/x:V1", "r.io:443/x:V1"),
        ("foo:5000", "docker.io/library/foo:5000", "foo:5000"),
    ];
    for (text, full, familiar) in cases {
        let reference: Reference = text.parse().unwrap();
        assert_eq!(reference.to_string(), full, "{text}");
        assert_eq!(reference.familiar(), familiar, "{text}");
        assert_eq!(full.parse::<Reference>().unwrap(), reference);
        assert_eq!(familiar.parse::<Reference>().unwrap(), reference);
    }
    let pinned: Reference = format!("ghcr.io/a/b{digest}").parse().unwrap();
    assert_eq!(pinned.tag(), None);
    assert_eq!(pinned.wanted(), &digest[1..]);
    let both: Reference = format!("debian:12{digest}").parse().unwrap();
    assert_eq!(both.tag(), Some("12"));
    assert_eq!(both.wanted(), &digest[1..]);
    assert_eq!(
        both.to_string(),
        format!("docker.io/library/debian:12{digest}")
    );
}

#[test]
fn every_bad_name_is_refused_with_its_reason() {
    let long = "a".repeat(250);
    let long_tag = format!("a:{}", "t".repeat(129));
    let bad_hex = format!("a@sha256:{}", &HEX[1..]);
    let sha512 = format!("a@sha512:{HEX}{HEX}");
    let bare = format!("a@{HEX}");
    let cases: &[(&str, &str)] = &[
        ("", "it is empty"),
        ("https://ghcr.io/a", "URL scheme"),
        (HEX, "image id"),
        (":12", "has no name"),
        ("ghcr.io/", "has no name"),
        ("ghcr.io/:1", "has no name"),
        ("a:", "tag is empty"),
        ("a:.x", "its tag may only"),
        ("a:b c", "its tag may only"),
        (&long_tag, "longer than 128"),
        ("Debian", "lower case"),
        ("a//b", "a part of its name is empty"),
        ("/a", "a part of its name is empty"),
        ("a/", "a part of its name is empty"),
        ("a/../b", "begin and end"),
        ("a/-b", "begin and end"),
        ("a..b", "begin and end"),
        ("a___b", "begin and end"),
        ("a\u{1b}[2m", "may only have"),
        ("a b", "may only have"),
        ("héllo", "may only have"),
        ("r.io:0/a", "port is not a number"),
        ("r.io:70000/a", "port is not a number"),
        ("r.io:+80/a", "port is not a number"),
        ("r.io:/a", "port is not a number"),
        ("[::g]/a", "not an IPv6 address"),
        ("[::1/a", "not an IPv6 address"),
        ("-r.io/a", "not a host name"),
        ("r..io/a", "not a host name"),
        ("user@r.io/a", "lacks the `sha256:`"),
        (&bad_hex, "64 lower-case"),
        (&sha512, "not a sha256"),
        (&bare, "lacks the `sha256:`"),
        (&long, "longer than 255"),
    ];
    for (text, reason) in cases {
        let error = text.parse::<Reference>().unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{text}");
        assert!(error.message().contains(reason), "{text}: {error}");
        assert!(!error.message().contains('\u{1b}'), "{text}");
        assert!(error.hint_text().is_some());
    }
}

#[test]
fn only_this_machine_is_loopback() {
    for text in [
        "localhost",
        "localhost:5000",
        "127.0.0.1",
        "127.9.9.9:1",
        "[::1]:5000",
        "[::ffff:127.0.0.1]",
    ] {
        assert!(text.parse::<Registry>().unwrap().is_loopback(), "{text}");
    }
    for text in [
        "localhost.example.com",
        "127.0.0.1.example.com",
        "128.0.0.1",
        "[::2]",
        "docker.io",
    ] {
        assert!(!text.parse::<Registry>().unwrap().is_loopback(), "{text}");
    }
}

#[test]
fn docker_io_is_reached_where_it_is() {
    let registry: Registry = "docker.io".parse().unwrap();
    assert_eq!(registry.server(), "registry-1.docker.io");
    assert_eq!(
        "r.io:5000".parse::<Registry>().unwrap().server(),
        "r.io:5000"
    );
}
