//! `flowguard sql` through the real program: from a pipe, and on a pseudo-terminal with everything
//! that a person presses; over a lake and on a server alike.

use tempfile::TempDir;

use crate::program::{Project, SMALL_DEMO};
use crate::served::Served;
use crate::terminal::Terminal;

const PROMPT: &str = "flowguard> ";
/// Rows at once, and then nothing for longer than anyone waits.
const LONG: &str = "SELECT order_id FROM silver.orders_cleaned UNION ALL \
                    SELECT CAST(count(*) AS STRING) FROM silver.orders_cleaned a \
                    CROSS JOIN silver.orders_cleaned b CROSS JOIN silver.orders_cleaned c \
                    CROSS JOIN silver.orders_cleaned d \
                    WHERE a.price + b.price + c.price + d.price < 0;";
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
/// Bracketed paste is switched off: a line has come to its end.
const LINE_ENDS: &str = "\x1b[?2004l";
const UP: &str = "\x1b[A";

#[test]
fn a_shell_asks_a_lake_and_a_server_alike() {
    let project = Project::of_demo(&SMALL_DEMO);
    let served = Served::start(&project, &[]);
    let address = format!("grpc://{}", served.address("flight"));
    let on_server = ["--remote", &address];
    for remote in [&[][..], &on_server] {
        statements_come_from_a_pipe(&project, remote);
        the_first_error_ends_a_pipe(&project, remote);
        a_person_types(&project, remote);
        ctrl_c_ends_the_statement_alone(&project, remote);
    }
    long_results_go_through_the_pager(&project);
    the_terminal_outlives_a_stopped_shell(&project);
}

fn statements_come_from_a_pipe(project: &Project, remote: &[&str]) {
    let arguments = [&["sql", "--output", "csv"], remote].concat();
    let input = "\\d gold.daily_metrics\n-- ; a comment\nSELECT\n  ';' AS text; SELECT 2 AS two;\n\
                 \\o json\nSELECT 3 AS three";
    let finished = project.run_with_input(&arguments, input).succeeded();
    assert_eq!(
        finished.stdout,
        "column_name,data_type,is_nullable\n\
         order_date,Date32,YES\n\
         orders,Int64,YES\n\
         gmv,\"Decimal128(18, 2)\",YES\n\
         unique_users,Int64,YES\n\
         avg_order_value,\"Decimal128(12, 2)\",YES\n\
         text\n;\ntwo\n2\n{\"three\":3}\n"
    );
    assert_eq!(finished.stderr, "");
}

fn the_first_error_ends_a_pipe(project: &Project, remote: &[&str]) {
    let arguments = [&["sql", "--output", "csv"], remote].concat();
    let input = "SELECT 1 AS one;\nSELECT 2 AS two; SELECT prise FROM silver.orders_cleaned;\n\
                 SELECT 4 AS four;\n";
    let finished = project.run_with_input(&arguments, input);
    assert_eq!(finished.stdout, "one\n1\ntwo\n2\n");
    finished.failed(
        1,
        &[],
        "stdin:2:25: unknown column `prise`\n    \
             SELECT 2 AS two; SELECT prise FROM silver.orders_cleaned;\n    \
             \u{20}                       ^^^^^\n    \
             hint: did you mean `price`?\n\n\
         error: the query is not valid\n",
    );
    project.run_with_input(&arguments, "\\exit").failed(
        1,
        &[],
        "error: there is no command `\\exit` like that\nhint: `\\?` shows all commands\n",
    );
    let unlike_text = project.run_with_input(&arguments, "\\o parquet\n");
    assert_eq!(unlike_text.code, Some(1));
}

