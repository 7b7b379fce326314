//! What a statement's own values are wrong for is the user's error, by every function and over every
//! value: never an unavailable server and never an internal error.

use std::collections::BTreeMap;

use crate::program::Project;
use crate::served::{Reply, Request, Served};
use crate::topic_in_memory::Random;

/// Function and arguments: of constants, which are computed while a statement is planned, and of
/// columns, which are computed when it runs.
const WRONG: &[(&str, &[&str])] = &[
    ("regexp_replace(#, #, #)", &["'a'", "'('", "'b'"]),
    ("regexp_replace(#, #, #, #)", &["'a'", "'a'", "'b'", "'z'"]),
    ("regexp_like(#, #)", &["'a'", "'('"]),
    ("regexp_like(#, #, #)", &["'a'", "'a'", "'zz'"]),
    ("array_to_string(regexp_match(#, #), ',')", &["'a'", "'[1'"]),
    ("regexp_count(#, #)", &["'a'", "'('"]),
    ("regexp_count(#, #, #)", &["'a'", "'a'", "0"]),
    ("regexp_instr(#, #)", &["'a'", "'*'"]),
    ("# ~ #", &["'a'", "'('"]),
    ("# ~* #", &["'a'", "'('"]),
    ("# !~ #", &["'a'", "'a{9999999}'"]),
    ("CAST(# AS INT)", &["'a'"]),
    ("CAST(# AS DATE)", &["'2026-13-01'"]),
    ("CAST(# AS TIMESTAMP)", &["'x'"]),
    ("CAST(# AS TIME)", &["'x'"]),
    ("CAST(# AS INTERVAL)", &["'x'"]),
    ("CAST(# AS BOOLEAN)", &["'x'"]),
    ("CAST(# AS DECIMAL(5, 2))", &["'x'"]),
    ("CAST(# AS DECIMAL(3, 0))", &["123456"]),
    ("CAST(# AS TINYINT)", &["300"]),
    ("CAST(# AS INT)", &["1e300"]),
    ("substr(#, #, #)", &["'abc'", "1", "-1"]),
    ("split_part(#, #, #)", &["'a,b'", "','", "0"]),
    ("decode(#, #)", &["'*'", "'base64'"]),
    ("decode(#, #)", &["'zz'", "'hex'"]),
    ("decode(#, #)", &["'aa'", "'rot13'"]),
    ("digest(#, #)", &["'a'", "'md7'"]),
    ("chr(#)", &["-1"]),
    ("to_timestamp(#)", &["'x'"]),
    ("to_timestamp(#, #)", &["'2026'", "'%q'"]),
    ("to_date(#, #)", &["'2026'", "'%q'"]),
    ("to_time(#, #)", &["'12'", "'%q'"]),
    ("to_unixtime(#)", &["'x'"]),
    ("to_char(#, #)", &["DATE '2026-01-01'", "'%'"]),
    ("date_trunc('century', #)", &["TIMESTAMP '2026-01-01'"]),
    ("date_part('fortnight', #)", &["TIMESTAMP '2026-01-01'"]),
    ("date_bin(INTERVAL '0 s', #)", &["TIMESTAMP '2026-01-01'"]),
    ("make_date(#, #, #)", &["2026", "2", "30"]),
    ("make_time(#, #, #)", &["25", "0", "0"]),
    ("# + INTERVAL '99999999 years'", &["TIMESTAMP '2026-01-01'"]),
    ("# AT TIME ZONE 'Mars/Base'", &["TIMESTAMP '2026-01-01'"]),
    ("from_unixtime(#, 'Mars/Base')", &["0"]),
    ("# / #", &["1", "0"]),
    ("# % #", &["1", "0"]),
    ("# / #", &["1.0", "0"]),
    ("abs(#)", &["(-9223372036854775807 - 1)"]),
    ("factorial(#)", &["50"]),
    ("lcm(#, #)", &["9223372036854775807", "2"]),
    ("sqrt(#)", &["-1"]),
    ("power(#, #)", &["0", "-1"]),
    ("array_element(#, #)", &["[1]", "9223372036854775807"]),
    ("array_avg(#)", &["[[1]]"]),
    ("array_distance(#, #)", &["[1.0]", "[1.0, 2.0]"]),
    ("map(#, #)", &["[1, 1]", "[2, 3]"]),
    ("min(#)", &["map(['k'], [1])"]),
    ("approx_percentile_cont(#, 2)", &["1"]),
    ("first_value() OVER ()", &[]),
    ("last_value() OVER ()", &[]),
    ("lag() OVER ()", &[]),
    ("ntile(0) OVER ()", &[]),
    ("union_tag(#)", &["1"]),
];

/// Of a statement too.
const TOO_MUCH: &[(&str, &[&str])] = &[
    ("repeat(#, #)", &["'x'", "9223372036854775807"]),
    ("repeat(#, #)", &["'xyz'", "2000000000"]),
    ("lpad(#, #)", &["'a'", "9223372036854775807"]),
    ("rpad(#, #)", &["'a'", "2147483648"]),
    ("array_repeat(#, #)", &["'a'", "9223372036854775807"]),
    ("array_resize(#, #)", &["[1]", "4000000000"]),
    ("range(#, #)", &["1", "9223372036854775807"]),
];

