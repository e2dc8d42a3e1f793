//! As much YAML as `openapi.yaml` uses: block mappings and sequences by indentation, flow collections and
//! scalars within a line, comments. Anything else is an error, duplicate keys included.

use serde_json::{Map, Value};

type Result<T> = std::result::Result<T, String>;

struct Line<'a> {
    number: usize,
    indent: usize,
    text: &'a str,
}

/// Parses a document whose root is a mapping.
pub(crate) fn parse(text: &str) -> Result<Value> {
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let content = without_comment(line).trim_end();
        let indent = content.len() - content.trim_start().len();
        if indent < content.len() {
            lines.push(Line { number: index + 1, indent, text: &content[indent..] });
        }
    }
    let mut rest = lines.as_slice();
    let value = block(&mut rest, 0)?;
    match rest.first() {
        None => Ok(value),
        Some(line) => Err(format!("line {}: wrong indentation", line.number)),
    }
}

/// A comment begins at a `#` after a space, outside of quotes. A doubled quote closes and opens again.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut before = b' ';
    for (index, byte) in line.bytes().enumerate() {
        match (quote, byte) {
            (None, b'\'' | b'"') if matches!(before, b' ' | b'[' | b'{' | b',' | b'\'') => quote = Some(byte),
            (Some(open), byte) if open == byte => quote = None,
            (None, b'#') if before == b' ' => return &line[..index],
            _ => {}
        }
        before = byte;
    }
    line
}