fn a_person_types(project: &Project, remote: &[&str]) {
    let history = project.folder().join(".flowguard/sql_history");
    let _ = std::fs::remove_file(&history);
    let mut terminal = Terminal::start(project, &[&["sql"], remote].concat());
    terminal.shows("`\\?` for help");
    terminal.shows(PROMPT);
    // A table, a keyword and a column.
    terminal.press("SELECT sum(orders) AS completed FROM gold.dai\t");
    terminal.shows("gold.daily_metrics");
    terminal.press(" wher\t");
    terminal.shows("where");
    terminal.press(" order_d\t");
    terminal.shows("order_date");
    terminal.press(" IS NOT NULL;\r");
    terminal.shows("| 498 ");
    terminal.shows("1 rows in 0.");
    terminal.shows(PROMPT);
    // Lines until a semicolon.
    terminal.press("SELECT\r");
    terminal.press("  40 + 2 AS answer\r");
    terminal.press(";\r");
    terminal.shows("| 42 ");
    terminal.shows(PROMPT);
    // A mistake is shown, and the shell goes on.
    terminal.press("SELECT ordres FROM gold.daily_metrics;\r");
    terminal.shows("sql:1:8: unknown column `ordres`");
    terminal.shows("hint: did you mean `orders`?");
    terminal.shows("error: the query is not valid");
    terminal.shows(PROMPT);
    terminal.press("\\timing\r");
    terminal.shows("seconds are not shown");
    terminal.shows(PROMPT);
    terminal.press("\\d\r");
    terminal.shows("| silver       | user_sessions");
    terminal.shows("10 rows\r\n");
    terminal.shows(PROMPT);
    terminal.press(&format!("forgotten{CTRL_C}"));
    terminal.shows(LINE_ENDS);
    terminal.shows(PROMPT);
    terminal.press(CTRL_D);
    assert_eq!(terminal.ended(), Some(0));
    // The next shell knows what the last one was asked.
    let mut terminal = Terminal::start(project, &[&["sql"], remote].concat());
    terminal.shows(PROMPT);
    terminal.press(&format!("{UP}{UP}{UP}{UP}"));
    terminal.shows("40 + 2 AS answer");
    terminal.press("\r");
    terminal.shows("| 42 ");
    terminal.shows(PROMPT);
    terminal.press("\\q\r");
    assert_eq!(terminal.ended(), Some(0));
    let kept = std::fs::read_to_string(&history).unwrap();
    assert!(kept.contains("40 + 2 AS answer") && !kept.contains("forgotten"), "{kept}");
}

fn ctrl_c_ends_the_statement_alone(project: &Project, remote: &[&str]) {
    let project = project.clone().with("PAGER", "");
    let arguments = [&["sql", "--output", "csv"], remote].concat();
    let mut terminal = Terminal::start(&project, &arguments);
    terminal.shows(PROMPT);
    terminal.press(&format!("{LONG}\r"));
    terminal.shows("order_id\r\n");
    terminal.press(CTRL_C);
    terminal.shows("error: interrupted: the query was cancelled");
    terminal.shows(PROMPT);
    terminal.press("SELECT 6 * 7 AS answer;\r");
    terminal.shows("answer\r\n42\r\n");
    terminal.shows(PROMPT);
    terminal.press(CTRL_D);
    assert_eq!(terminal.ended(), Some(0));
}

fn long_results_go_through_the_pager(project: &Project) {
    let project = project.clone().with("PAGER", "sed -e 's/^/paged /'");
    let mut terminal = Terminal::start(&project, &["sql"]);
    terminal.shows(PROMPT);
    terminal.press("SELECT 1 AS short;\r");
    terminal.shows("\n| short");
    terminal.shows(PROMPT);
    terminal.press("SELECT order_id FROM silver.orders_cleaned LIMIT 24;\r");
    terminal.shows("paged | order_id");
    terminal.shows("24 rows in ");
    terminal.shows(PROMPT);
    terminal.press(CTRL_D);
    assert_eq!(terminal.ended(), Some(0));
}

fn the_terminal_outlives_a_stopped_shell(project: &Project) {
    let terminal = {
        let mut terminal = Terminal::start(project, &["sql"]);
        terminal.shows(PROMPT);
        terminal.terminate();
        terminal.shows("error: interrupted: the shell was stopped");
        terminal
    };
    assert_eq!(terminal.ended(), Some(130));
}

/// A server that is started anew knows no bearer of before: the shell logs in again by itself.
#[test]
fn a_shell_outlives_its_server() {
    let lake = TempDir::new().unwrap();
    let project = Project::on_lake(lake.path());
    let add = ["user", "add", "ana", "--role", "analyst", "--password-stdin"];
    project.run_with_input(&add, "sesame of ana").succeeded();
    let served = Served::start(&project, &["--only", "flight"]);
    let address = served.address("flight").to_string();
    let asker = project.clone().with("FLOWGUARD_REMOTE_PASSWORD", "sesame of ana");
    let remote = format!("grpc://{address}");
    let mut terminal = Terminal::start(&asker, &["sql", "--remote", &remote, "--user", "ana"]);
    terminal.shows(PROMPT);
    terminal.press("SELECT 1 AS one;\r");
    terminal.shows("| 1 ");
    terminal.shows(PROMPT);
    assert_eq!(served.stop(), Some(0));
    terminal.press("SELECT 2 AS two;\r");
    terminal.shows("error: the connection to the server failed");
    terminal.shows(PROMPT);
    let again = format!("--set=server.flight_address={address}");
    let _served = Served::start(&project, &["--only", "flight", &again]);
    terminal.press("SELECT 3 AS three;\r");
    terminal.shows("| 3 ");
}
