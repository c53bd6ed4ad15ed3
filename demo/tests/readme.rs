//! The README shows what `cargo demo` prints: the demo runs, succeeds, and prints those lines, figures apart.

use std::{process::Command, str};

const README: &str = include_str!("../../README.md");

#[test]
fn the_readme_shows_what_the_demo_prints() {
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger-demo")).output().unwrap();
    let printed = str::from_utf8(&output.stdout).unwrap();
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(masked(shown(README)), masked(printed), "paste the new output into README.md");
}

/// The fenced block behind the line `$ cargo demo`.
fn shown(readme: &str) -> &str {
    let (_, block) = readme.split_once("$ cargo demo\n").expect("the README shows the command");
    block.split_once("```").expect("the block ends").0
}

/// Every run of digits becomes one `#`, and the padding before it one blank.
fn masked(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| {
            let mut masked = String::new();
            for c in line.trim().chars() {
                match c {
                    '0'..='9' if masked.ends_with('#') => {}
                    '0'..='9' => masked.push('#'),
                    ' ' if masked.ends_with(' ') => {}
                    c => masked.push(c),
                }
            }
            masked.replace("[ ", "[")
        })
        .collect()
}
