//! A Rust file as the rules see it: its code without comments and without what strings hold, line by line.

/// A file, and its code with comments, strings and characters blanked out. Both have the same lines.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    /// All of it belongs to tests.
    pub(crate) is_test: bool,
    code: String,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// Line of its `fn`, from 1.
    pub(crate) line: usize,
    /// From that line to its closing brace.
    pub(crate) lines: usize,
}

impl Source {
    pub(crate) fn new(text: String, path: String) -> Self {
        let stem = path.rsplit('/').next().unwrap();
        let is_test = path.contains("/tests/") || stem.starts_with("test_") || stem.ends_with("tests.rs");
        Self { code: blanked(&text), path, text, is_test }
    }

    /// (number, code, whether it belongs to a test) of every line.
    pub(crate) fn code_lines(&self) -> impl Iterator<Item = (usize, &str, bool)> {
        let spans = self.test_spans();
        let lines = self.code.lines().enumerate();
        lines
            .map(move |(index, line)| (index + 1, line, self.is_test || spans.iter().any(|span| span.contains(&index))))
    }

    /// Indices of the lines of items under `#[cfg(test)]`, and of functions under `#[test]`.
    fn test_spans(&self) -> Vec<std::ops::RangeInclusive<usize>> {
        let line_of = |at: usize| self.code[..at].matches('\n').count();
        let marks = ["#[cfg(test)]", "#[test]"].into_iter().flat_map(|mark| self.code.match_indices(mark));
        let span = |(at, mark): (usize, &str)| {
            let item = at + mark.len();
            line_of(at)..=line_of(item + item_end(&self.code[item..]))
        };
        marks.map(span).collect()
    }

    /// Modules in files of their own that this file declares for tests: their paths without the ending.
    pub(crate) fn test_modules(&self) -> Vec<String> {
        let (folder, file) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let folder = match file {
            "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
            _ => self.path.trim_end_matches(".rs").to_owned(),
        };
        let declared = self.code_lines().filter(|(_, _, in_test)| *in_test).filter_map(|(_, line, _)| {
            let name = line.trim().strip_suffix(';')?.rsplit_once("mod ")?.1;
            Some(format!("{folder}/{name}"))
        });
        declared.collect()
    }

    /// Modules that this file declares, in order; those of tests are left out.
    pub(crate) fn modules(&self) -> Vec<String> {
        let declared = self.code_lines().filter(|(_, _, in_test)| !in_test).filter_map(|(_, line, _)| {
            let line = line.trim().strip_suffix(';')?;
            let (visibility, name) = line.rsplit_once("mod ")?;
            (visibility.is_empty() || visibility.starts_with("pub")).then(|| name.to_owned())
        });
        declared.collect()
    }

    /// (line, module) of every `crate::module` outside tests, also of groups as in `use crate::{a, b::c};`.
    pub(crate) fn crate_modules(&self) -> Vec<(usize, String)> {
        const MARK: &str = "crate::";
        let in_test: Vec<bool> = self.code_lines().map(|(_, _, in_test)| in_test).collect();
        let mut found = Vec::new();
        for (at, _) in self.code.match_indices(MARK) {
            // `$crate::` in a macro and names that merely end in `crate` are something else.
            if self.code[..at].ends_with(|before: char| before == '$' || is_word(before)) {
                continue;
            }
            let line = self.code[..at].matches('\n').count();
            if !in_test[line] {
                let names = first_names(&self.code[at + MARK.len()..]);
                found.extend(names.into_iter().map(|name| (line + 1, name)));
            }
        }
        found
    }

