//! One helper shows what a payload becomes; the random documents are judged by serde_json.

use std::fmt::Write as _;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::*;

const MESSAGE_BYTES_MAX: usize = 4_096;

/// `"a int, b string not_null"`, as in a header.
fn columns(text: &str) -> Vec<Column> {
    let column = |text: &str| {
        let mut words = text.split_whitespace();
        Column {
            name: words.next().unwrap().to_owned(),
            column_type: words.next().unwrap().replace(';', ",").parse().unwrap(),
            not_null: words.next() == Some("not_null"),
            doc: None,
            was: None,
        }
    };
    text.split(',').filter(|text| !text.is_empty()).map(column).collect()
}

fn decoder(text: &str, unknown: UnknownFields) -> Decoder {
    Decoder::new("raw.test", &columns(text), None, unknown, MESSAGE_BYTES_MAX).unwrap()
}

fn message(payload: &[u8]) -> Message<'_> {
    let payload = Some(payload);
    Message {
        partition: 2,
        offset: 7,
        leader_epoch: None,
        timestamp_ms: None,
        key: None,
        headers: &[],
        payload,
    }
}

/// Every row as `name=value …`, without those columns whose name starts with an underscore.
fn show(batch: &RecordBatch) -> String {
    let mut text = String::new();
    let options = FormatOptions::default().with_null("null");
    for row in 0..batch.num_rows() {
        for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
            if !field.name().starts_with('_') || field.name() == RESCUED_COLUMN {
                let value = ArrayFormatter::try_new(array, &options).unwrap();
                write!(text, "{}={} ", field.name(), value.value(row)).unwrap();
            }
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text.trim_end_matches('\n').to_owned()
}

/// What `payload` becomes: the row, or `reason: error`.
fn check_with(unknown: UnknownFields, columns: &str, payload: &[u8]) -> String {
    let mut decoder = decoder(columns, unknown);
    match decoder.push(&message(payload), 0) {
        Ok(()) => show(&decoder.finish().unwrap()),
        Err(reject) => format!("{}: {}", reject.reason.as_str(), reject.error),
    }
}

fn check(columns: &str, payload: impl AsRef<[u8]>) -> String {
    check_with(UnknownFields::Ignore, columns, payload.as_ref())
}

/// One line per payload.
fn check_all(columns: &str, payloads: &[&str]) -> String {
    payloads.iter().map(|payload| check(columns, payload)).collect::<Vec<_>>().join("\n")
}

/// One line per value of the single column `a`.
fn check_values(column_type: &str, values: &[&str]) -> String {
    let column = format!("a {column_type}");
    let line = |value: &&str| check(&column, format!(r#"{{"a":{value}}}"#));
    values.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn one_row_of_every_type() {
    assert_eq!(
        check(
            "a boolean, b int, c bigint, d double, e decimal(10;2), f string, g binary, h date, i timestamp, j json",
            br#" { "j" : {"x": [1, 2]} , "a":true,"b":-1,"c":9223372036854775807,"d":1e-1,"e":12.5,
                "f":"pizza","g":"AP8=","h":"2026-03-29","i":"2026-03-29T02:30:00.5+01:00" } "#
        ),
        r#"a=true b=-1 c=9223372036854775807 d=0.1 e=12.50 f=pizza g=00ff h=2026-03-29 i=2026-03-29T01:30:00.500Z j={"x": [1, 2]}"#
    );
}

#[test]
fn what_is_not_a_payload() {
    let mut decoder = decoder("a int", UnknownFields::Ignore);
    let none = Message { payload: None, ..message(b"") };
    let long = vec![b' '; MESSAGE_BYTES_MAX + 1];
    let shown = [none, message(b""), message(&long)]
        .map(|message| decoder.push(&message, 0).unwrap_err())
        .map(|reject| format!("{}: {}", reject.reason.as_str(), reject.error));
    assert_eq!(
        shown,
        [
            "tombstone: the message has no payload",
            "empty: the payload has no bytes",
            "oversized: 4097 bytes are more than the limit of 4096",
        ]
    );
}

#[test]
fn what_is_not_json() {
    let shown = check_all(
        "a int",
        &[
            " ",
            "{",
            r#"{"a":1"#,
            r#"{"a":1,}"#,
            r#"{"a":1} x"#,
            r#"{"a":1}{"a":2}"#,
            r#"{"a":01}"#,
            r#"{"a":NaN}"#,
            r#"{"a":-Infinity}"#,
            r#"{'a':1}"#,
            r#"{"a":tru}"#,
            "\u{feff}{\"a\":1}",
            "[1,",
            "nul",
            r#"{"a":1,"a":2}"#,
            r#"{"a":null,"\u0061":2}"#,
            r#"{"x":1,"y":2,"x":3}"#,
            r#"{"x":"\ud800"}"#,
            "{\"x\":\"\n\"}",
        ],
    );
    assert_eq!(
        shown,
        "\
malformed: EOF while parsing a value at byte 1
malformed: EOF while parsing an object at byte 1
malformed: EOF while parsing an object at byte 6
malformed: trailing comma at byte 7
malformed: trailing characters at byte 8
malformed: trailing characters at byte 7
malformed: invalid number at byte 6
malformed: expected value at byte 5
malformed: invalid number at byte 6
malformed: key must be a string at byte 1
malformed: expected ident at byte 8
malformed: byte order mark at byte 0
malformed: EOF while parsing a value at byte 3
malformed: EOF while parsing a value at byte 3
malformed: `a`: the field is there twice
malformed: `a`: the field is there twice
malformed: `x`: the field is there twice
malformed: unexpected end of hex escape at byte 12
malformed: control character (\\u0000-\\u001F) found while parsing a string at byte 6"
    );
}

#[test]
fn invalid_utf8_is_malformed_wherever_it_stands() {
    let shown = [
        check("a string", b"{\"a\":\"\xff\"}"),
        check("a json", b"{\"a\":[\"\xff\"]}"),
        check("a int", b"{\"x\":\"\xff\"}"),
        check("a int", b"{\"\xff\":1}"),
        check("a int", b"{\"x\":{\"\xff\":1}}"),
        check("a int", b"{\"a\":\"wrong\",\"x\":\"\xff\"}"),
    ];
    assert_eq!(
        shown,
        [
            "malformed: invalid UTF-8 at byte 6",
            "malformed: invalid UTF-8 at byte 7",
            "malformed: invalid UTF-8 at byte 6",
            "malformed: invalid UTF-8 at byte 2",
            "malformed: invalid UTF-8 at byte 7",
            "malformed: invalid UTF-8 at byte 18",
        ]
    );
}

#[test]
fn bytes_that_are_not_json_are_malformed_whatever_else_is_wrong() {
    assert_eq!(
        check_all("a int, b int not_null", &[r#"{"a":"x","b":1}}"#, r#"{"b":null,"a":}"#, "[1] 2"]),
        "\
malformed: trailing characters at byte 15
malformed: expected value at byte 14
malformed: trailing characters at byte 4"
    );
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        (
            check("a json", format!(r#"{{"a":{open}{close}}}"#)),
            check("a int", format!("{open}{close}")),
        )
    };
    assert_eq!(nested(200).0, format!("a={}{}", "[".repeat(200), "]".repeat(200)));
    assert_eq!(nested(202).0, "malformed: recursion limit exceeded at byte 206");
    assert_eq!(nested(2_000).1, "malformed: recursion limit exceeded at byte 201");
}

#[test]
fn only_an_object_is_a_row() {
    assert_eq!(
        check_all("a int", &["[1]", "7", r#""text""#, "null", "{}"]),
        r#"wrong_type: expected one JSON object, found [1]
wrong_type: expected one JSON object, found 7
wrong_type: expected one JSON object, found "text"
wrong_type: expected one JSON object, found null
a=null"#
    );
}

#[test]
fn integers_come_from_integer_tokens_in_range() {
    assert_eq!(
        check_values("int", &["-2147483648", "2147483648", "1.0", "1e3", r#""1""#, "true", "-0"]),
        r#"a=-2147483648
wrong_type: `a`: expected int, found 2147483648
wrong_type: `a`: expected int, found 1.0
wrong_type: `a`: expected int, found 1e3
wrong_type: `a`: expected int, found "1"
wrong_type: `a`: expected int, found true
a=0"#
    );
    assert_eq!(
        check_values("bigint", &["-9223372036854775808", "9223372036854775808"]),
        "a=-9223372036854775808\nwrong_type: `a`: expected bigint, found 9223372036854775808"
    );
}

#[test]
fn doubles_are_finite_numbers() {
    assert_eq!(
        check_values("double", &["1", "-0.0", "1.7976931348623157e308", "1e309", r#""1""#]),
        r#"a=1.0
a=-0.0
a=1.7976931348623157e308
wrong_type: `a`: expected double, found 1e309 (out of range)
wrong_type: `a`: expected double, found "1""#
    );
}

#[test]
fn decimals_are_never_rounded() {
    assert_eq!(
        check_values(
            "decimal(10;2)",
            &[
                "12.50",
                r#""12.50""#,
                "12.5e1",
                "12.500",
                "12.505",
                "1e8",
                r#""12,50""#,
                r#""""#,
                "[]"
            ]
        ),
        r#"a=12.50
a=12.50
a=125.00
a=12.50
wrong_type: `a`: expected decimal(10,2), found 12.505 (too many fraction digits, and none is rounded away)
wrong_type: `a`: expected decimal(10,2), found 1e8 (out of range)
wrong_type: `a`: expected decimal(10,2), found "12,50"
wrong_type: `a`: expected decimal(10,2), found ""
wrong_type: `a`: expected decimal(10,2), found []"#
    );
}

#[test]
fn strings_keep_what_was_escaped() {
    assert_eq!(
        check_values(
            "string",
            &[r#""\"\\\/\b\f\n\r\t""#, r#""\ud83c\udf55 è 🍕""#, r#""a\u0000b""#, r#""""#, "1"]
        ),
        "a=\"\\/\u{8}\u{c}\n\r\t\na=🍕 è 🍕\na=a\0b\na=\nwrong_type: `a`: expected string, found 1"
    );
}

#[test]
fn binary_is_padded_base64() {
    assert_eq!(
        check_values("binary", &[r#""aGk=""#, r#""aG\u006b=""#, r#""""#, r#""aGk""#, r#""!""#]),
        r#"a=6869
a=6869
a=
wrong_type: `a`: expected binary (base64 text), found "aGk" (base64 with padding is wanted)
wrong_type: `a`: expected binary (base64 text), found "!" (base64 with padding is wanted)"#
    );
}

#[test]
fn dates_and_instants_are_texts_of_the_calendar() {
    assert_eq!(
        check_values("date", &[r#""2024-02-29""#, r#""2026-02-29""#, "20260101"]),
        r#"a=2024-02-29
wrong_type: `a`: expected date (`YYYY-MM-DD`), found "2026-02-29"
wrong_type: `a`: expected date (`YYYY-MM-DD`), found 20260101"#
    );
    assert_eq!(
        check_values(
            "timestamp",
            &[
                r#""2026-01-31T12:00:00""#,
                r#""2026-01-31T12:00:00.123456789-05:30""#,
                r#""2026-01-31""#,
                "1769860800000",
            ]
        ),
        r#"a=2026-01-31T12:00:00Z
a=2026-01-31T17:30:00.123456Z
wrong_type: `a`: expected timestamp (RFC 3339 text), found "2026-01-31"
wrong_type: `a`: expected timestamp (RFC 3339 text), found 1769860800000"#
    );
}

#[test]
fn json_columns_keep_the_text_as_it_stands() {
    assert_eq!(
        check_values("json", &[r#" {"b": 1e400, "a":"\u0041"} "#, r#""text""#, "null", "[1,]"]),
        r#"a={"b": 1e400, "a":"\u0041"}
a="text"
a=null
malformed: trailing comma at byte 8"#
    );
}

#[test]
fn a_required_value_is_neither_null_nor_absent() {
    assert_eq!(
        check_all(
            "a int not_null, b int",
            &[r#"{"a":1}"#, r#"{"a":null}"#, r#"{"b":1}"#, r#"{"A":1}"#]
        ),
        "\
a=1 b=null
missing_required: `a`: a value is required, but the field is null
missing_required: `a`: a value is required, but the field is absent
missing_required: `a`: a value is required, but the field is absent"
    );
}

#[test]
fn undeclared_fields_follow_the_policy() {
    let payload = r#"{"x":[1, 2],"a":1,"\"è\n":{"k":null}}"#.as_bytes();
    assert_eq!(check_with(UnknownFields::Ignore, "a int", payload), "a=1");
    assert_eq!(
        check_with(UnknownFields::Rescue, "a int", payload),
        r#"a=1 _rescued={"x":[1, 2],"\"è\n":{"k":null}}"#
    );
    assert_eq!(check_with(UnknownFields::Rescue, "a int", br#"{"a":1}"#), "a=1 _rescued=null");
    assert_eq!(
        check_with(UnknownFields::Fail, "a int", payload),
        "unknown_field: `x`: no column of that name is declared"
    );
}

#[test]
fn an_error_quotes_only_the_beginning_of_a_long_value() {
    let long = format!(r#"{{"a":"{}"}}"#, "è".repeat(1_000));
    assert_eq!(
        check("a int", long),
        format!("wrong_type: `a`: expected int, found \"{}…", "è".repeat(QUOTED_CHARS_MAX - 1))
    );
}

#[test]
fn fields_are_found_in_any_order() {
    let mut decoder = decoder("a int, b int, c int", UnknownFields::Ignore);
    for payload in [
        r#"{"a":1,"b":2,"c":3}"#,
        r#"{"c":3,"x":0,"b":2,"a":1}"#,
        r#"{"c":3,"b":2,"a":1}"#,
        r#"{"b":2}"#,
        r#"{"a":1,"c":3}"#,
    ] {
        decoder.push(&message(payload.as_bytes()), 0).unwrap();
    }
    assert_eq!(
        show(&decoder.finish().unwrap()),
        "a=1 b=2 c=3\na=1 b=2 c=3\na=1 b=2 c=3\na=null b=2 c=null\na=1 b=null c=3"
    );
}

#[test]
fn a_reject_between_two_rows_leaves_no_trace() {
    const ALL: &str = "a boolean, b int, c bigint, d double, e decimal(10;2), f string, g binary, h date, i timestamp, j json, z int not_null";
    let row = |n: u8, z: &str| {
        format!(
            r#"{{"extra":{n},"a":true,"b":{n},"c":{n},"d":{n},"e":{n},"f":"{n}","g":"AP8=","h":"2026-01-0{n}","i":"2026-01-0{n}T00:00:00Z","j":{n}{z}}}"#
        )
    };
    let good = [row(1, r#","z":1"#), row(3, r#","z":3"#)];
    let bad = [
        row(2, r#","z":"wrong""#),
        row(2, ""),
        row(2, r#","z":2} tail"#),
        row(2, r#","z":2,"b":2"#),
        row(2, r#","g":"!""#).replacen(r#""g":"AP8=","#, "", 1),
        r#"{"a":null,"f":null,"j":null,"i":null}"#.to_owned(),
    ];
    let decode = |payloads: &[&String]| {
        let time = Some("i");
        let columns = columns(ALL);
        let mut decoder =
            Decoder::new("t", &columns, time, UnknownFields::Rescue, MESSAGE_BYTES_MAX).unwrap();
        let accepted =
            payloads.iter().filter(|p| decoder.push(&message(p.as_bytes()), 5).is_ok()).count();
        let (bytes, touched) = (decoder.buffered_bytes(), decoder.touched());
        let batch = decoder.finish().unwrap();
        assert_eq!((decoder.rows(), decoder.touched().is_empty()), (0, true));
        (accepted, bytes, touched, batch)
    };
    let expected = decode(&[&good[0], &good[1]]);
    assert_eq!(expected.0, 2);
    for reject in &bad {
        assert_eq!(decode(&[reject, &good[0], reject, reject, &good[1], reject]), expected);
    }
}

#[test]
fn metadata_says_where_a_message_came_from() {
    let mut decoder = decoder("a int", UnknownFields::Ignore);
    let headers = [("trace".to_owned(), Some(b"\x01".to_vec())), ("none".to_owned(), None)];
    let full = Message {
        leader_epoch: None,
        timestamp_ms: Some(1_500),
        key: Some(b"k"),
        headers: &headers,
        ..message(br#"{"a":1}"#)
    };
    decoder.push(&full, 2_000_000).unwrap();
    decoder.push(&Message { offset: 8, ..message(b"{}") }, 3_000_000).unwrap();
    assert_eq!(
        arrow::util::pretty::pretty_format_batches(&[decoder.finish().unwrap()]).unwrap().to_string(),
        "\
+---+----------+------------+---------+--------------------------+------+-------------------------------------------------+----------------------+
| a | _topic   | _partition | _offset | _timestamp               | _key | _headers                                        | _ingested_at         |
+---+----------+------------+---------+--------------------------+------+-------------------------------------------------+----------------------+
| 1 | raw.test | 2          | 7       | 1970-01-01T00:00:01.500Z | 6b   | [{key: trace, value: 01}, {key: none, value: }] | 1970-01-01T00:00:02Z |
|   | raw.test | 2          | 8       |                          |      |                                                 | 1970-01-01T00:00:03Z |
+---+----------+------------+---------+--------------------------+------+-------------------------------------------------+----------------------+"
    );
}

/// Nanoseconds that a producer wrote for milliseconds were stored as the largest number.
#[test]
fn a_time_that_no_calendar_holds_is_none() {
    let mut decoder = decoder("a int", UnknownFields::Ignore);
    let given =
        [0, -62_135_596_800_000, 253_402_300_799_999, 253_402_300_800_000, i64::MIN, i64::MAX];
    for millis in given.into_iter().chain([1_772_355_600_000_000_000]) {
        let message = Message { timestamp_ms: Some(millis), ..message(br#"{"a":1}"#) };
        decoder.push(&message, 0).unwrap();
    }
    let rows = decoder.finish().unwrap();
    let times = rows.column_by_name("_timestamp").unwrap();
    let times = times.as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
    let kept = [Some(0), Some(-62_135_596_800_000_000), Some(253_402_300_799_999_000)];
    let expected: Vec<Option<i64>> = kept.into_iter().chain([None; 4]).collect();
    assert_eq!(times.iter().collect::<Vec<_>>(), expected);
}

#[test]
fn the_schema_is_the_declared_columns_then_where_they_came_from() {
    let columns =
        columns("a boolean not_null, b decimal(10;2), c binary, d date, e json, f double");
    let schema = schema_of(&columns, UnknownFields::Rescue);
    let lines: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| {
            let not_null = if field.is_nullable() { "" } else { " not null" };
            format!("{} {}{not_null}", field.name(), field.data_type())
        })
        .collect();
    assert_eq!(
        lines,
        [
            "a Boolean not null",
            "b Decimal128(10, 2)",
            "c Binary",
            "d Date32",
            "e Utf8",
            "f Float64",
            "_rescued Utf8",
            "_topic Utf8 not null",
            "_partition Int32 not null",
            "_offset Int64 not null",
            "_timestamp Timestamp(µs, \"UTC\")",
            "_key Binary",
            r#"_headers List(Struct("key": Utf8, "value": Binary), field: 'element')"#,
            "_ingested_at Timestamp(µs, \"UTC\") not null",
        ]
    );
}

#[test]
fn dead_letters_keep_the_bytes_and_the_reason() {
    let mut letters = DeadLetters::new("raw.test");
    let mut decoder = decoder("a int", UnknownFields::Ignore);
    for payload in [None, Some(b"".as_slice()), Some(b"\xff")] {
        let message = Message { payload, ..message(b"") };
        let reject = decoder.push(&message, 0).unwrap_err();
        letters.push(&message, &reject, "orders", 0);
    }
    assert_eq!(letters.rows(), 3);
    let batch = letters.finish().unwrap();
    assert_eq!(batch.schema(), DeadLetters::schema());
    let own = batch.project(&[0, 1, 2, 3, 6]).unwrap();
    assert!(own.column(3).is_null(0) && own.column(3).is_valid(1));
    assert_eq!(
        arrow::util::pretty::pretty_format_batches(&[own]).unwrap().to_string(),
        "\
+----------+-----------+----------------------------+---------+---------+
| pipeline | reason    | error                      | payload | _offset |
+----------+-----------+----------------------------+---------+---------+
| orders   | tombstone | the message has no payload |         | 7       |
| orders   | empty     | the payload has no bytes   |         | 7       |
| orders   | malformed | expected value at byte 0   | ff      | 7       |
+----------+-----------+----------------------------+---------+---------+"
    );
    assert_eq!((letters.rows(), letters.finish().unwrap().num_rows()), (0, 0));
}

#[test]
fn touched_hours_are_those_of_accepted_rows() {
    let columns = columns("at timestamp, n int");
    let mut decoder =
        Decoder::new("t", &columns, Some("at"), UnknownFields::Ignore, MESSAGE_BYTES_MAX).unwrap();
    for (at, n) in [
        ("\"2026-01-01T10:59:59.999999Z\"", "1"),
        ("\"1970-01-01T00:00:00Z\"", "1"),
        ("\"2026-01-01T12:00:00Z\"", "\"reject\""),
        ("null", "1"),
    ] {
        let _ = decoder.push(&message(format!(r#"{{"at":{at},"n":{n}}}"#).as_bytes()), 0);
    }
    let touched: Vec<String> = decoder.touched().iter().map(ToString::to_string).collect();
    assert_eq!(
        touched,
        ["1970-01-01T00:00:00Z/1970-01-01T01:00:00Z", "2026-01-01T10:00:00Z/2026-01-01T11:00:00Z"]
    );
}

#[test]
fn columns_that_cannot_be_are_refused() {
    let refuse = |text: &str, time: Option<&str>| {
        let columns = columns(text);
        let made = Decoder::new("t", &columns, time, UnknownFields::Ignore, MESSAGE_BYTES_MAX);
        made.err().unwrap().to_string()
    };
    assert_eq!(refuse("_offset int", None), "column name `_offset` is reserved");
    assert_eq!(refuse("_rescued json", None), "column name `_rescued` is reserved");
    assert_eq!(refuse("a int, b int, a int", None), "column `a` is declared twice");
    assert_eq!(refuse("a int", Some("at")), "time column `at` is not declared");
    assert_eq!(refuse("at date", Some("at")), "time column `at` is date, not timestamp");
}

#[test]
fn the_one_that_is_there_twice_of_a_hundred_thousand_unknown_fields_is_found() {
    let mut payload = String::from("{");
    for n in 0..100_000 {
        write!(payload, "\"{n}\":0,").unwrap();
    }
    payload.push_str("\"7\":0}");
    let mut decoder = Decoder::new("t", &[], None, UnknownFields::Rescue, payload.len()).unwrap();
    let reject = decoder.push(&message(payload.as_bytes()), 0).unwrap_err();
    assert_eq!(reject.error, "`7`: the field is there twice");
}

// Random documents, with serde_json as the judge.

const SEED: u64 = 42;
const DOCUMENTS: usize = 20_000;
const JUDGED_COLUMNS: &str = "s string, n bigint, d double, b boolean, j json";

/// A JSON object as its fields in order, repeated ones included.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct Documents(ChaCha8Rng);

impl Documents {
    fn below(&mut self, bound: u32) -> u32 {
        self.0.next_u32() % bound
    }

    fn space(&mut self) -> &'static str {
        ["", "", "", " ", "\n", "\t \r"][self.below(6) as usize]
    }

    fn string(&mut self) -> String {
        let pieces = [
            "a",
            "Z9",
            "è",
            "🍕",
            r"\n",
            r"\u0000",
            r"\ud83c\udf55",
            r#"\""#,
            r"\/",
            " ",
            "\u{7f}",
        ];
        let length = self.below(20);
        let text: String =
            (0..length).map(|_| pieces[self.below(pieces.len() as u32) as usize]).collect();
        format!("\"{text}\"")
    }

    fn number(&mut self) -> String {
        let integer = self.0.next_u64() as i64 >> self.below(64);
        match self.below(4) {
            0 => format!("{integer}.{}", self.below(1_000_000)),
            1 => format!("{integer}e{}", self.below(40) as i32 - 20),
            _ => integer.to_string(),
        }
    }

    fn value(&mut self, depth: u32) -> String {
        match self.below(if depth == 0 { 6 } else { 8 }) {
            0 => "null".to_owned(),
            1 => "true".to_owned(),
            2 => "false".to_owned(),
            3 => self.string(),
            4 | 5 => self.number(),
            6 => {
                let items: Vec<String> =
                    (0..self.below(4)).map(|_| self.value(depth - 1)).collect();
                format!("[{}]", items.join(","))
            }
            _ => self.object(depth - 1),
        }
    }

    fn object(&mut self, depth: u32) -> String {
        let mut text = String::from("{");
        for n in 0..self.below(7) {
            let key = match self.below(8) {
                0 => self.string(),
                n => format!("\"{}\"", ["s", "n", "d", "b", "j", "\\u0073", "x"][n as usize - 1]),
            };
            let value = match key.as_str() {
                "\"s\"" => self.string(),
                "\"n\"" | "\"d\"" => self.number(),
                _ => self.value(depth),
            };
            let comma = if n > 0 { "," } else { "" };
            let (s1, s2, s3) = (self.space(), self.space(), self.space());
            write!(text, "{comma}{s1}{key}{s2}:{s3}{value}").unwrap();
        }
        text + self.space() + "}"
    }

    /// Half of the documents are damaged in one place.
    fn next(&mut self) -> Vec<u8> {
        let mut bytes = self.object(3).into_bytes();
        let at = self.below(bytes.len() as u32) as usize;
        let damage = b"\"\\{}[]:,0-.eutn \x00\x1f\xc3\xa8\xff"[self.below(20) as usize];
        match self.below(6) {
            0 => bytes[at] = damage,
            1 => bytes.insert(at, damage),
            2 => bytes.truncate(at.max(1)),
            _ => {}
        }
        bytes
    }
}

/// What serde_json makes of a document: `None` for malformed, else whether the fields fit.
fn judge(bytes: &[u8]) -> Option<Result<Vec<(String, Value)>, RejectReason>> {
    if serde_json::from_slice::<Value>(bytes).is_err() {
        return None;
    }
    let Ok(Fields(fields)) = serde_json::from_slice::<Fields>(bytes) else {
        return Some(Err(RejectReason::WrongType));
    };
    for (position, (name, value)) in fields.iter().enumerate() {
        if fields[..position].iter().any(|(earlier, _)| earlier == name)
            && JUDGED_COLUMNS.split(", ").any(|column| column.split(' ').next() == Some(name))
        {
            return None;
        }
        let fits = match name.as_str() {
            "s" => value.is_string(),
            "n" => value.is_i64() || value.as_f64() == Some(0.0) && bytes_hold_minus_zero(bytes),
            "d" => value.is_number(),
            "b" => value.is_boolean(),
            _ => true,
        };
        if !fits && !value.is_null() {
            return Some(Err(RejectReason::WrongType));
        }
    }
    let mut names: Vec<&String> = fields.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return None;
    }
    Some(Ok(fields))
}

/// serde_json refuses a number that no double holds, although it is JSON.
fn is_beyond_doubles(bytes: &[u8]) -> bool {
    let judged = serde_json::from_slice::<Value>(bytes);
    judged.is_err_and(|error| error.to_string().starts_with("number out of range"))
}

/// serde_json reads the integer token `-0` as a float, and only it.
fn bytes_hold_minus_zero(bytes: &[u8]) -> bool {
    bytes.windows(3).any(|w| w[..2] == *b"-0" && !matches!(w[2], b'.' | b'e' | b'E' | b'0'..=b'9'))
}

fn assert_same(batch: &RecordBatch, name: &str, expected: &Value, document: &str) {
    let Some(array) = batch.column_by_name(name) else {
        return;
    };
    if expected.is_null() {
        return assert!(array.is_null(0), "{name} in {document}");
    }
    let found = match name {
        "s" => Value::from(array.as_string::<i32>().value(0)),
        "n" => Value::from(array.as_primitive::<Int64Type>().value(0)),
        "d" => {
            let found = array.as_primitive::<Float64Type>().value(0);
            // serde_json's own reading may be one unit in the last place off.
            let expected = expected.as_f64().unwrap();
            return assert!(
                (found - expected).abs() <= expected.abs() * f64::EPSILON,
                "{document}"
            );
        }
        "b" => Value::from(array.as_boolean().value(0)),
        _ => serde_json::from_str(array.as_string::<i32>().value(0)).unwrap(),
    };
    let is_minus_zero = name == "n" && expected.as_f64() == Some(0.0);
    assert!(found == *expected || is_minus_zero, "{name}: {found} in {document}");
}

#[test]
fn random_documents_are_judged_as_serde_json_judges_them() {
    let mut documents = Documents(ChaCha8Rng::seed_from_u64(SEED));
    let mut decoder = decoder(JUDGED_COLUMNS, UnknownFields::Rescue);
    let mut counts = [0; 3];
    for _ in 0..DOCUMENTS {
        let bytes = documents.next();
        let document = String::from_utf8_lossy(&bytes).into_owned();
        if is_beyond_doubles(&bytes) {
            continue;
        }
        let decoded = decoder.push(&message(&bytes), 0);
        match (judge(&bytes), decoded) {
            (None, Err(reject)) => {
                assert_eq!(reject.reason, RejectReason::Malformed, "{document}");
                counts[0] += 1;
            }
            (Some(Err(reason)), Err(reject)) => {
                assert_eq!(reject.reason, reason, "{document}: {}", reject.error);
                counts[1] += 1;
            }
            (Some(Ok(fields)), Ok(())) => {
                let batch = decoder.finish().unwrap();
                for (name, value) in &fields {
                    assert_same(&batch, name, value, &document);
                }
                let unknown = fields
                    .iter()
                    .filter(|(name, _)| name.len() != 1 || !"sndbj".contains(name.as_str()));
                let unknown: serde_json::Map<_, _> = unknown.cloned().collect();
                let unknown = if unknown.is_empty() { Value::Null } else { Value::Object(unknown) };
                assert_same(&batch, RESCUED_COLUMN, &unknown, &document);
                counts[2] += 1;
            }
            (judged, decoded) => panic!("{document}: serde_json {judged:?}, decoder {decoded:?}"),
        }
    }
    assert!(counts.iter().all(|count| *count > DOCUMENTS / 20), "one-sided documents: {counts:?}");
}