fn ask(served: &Served, sql: &str) -> Reply {
    let request = Request {
        method: "POST",
        path: "/api/v1/query",
        headers: &[("content-type", "text/plain")],
        body: sql.as_bytes(),
    };
    served.ask(&request)
}

/// `call` with constants, and with columns of the same values.
fn forms(call: &str, values: &[&str]) -> Vec<String> {
    let with = |values: &[String]| {
        let mut parts = call.split('#');
        let mut text = parts.next().unwrap_or_default().to_owned();
        for (value, part) in values.iter().zip(parts) {
            text.push_str(value);
            text.push_str(part);
        }
        text
    };
    let constants: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
    let mut forms = vec![format!("SELECT {} AS x", with(&constants))];
    if !values.is_empty() {
        let columns: Vec<String> = (0..values.len()).map(|at| format!("c{at}")).collect();
        let (row, names) = (values.join(", "), columns.join(", "));
        forms.push(format!("SELECT {} AS x FROM (VALUES ({row})) t({names})", with(&columns)));
    }
    forms
}

#[test]
fn bad_arguments_of_functions_are_the_users_error() {
    let project = Project::of_models(&[]);
    let served = Served::start(&project, &[]);
    let mut wrong = BTreeMap::new();
    for (cases, status, kind) in [(WRONG, 400, "invalid"), (TOO_MUCH, 429, "exhausted")] {
        for sql in cases.iter().flat_map(|(call, values)| forms(call, values)) {
            let reply = ask(&served, &sql);
            if (reply.status, reply.json()["kind"].as_str()) != (status, Some(kind)) {
                wrong.insert(sql, format!("{} {}", reply.status, reply.text()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for sql in ["SELECT regexp_replace('a', '(', 'b')", "SELECT 1 / 0", "SELECT array_avg([[1]])"] {
        let refused = project.run(&["query", sql]);
        assert_eq!(refused.code, Some(1), "{sql}: {}", refused.stderr);
    }
}

#[test]
fn a_regular_expression_was_an_unavailable_server() {
    let project = Project::of_models(&[]);
    project.run(&["query", "SELECT regexp_replace('a', '(', 'b')"]).failed(
        1,
        &[],
        "error: the query failed: the regular expression is not valid: unclosed group\n",
    );
}

#[test]
fn an_unknown_time_zone_is_named() {
    let project = Project::of_models(&[]);
    project.run(&["query", "SELECT now() AT TIME ZONE 'Europe/Rom'"]).failed(
        1,
        &[],
        "error: the query failed: unknown time zone `Europe/Rom`\nhint: did you mean `Europe/Rome`?\n",
    );
}

/// Of every type, at its ends.
const VALUES: &[&str] = &[
    "NULL",
    "0",
    "-1",
    "9223372036854775807",
    "(-9223372036854775807 - 1)",
    "CAST(1 AS TINYINT)",
    "1.5",
    "CAST('99999999999999999999999999999999999999' AS DECIMAL(38,0))",
    "1e300",
    "CAST('nan' AS DOUBLE)",
    "''",
    "'('",
    "'%q'",
    "'day'",
    "'2026-01-01'",
    "'é🙂'",
    "X'ff00'",
    "true",
    "DATE '9999-12-31'",
    "TIMESTAMP '0001-01-01T00:00:00'",
    "TIME '12:00:00'",
    "INTERVAL '1 month'",
    "[1, 2]",
    "['a', NULL]",
    "[[1]]",
    "make_array()",
    "struct(1, 'a')",
    "map(['k'], [1])",
    "arrow_cast('a', 'Dictionary(Int32, Utf8)')",
    "arrow_cast(5, 'Duration(Second)')",
];

/// Six calls of every function with values at random, of a seed.
#[test]
fn no_call_of_any_function_is_an_internal_error() {
    let project = Project::of_models(&[]);
    let served = Served::start(&project, &[]);
    let functions = "SELECT DISTINCT routine_name AS name, function_type AS type \
                     FROM information_schema.routines ORDER BY name, type";
    let listed = ask(&served, functions).succeeded();
    let mut random = Random(16);
    let mut pick = |count: usize| usize::try_from(random.below(count as u64)).unwrap();
    let (mut wrong, mut calls) = (BTreeMap::new(), 0);
    for line in listed.lines() {
        let function: serde_json::Value = serde_json::from_str(line).unwrap();
        let (name, kind) = (function["name"].as_str().unwrap(), function["type"].as_str().unwrap());
        if kind == "TABLE" {
            continue;
        }
        for arguments in [0, 1, 2, 1, 2, 3] {
            let values: Vec<&str> = (0..arguments).map(|_| VALUES[pick(VALUES.len())]).collect();
            let over = if kind == "WINDOW" { " OVER ()" } else { "" };
            let call = format!("\"{name}\"({}){over}", vec!["#"; arguments].join(", "));
            let forms = forms(&call, &values);
            let sql = &forms[pick(forms.len())];
            let reply = ask(&served, sql);
            calls += 1;
            if !matches!(reply.status, 200 | 400 | 429) {
                wrong.insert(sql.clone(), format!("{} {}", reply.status, reply.text()));
            }
        }
    }
    assert!(calls > 1_500, "{calls} calls");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
