//! Labels of a series, made of attributes: sorted, each name once, no value empty.

use std::borrow::Cow;

use weir_guest::json::JsonWriter;
use weir_guest::text;
use weir_guest::wire::otlp::AnyValue;

use crate::names::{self, Strategy};
use crate::series::{Reason, reason};

/// Labels of a series. Prometheus warns at 30; every one of them is a part of each line.
pub const LABELS_MAX: usize = 128;

/// Bytes of a label's name: attribute keys have a few dozen.
pub const LABEL_NAME_BYTES_MAX: usize = 512;

/// Bytes of a label's value: a URL or a stack's head, not a document.
pub const LABEL_VALUE_BYTES_MAX: usize = 4 * 1024;

/// Bytes of all labels of a series.
pub const LABELS_BYTES_MAX: usize = 16 * 1024;

/// What is put before the name of an attribute's label where the name is taken, as Prometheus does with scraped labels.
const EXPORTED: &str = "exported_";

/// A place in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    name: Span,
    value: Span,
    /// The attribute's own key, by which values of the same name are ordered.
    key: Span,
    /// Whether the name is its whatever attributes say.
    is_fixed: bool,
}

/// Labels of one series, in a buffer that is used again for the next.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    text: String,
    items: Vec<Item>,
}

/// Where a set of labels ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark {
    text: usize,
    items: usize,
}

