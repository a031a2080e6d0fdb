//! Splits lines into words: bare, in "double quotes" with Go's escapes, in 'single quotes' or in `backquotes` without any.

/// A word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// Its bytes, without quotes and escapes.
    pub(super) bytes: Vec<u8>,
    /// It stood in quotes, and so is no flag.
    pub(super) quoted: bool,
}

impl Word {
    /// As text, for messages.
    pub(super) fn shown(&self) -> String {
        self.bytes.escape_ascii().to_string()
    }
}

/// A place in a line.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(line: &'a [u8]) -> Self {
        Self { rest: line }
    }

    /// What is left, without the space before it.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        self.rest = self.rest.trim_ascii_start();
        self.rest
    }

    /// Takes all bytes up to the first that is one of these, or the end.
    pub(super) fn take_until(&mut self, ends: &[u8]) -> &'a [u8] {
        let length = self.rest.iter().position(|byte| ends.contains(byte)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        taken
    }

    /// Takes all bytes at the front that are of these.
    pub(super) fn take_all_of(&mut self, bytes: &[u8]) -> &'a [u8] {
        let length = self.rest.iter().position(|byte| !bytes.contains(byte)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        taken
    }

    /// Takes a byte if it comes next.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        match self.rest.split_first() {
            Some((&first, rest)) if first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// The next word, which ends at a space or, unquoted, before one of `ends`; `None`: there is none.
    pub(super) fn word(&mut self, ends: &[u8]) -> Result<Option<Word>, String> {
        self.rest();
        match self.rest.first() {
            None => Ok(None),
            Some(b'"') => {
                self.take(b'"');
                self.escaped().map(|bytes| Some(Word { bytes, quoted: true }))
            }
            Some(&quote @ (b'\'' | b'`')) => {
                self.take(quote);
                let bytes = self.take_until(&[quote]).to_vec();
                if self.take(quote) {
                    Ok(Some(Word { bytes, quoted: true }))
                } else {
                    Err(format!("there is no {} that ends the quotes", char::from(quote)))
                }
            }
            Some(_) => {
                let ends = [b" \t\r\n\x0b\x0c", ends].concat();
                let bytes = self.take_until(&ends).to_vec();
                Ok((!bytes.is_empty()).then_some(Word { bytes, quoted: false }))
            }
        }
    }

    /// The bytes up to the closing double quote.
    fn escaped(&mut self) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        loop {
            bytes.extend_from_slice(self.take_until(b"\"\\"));
            if self.take(b'"') {
                return Ok(bytes);
            }
            if !self.take(b'\\') {
                return Err("there is no \" that ends the quotes".into());
            }
            self.escape(&mut bytes)?;
        }
    }

    /// One escape after its backslash, as in Go.
    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), String> {
        let Some((&kind, rest)) = self.rest.split_first() else {
            return Err("there is no \" that ends the quotes".into());
        };
        self.rest = rest;
        let simple = match kind {
            b'a' => 0x07,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            b'\\' | b'"' | b'\'' => kind,
            b'x' => {
                let value = self.number(2, 16).and_then(|value| u8::try_from(value).ok());
                value.ok_or("\\x takes two hexadecimal digits")?
            }
            b'0'..=b'7' => self.octal(kind)?,
            b'u' | b'U' => {
                let digits = if kind == b'u' { 4 } else { 8 };
                let wrong =
                    || format!("\\{} takes {digits} hexadecimal digits of a character", char::from(kind));
                let character = self.number(digits, 16).and_then(char::from_u32).ok_or_else(wrong)?;
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => {
                return Err(format!("\\{} is no escape; a backslash itself is \\\\", [kind].escape_ascii()));
            }
        };
        bytes.push(simple);
        Ok(())
    }

    /// Three octal digits, the first of which is taken already.
    fn octal(&mut self, first: u8) -> Result<u8, String> {
        let rest = self.number(2, 8).map(|rest| rest + u32::from(first - b'0') * 64);
        rest.and_then(|value| u8::try_from(value).ok())
            .ok_or_else(|| "an escape by number takes three octal digits up to \\377".to_owned())
    }

    fn number(&mut self, digits: usize, radix: u32) -> Option<u32> {
        let (number, rest) = self.rest.split_at_checked(digits)?;
        let value = number.iter().try_fold(0_u32, |value, &digit| {
            value.checked_mul(radix)?.checked_add(char::from(digit).to_digit(radix)?)
        })?;
        self.rest = rest;
        Some(value)
    }
}

/// All words of a line.
pub(super) fn words(line: &[u8]) -> Result<Vec<Word>, String> {
    let mut cursor = Cursor::new(line);
    let mut words = Vec::new();
    while let Some(word) = cursor.word(b"")? {
        let ended = cursor.rest.first().is_none_or(u8::is_ascii_whitespace);
        if word.quoted && !ended {
            return Err(format!("a space must follow the quotes around {}", word.shown()));
        }
        words.push(word);
    }
    Ok(words)
}
