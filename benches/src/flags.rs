//! Command line flags of the benchmark programs: `--name value`, and `--name` alone for a switch.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::process::ExitCode;
use std::str::FromStr;

/// The `main` of a program that takes flags with values only: prints the usage for `--help`, and beside what went wrong.
pub fn main(usage: &str, run: impl FnOnce(Flags) -> Result<(), String>) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help") {
        print!("{usage}");
        return ExitCode::SUCCESS;
    }
    match Flags::parse(arguments, &[]).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}\n\n{usage}");
            ExitCode::FAILURE
        }
    }
}

/// Flags as given. Each program states its own usage text and takes what it knows; what is left over is an error.
#[derive(Debug, Default)]
pub struct Flags {
    given: BTreeMap<String, String>,
}

impl Flags {
    /// Reads `--name value` pairs; a name in `switches` takes no value.
    ///
    /// # Errors
    /// A word that is no flag, a flag given twice, or a flag without its value.
    pub fn parse(arguments: impl IntoIterator<Item = String>, switches: &[&str]) -> Result<Self, String> {
        let mut given = BTreeMap::new();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let name = argument.strip_prefix("--").ok_or_else(|| format!("unexpected argument {argument}"))?;
            let value = if switches.contains(&name) {
                String::new()
            } else {
                arguments.next().ok_or_else(|| format!("--{name} needs a value"))?
            };
            if given.insert(name.to_owned(), value).is_some() {
                return Err(format!("--{name} is given twice"));
            }
        }
        Ok(Self { given })
    }

    /// Whether the switch was given.
    pub fn switch(&mut self, name: &str) -> bool {
        self.given.remove(name).is_some()
    }

    /// The flag's value, if given.
    ///
    /// # Errors
    /// The value does not parse.
    pub fn optional<T>(&mut self, name: &str) -> Result<Option<T>, String>
    where
        T: FromStr,
        T::Err: Display,
    {
        let parse = |value: String| value.parse().map_err(|error| format!("--{name} {value}: {error}"));
        self.given.remove(name).map(parse).transpose()
    }

    /// The flag's value, or the default.
    ///
    /// # Errors
    /// The value does not parse.
    pub fn value<T>(&mut self, name: &str, default: T) -> Result<T, String>
    where
        T: FromStr,
        T::Err: Display,
    {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    /// The flag's value as a list separated by commas.
    ///
    /// # Errors
    /// A part does not parse.
    pub fn list<T>(&mut self, name: &str, default: &str) -> Result<Vec<T>, String>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text: String = self.value(name, default.to_owned())?;
        let parse = |part: &str| part.parse().map_err(|error| format!("--{name} {part}: {error}"));
        text.split(',').filter(|part| !part.is_empty()).map(parse).collect()
    }

    /// Refuses flags that nobody took.
    ///
    /// # Errors
    /// Names the first unknown flag.
    pub fn finish(self) -> Result<(), String> {
        match self.given.into_keys().next() {
            Some(name) => Err(format!("unknown flag --{name}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn flags(line: &str) -> Result<Flags, String> {
        Flags::parse(line.split_whitespace().map(str::to_owned), &["quick"])
    }

    #[test]
    fn takes_values_switches_and_lists() {
        let mut flags = flags("--pairs 5 --quick --levels 64,256").unwrap();
        assert_eq!(flags.value("pairs", 3), Ok(5));
        assert!(flags.switch("quick"));
        assert!(!flags.switch("quick"));
        assert_eq!(flags.list::<u32>("levels", "1"), Ok(vec![64, 256]));
        assert_eq!(flags.list::<u32>("at-least", ""), Ok(vec![]));
        assert_eq!(flags.value("seconds", 10), Ok(10));
        assert_eq!(flags.finish(), Ok(()));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert!(flags("pairs 5").is_err());
        assert!(flags("--pairs").is_err());
        assert!(flags("--pairs 5 --pairs 6").is_err());
        assert!(flags("--pairs five").unwrap().value("pairs", 3).is_err());
        assert_eq!(flags("--pears 5").unwrap().finish(), Err("unknown flag --pears".to_owned()));
    }
}