impl Labels {
    /// Names and values, in the order of the names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.items.iter().map(|item| (self.at(item.name), self.at(item.value)))
    }

    /// The value of the label `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(label, _)| *label == name).map(|(_, value)| value)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Forgets all of them and keeps the room.
    pub fn clear(&mut self) {
        self.text.clear();
        self.items.clear();
    }

    /// A label that no attribute replaces. An empty value is no label.
    ///
    /// # Errors
    /// [`reason::SIZE`].
    pub fn fixed(&mut self, name: &str, value: &str) -> Result<(), Reason> {
        self.push(|out| out.push_str(name), None, value, true)
    }

    /// The label of an attribute, its key behind `prefix`. `scratch` is overwritten.
    ///
    /// # Errors
    /// [`reason::SIZE`], or [`reason::MALFORMED`] for a value that is.
    pub fn attribute(
        &mut self,
        strategy: Strategy,
        prefix: &str,
        key: &[u8],
        value: &AnyValue<'_>,
        scratch: &mut JsonWriter,
    ) -> Result<(), Reason> {
        let key = text_of(key);
        let value = value_of(value, scratch)?;
        let is_fixed = !prefix.is_empty();
        let write = |out: &mut String| {
            out.push_str(prefix);
            names::label(strategy, &key, out);
        };
        self.push(write, Some(&key), &text_of(value), is_fixed)
    }

    fn push(
        &mut self,
        name: impl FnOnce(&mut String),
        key: Option<&str>,
        value: &str,
        is_fixed: bool,
    ) -> Result<(), Reason> {
        if value.is_empty() {
            return Ok(());
        }
        let key_bytes = key.map_or(0, str::len);
        if key_bytes > LABEL_NAME_BYTES_MAX || value.len() > LABEL_VALUE_BYTES_MAX {
            return Err(reason::SIZE);
        }
        let name = self.append(name);
        let key = match key {
            Some(key) if key != self.at(name) => self.append(|out| out.push_str(key)),
            Some(_) | None => name,
        };
        let value = self.append(|out| out.push_str(value));
        self.items.push(Item { name, value, key, is_fixed });
        if self.items.len() > LABELS_MAX || self.text.len() > 2 * LABELS_BYTES_MAX {
            return Err(reason::SIZE);
        }
        Ok(())
    }

    /// Where they end now.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { text: self.text.len(), items: self.items.len() }
    }

    /// Forgets what came behind a mark. Labels that were settled have lost their order of coming: a mark is worth something
    /// only in a copy that was not.
    pub fn back_to(&mut self, mark: Mark) {
        self.text.truncate(mark.text);
        self.items.truncate(mark.items);
    }

    /// Becomes what `other` is.
    pub fn copy_from(&mut self, other: &Self) {
        self.text.clone_from(&other.text);
        self.items.clone_from(&other.items);
    }

    /// Sorts them and makes each name stand once. An attribute whose name is `reserved`, `__name__` or a fixed label's is
    /// called `exported_…`; values of attributes of the same name are joined by `;` in the order of their keys; of the same
    /// key the last counts. `defaults` are added where their names are free.
    ///
    /// # Errors
    /// [`reason::SIZE`].
    pub fn settle(&mut self, reserved: &str, defaults: &[(String, String)]) -> Result<(), Reason> {
        let Self { text, items } = self;
        let at = |span: Span| &text.as_bytes()[span.start as usize..span.end as usize];
        items.sort_unstable_by(|left, right| {
            at(left.name).cmp(at(right.name)).then(left.value.start.cmp(&right.value.start))
        });
        let is_taken = |item: &Item| {
            let name = at(item.name);
            !item.is_fixed && (name == b"__name__" || (!reserved.is_empty() && name == reserved.as_bytes()))
        };
        let is_double = items.windows(2).any(|pair| at(pair[0].name) == at(pair[1].name));
        if is_double || items.iter().any(is_taken) {
            self.disentangle(reserved)?;
        }
        for (name, value) in defaults {
            if self.get(name).is_none() && !value.is_empty() && name != reserved {
                self.fixed(name, value)?;
                let Self { text, items } = self;
                items.sort_unstable_by_key(|item| &text[item.name.start as usize..item.name.end as usize]);
            }
        }
        let bytes: u32 = self.items.iter().map(|item| item.name.len() + item.value.len()).sum();
        if bytes as usize > LABELS_BYTES_MAX { Err(reason::SIZE) } else { Ok(()) }
    }

    /// Rare, so it may cost what it wants.
    fn disentangle(&mut self, reserved: &str) -> Result<(), Reason> {
        let mut done: Vec<(String, String)> = Vec::with_capacity(self.items.len());
        let mut exported: Vec<(String, String)> = Vec::new();
        let items = std::mem::take(&mut self.items);
        for group in items.chunk_by(|left, right| self.at(left.name) == self.at(right.name)) {
            let name = self.at(group[0].name);
            let mut values: Vec<(bool, &str, &str)> =
                group.iter().map(|item| (!item.is_fixed, self.at(item.key), self.at(item.value))).collect();
            // Of the same key the last that was sent counts: it is the first when read from behind.
            values.reverse();
            values.sort_by_key(|(is_free, key, _)| (*is_free, *key));
            values.dedup_by_key(|(is_free, key, _)| (*is_free, *key));
            let (fixed, free): (Vec<_>, Vec<_>) = values.into_iter().partition(|(is_free, ..)| !is_free);
            let is_reserved = name == "__name__" || (!reserved.is_empty() && name == reserved);
            let join = |values: Vec<(bool, &str, &str)>| {
                values.into_iter().map(|(.., value)| value).collect::<Vec<_>>().join(";")
            };
            if !free.is_empty() {
                let to = if is_reserved || !fixed.is_empty() { &mut exported } else { &mut done };
                to.push((name.to_owned(), join(free)));
            }
            if !fixed.is_empty() {
                done.push((name.to_owned(), join(fixed)));
            }
        }
        for (mut name, value) in exported {
            while done.iter().any(|(taken, _)| *taken == name) || name == reserved || name == "__name__" {
                name.insert_str(0, EXPORTED);
            }
            done.push((name, value));
        }
        done.sort_unstable();
        self.clear();
        for (name, value) in &done {
            if value.len() > LABEL_VALUE_BYTES_MAX {
                return Err(reason::SIZE);
            }
            self.fixed(name, value)?;
        }
        Ok(())
    }

    fn at(&self, span: Span) -> &str {
        &self.text[span.start as usize..span.end as usize]
    }

    fn append(&mut self, write: impl FnOnce(&mut String)) -> Span {
        // The text is bounded far below 4 GiB.
        let start = self.text.len() as u32;
        write(&mut self.text);
        Span { start, end: self.text.len() as u32 }
    }
}

