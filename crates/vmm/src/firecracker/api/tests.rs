use super::*;

fn parse(text: &str) -> Result<Option<(u16, String, usize)>, &'static str> {
    let parsed = Answer::parse(text.as_bytes())?;
    Ok(parsed.map(|(answer, used)| (answer.status, String::from_utf8(answer.body).unwrap(), used)))
}

#[test]
fn answers_are_read_piece_by_piece() {
    let text = "HTTP/1.1 400 \r\nServer: x\r\ncontent-length: 2\r\n\r\nok";
    for end in 0..text.len() {
        assert_eq!(parse(&text[..end]).unwrap(), None, "{end}");
    }
    let whole = (400, "ok".to_owned(), text.len());
    assert_eq!(parse(text).unwrap(), Some(whole.clone()));
    // What follows belongs to the next one.
    assert_eq!(parse(&format!("{text}HTTP/1.1 ")).unwrap(), Some(whole));
    let empty = "HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n";
    assert_eq!(
        parse(empty).unwrap(),
        Some((204, String::new(), empty.len()))
    );
}

#[test]
fn nonsense_is_refused() {
    for text in [
        "220 mail\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "HTTP/1.1 x\r\n\r\n",
        "HTTP/1.1 200 \r\nno colon\r\n\r\n",
        "HTTP/1.1 200 \r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 \r\nContent-Length: 18446744073709551615\r\n\r\n",
        "HTTP/1.1 200 \r\nContent-Length: 65537\r\n\r\n",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
    assert!(Answer::parse(b"HTTP/1.1 \xff\r\n\r\n").is_err());
}

#[test]
fn a_fault_is_one_harmless_line() {
    let fault = |body: &[u8]| {
        Answer {
            status: 400,
            body: body.to_vec(),
        }
        .fault()
    };
    assert_eq!(
        fault(br#"{"fault_message":"a \"b\"\n\tc\u001b[2J"}"#),
        "a \"b\" c\\u{1b}[2J"
    );
    assert_eq!(fault(b"not JSON"), "status 400: not JSON");
    assert_eq!(fault(br#"{"other":1}"#), "status 400: {\"other\":1}");
    let long = format!("{{\"fault_message\":\"{}\"}}", "x".repeat(5000));
    assert_eq!(fault(long.as_bytes()).len(), FAULT_MAX);
}

#[test]
fn known_faults_say_what_to_do() {
    for (fault, hint) in [
        (
            "Cannot create mmap region: Cannot allocate memory",
            "--memory",
        ),
        (
            "Error creating KVM object: Permission denied (os error 13)",
            "doctor",
        ),
        (
            "Open tap device failed: Error while creating ifreq structure",
            "tun",
        ),
    ] {
        assert!(hint_for(fault).unwrap().contains(hint), "{fault}");
    }
    assert_eq!(hint_for("The kernel file cannot be opened"), None);
}
