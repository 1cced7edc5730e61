//! A fresh terminal that is fed a snapshot equals the one that was there all along, now and later.

use super::*;
use crate::shell::fuzzing::{self, same, state};
use proptest::prelude::*;

fn restored(screen: &Screen, scrollback: bool) -> Screen {
    let (columns, rows) = screen.terminal.size();
    let mut fresh = Screen::new(columns as u16, rows as u16, screen.scrollback);
    fresh.feed(b"\x1b[31mused before\x1b[?1049h\x1b[?1003h");
    fresh.feed(&screen.snapshot(scrollback));
    fresh
}

fn check(output: &[u8], cut: usize, columns: u16, rows: u16) {
    let mut live = Screen::new(columns, rows, 20);
    live.feed(&output[..cut]);
    let mut fresh = restored(&live, true);
    same(&live, &fresh, "at once");
    live.feed(&output[cut..]);
    fresh.feed(&output[cut..]);
    same(&live, &fresh, "later");
}

#[test]
fn scrollback_comes_with_the_snapshot() {
    let mut live = Screen::new(20, 4, 10);
    for line in 0..30 {
        live.feed(format!("\x1b[3{}mline {line}\x1b[m and more than a row\r\n", line % 8).as_bytes());
    }
    let text = |screen: &Screen| -> Vec<String> {
        screen.terminal.primary_screen().all_lines().map(avt::Line::text).collect()
    };
    let fresh = restored(&live, true);
    let (live, fresh) = (text(&live), text(&fresh));
    assert_eq!(live.len(), 14);
    assert_eq!(live, fresh[fresh.len() - 14..]);
}

#[test]
fn colours_and_repeats_are_written_for_every_terminal() {
    let mut screen = Screen::new(40, 2, 0);
    screen.feed(b"\x1b[38;5;200;48;2;1;2;3m0000000000\x1b[m");
    let snapshot = String::from_utf8(screen.snapshot(true)).expect("text");
    assert!(snapshot.contains("0000000000"), "{snapshot:?}");
    assert!(snapshot.contains("38;5;200") && snapshot.contains("48;2;1;2;3"), "{snapshot:?}");
}

#[test]
fn what_takes_no_column_shifts_nothing() {
    for (text, shown) in [
        ("e\u{301}x", "ex"),
        ("\u{26a0}\u{fe0f} x", "\u{26a0} x"),
        ("\u{1f468}\u{200d}\u{1f469}x", "\u{1f468}\u{1f469}x"),
        ("\u{301}x\u{7f}y\u{feff}z", "xyz"),
        ("\u{1b}]2;e\u{301}\u{7}x", "x"),
    ] {
        for size in [1, 100] {
            let mut screen = Screen::new(10, 2, 0);
            text.as_bytes().chunks(size).for_each(|piece| screen.feed(piece));
            assert_eq!(screen.terminal.screen().line(0).expect("a line").text().trim_end(), shown, "{text:?}");
        }
    }
    let mut titled = Screen::new(10, 2, 0);
    titled.feed("\u{1b}]2;e\u{301}\u{7f}\u{7}".as_bytes());
    assert_eq!(titled.modes.title(), Some("e\u{301}"));
}

#[test]
fn what_the_fuzzer_found_stays_right() {
    // The fuzzer's seeds, and what it found: a character that is not ASCII within a sequence.
    for file in std::fs::read_dir("../tests/fuzz/seeds/terminal").expect("the seeds").flatten() {
        fuzzing::terminal(&std::fs::read(file.path()).expect("a seed"));
    }
    fuzzing::terminal(b"\x13\x09\x1b[2;5r\x1b[\xd6\xb4\x9b\x8d\x9a\xf2\xf5\xf8;9H\x1b8\xf8\x1bM\xf8");
    let mut output = vec![79, 23];
    for line in 0..5000 {
        output.extend_from_slice(format!("\x1b[{}mline {line}\x1b[m\r\n\x1b[2;20r\x1b[5;7H", 30 + line % 8).as_bytes());
        if line % 100 == 0 {
            output.extend_from_slice(&[fuzzing::LOOK, b'x', fuzzing::RESIZE, line as u8, (line / 7) as u8]);
        }
    }
    fuzzing::terminal(&output);
}

