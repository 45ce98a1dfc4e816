// SPDX-License-Identifier: GPL-2.0-only
//! JSON in lines, as [`serde_json::ser::PrettyFormatter`] writes it.

use std::io::{Result, Write};

use serde_json::ser::Formatter;

/// Writes what is before a key or value of a line at once. `PrettyFormatter` does it level by level, which is a quarter of all instructions where
/// lines are short.
#[derive(Default)]
pub struct Pretty {
    depth: usize,
    has_value: bool,
}

/// What a line begins with; as deep as no object of ours is.
const LINE: &[u8] = b",\n                                ";
const INDENT: usize = 2;

impl Pretty {
    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> Result<()> {
        self.depth += 1;
        self.has_value = false;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> Result<()> {
        self.depth -= 1;
        if self.has_value {
            self.line(writer, true)?;
        }
        writer.write_all(bracket)
    }

    fn line<W: ?Sized + Write>(&self, writer: &mut W, first: bool) -> Result<()> {
        let end = LINE.len().min(2 + self.depth * INDENT);
        writer.write_all(&LINE[usize::from(first)..end])
    }
}

impl Formatter for Pretty {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> Result<()> {
        self.line(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _writer: &mut W) -> Result<()> {
        self.has_value = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> Result<()> {
        self.line(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<()> {
        writer.write_all(b": ")
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _writer: &mut W) -> Result<()> {
        self.has_value = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use serde_json::{Serializer, Value, json};

    use super::*;

    fn pretty(value: &Value) -> String {
        let mut text = Vec::new();
        let mut serializer = Serializer::with_formatter(&mut text, Pretty::default());
        value.serialize(&mut serializer).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn as_serde_json_writes_it() {
        for value in [
            json!(1),
            json!([]),
            json!({}),
            json!([[], {}, [1, "a\nb", null]]),
            json!({"a": [], "b": {"c": {}, "d": [{"e": [1.5, true]}, []]}, "f": {}}),
        ] {
            let want = serde_json::to_string_pretty(&value).unwrap();
            assert_eq!(pretty(&value), want);
        }
    }
}