    /// Lines where a path begins with `name::`, or `use name` names it alone.
    pub(crate) fn lines_with_path_to<'a>(&'a self, name: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.code_lines().filter_map(move |(number, line, _)| {
            let begins = |at: usize| !line[..at].ends_with(|before: char| is_word(before) || before == ':');
            let continues = |rest: &str| rest.starts_with("::") || rest.trim() == ";" || rest.starts_with(" as ");
            let used = line.match_indices(name).any(|(at, _)| begins(at) && continues(&line[at + name.len()..]));
            used.then_some(number)
        })
    }

    /// All functions with a body, nested ones too.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for (at, _) in self.code.match_indices("fn ") {
            if self.code[..at].ends_with(is_word) {
                continue;
            }
            let rest = &self.code[at..];
            let name: String = rest["fn ".len()..].chars().take_while(|character| is_word(*character)).collect();
            if let Some(length) = body_end(rest).filter(|_| !name.is_empty()) {
                let line = self.code[..at].matches('\n').count() + 1;
                found.push(Function { name, line, lines: rest[..length].matches('\n').count() + 1 });
            }
        }
        found
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Names that begin the paths at the start of `rest`: one, or those of a group in braces.
fn first_names(rest: &str) -> Vec<String> {
    let word = |text: &str| text.trim_start().chars().take_while(|character| is_word(*character)).collect::<String>();
    let Some(group) = rest.strip_prefix('{') else { return vec![word(rest)] };
    let mut names = Vec::new();
    let (mut depth, mut start) = (0_usize, 0);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                names.push(word(&group[start..at]));
                start = at + 1;
                if character == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Length of a function up to its closing brace; none for one without a body.
fn body_end(function: &str) -> Option<usize> {
    let end = item_end(function);
    function[end..].starts_with('}').then_some(end)
}

/// Where an item ends: at its closing brace, or at the semicolon of one without a body.
fn item_end(item: &str) -> usize {
    let (mut braces, mut brackets) = (0_usize, 0_usize);
    for (at, character) in item.char_indices() {
        match character {
            '(' | '[' => brackets += 1,
            ')' | ']' if brackets > 0 => brackets -= 1,
            ';' if braces == 0 && brackets == 0 => return at,
            '{' => braces += 1,
            '}' if braces <= 1 => return at,
            '}' => braces -= 1,
            // More closes than was opened: a type of a function, in a signature around it.
            ')' | ']' => return at,
            _ => {}
        }
    }
    item.len()
}

/// The same text with the inside of comments, strings and characters replaced by spaces; line ends stay.
fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut output = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = token_end(bytes, at);
        if let Some(end) = end {
            for byte in &mut output[at..end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
        at = end.unwrap_or(at + 1);
    }
    // Blanked spans begin and end at ASCII bytes, so that no character is cut.
    String::from_utf8(output).unwrap()
}

/// End of the comment, string or character that begins at `at`, if one does.
fn token_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let find = |needle: &[u8], from: usize| {
        let found = rest[from..].windows(needle.len()).position(|window| window == needle);
        found.map_or(bytes.len(), |found| at + from + found + needle.len())
    };
    if rest.starts_with(b"//") {
        let end = rest.iter().position(|byte| *byte == b'\n');
        return Some(end.map_or(bytes.len(), |end| at + end));
    }
    if rest.starts_with(b"/*") {
        return Some(find(b"*/", 2));
    }
    let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    let raw = if rest.starts_with(b"br") { 2 } else { 1 };
    if (rest.starts_with(b"r") || rest.starts_with(b"br")) && !after_word {
        let hashes = rest[raw..].iter().take_while(|byte| **byte == b'#').count();
        if rest.get(raw + hashes) == Some(&b'"') {
            let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
            return Some(find(&close, raw + hashes + 1));
        }
    }
    if rest[0] == b'"' {
        return Some(quoted_end(bytes, at, b'"'));
    }
    // `'a'` and `'\n'` are characters, `'a` is a lifetime.
    let is_character = rest[0] == b'\''
        && match rest.get(1) {
            Some(b'\\') => true,
            Some(first) => rest.get(1 + utf8_length(*first)) == Some(&b'\''),
            None => false,
        };
    is_character.then(|| quoted_end(bytes, at, b'\''))
}

fn quoted_end(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

fn utf8_length(first: u8) -> usize {
    match first {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    }
}

#[test]
fn blanking_keeps_lines_and_code() {
    let text =
        "let a = \"x // {\\\" \n y\"; // fn b() {\nlet c = 'q'; let d: &'static str = r#\"} \" \"#; /* { */ '\\'';é";
    let blank = blanked(text);
    assert_eq!(blank.len(), text.len());
    assert_eq!(blank.lines().count(), text.lines().count());
    assert!(!blank.contains(['{', '}', '"']), "{blank}");
    assert!(blank.contains("let d: &'static str ="), "{blank}");
}

#[test]
fn functions_are_measured() {
    let text = "trait T {\n    fn none(&self) -> [u8; 4];\n    fn one(&self) {\n        let a = [0; 3];\n    }\n}\n\
        const fn two() -> u8 { 3 }\ntype F = fn (u8);";
    let functions = Source::new(text.to_owned(), "x.rs".to_owned()).functions();
    let expected = [("one", 3, 3), ("two", 7, 1)];
    let expected = expected.map(|(name, line, lines)| Function { name: name.to_owned(), line, lines });
    assert_eq!(functions, expected);
}

#[test]
fn uses_are_found() {
    let text = "use crate::{a, b::{c, d}, e as f};\nuse crate::g::h;\nuse hyper::Body;\n// crate::no\nuse ractor;\n\
        #[cfg(test)]\nmod tests { use crate::i; }";
    let source = Source::new(text.to_owned(), "x.rs".to_owned());
    let names: Vec<String> = source.crate_modules().into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["a", "b", "e", "g"]);
    assert_eq!(source.lines_with_path_to("hyper").collect::<Vec<_>>(), [3]);
    assert_eq!(source.lines_with_path_to("ractor").collect::<Vec<_>>(), [5]);
    let text = "fn a() {}\n#[cfg(test)]\nuse x;\nfn b() {\n}\n#[cfg(test)]\nmod tests {\n}\nfn c() {}";
    let source = Source::new(text.to_owned(), "x.rs".to_owned());
    let tests: Vec<usize> = source.code_lines().filter(|(_, _, test)| *test).map(|(number, _, _)| number).collect();
    assert_eq!(tests, [2, 3, 6, 7, 8]);
    let modules = Source::new(
        "//! x\n\npub mod a;\nmod b;\npub(crate) mod c;\n#[cfg(test)]\nmod t;".to_owned(),
        "lib.rs".to_owned(),
    );
    assert_eq!(modules.modules(), ["a", "b", "c"]);
}