impl Span {
    const fn len(self) -> u32 {
        self.end - self.start
    }
}

/// Bytes as text. Nearly all are UTF-8, and those are checked many at a time.
fn text_of(bytes: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// The text of an attribute's value.
fn value_of<'t>(value: &AnyValue<'t>, scratch: &'t mut JsonWriter) -> Result<&'t [u8], Reason> {
    if let AnyValue::String(text) = value {
        return Ok(text);
    }
    if scratch.overflowed() {
        *scratch = JsonWriter::default().limited(LABELS_BYTES_MAX);
    }
    text::of(value, scratch).map_err(|_| reason::MALFORMED)?;
    if scratch.overflowed() { Err(reason::SIZE) } else { Ok(scratch.as_bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(attributes: &[(&str, &str)], fixed: &[(&str, &str)], reserved: &str) -> Vec<(String, String)> {
        let mut labels = Labels::default();
        let mut scratch = JsonWriter::default().limited(LABELS_BYTES_MAX);
        fixed.iter().for_each(|(name, value)| labels.fixed(name, value).expect("small"));
        for (key, value) in attributes {
            let value = AnyValue::String(value.as_bytes());
            labels.attribute(Strategy::default(), "", key.as_bytes(), &value, &mut scratch).expect("small");
        }
        labels.settle(reserved, &[("env".into(), "test".into())]).expect("small");
        labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// Scenario: attributes whose keys become the same label, one twice, one empty, in an order that is not theirs.
    /// Guarantees: sorted by name; values joined in the order of the keys; of one key the last; no empty label.
    #[test]
    fn attributes_of_one_name_are_joined() {
        let attributes =
            [("z", "1"), ("a_b", "under"), ("a.b", "old"), ("a.b", "dot"), ("a", ""), ("env", "mine")];
        assert_eq!(labels(&attributes, &[], ""), pairs(&[("a_b", "dot;under"), ("env", "mine"), ("z", "1")]));
    }

    /// Scenario: attributes that are called as the resource's label, as a bucket's bound, as the metric's name, and as what
    /// such a one is renamed to.
    /// Guarantees: nothing is lost, nothing is replaced.
    #[test]
    fn an_attribute_gives_way_to_a_label_that_is_there() {
        let attributes = [("job", "mine"), ("le", "1"), ("exported_le", "2")];
        let all = labels(&attributes, &[("job", "theirs")], "le");
        let wanted = [
            ("env", "test"),
            ("exported_exported_le", "1"),
            ("exported_job", "mine"),
            ("exported_le", "2"),
            ("job", "theirs"),
        ];
        assert_eq!(all, pairs(&wanted));
    }

    /// Scenario: more labels, longer names, longer values than are taken; a list that is longer as text than anything may be.
    /// Guarantees: refused for their size, and the next point is not the worse for it.
    #[test]
    fn labels_are_bounded() {
        let mut scratch = JsonWriter::default().limited(LABELS_BYTES_MAX);
        let mut all = Labels::default();
        let mut add = |key: &str, value: &AnyValue<'_>| {
            all.attribute(Strategy::default(), "", key.as_bytes(), value, &mut scratch)
        };
        let long = "x".repeat(LABEL_VALUE_BYTES_MAX + 1);
        assert_eq!(add("k", &AnyValue::String(long.as_bytes())), Err(reason::SIZE));
        assert_eq!(add(&long, &AnyValue::Bool(true)), Err(reason::SIZE));
        let bytes = vec![0; LABELS_BYTES_MAX];
        assert_eq!(add("k", &AnyValue::Bytes(&bytes)), Err(reason::SIZE));
        assert_eq!(add("k", &AnyValue::Int(1)), Ok(()));
        let flood: Result<(), Reason> = (0..1_000).try_for_each(|_| add("k", &AnyValue::Int(1)));
        assert_eq!(flood, Err(reason::SIZE));
    }
}
