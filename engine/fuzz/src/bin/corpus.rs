//! `corpus unpack TARGET FOLDER` and `corpus pack TARGET FOLDER`: between the committed file and the fuzzer's folder.

use std::path::Path;
use std::process::ExitCode;

use meed_fuzz::corpus;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["unpack", target, folder] => corpus::unpack(target, Path::new(folder)),
        ["pack", target, folder] => {
            corpus::pack(target, Path::new(folder)).map(|inputs| println!("{target}: {inputs} inputs"))
        }
        _ => {
            eprintln!("usage: corpus unpack|pack TARGET FOLDER");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", words.join(" "));
            ExitCode::FAILURE
        }
    }
}
