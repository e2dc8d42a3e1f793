//! The committed corpus: few files, and the same on every machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file with a target's corpus: an input per line, in hexadecimal.
fn file(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target).with_extension("hex")
}

fn bytes(line: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = line.chars().map(|digit| digit.to_digit(16).map(|value| value as u8)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// The inputs of a target.
///
/// # Errors
/// When its file cannot be read, or a line of it is not hexadecimal.
pub fn read(target: &str) -> io::Result<Vec<Vec<u8>>> {
    let wrong = |number| io::Error::other(format!("line {} is not hexadecimal", number + 1));
    let text = fs::read_to_string(file(target))?;
    text.lines().enumerate().map(|(number, line)| bytes(line).ok_or_else(|| wrong(number))).collect()
}

/// Writes each input of a target to a file of its own in a folder, as the fuzzer wants them.
///
/// # Errors
/// As [`read`], and when a file cannot be written.
pub fn unpack(target: &str, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let inputs = read(target)?;
    inputs.iter().enumerate().try_for_each(|(number, input)| fs::write(folder.join(format!("{number:05}")), input))
}

/// Makes the files of a folder the corpus of a target; returns how many there are.
///
/// # Errors
/// When a file cannot be read or written.
pub fn pack(target: &str, folder: &Path) -> io::Result<usize> {
    let mut lines: Vec<String> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let input = fs::read(entry?.path())?;
        lines.push(input.iter().map(|byte| format!("{byte:02x}")).collect());
    }
    lines.sort();
    lines.dedup();
    fs::create_dir_all(file(target).parent().unwrap_or(Path::new(".")))?;
    fs::write(file(target), lines.iter().map(|line| format!("{line}\n")).collect::<String>())?;
    Ok(lines.len())
}