/// The processor time that this thread has used.
fn processor_time() -> std::time::Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel counts");
    let nanos = text.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number");
    std::time::Duration::from_nanos(nanos)
}

#[test]
fn no_sequence_is_expensive_whatever_its_numbers() {
    let finals = [
        "@", "A", "B", "C", "D", "E", "F", "G", "I", "J", "K", "L", "M", "P", "S", "T", "X", "Z", "`", "a", "b", "d",
        "e",
    ];
    let numbers = ["2147483647", "99999999999999999999", "65535", "65535;65535;65535", "2"];
    let sequences = finals.iter().flat_map(|last| numbers.iter().map(move |number| format!("\x1b[{number}{last}")));
    let others = ["\x1bc", "\x1b#8", "\x1b[?1049h", "\x1b[?1049l", "\x1b[2;2147483647r", "\x1b[8;65535;65535t"];
    for (columns, rows) in [(80, 24), (300, 100)] {
        for sequence in sequences.clone().chain(others.map(String::from)) {
            let mut screen = Screen::new(columns, rows, 1000);
            screen.feed(b"\x1b[44mx\r\n".repeat(1200).as_slice());
            screen.feed(b"y");
            let before = processor_time();
            for _ in 0..20 {
                screen.feed(sequence.as_bytes());
            }
            let each = (processor_time() - before) / 20;
            assert!(each < std::time::Duration::from_millis(50), "{sequence:?} takes {each:?}");
        }
    }
}

#[test]
fn a_repetition_fills_the_screen_and_no_more() {
    let texts = ["ab\x1b[2147483647bc", "ab\x1b[99999999999999999999;3bc", "ab\x1b[40bc", "ab\x1b[41bc"];
    for text in texts {
        let mut expected = Screen::new(10, 4, 100);
        expected.feed(format!("a{}c", "b".repeat(41)).as_bytes());
        for size in [1, 3, 100] {
            let mut screen = Screen::new(10, 4, 100);
            text.as_bytes().chunks(size).for_each(|piece| screen.feed(piece));
            assert_eq!(state(&screen), state(&expected), "{text:?}");
            assert_eq!(screen.snapshot(true), expected.snapshot(true));
        }
    }
    let mut other = Screen::new(10, 4, 0);
    other.feed(b"x\x1b[?99999b\x1b[b\x1b[>99999b\x7fy");
    assert_eq!(other.terminal.screen().line(0).expect("a line").text().trim_end(), "xxy");
}

#[test]
fn a_flood_that_is_skipped_leaves_what_a_followed_one_leaves() {
    let mut flood = Vec::new();
    for line in 0..20_000 {
        flood.extend_from_slice(format!("\tline {line} é 漢字 {}\r\n", "x".repeat(line % 97)).as_bytes());
    }
    flood.extend_from_slice(b"no end");
    for scrollback in [0, 50] {
        let (mut whole, mut pieces) = (Screen::new(80, 24, scrollback), Screen::new(80, 24, scrollback));
        for screen in [&mut whole, &mut pieces] {
            screen.feed(b"\x1b[32;1mgreen from here\x1b7 ");
        }
        whole.feed(&flood);
        flood.chunks(1000).for_each(|chunk| pieces.feed(chunk));
        assert_eq!(state(&whole), state(&pieces));
        assert_eq!(whole.snapshot(true), pieces.snapshot(true));
    }
}

