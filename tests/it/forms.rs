//! Rows in forms of text, the same over HTTP, over Flight and on the command line: numbers that JSON
//! has not, and columns of one name.

use arrow::ipc::reader::StreamReader;

use crate::program::{Project, model};
use crate::served::{Request, Served};

/// Statement, its JSON, and its CSV if it has one.
const CASES: &[(&str, &str, Option<&str>)] = &[
    (
        "SELECT CAST('nan' AS DOUBLE) AS a, CAST('inf' AS REAL) AS b, CAST('-inf' AS DOUBLE) AS c, 1e0 AS d",
        r#"{"a":"NaN","b":"Infinity","c":"-Infinity","d":1.0}"#,
        Some("a,b,c,d NaN,inf,-inf,1.0"),
    ),
    (
        "SELECT [CAST('nan' AS DOUBLE), NULL] AS l, named_struct('x', CAST('inf' AS DOUBLE)) AS s, map(['k'], [CAST('-inf' AS DOUBLE)]) AS m",
        r#"{"l":["NaN",null],"s":{"x":"Infinity"},"m":{"k":"-Infinity"}}"#,
        None,
    ),
    ("SELECT map([1, 2], ['a', NULL]) AS m", r#"{"m":{"1":"a","2":null}}"#, None),
    ("SELECT 1 AS a, 2 AS a", r#"{"a":1,"a_2":2}"#, Some("a,a_2 1,2")),
    ("SELECT 1 AS a, 2 AS a, 3 AS a_2", r#"{"a":1,"a_3":2,"a_2":3}"#, Some("a,a_3,a_2 1,2,3")),
    (
        "SELECT * FROM (VALUES (1, 7)) a(k, x) JOIN (VALUES (1, 8)) b(k, y) ON a.k = b.k",
        r#"{"k":1,"x":7,"k_2":1,"y":8}"#,
        Some("k,x,k_2,y 1,7,1,8"),
    ),
    ("SELECT *, n FROM silver.one", r#"{"n":7,"n_2":7}"#, Some("n,n_2 7,7")),
    ("SELECT n, one.n FROM silver.one", r#"{"n":7,"n_2":7}"#, Some("n,n_2 7,7")),
    (
        "SELECT CAST(n AS BIGINT), CAST(n AS DOUBLE) FROM silver.one",
        r#"{"n":7,"n_2":7.0}"#,
        Some("n,n_2 7,7.0"),
    ),
    (
        "SELECT 1 AS a, 2 AS b UNION SELECT 1, 1 ORDER BY b",
        "{\"a\":1,\"b\":1} {\"a\":1,\"b\":2}",
        Some("a,b 1,1 1,2"),
    ),
    ("SELECT count(*) AS n FROM (SELECT 1, 1)", r#"{"n":1}"#, Some("n 1")),
    ("SELECT FROM silver.one", "{}", None),
];

#[test]
fn a_value_is_kept_in_every_form_of_text() {
    let one = model("kind: full", "SELECT 7 AS n");
    let project = Project::of_models(&[("silver/one", &one)]);
    project.run(&["run"]).succeeded();
    let served = Served::start(&project, &[]);
    let flight = format!("grpc://{}", served.address("flight"));
    let lines = |text: String| text.lines().collect::<Vec<_>>().join(" ");
    for (sql, json, csv) in CASES {
        for (form, accept, right) in
            [("json", "application/json", Some(*json)), ("csv", "text/csv", *csv)]
        {
            let Some(right) = right else { continue };
            assert_eq!(lines(ask(&served, sql, accept).succeeded()), right, "{sql} over HTTP");
            let local = ["query", "--output", form, sql];
            let remote = [&local[..], &["--remote", &flight]].concat();
            for arguments in [&local[..], &remote] {
                let said = project.run(arguments).succeeded().stdout;
                assert_eq!(lines(said), right, "{arguments:?}");
            }
        }
    }
}

fn ask(served: &Served, sql: &str, accept: &str) -> crate::served::Reply {
    let headers = [("content-type", "text/plain"), ("accept", accept)];
    served.ask(&Request {
        method: "POST",
        path: "/api/v1/query",
        headers: &headers,
        body: sql.as_bytes(),
    })
}

#[test]
fn arrow_and_tables_on_the_screen_keep_the_names_that_a_statement_gave() {
    let project = Project::of_models(&[]);
    let served = Served::start(&project, &[]);
    let sql = "SELECT 1 AS a, 2 AS a";
    let reply = ask(&served, sql, "application/vnd.apache.arrow.stream");
    let schema = StreamReader::try_new(reply.body.as_slice(), None).unwrap().schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["a", "a"]);
    let flight = format!("grpc://{}", served.address("flight"));
    for remote in [&[][..], &["--remote", &flight]] {
        let shown = project.run(&[&["query", sql], remote].concat()).succeeded().stdout;
        assert_eq!(shown.lines().nth(1), Some("| a | a |"), "{shown}");
    }
}

#[test]
fn a_name_that_a_statement_gives_twice_stays_ambiguous_within_it() {
    let project = Project::of_models(&[]);
    let sql = "SELECT x FROM (SELECT 1 AS x, 2 AS x)";
    let refused = project.run(&["query", sql]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
}