fn block(lines: &mut &[Line<'_>], indent: usize) -> Result<Value> {
    match lines.first() {
        Some(line) if line.indent == indent && line.text.starts_with("- ") => sequence(lines, indent),
        Some(line) if line.indent == indent => mapping(lines, indent),
        other => Err(format!("line {}: expected a block", other.map_or(0, |line| line.number))),
    }
}

fn sequence(lines: &mut &[Line<'_>], indent: usize) -> Result<Value> {
    let mut items = Vec::new();
    while let Some(line) = lines.first().filter(|line| line.indent == indent) {
        let text = line.text.strip_prefix("- ").ok_or_else(|| format!("line {}: expected an item", line.number))?;
        if text.starts_with(['{', '[', '\'', '"']) || split_key(text).is_none() {
            items.push(inline(text, line.number)?);
            *lines = &lines[1..];
            continue;
        }
        // A mapping that begins on the item's own line.
        let inner = indent + 2;
        let mut own = vec![Line { number: line.number, indent: inner, text }];
        let more = lines[1..].iter().take_while(|line| line.indent >= inner);
        own.extend(more.map(|line| Line { number: line.number, indent: line.indent, text: line.text }));
        *lines = &lines[own.len()..];
        let mut rest = own.as_slice();
        items.push(mapping(&mut rest, inner)?);
        if let Some(line) = rest.first() {
            return Err(format!("line {}: wrong indentation", line.number));
        }
    }
    Ok(Value::Array(items))
}

fn mapping(lines: &mut &[Line<'_>], indent: usize) -> Result<Value> {
    let mut members = Map::new();
    while let Some(line) = lines.first().filter(|line| line.indent == indent) {
        let number = line.number;
        let (key, text) = split_key(line.text).ok_or_else(|| format!("line {number}: expected `key: value`"))?;
        *lines = &lines[1..];
        let value = match (text, lines.first()) {
            ("", Some(next)) if next.indent > indent => block(lines, next.indent)?,
            ("", _) => return Err(format!("line {number}: a member without a value")),
            _ => inline(text, number)?,
        };
        if members.insert(key.clone(), value).is_some() {
            return Err(format!("line {number}: {key} is given twice"));
        }
    }
    Ok(Value::Object(members))
}

/// `key: value` or `key:`; the key may be quoted.
fn split_key(text: &str) -> Option<(String, &str)> {
    let colon = if let Some(quoted) = text.strip_prefix('\'') {
        quoted.find('\'')? + 2
    } else {
        text.find(": ").or_else(|| text.ends_with(':').then(|| text.len() - 1))?
    };
    let value = text[colon..].strip_prefix(':')?;
    (value.is_empty() || value.starts_with(' ')).then(|| (text[..colon].trim_matches('\'').to_owned(), value.trim()))
}

/// A value on one line.
fn inline(text: &str, number: usize) -> Result<Value> {
    let mut flow = Flow { text, number };
    if !text.starts_with(['{', '[', '\'', '"']) {
        return if text.contains(": ") { flow.fail("a colon in plain text") } else { Ok(scalar(text)) };
    }
    let value = flow.value()?;
    if flow.text.trim().is_empty() { Ok(value) } else { flow.fail("text after the value") }
}

fn scalar(text: &str) -> Value {
    match text {
        "null" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => text.parse::<i64>().map_or_else(|_| Value::from(text), Value::from),
    }
}

/// What is left of a line's flow value.
struct Flow<'a> {
    text: &'a str,
    number: usize,
}

impl<'a> Flow<'a> {
    fn fail<T>(&self, what: &str) -> Result<T> {
        Err(format!("line {}: {what} at `{}`", self.number, self.text))
    }

    fn eat(&mut self, token: char) -> bool {
        let text = self.text.trim_start();
        match text.strip_prefix(token) {
            Some(rest) => {
                self.text = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self) -> Result<Value> {
        if self.eat('[') {
            let mut items = Vec::new();
            while !self.eat(']') {
                if !items.is_empty() && !self.eat(',') {
                    return self.fail("expected `,` or `]`");
                }
                items.push(self.value()?);
            }
            return Ok(Value::Array(items));
        }
        if self.eat('{') {
            let mut members = Map::new();
            while !self.eat('}') {
                if !members.is_empty() && !self.eat(',') {
                    return self.fail("expected `,` or `}`");
                }
                let key = self.key()?;
                let value = self.value()?;
                if members.insert(key, value).is_some() {
                    return self.fail("a key given twice before");
                }
            }
            return Ok(Value::Object(members));
        }
        if self.eat('\'') {
            return self.single_quoted().map(Value::String);
        }
        if self.eat('"') {
            return self.fail("use single quotes");
        }
        let end = self.text.find([',', '}', ']']).unwrap_or(self.text.len());
        let plain = self.take(end).trim();
        if plain.is_empty() { self.fail("expected a value") } else { Ok(scalar(plain)) }
    }

    fn key(&mut self) -> Result<String> {
        let key = if self.eat('\'') {
            self.single_quoted()?
        } else {
            let Some(end) = self.text.find(':') else { return self.fail("expected `key: value`") };
            self.take(end).trim().to_owned()
        };
        if !self.eat(':') || !self.text.starts_with(' ') {
            return self.fail("expected `: `");
        }
        Ok(key)
    }

    /// After the opening quote; a doubled quote stands for one.
    fn single_quoted(&mut self) -> Result<String> {
        let mut out = String::new();
        loop {
            let Some(end) = self.text.find('\'') else { return self.fail("a quote without its end") };
            out.push_str(self.take(end));
            self.text = &self.text[1..];
            match self.text.strip_prefix('\'') {
                Some(rest) => self.text = rest,
                None => return Ok(out),
            }
            out.push('\'');
        }
    }

    fn take(&mut self, end: usize) -> &'a str {
        let (taken, rest) = self.text.split_at(end);
        self.text = rest;
        taken
    }
}

#[test]
fn what_is_read_and_what_is_not() {
    let text =
        "a: 1 # one\n'b c': 'it''s # x'\nd:\n  - e: [f, { g: null }]\n    h: 5 % of it\n  - {}\n  - plain, text\n";
    let json = r#"{"a":1,"b c":"it's # x","d":[{"e":["f",{"g":null}],"h":"5 % of it"},{},"plain, text"]}"#;
    assert_eq!(parse(text), serde_json::from_str(json).map_err(|error| error.to_string()));
    for text in ["a: 1\na: 2", "a: { b: 1, b: 2 }", "a:", "a: [b", "a: 'b", "a: b: c", "a: 1\n  b: 2", "- a: 1\n b: 2"]
    {
        assert!(parse(text).is_err(), "{text}");
    }
}