/// What is harmless and long, now and then interrupted by what is not: texts, and how often each is written.
fn flood() -> impl Strategy<Value = Vec<(String, usize)>> {
    let long = prop::sample::select(vec![
        "x",
        "0123456789",
        "y\r\n",
        "\x1b[31mred\x1b[m and \x1b[42mgreen\x1b[0m\x1b[K\r\n",
        "\x1b[38;5;9mno end\tof it\r\n",
        "wide \u{6f22}\u{5b57} \u{e9}\r\n",
        "\u{6f22}",
        "\r",
        "\n",
        "half a line \n",
    ]);
    let piece = prop_oneof![
        10 => (long.prop_map(String::from), 1usize..9000),
        4 => ("[ -~]{0,200}", Just(1)),
        2 => (r"\x1b\[\?(6|7|1048|1049)[hl]|\x1b\[4[hl]|\x1b\[20[hl]|\x1b[78M]|\x1b\[[su]", Just(1)),
        1 => (r"\x1b\[(2;[5-9])?r|\x1b\[[0-9]{1,2};[0-9]{1,2}H|\x1b\[!p|\x1bc|\x1b\[[0-9]{1,2}b", Just(1)),
        1 => (r"\x1b\[[0-9]{1,3}[mKCDGPX@]", Just(1)),
    ];
    prop::collection::vec(piece, 1..8)
}

/// Sequences as programs write them, and pieces of them.
fn output() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => "[ -~]{1,30}".prop_map(String::into_bytes),
        2 => Just(b"\r\n".to_vec()),
        2 => "[éß漢字🙂─]{1,8}".prop_map(String::into_bytes),
        4 => (1u16..30, 1u16..90).prop_map(|(row, column)| format!("\x1b[{row};{column}H").into_bytes()),
        4 => r"\x1b\[(0|1|2|3|4|5|7|9|3[0-7]|4[0-7]|9[0-7]|38;5;[0-9]{1,2}|48;2;1;2;3)(;(1|7|35))?m".prop_map(String::into_bytes),
        3 => r"\x1b\[[0-3]?[JKXPLM@STABCDEFGbd]".prop_map(String::into_bytes),
        2 => r"\x1b\[\?(1|6|7|25|1000|1002|1006|1047|1048|1049|2004)[hl]".prop_map(String::into_bytes),
        1 => r"\x1b\[(2;[5-9])?r".prop_map(String::into_bytes),
        1 => r"\x1b[78DEMH=>]|\x1b\([0B]|\x0e|\x0f|\t|\x08".prop_map(String::into_bytes),
        1 => r"\x1b\]0;[a-z]{0,8}(\x07|\x1b\\)".prop_map(String::into_bytes),
        1 => r"\x1bP[a-z]{0,5}\x1b\\".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 1..6),
    ];
    prop::collection::vec(piece, 1..80).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_snapshot_at_any_moment_is_exact(output in output(), cut: prop::sample::Index, columns in 10u16..100, rows in 2u16..40) {
        check(&output, cut.index(output.len()), columns, rows);
    }

    #[test]
    fn what_is_skipped_is_not_missed(output in flood(), columns in 2u16..100, rows in 1u16..40, scrollback in 0usize..60) {
        let (mut whole, mut pieces) = (Screen::new(columns, rows, scrollback), Screen::new(columns, rows, scrollback));
        let output: Vec<u8> = output.iter().flat_map(|(text, times)| text.repeat(*times).into_bytes()).collect();
        whole.feed(&output);
        output.chunks(SKIP_FROM - 1).for_each(|chunk| pieces.feed(chunk));
        same(&pieces, &whole, "skipped");
        prop_assert_eq!(
            String::from_utf8_lossy(&whole.snapshot(true)).into_owned(),
            String::from_utf8_lossy(&pieces.snapshot(true)).into_owned()
        );
    }

    #[test]
    fn any_bytes_do_no_harm(output in prop::collection::vec(any::<u8>(), 0..400), columns in 1u16..50, rows in 1u16..20) {
        let mut screen = Screen::new(columns, rows, 5);
        screen.feed(&output);
        screen.resize(rows, columns);
        screen.snapshot(true);
    }

    #[test]
    fn pieces_are_as_good_as_the_whole(output in output(), size in 1usize..9) {
        let (mut whole, mut pieces) = (Screen::new(80, 24, 0), Screen::new(80, 24, 0));
        whole.feed(&output);
        output.chunks(size).for_each(|chunk| pieces.feed(chunk));
        prop_assert_eq!(state(&whole), state(&pieces));
    }
}
