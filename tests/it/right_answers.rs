//! Statements that the engine answers wrongly by itself, each of its kind, and what they must answer.
//! `differential` looks for others.

use std::collections::BTreeMap;

use crate::answers::over_http;
use crate::program::{Project, model};
use crate::served::{Request, Served};

/// Statement, and its rows as CSV: a comma between columns, a blank between rows, `""` for NULL alone in its row.
const RIGHT: &[(&str, &str)] = &[
    // Sums of different values in frames that move.
    (
        "SELECT sum(DISTINCT n) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM (VALUES (1, 5), (2, 5), (3, 7), (4, NULL), (5, NULL), (6, 5)) t(id, n) ORDER BY id",
        "5 5 12 7 \"\" 5",
    ),
    (
        "SELECT sum(DISTINCT n) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM (VALUES (1, 1.5), (2, 1.50), (3, 2.25)) t(id, n) ORDER BY id",
        "1.50 1.50 3.75",
    ),
    // A condition between columns of the same name in two tables, below what is computed.
    (
        "SELECT c.k, c.s || c.id FROM (VALUES (1, 5, 'x'), (2, 6, 'y')) a(id, k, s) JOIN (VALUES (3, 7, 'x'), (4, 1, 'y')) b(id, k, s) ON a.k > 5 FULL JOIN (VALUES (8, 1, 'v'), (9, 3, 'w')) c(id, k, s) ON a.k > 5 WHERE 1 IS DISTINCT FROM b.k ORDER BY 1",
        "1,v8 3,w9",
    ),
    // Comparisons with all of a set of floats that have no number between them.
    (
        "SELECT count(*) FROM (VALUES (CAST('-inf' AS DOUBLE)), (CAST('inf' AS DOUBLE)), (CAST('nan' AS DOUBLE))) a(y) WHERE y <> ANY (SELECT y FROM (VALUES (CAST('-inf' AS DOUBLE)), (CAST('inf' AS DOUBLE)), (CAST('nan' AS DOUBLE))) b(y) WHERE b.y = a.y)",
        "0",
    ),
    // A column that equals what is computed of it.
    (
        "SELECT k, max(n) OVER (PARTITION BY k) FROM (VALUES (0, 7), (1, 8), (0, 9)) t(k, n) WHERE k + k = k",
        "0,9 0,9",
    ),
    // Texts put together.
    (
        "SELECT a || '-' || b || 7, 'x' || a, a || NULL IS NULL FROM (VALUES ('é', 1.50), (NULL, 2), ('', 3)) t(a, b) ORDER BY b",
        "é-1.507,xé,true ,,true -3.007,x,true",
    ),
    // Names of subqueries that are of the query outside, or of one of their own tables.
    (
        "SELECT n FROM (VALUES (5, 1)) o(n, k) WHERE EXISTS (SELECT 1 FROM (VALUES (1)) a(k), (VALUES (2)) b(k) WHERE o.k = a.k AND n = 5)",
        "5",
    ),
    (
        "SELECT (SELECT count(*) FROM (VALUES (1)) a(k) JOIN (VALUES (2)) b(m) ON k < m WHERE a.k = o.k), (SELECT count(*) FROM (VALUES (1)) c(k), (VALUES (2)) d(k) WHERE o.k = c.k) AS again FROM (VALUES (5, 1)) o(n, k)",
        "1,1",
    ),
    (
        "SELECT (SELECT 1 FROM (SELECT true AS b) c JOIN (VALUES (7, true)) a(m, b) USING (b) WHERE a.m >= o.n AND b) FROM (VALUES (5, false)) o(n, b)",
        "1",
    ),
    // Keys of nested inner joins.
    (
        "SELECT a.x, b.x, y FROM (VALUES (1,1),(2,2)) a(x, z) CROSS JOIN (VALUES (10),(20)) b(x) JOIN (VALUES (11,1),(22,2),(12,2)) c(y, z) ON a.x + b.x = c.y AND a.z = c.z ORDER BY y",
        "1,10,11 2,10,12 2,20,22",
    ),
    (
        "SELECT a.x, b.x, y FROM (VALUES (1,1),(2,2)) a(x, z), (VALUES (10),(20)) b(x), (VALUES (11,1),(22,2),(12,2)) c(y, z) WHERE a.x + b.x = c.y AND a.z = c.z ORDER BY y",
        "1,10,11 2,10,12 2,20,22",
    ),
    (
        "SELECT a.x, b.x, y FROM (VALUES (1,1),(2,2)) a(x, z) JOIN (VALUES (10),(20)) b(x) ON true JOIN (VALUES (11,1),(22,2),(12,2)) c(y, z) ON a.z = c.z JOIN (VALUES (1)) d(n) ON d.n = a.x AND concat(a.x, b.x) = concat(c.z, c.y - 1)",
        "1,10,11",
    ),
    (
        "SELECT a.x, b.x, y FROM (VALUES (1,1),(2,2)) a(x, z) CROSS JOIN (VALUES (10),(20)) b(x) JOIN (VALUES (11),(22)) c(y) ON a.x + b.x = c.y ORDER BY y",
        "1,10,11 2,20,22",
    ),
    (
        "SELECT id FROM (VALUES (3, CAST(NULL AS INT))) a(id, k) JOIN (SELECT nullif(0, 1) AS c) b ON a.k IS NOT DISTINCT FROM b.c",
        "",
    ),
    (
        "SELECT id FROM (VALUES (3, CAST(NULL AS INT)), (4, 0)) a(id, k) JOIN (SELECT nullif(0, 1) AS c) b ON (a.k IS NULL) = (b.c IS NULL)",
        "4",
    ),
    // Subqueries without a row, within predicates over others.
    (
        "SELECT 1 FROM (VALUES (1)) a(x) JOIN (VALUES (2)) b(y) ON (SELECT 5 AS n FROM (VALUES (1)) v(z) WHERE z > 9) NOT IN (SELECT n FROM (VALUES (100)) w(n))",
        "",
    ),
    (
        "SELECT 1 FROM (VALUES (1)) a(x) WHERE 7 NOT IN (SELECT (SELECT 5 AS n FROM (VALUES (1)) v(z) WHERE z > 9 + n) FROM (VALUES (100)) w(n))",
        "",
    ),
    (
        "SELECT (SELECT 5 AS n FROM (VALUES (1)) v(z) WHERE z > 9) = ANY (SELECT n FROM (VALUES (100)) w(n)) IS NULL",
        "true",
    ),
    // USING and NATURAL.
    (
        "SELECT k FROM (VALUES (1),(2)) a(k) FULL JOIN (VALUES (2),(3)) b(k) USING (k) ORDER BY k",
        "1 2 3",
    ),
    (
        "SELECT k FROM (VALUES (1),(2)) a(k) RIGHT JOIN (VALUES (2),(3)) b(k) USING (k) ORDER BY k",
        "2 3",
    ),
    (
        "SELECT * FROM (VALUES (1, 7)) a(k, x) NATURAL FULL JOIN (VALUES (2, 8)) b(k, y) ORDER BY k",
        "1,7, 2,,8",
    ),
    (
        "SELECT k, count(*) FROM (VALUES (1)) a(k) FULL JOIN (VALUES (2)) b(k) USING (k) GROUP BY k ORDER BY k",
        "1,1 2,1",
    ),
    (
        "SELECT j.k FROM (SELECT k FROM (VALUES (1)) a(k) RIGHT JOIN (VALUES (2)) b(k) USING (k)) j",
        "2",
    ),
    (
        "SELECT * FROM (VALUES (1, 'a1'), (2, 'a2'), (2, 'a3')) z(k, x) LEFT JOIN (VALUES (2, 'b2'), (3, 'b3')) b(k, y) USING (k) ORDER BY x",
        "1,a1, 2,a2,b2 2,a3,b2",
    ),
    (
        "SELECT * FROM (VALUES (1, 'a1'), (2, 'a2'), (2, 'a3')) z(k, x) LEFT JOIN (VALUES (2, 'b2'), (3, 'b3')) b(k, y) USING (k) LEFT JOIN (VALUES (2, 'c2'), (4, 'c4')) a(k, w) USING (k) ORDER BY x",
        "1,a1,, 2,a2,b2,c2 2,a3,b2,c2",
    ),
    (
        "SELECT *, 7 FROM (VALUES (1, 'a1'), (2, 'a2'), (2, 'a3')) z(k, x) JOIN (VALUES (2, 'b2'), (3, 'b3')) b(k, y) USING (k) ORDER BY k, x",
        "2,a2,b2,7 2,a3,b2,7",
    ),
    (
        "SELECT * FROM (VALUES (1, 'a1'), (2, 'a2'), (2, 'a3')) z(k, x) FULL JOIN (VALUES (2, 'b2'), (3, 'b3')) b(k, y) USING (k) ORDER BY k, x",
        "1,a1, 2,a2,b2 2,a3,b2 3,,b3",
    ),
    (
        "SELECT * FROM (VALUES (1, 'a1'), (2, 'a2'), (2, 'a3')) z(k, x) LEFT JOIN (VALUES (2, 'b2'), (3, 'b3')) b(k, y) USING (k) WHERE b.k IS NULL",
        "1,a1,",
    ),
    (
        "SELECT k, x, y, w, u FROM (VALUES (1, 'a1'), (2, 'a2'), (2, 'a3')) z(k, x) LEFT JOIN (VALUES (2, 'b2'), (3, 'b3')) b(k, y) USING (k) LEFT JOIN (VALUES (2, 'c2'), (4, 'c4')) a(k, w) USING (k) JOIN (VALUES (2, 'd2'), (1, 'd1')) d(k, u) USING (k) WHERE k < 3 ORDER BY k, x",
        "1,a1,,,d1 2,a2,b2,c2,d2 2,a3,b2,c2,d2",
    ),
    (
        "SELECT * FROM (VALUES (1, 'a1'), (2, 'a2'), (2, 'a3')) z(k, x) JOIN (VALUES (2, 'b2'), (3, 'b3')) b(k, y) USING (k) JOIN (VALUES (2, 'c2'), (4, 'c4')) a(k, w) USING (k) JOIN (VALUES (2, 'd2'), (1, 'd1')) d(k, u) USING (k) ORDER BY x",
        "2,a2,b2,c2,d2 2,a3,b2,c2,d2",
    ),
    (
        "SELECT k, count(*) AS n FROM (VALUES (1, 'a1'), (2, 'a2'), (2, 'a3')) z(k, x) LEFT JOIN (VALUES (2, 'b2'), (3, 'b3')) b(k, y) USING (k) LEFT JOIN (VALUES (2, 'c2'), (4, 'c4')) a(k, w) USING (k) GROUP BY k HAVING k > 0 ORDER BY k",
        "1,1 2,2",
    ),
    (
        "SELECT -k AS k FROM (VALUES (1, 'a1'), (2, 'a2'), (2, 'a3')) z(k, x) JOIN (VALUES (2, 'b2'), (3, 'b3')) b(k, y) USING (k) JOIN (VALUES (2, 'c2'), (4, 'c4')) a(k, w) USING (k) ORDER BY k LIMIT 1",
        "-2",
    ),
    (
        "SELECT o.k FROM (VALUES (1), (2), (3)) o(k) WHERE EXISTS (SELECT 1 FROM (VALUES (1, 'a1'), (2, 'a2'), (2, 'a3')) z(k, x) JOIN (VALUES (2, 'b2'), (3, 'b3')) b(k, y) USING (k) WHERE k = o.k)",
        "2",
    ),
    (
        "SELECT o.k FROM (VALUES (2), (3)) o(k) WHERE o.k IN (SELECT k + 1 FROM (VALUES (1, 'a1'), (2, 'a2'), (2, 'a3')) z(k, x) LEFT JOIN (VALUES (2, 'b2'), (3, 'b3')) b(k, y) USING (k) WHERE k > 1)",
        "3",
    ),
    (
        "SELECT * FROM (VALUES (2)) b(k) CROSS JOIN (VALUES (2)) z(k) WHERE z.k IN (SELECT z.k FROM (VALUES (1, 'a1'), (2, 'a2'), (2, 'a3')) z(k, x) JOIN (VALUES (2, 'b2'), (3, 'b3')) b(k, y) USING (k))",
        "2,2",
    ),
    // Subqueries without a row.
    (
        "SELECT (SELECT true FROM (VALUES (1)) t(x) WHERE x > 1) IS NULL, coalesce((SELECT 1 FROM (VALUES (1)) t(x) WHERE x > 1), 0)",
        "true,0",
    ),
    (
        "SELECT x FROM (VALUES (1)) t(x) WHERE (SELECT 2 FROM (VALUES (1)) u(y) WHERE y > 1) IS NULL",
        "1",
    ),
    (
        "SELECT k, (SELECT count(*) FROM (VALUES (1), (1)) b(k) WHERE b.k = a.k) FROM (VALUES (1), (2)) a(k) ORDER BY k",
        "1,2 2,0",
    ),
    // What is constant on one side of an outer join is NULL where that side has no row.
    (
        "SELECT s, x, count(*) FROM (VALUES (1, 1), (2, 1), (3, 1), (4, 2)) a(k, x) LEFT JOIN (SELECT k, s FROM (VALUES (1, 'p'), (2, 'q'), (3, 'p')) c(k, s) WHERE s = 'p') b ON a.k = b.k GROUP BY s, x ORDER BY s, x",
        "p,1,2 ,1,1 ,2,1",
    ),
    (
        "SELECT a.k, s FROM (VALUES (1, 1), (2, 1), (3, 1), (4, 2)) a(k, x) LEFT JOIN (SELECT k, s FROM (VALUES (1, 'p'), (2, 'q'), (3, 'p')) c(k, s) WHERE s = 'p') b ON a.k = b.k ORDER BY s DESC, a.k",
        "2, 4, 1,p 3,p",
    ),
    (
        "SELECT a.k, row_number() OVER (PARTITION BY s ORDER BY a.k) FROM (VALUES (1, 1), (2, 1), (3, 1), (4, 2)) a(k, x) LEFT JOIN (SELECT k, s FROM (VALUES (1, 'p'), (2, 'q'), (3, 'p')) c(k, s) WHERE s = 'p') b ON a.k = b.k ORDER BY a.k",
        "1,1 2,1 3,2 4,2",
    ),
    (
        "SELECT a.k, one FROM (VALUES (1), (2), (3)) a(k) LEFT JOIN (SELECT k, 1 AS one FROM (VALUES (2)) c(k)) b ON a.k = b.k ORDER BY one NULLS FIRST, a.k",
        "1, 3, 2,1",
    ),
    (
        "SELECT b.k, one FROM (SELECT k, 1 AS one FROM (VALUES (2), (9)) c(k)) a FULL JOIN (VALUES (1), (2), (3)) b(k) ON a.k = b.k ORDER BY one, b.k",
        "2,1 ,1 1, 3,",
    ),
    (
        "SELECT count(DISTINCT x * y), count(DISTINCT round(x / 10)) FROM (VALUES (0e0, -1e0), (0e0, 1e0), (-1e0, 0e0)) t(x, y)",
        "1,1",
    ),
    ("SELECT DISTINCT lag(d) OVER (ORDER BY d) AS l, d FROM (VALUES (1)) t(d) LIMIT 1", ",1"),
    (
        "SELECT DISTINCT y FROM (VALUES (CAST('nan' AS DOUBLE)), (1)) t(y) CROSS JOIN (VALUES (1), (2), (3)) u(z) ORDER BY y LIMIT 4",
        "1.0 NaN",
    ),
    (
        "(SELECT x, 'a' AS c FROM (VALUES (1), (2), (3), (4), (5), (6)) t(x)) UNION ALL (SELECT x, 'b' FROM (VALUES (9), (7), (8)) u(x)) ORDER BY c DESC, x LIMIT 4",
        "7,b 8,b 9,b 1,a",
    ),
    ("SELECT count(*) FROM (SELECT x FROM (VALUES (2), (1)) t(x) ORDER BY x LIMIT 0)", "0"),
    ("SELECT x FROM (VALUES (2), (1)) t(x) ORDER BY x LIMIT 1 - 1", ""),
    // NOT IN.
    (
        "SELECT id FROM (VALUES (1,10),(2,20),(NULL,30),(4,40)) a(id,z) WHERE id NOT IN (SELECT id FROM (VALUES (1,5),(NULL,50)) b(id,z) WHERE b.z < a.z) ORDER BY id",
        "2 4",
    ),
    (
        "SELECT id FROM (VALUES (1),(2),(NULL),(4)) a(id) WHERE id NOT IN (SELECT id FROM (VALUES (1),(NULL),(5)) b(id) WHERE b.id = a.id) ORDER BY id",
        "2 4 \"\"",
    ),
    (
        "SELECT id FROM (VALUES (1,1),(2,2)) o(id,g) WHERE 3 NOT IN (SELECT id FROM (VALUES (1,1),(NULL,2)) i(id,g) WHERE i.g = o.g)",
        "1",
    ),
    (
        "SELECT x FROM (VALUES (1),(2)) o(x) WHERE NULLIF(1,1) NOT IN (SELECT id FROM (VALUES (1)) i(id))",
        "",
    ),
    (
        "SELECT x FROM (VALUES (1),(2)) o(x) WHERE x NOT IN (SELECT id FROM (VALUES (1),(NULL)) i(id)) OR x = 2",
        "2",
    ),
    (
        "SELECT x FROM (VALUES (1),(3)) o(x) WHERE NOT (x IN (SELECT id FROM (VALUES (1)) i(id)))",
        "3",
    ),
    // Truth values of subqueries wherever they stand.
    (
        "SELECT (k IN (SELECT j FROM (VALUES (1),(NULL)) b(j))) IS NULL FROM (VALUES (1),(2),(NULL)) a(k) ORDER BY k",
        "false true true",
    ),
    (
        "SELECT EXISTS (SELECT 1 FROM (VALUES (1)) b(k) WHERE b.k = a.k) FROM (VALUES (1),(2)) a(k) ORDER BY k",
        "true false",
    ),
    (
        "SELECT CASE WHEN k IN (SELECT 1) THEN 'one' ELSE 'other' END FROM (VALUES (1),(2)) a(k) ORDER BY k",
        "one other",
    ),
    (
        "SELECT k FROM (VALUES (1),(2),(3)) a(k) WHERE k >= ALL (SELECT j FROM (VALUES (1),(3)) b(j))",
        "3",
    ),
    (
        "SELECT k FROM (VALUES (1)) a(k) WHERE k > ALL (SELECT j FROM (VALUES (1)) b(j) WHERE false)",
        "1",
    ),
    ("SELECT k FROM (VALUES (1)) a(k) WHERE k > ALL (SELECT j FROM (VALUES (0),(NULL)) b(j))", ""),
    (
        "SELECT k FROM (VALUES (1),(2)) a(k) WHERE k = ANY (SELECT b.x FROM (VALUES (1)) b(x) JOIN (VALUES (1)) c(x) ON b.x = c.x)",
        "1",
    ),
    // Aggregates of correlated subqueries.
    (
        "SELECT v FROM (VALUES (1),(2)) a(v) WHERE EXISTS (SELECT count(*) FROM (VALUES (2)) b(v) WHERE b.v = a.v) ORDER BY v",
        "1 2",
    ),
    (
        "SELECT v FROM (VALUES (1),(2),(3)) a(v) WHERE 0 IN (SELECT count(*) FROM (VALUES (2)) b(v) WHERE b.v = a.v) ORDER BY v",
        "1 3",
    ),
    (
        "SELECT v FROM (VALUES (1),(2)) a(v) WHERE EXISTS (SELECT count(*) FROM (VALUES (2)) b(v) WHERE b.v = a.v HAVING count(*) > 0)",
        "2",
    ),
    // A UNION of which one part is left.
    (
        "SELECT k FROM (SELECT b.k FROM (VALUES (0)) a(k) JOIN (VALUES (1)) b(k) ON true UNION ALL SELECT k FROM (VALUES (1)) t(k) WHERE false) WHERE k = 1",
        "1",
    ),
    (
        "SELECT k FROM (SELECT k FROM (VALUES (1)) t(k) WHERE false UNION ALL SELECT b.k FROM (VALUES (0)) a(k) JOIN (VALUES (1)) b(k) ON true) WHERE k = 1",
        "1",
    ),
    (
        "SELECT 1 AS n WHERE 1 IN (SELECT b.k FROM (VALUES (0)) a(k) JOIN (VALUES (1)) b(k) ON true UNION SELECT k FROM (VALUES (1)) t(k) WHERE false)",
        "1",
    ),
    // Grouping sets over what is constant or ordered.
    (
        "SELECT CAST('2' AS DOUBLE) AS c FROM (VALUES (1, 1), (2, 3), (3, 4)) t(x, y) GROUP BY CUBE (x, y, CAST('2' AS DOUBLE)) ORDER BY c LIMIT 9",
        "2.0 2.0 2.0 2.0 2.0 2.0 2.0 2.0 2.0",
    ),
    (
        "SELECT count(*) FROM (SELECT y, count(*) FROM (SELECT y, c FROM (SELECT x AS y, 7 AS c FROM (VALUES (1), (2), (3)) t(x)) GROUP BY ROLLUP (c, y)) GROUP BY y)",
        "4",
    ),
    (
        "SELECT id FROM (SELECT 'id' AS id UNION ALL SELECT 'id' AS id ORDER BY id) GROUP BY GROUPING SETS ((id), ()) ORDER BY id",
        "id \"\"",
    ),
    (
        "SELECT c, count(*) FROM (SELECT b, c FROM (SELECT b, c, row_number() OVER (PARTITION BY c ORDER BY b) AS r FROM (SELECT x % 3 AS b, x % 4 AS c FROM generate_series(1, 60) t(x))) WHERE r > 0) GROUP BY GROUPING SETS ((b, c), (c)) ORDER BY c, 2",
        "0,5 0,5 0,5 0,15 1,5 1,5 1,5 1,15 2,5 2,5 2,5 2,15 3,5 3,5 3,5 3,15",
    ),
    (
        "SELECT c, b, count(*) FROM (SELECT x % 3 AS b, x % 2 AS c FROM generate_series(1, 60) t(x) ORDER BY c, b LIMIT 60) GROUP BY GROUPING SETS ((b, c), (c)) ORDER BY c, b",
        "0,0,10 0,1,10 0,2,10 0,,30 1,0,10 1,1,10 1,2,10 1,,30",
    ),
    (
        "SELECT c, y FROM (SELECT x AS y, 7 AS c FROM (VALUES (1), (2)) t(x)) GROUP BY CUBE (c, y) ORDER BY c, y",
        "7,1 7,2 7, ,1 ,2 ,",
    ),
    (
        "SELECT x, y FROM (VALUES (1, 1), (2, 2)) t(x, y) WHERE x = y GROUP BY CUBE (x, y) ORDER BY x, y",
        "1,1 1, 2,2 2, ,1 ,2 ,",
    ),
    // Positions.
    (
        "SELECT x FROM (VALUES (1),(1),(2)) t(x) GROUP BY ROLLUP (1) ORDER BY x NULLS LAST",
        "1 2 \"\"",
    ),
    (
        "SELECT count(*) FROM (VALUES (1, 2),(1, 3),(2, 3)) t(x, y) GROUP BY GROUPING SETS ((x), (2 + 0), ()) ORDER BY 1",
        "1 2 3 3",
    ),
    ("SELECT -0.01 AS c FROM (SELECT 1 AS x WHERE false) t GROUP BY CUBE (1, x)", "\"\""),
    (
        "SELECT x + 1 AS c FROM (VALUES (1),(2)) t(x) GROUP BY CUBE (1) ORDER BY c NULLS LAST",
        "2 3 \"\"",
    ),
    // Set operations that count.
    (
        "SELECT v FROM (VALUES (1),(1),(1),(2),(3),(NULL),(NULL)) a(v) EXCEPT ALL SELECT v FROM (VALUES (1),(2),(NULL)) b(v) ORDER BY v",
        "1 1 3 \"\"",
    ),
    (
        "SELECT v FROM (VALUES (1),(1),(2)) a(v) INTERSECT ALL SELECT v FROM (VALUES (1),(2),(2)) b(v) ORDER BY v",
        "1 2",
    ),
    ("SELECT v FROM (VALUES (1),(1)) a(v) EXCEPT SELECT v FROM (VALUES (2)) b(v)", "1"),
    // Orders below limits.
    (
        "SELECT * FROM (SELECT i FROM (VALUES (0),(1),(2),(3),(4),(5)) t(i) ORDER BY i LIMIT 3 OFFSET 2) ORDER BY i",
        "2 3 4",
    ),
    (
        "SELECT * FROM (SELECT i FROM (VALUES (0),(1),(2),(3),(4),(5)) t(i) ORDER BY i LIMIT 3 OFFSET 2) ORDER BY i DESC LIMIT 2",
        "4 3",
    ),
    (
        "SELECT i, lag(i, -1) OVER (ORDER BY i) FROM (VALUES (1),(2),(3)) t(i) ORDER BY i LIMIT 1",
        "1,2",
    ),
    (
        "SELECT id, LEAD(v,2) IGNORE NULLS OVER (ORDER BY id) FROM (VALUES (1,10),(2,NULL),(3,30),(4,NULL),(5,50),(6,NULL),(7,70)) t(id,v) ORDER BY id",
        "1,50 2,50 3,70 4,70 5, 6, 7,",
    ),
    (
        "SELECT id, lead(id, 2) OVER (ORDER BY id), nth_value(7, 2) OVER (ORDER BY id DESC) FROM (VALUES (1),(2),(3)) t(id) ORDER BY id",
        "1,3,7 2,,7 3,,",
    ),
    ("SELECT x / x FROM (VALUES (0e0),(1e0)) t(x) ORDER BY x / x DESC LIMIT 1", "NaN"),
    ("SELECT least(0e0 / 0e0, 7e0), greatest(- CAST('nan' AS DOUBLE), 7e0)", "7.0,NaN"),
    (
        "SELECT id, LAG(v, 1, 0) IGNORE NULLS OVER (ORDER BY id DESC) FROM (VALUES (1,10),(2,NULL),(3,30)) t(id,v) ORDER BY id",
        "1,30 2,30 3,0",
    ),
    // Conditions without columns, over totals.
    (
        "SELECT n FROM (SELECT count(*) AS n FROM (VALUES (1)) a(b)) q WHERE (SELECT c FROM (VALUES (false)) t(c))",
        "",
    ),
    (
        "SELECT r.c FROM (VALUES (true)) a(b) LEFT JOIN (SELECT 'a' AS c, min(x) AS n FROM (VALUES (1)) t(x)) r ON false",
        "\"\"",
    ),
    // Columns of one name, and what is unique before a join.
    (
        "SELECT 1 FROM (VALUES (1)) t(x) WHERE EXISTS (SELECT b.s AS s FROM (VALUES (1, 7)) a(k, s) JOIN (VALUES (1, 1)) b(k, s) ON a.k = b.k WHERE a.s = t.x)",
        "",
    ),
    (
        "SELECT 1 FROM (VALUES (7)) t(x) WHERE 1 IN (SELECT b.s AS s FROM (VALUES (1, 7)) a(k, s) JOIN (VALUES (1, 1)) b(k, s) ON a.k = b.k WHERE a.s = t.x)",
        "1",
    ),
    (
        "SELECT 1 FROM (VALUES (10)) a(c) WHERE 7 NOT IN (SELECT 7 FROM (VALUES (3)) b(n) LEFT JOIN (SELECT * FROM (VALUES (1, 1)) t(i, n) WHERE 1 = 0) c ON b.n = c.n WHERE c.i = a.c)",
        "1",
    ),
    (
        "SELECT 1 FROM (VALUES (1)) t(x) WHERE NOT (CASE WHEN false THEN t.x END IN (SELECT y FROM (VALUES (1)) u(y)))",
        "",
    ),
    (
        "SELECT DISTINCT b.ts AS ts, a.n AS n FROM (SELECT DISTINCT n FROM (VALUES (3), (10)) t(n)) a LEFT JOIN (VALUES (2, 1), (1, 2), (3, 2), (5, 9), (1, 2)) b(n, ts) ON true ORDER BY n, ts LIMIT 2",
        "1,3 2,3",
    ),
    ("SELECT DISTINCT ON (a) a FROM (VALUES (1, 2)) t(a, b) ORDER BY a, b, b", "1"),
    // Equality of NULLs is of its own condition.
    (
        "SELECT 1 FROM (VALUES (1, CAST(NULL AS INT))) a(k, n) JOIN (VALUES (1, CAST(NULL AS INT))) b(k, n) ON a.n = b.n JOIN (VALUES (1)) c(k) ON a.k IS NOT DISTINCT FROM c.k",
        "",
    ),
    (
        "SELECT 1 FROM (VALUES (CAST(NULL AS INT))) a(n) JOIN (VALUES (CAST(NULL AS INT))) b(n) ON a.n IS NOT DISTINCT FROM b.n JOIN (VALUES (1)) c(n) ON true",
        "1",
    ),
    (
        "SELECT 1 FROM (VALUES (1)) a(b) JOIN (VALUES (1)) c(b) ON a.b IS NOT DISTINCT FROM c.b AND a.b > 5",
        "",
    ),
    ("SELECT 1 FROM (VALUES (1)) a(b) WHERE b IS DISTINCT FROM 2 AND b = 1 OR b = 3", "1"),
    // Floats beside decimals.
    (
        "SELECT x FROM (VALUES (1e-20), (1e20), (0.5e0)) t(x) WHERE x IN (0.0, 0.5) OR x = 0.0 OR x BETWEEN 0.0 AND 0.0",
        "0.5",
    ),
    (
        "SELECT x <= 0.0, x IS NOT DISTINCT FROM 0.0, nullif(x, 0.0), coalesce(x, 0.0), greatest(x, 0.0) FROM (VALUES (1e-20), (1e20)) t(x)",
        "false,false,1e-20,1e-20,1e-20 false,false,1e20,1e20,1e20",
    ),
    (
        "SELECT CASE WHEN x > 1.5 THEN x ELSE 0.0 END, CASE x WHEN 0.0 THEN 'zero' ELSE 'no' END, arrow_typeof(make_array(x, 0.5)) FROM (VALUES (1e-20), (1e20)) t(x)",
        "0.0,no,List(Float64) 1e20,no,List(Float64)",
    ),
    (
        "SELECT x > CASE WHEN x > 5 THEN 1 ELSE 0.0 END, x > (SELECT max(y) FROM (VALUES (0.0)) u(y)), x IN (SELECT y FROM (VALUES (0.0)) u(y)) FROM (VALUES (1e-20), (1e20)) t(x)",
        "true,true,false true,true,false",
    ),
    (
        "SELECT x FROM (VALUES (1e-20), (0.5e0)) t(x) WHERE x IN (SELECT y FROM (VALUES (0.0), (0.5)) u(y))",
        "0.5",
    ),
    (
        "SELECT x FROM (VALUES (1e-20), (0.5e0)) t(x) WHERE 0.0 IN (SELECT y FROM (VALUES (1e-20)) u(y))",
        "",
    ),
    (
        "SELECT x FROM (VALUES (1e-20), (0.5e0)) t(x) JOIN (VALUES (0.0), (0.5)) u(x) USING (x)",
        "0.5",
    ),
    (
        "SELECT x FROM (VALUES (1e-20), (1e20), (0.5e0)) t(x) EXCEPT ALL SELECT y FROM (VALUES (0.0), (0.5)) u(y) ORDER BY 1",
        "1e-20 1e20",
    ),
    ("SELECT 2.5 AS v UNION ALL SELECT 1e20 UNION ALL SELECT 1 ORDER BY v", "1.0 2.5 1e20"),
    (
        "SELECT v FROM (SELECT 1 AS v UNION ALL SELECT 2.5) u WHERE v < 1e20 AND v > 1e-20 ORDER BY v",
        "1.0 2.5",
    ),
    (
        "SELECT * FROM (VALUES (1e20, 1), (0.5, NULL), (NULL, 1e-20)) t(a, b)",
        "1e20,1.0 0.5, ,1e-20",
    ),
    ("SELECT CAST('0.1' AS FLOAT) = 0.1, CAST('1e30' AS FLOAT) > 0.5", "true,true"),
    // Numbers that are cast to times, and days between dates.
    (
        "SELECT CAST(1700000000 AS TIMESTAMP), CAST(CAST(1700000000 AS INT) AS TIMESTAMP(3)) AS i, TRY_CAST(1700000000 AS TIMESTAMP) AS t",
        "2023-11-14T22:13:20,2023-11-14T22:13:20,2023-11-14T22:13:20",
    ),
    (
        "SELECT CAST(n AS TIMESTAMPTZ) FROM (VALUES (CAST(1700000000 AS INT)), (NULL)) t(n)",
        "2023-11-14T22:13:20Z \"\"",
    ),
    (
        "SELECT CAST(1.25 AS TIMESTAMP), CAST(-15e-1 AS TIMESTAMP), arrow_cast(5, 'Timestamp(Microsecond, None)')",
        "1970-01-01T00:00:01.250,1969-12-31T23:59:58.500,1970-01-01T00:00:00.000005",
    ),
    (
        "SELECT d1 - d2, (d1 - d2) * 2 - 1, d1 - d2 > 2 FROM (VALUES (DATE '2001-10-01', DATE '2001-09-28'), (NULL, DATE '2001-09-28')) t(d1, d2)",
        "3,5,true ,,",
    ),
    ("SELECT DATE '2001-10-01' - DATE '2001-09-28'", "3"),
    (
        "SELECT count(*) FROM generate_series(TIMESTAMP '2024-01-01', TIMESTAMP '2024-01-03', INTERVAL '1 day')",
        "3",
    ),
    ("SELECT round(125.2345, 2), round(125.2345, -2)", "125.23,100"),
    // Lists of tables.
    (
        "SELECT array_to_string(array_concat(tags, make_array(9)), '-'), cardinality(array_repeat(tags, 2)), array_to_string(flatten(array_concat(nested, make_array(make_array(9)))), '-') FROM silver.lists",
        "1-2-9,4,1-9",
    ),
    // Floats.
    (
        "SELECT max(y) FROM (VALUES (1, CAST('nan' AS DOUBLE)), (1, CAST('1' AS DOUBLE))) t(g, y) GROUP BY g",
        "NaN",
    ),
    (
        "SELECT count(*) FROM (VALUES (CAST('-0.0' AS DOUBLE))) a(y) JOIN (VALUES (CAST('0' AS DOUBLE))) b(y) ON a.y = b.y",
        "1",
    ),
    (
        "SELECT v FROM (SELECT CAST(c AS float) AS v FROM (VALUES (1.1),(1.2),(1.3)) x(c)) WHERE v < 1.3 ORDER BY v",
        "1.1 1.2",
    ),
    // Decimals and their operators.
    ("SELECT 0.1 + 0.2 = 0.3", "true"),
    ("SELECT 1 / 3.0, 2.0 / 3, CAST(2 AS DECIMAL(10,2)) / 3", "0.333333,0.666667,0.666667"),
    ("SELECT CAST('1.10' AS DECIMAL(10,2)) * 100.00", "110.0000"),
    ("SELECT arrow_typeof(1e3)", "Float64"),
    ("SELECT - CAST(1.25 AS DECIMAL(10,2))", "-1.25"),
    ("SELECT sum(n) FROM (VALUES (9223372036854775807),(-1),(1)) t(n)", "9223372036854775807"),
    (
        "SELECT sum(n) OVER (ORDER BY n ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM (VALUES (1),(2),(NULL)) t(n) ORDER BY n",
        "1 3 2",
    ),
    ("SELECT sum(DISTINCT n), sum(n) FILTER (WHERE n > 5) FROM (VALUES (1),(1),(2)) t(n)", "3,"),
    // Times.
    (
        "SELECT CAST(arrow_cast('2026-02-28T23:30:00Z', 'Timestamp(Microsecond, Some(\"UTC\"))') AT TIME ZONE 'Europe/Rome' AS TIMESTAMP)",
        "2026-03-01T00:30:00",
    ),
    (
        "SELECT CAST(arrow_cast('2026-02-28T23:30:00Z', 'Timestamp(Microsecond, Some(\"UTC\"))') AT TIME ZONE 'Europe/Rome' AS DATE)",
        "2026-03-01",
    ),
    (
        "SELECT CAST('9999-12-31' AS TIMESTAMP), CAST('0001-01-01' AS TIMESTAMP)",
        "9999-12-31T00:00:00,0001-01-01T00:00:00",
    ),
    (
        "SELECT count(*) FROM silver.one WHERE at < '9999-12-31' AND at > DATE '0001-01-01' AND at BETWEEN '1000-01-01' AND '9000-01-01'",
        "1",
    ),
    // Values of subqueries over rows that their outer row chooses.
    (
        "SELECT x, (SELECT max(b.y) FROM (VALUES (1,10),(1,20),(2,5)) b(x,y) WHERE b.x < a.x) FROM (VALUES (1),(2),(2),(3),(NULL)) a(x) ORDER BY x",
        "1, 2,20 2,20 3,20 ,",
    ),
    (
        "SELECT x, (SELECT count(*) FROM (VALUES (1),(1),(2)) b(x) WHERE b.x < a.x) FROM (VALUES (1),(2),(2),(NULL)) a(x) ORDER BY x",
        "1,0 2,2 2,2 ,0",
    ),
    (
        "SELECT x FROM (VALUES (1),(2),(2)) a(x) WHERE (SELECT count(*) FROM (VALUES (1)) b(x) WHERE b.x < a.x) = 0",
        "1",
    ),
    (
        "SELECT x, (SELECT max(b.x) + a.x FROM (VALUES (1),(2)) b(x) WHERE b.x <= a.x), (SELECT sum(b.x * a.x) FROM (VALUES (1),(2)) b(x) WHERE b.x = a.x) FROM (VALUES (0),(1),(2)) a(x) ORDER BY x",
        "0,, 1,2,1 2,4,4",
    ),
    (
        "SELECT x, (SELECT sum(1) FROM (VALUES (1),(1)) b(x) WHERE b.x <= a.x), (SELECT array_to_string(array_agg(b.y ORDER BY b.y DESC), '-') FROM (VALUES (1,10),(1,20)) b(x,y) WHERE b.x <= a.x AND b.y > 5), (SELECT count(DISTINCT b.x) FILTER (WHERE b.y > 10) FROM (VALUES (1,10),(1,20)) b(x,y) WHERE b.x <= a.x) FROM (VALUES (0),(1)) a(x) ORDER BY x",
        "0,,,0 1,2,20-10,1",
    ),
    (
        "SELECT x, (SELECT count(*) FROM (VALUES (1),(1)) b(x) WHERE b.x <= a.x HAVING count(*) > 1) FROM (VALUES (0),(1)) a(x) ORDER BY x",
        "0, 1,2",
    ),
    (
        "SELECT x, (SELECT max(z) FROM (SELECT b.x * 2 AS z FROM (VALUES (1),(2)) b(x) WHERE b.x < a.x) q WHERE z > 2) FROM (VALUES (2),(3)) a(x) ORDER BY x",
        "2, 3,4",
    ),
    (
        "SELECT x, (SELECT max(b.x) FROM (VALUES (1),(2)) b(x) JOIN (VALUES (1),(2)) c(y) ON b.x = c.y WHERE b.x < a.x AND c.y < a.x) FROM (VALUES (1),(2),(3)) a(x) ORDER BY x",
        "1, 2,1 3,2",
    ),
    (
        "SELECT (SELECT max(b.x) FROM (VALUES (1),(2)) b(x) WHERE b.x < a.x) AS m, count(*) FROM (VALUES (0),(1),(2),(9)) a(x) GROUP BY m ORDER BY m",
        "1,1 2,1 ,2",
    ),
    (
        "SELECT x FROM (VALUES (0),(1),(9)) a(x) ORDER BY (SELECT max(-b.x) FROM (VALUES (1),(2)) b(x) WHERE b.x > a.x), x",
        "1 0 9",
    ),
    (
        "SELECT x, count(*) FROM (VALUES (1),(2),(2)) a(x) GROUP BY x HAVING count(*) >= (SELECT max(b.x) FROM (VALUES (1),(3)) b(x) WHERE b.x <= a.x + 1) ORDER BY x",
        "1,1",
    ),
    (
        "SELECT x, x IN (SELECT b.y FROM (VALUES (1,10),(1,2)) b(x,y) WHERE b.x < a.x), x > ALL (SELECT b.y FROM (VALUES (1,10)) b(x,y) WHERE b.x < a.x) FROM (VALUES (0),(2)) a(x) ORDER BY x",
        "0,false,true 2,true,false",
    ),
    (
        "SELECT x, (SELECT b.y FROM (VALUES (1,10),(2,20)) b(x,y) WHERE b.x = a.x) FROM (VALUES (1),(2),(2),(3)) a(x) ORDER BY x",
        "1,10 2,20 2,20 3,",
    ),
    (
        "SELECT x FROM (VALUES (1),(2)) a(x) WHERE (SELECT true FROM (VALUES (1)) b(x) WHERE b.x = a.x) IS NULL",
        "2",
    ),
    // LATERAL.
    (
        "SELECT x, n FROM (VALUES (1),(1),(2)) a(x), LATERAL (SELECT count(*) AS n FROM (VALUES (1),(1)) b(x) WHERE b.x < a.x) ORDER BY x",
        "1,0 1,0 2,2",
    ),
    (
        "SELECT a.x, l.* FROM (VALUES (1),(2)) a(x) JOIN LATERAL (SELECT max(b.x) AS n FROM (VALUES (1)) b(x) WHERE b.x = a.x HAVING count(*) > 0) l ON true",
        "1,1",
    ),
    (
        "SELECT a.x, l.* FROM (VALUES (1),(2)) a(x), LATERAL (SELECT coalesce(sum(b.x), -1) AS n, 'c' AS c FROM (VALUES (1)) b(x) WHERE b.x = a.x) l ORDER BY x",
        "1,1,c 2,-1,c",
    ),
    (
        "SELECT a.x, l.* FROM (VALUES (1),(2)) a(x) LEFT JOIN LATERAL (SELECT count(*) AS n, 'c' AS c FROM (VALUES (1)) b(x) WHERE b.x = a.x) l ON l.n > 0 ORDER BY x",
        "1,1,c 2,,",
    ),
    (
        "SELECT a.x, b.y FROM (VALUES (1),(2)) a(x) LEFT JOIN LATERAL (SELECT b.y FROM (VALUES (1,10),(1,20)) b(x,y) WHERE b.x = a.x) b ON true ORDER BY x, y",
        "1,10 1,20 2,",
    ),
    // HAVING makes one group of all rows.
    ("SELECT 1 FROM (VALUES (1),(2)) t(a) HAVING true", "1"),
    ("SELECT 1 FROM (VALUES (1),(2)) t(a) HAVING false", ""),
    ("SELECT count(*) FROM (VALUES (1)) t(a) WHERE a > 1 HAVING 1 = 1", "0"),
    // Sets of sets.
    (
        "SELECT a FROM (VALUES (1),(2)) t(a) WHERE a = ANY ((SELECT 1) UNION (SELECT 3)) AND a <> ALL ((SELECT 7) EXCEPT (SELECT 8))",
        "1",
    ),
    (
        "SELECT DISTINCT (a > 10) IS NOT TRUE AS b FROM (VALUES (1),(20),(NULL)) t(a) ORDER BY b",
        "false true",
    ),
    ("SELECT lpad('a', -1) || 'x', rpad('a', 0) || 'y'", "x,y"),
    // Differences of times.
    (
        "SELECT a - b, b - 1 FROM (VALUES (DATE '2026-03-01', DATE '2026-02-01')) t(a, b)",
        "28,2026-01-31",
    ),
    (
        "SELECT a - b > INTERVAL '1 day', a - b BETWEEN INTERVAL '1 day' AND INTERVAL '400 days', a - b = INTERVAL '59 days', INTERVAL '1 month' > a - b FROM (VALUES (TIMESTAMP '2026-03-01', TIMESTAMP '2026-01-01')) t(a, b)",
        "true,true,true,false",
    ),
    (
        "SELECT INTERVAL '25 hours' > INTERVAL '1 day', INTERVAL '24 hours' = INTERVAL '1 day'",
        "true,true",
    ),
    (
        "SELECT extract(epoch FROM a - b), extract(day FROM b - a), extract(millisecond FROM b - a) FROM (VALUES (TIMESTAMP '0001-01-01', TIMESTAMP '2026-03-01T09:00:00')) t(a, b)",
        "-63907952400.0,739675,63907952400000",
    ),
    ("SELECT CAST(n AS TEXT) FROM (VALUES (10), (2)) t(n) ORDER BY n", "2 10"),
    ("SELECT t.n::TEXT FROM (VALUES (10), (2)) t(n) ORDER BY t.n DESC", "10 2"),
    (
        "SELECT CAST(n AS TEXT) FROM (VALUES (10), (2)) t(n) GROUP BY n HAVING n > 2 ORDER BY -n",
        "10",
    ),
    (
        "SELECT TRY_CAST(n AS TEXT) FROM (VALUES (10), (2)) t(n) QUALIFY row_number() OVER (ORDER BY n) = 1",
        "2",
    ),
    ("SELECT DISTINCT CAST(n AS TEXT) FROM (VALUES (10), (2), (2)) t(n) ORDER BY n", "10 2"),
    ("SELECT CAST(max(n) AS TEXT) FROM (VALUES (10), (2)) t(n) GROUP BY n ORDER BY max(n)", "2 10"),
    (
        "SELECT CAST(n + 1 AS TEXT) FROM (VALUES (10), (2)) t(n) GROUP BY n + 1 ORDER BY n + 1",
        "3 11",
    ),
    ("SELECT CAST(n AS BIGINT) FROM (VALUES (10)) t(n) UNION ALL SELECT 3 ORDER BY n", "3 10"),
    ("SELECT n FROM (SELECT CAST(n AS BIGINT) FROM (VALUES (10)) t(n))", "10"),
    ("SELECT n, x FROM (SELECT n, CAST(n AS TEXT), 1 AS x FROM (VALUES (10)) t(n))", "10,1"),
    (
        "(SELECT true AS a, max(1) AS b, 1 AS c FROM silver.one HAVING false UNION SELECT DISTINCT true AS d, 1 AS e, 1 AS f FROM silver.one GROUP BY at) UNION SELECT true AS g, 1 AS h, 1 AS i FROM silver.one GROUP BY at",
        "true,1,1",
    ),
    (
        "SELECT bool_or(true) FILTER (WHERE CAST(NULL AS BOOLEAN)) AS a FROM (SELECT count(*) AS n FROM silver.one ORDER BY n LIMIT 2)",
        "\"\"",
    ),
    ("SELECT count(*) FILTER (WHERE n > 1) FROM (SELECT count(*) AS n FROM silver.one)", "0"),
    ("SELECT sum(n), sum(CAST(n AS DOUBLE)) FROM (VALUES (10), (2)) t(n)", "12,12.0"),
    ("SELECT max(n), max(CAST(n AS TEXT)) AS m FROM (VALUES (10), (2)) t(n)", "10,2"),
    ("SELECT max(n::TEXT), max(n) FROM (VALUES (10), (2)) t(n)", "2,10"),
    ("SELECT max(CAST(n AS TEXT)) FROM (VALUES (10), (2)) t(n) HAVING max(n) > 5", "2"),
    ("SELECT max(CAST(n AS TEXT)) FROM (VALUES (10), (2)) t(n) GROUP BY n ORDER BY max(n)", "2 10"),
    (
        "SELECT count(DISTINCT CAST(s AS DOUBLE)) AS a, count(DISTINCT s) AS b FROM (VALUES ('1.0'), ('1')) t(s)",
        "1,2",
    ),
    (
        "SELECT s, count(*) FROM (VALUES ('1.0'), ('1')) t(s) GROUP BY CAST(s AS DOUBLE), s ORDER BY s",
        "1,1 1.0,1",
    ),
    (
        "SELECT CAST(s AS DOUBLE) AS d, s AS e, count(*) FROM (VALUES ('1.0'), ('1')) t(s) GROUP BY CAST(s AS DOUBLE), s ORDER BY e",
        "1.0,1,1 1.0,1.0,1",
    ),
    ("SELECT abs(n), abs(CAST(n AS DOUBLE)) FROM (VALUES (-2)) t(n)", "2,2.0"),
    (
        "SELECT abs(CAST(n AS DOUBLE)), abs(CAST(n AS BIGINT)) FROM (VALUES (-2)) t(n) WHERE n IN (SELECT CAST(n AS BIGINT) FROM (VALUES (-2)) u(n))",
        "2.0,2",
    ),
    (
        "SELECT max(CAST(n AS TEXT)) OVER (), max(n) OVER () FROM (VALUES (10), (2)) t(n)",
        "2,10 2,10",
    ),
    ("SELECT -CAST(n AS DOUBLE), -n FROM (VALUES (10)) t(n)", "-10.0,-10"),
    (
        "SELECT a FROM (SELECT max(n) AS b, max(CAST(n AS TEXT)) AS a FROM (VALUES (10), (2)) t(n))",
        "2",
    ),
    (
        "SELECT sum(n + CAST(1.5 AS DOUBLE)), sum(n + CAST(1.5 AS DECIMAL(2,1))) FROM (VALUES (1)) t(n)",
        "2.5,2.5",
    ),
    // What a total comes to, whatever its rows, it also comes to without any.
    (
        "SELECT 1 FROM (VALUES (0)) a(k) WHERE 1 NOT IN (SELECT NULL FROM (VALUES (1)) b(k) WHERE b.k = a.k HAVING false)",
        "1",
    ),
    (
        "SELECT 1 FROM (VALUES (0)) a(k) WHERE NOT EXISTS (SELECT 1 FROM (VALUES (1)) b(k) WHERE b.k = a.k HAVING false)",
        "1",
    ),
    (
        "SELECT 1 FROM (VALUES (0)) a(k) WHERE 1 IN (SELECT 1 FROM (VALUES (1)) b(k) WHERE b.k = a.k HAVING true)",
        "1",
    ),
    (
        "SELECT 1 FROM (VALUES (0)) a(k) WHERE 1 NOT IN (SELECT count(*) FROM (VALUES (1)) b(k) WHERE b.k = a.k HAVING count(*) < 0 AND 1 = 2)",
        "1",
    ),
    (
        "SELECT k, (SELECT 5 FROM (VALUES (1)) b(k) WHERE b.k = a.k HAVING true) FROM (VALUES (0), (1)) a(k) ORDER BY k",
        "0,5 1,5",
    ),
    (
        "SELECT k, (SELECT CASE WHEN true THEN 1 ELSE count(*) END FROM (VALUES (1)) b(k) WHERE b.k = a.k) FROM (VALUES (0), (1)) a(k) ORDER BY k",
        "0,1 1,1",
    ),
    (
        "SELECT k, (SELECT 1 FROM (SELECT count(*) AS c FROM (VALUES (1)) b(k) WHERE b.k = a.k)) FROM (VALUES (0), (1)) a(k) ORDER BY k",
        "0,1 1,1",
    ),
    (
        "SELECT k, (SELECT count(*) > 0 OR true FROM (VALUES (1)) b(k) WHERE b.k = a.k) FROM (VALUES (0), (1)) a(k) ORDER BY k",
        "0,true 1,true",
    ),
    (
        "SELECT k, (SELECT c > 0 FROM (SELECT 0 * count(*) AS c FROM (VALUES (1)) b(k) WHERE b.k = a.k) x) FROM (VALUES (0), (1)) a(k) ORDER BY k",
        "0,false 1,false",
    ),
    (
        "SELECT a.k, b.x FROM (VALUES (0), (10)) a(k) LEFT JOIN (VALUES (0, 5)) b(k, x) ON a.k = b.k AND 0 = a.k ORDER BY a.k",
        "0,5 10,",
    ),
    (
        "SELECT a.k, b.k FROM (VALUES (5), (4)) a(k) LEFT JOIN (VALUES (5), (4)) b(k) ON a.k = b.k AND 5 > a.k AND b.k <= 5 ORDER BY a.k",
        "4,4 5,",
    ),
    (
        "SELECT a.k, b.k FROM (VALUES (5), (4)) a(k) FULL JOIN (VALUES (5), (4)) b(k) ON a.k = b.k AND 2 + 2 = a.k AND b.k = 4 ORDER BY a.k, b.k",
        "4,4 5, ,5",
    ),
    (
        "SELECT k FROM (SELECT k FROM (VALUES (5), (4)) a(k) WHERE 4 = k) WHERE k = 4 AND 4 <= k",
        "4",
    ),
];

/// Statement, and what its columns are called.
const CALLED: &[(&str, &str)] = &[
    ("SELECT CAST(n AS TEXT), n::TEXT::INT FROM (VALUES (1)) t(n) ORDER BY n", "n,n_2"),
    ("SELECT (t.n)::TEXT, max(n)::TEXT FROM (VALUES (1)) t(n) GROUP BY n ORDER BY 1", "n,max(n)"),
    ("SELECT CAST(\"N m\" AS TEXT) FROM (SELECT 1 AS \"N m\") ORDER BY \"N m\"", "N m"),
    (
        "SELECT sum(n), sum(CAST(n AS DOUBLE)) FROM (VALUES (1)) t(n)",
        "sum(t.n),sum(CAST(n AS DOUBLE))",
    ),
    ("SELECT 1 AS a FROM silver.one HAVING false UNION ALL SELECT 2 AS b FROM silver.one", "a"),
    ("(SELECT 1 AS a FROM silver.one WHERE false UNION SELECT 2) UNION ALL SELECT 3 AS b", "a"),
];

/// Statement, and a part of what is said of it.
const REFUSED: &[(&str, &str)] = &[
    // A bare name that several tables of a subquery have is not one of the query outside.
    (
        "SELECT (SELECT 1 FROM (VALUES (1, false)) c(n, b) JOIN (VALUES (7, false)) a(m, b) ON a.b = c.b WHERE a.m >= o.n AND b) FROM (VALUES (5, true)) o(n, b)",
        "write its table's name before it",
    ),
    (
        "SELECT (SELECT 1 FROM (SELECT false AS b) c NATURAL JOIN (VALUES (7, false)) a(m, b) WHERE a.m >= o.n AND b) FROM (VALUES (5, true)) o(n, b)",
        "write its table's name before it",
    ),
    (
        "SELECT n FROM (VALUES (5, 1)) o(n, k) WHERE EXISTS (SELECT 1 FROM (VALUES (1)) a(k), (VALUES (2)) b(k) WHERE k = 1)",
        "write its table's name before it",
    ),
    (
        "SELECT n FROM (VALUES (5, 1)) o(n, k) WHERE n IN (SELECT a.n FROM (VALUES (1, 5)) a(k, n) JOIN (VALUES (2)) b(k) ON k > 0)",
        "write its table's name before it",
    ),
    (
        "SELECT x FROM (VALUES (1)) t(x) GROUP BY ROLLUP (2)",
        "`2` in GROUP BY is no position of what is selected",
    ),
    // Also where parts are found to be empty, which were then put together wrongly.
    (
        "SELECT a.x FROM (VALUES (1, 'a')) a(x, s) WHERE a.x NOT IN (SELECT max(b.x) FROM (SELECT 1 AS x, 'a' AS s WHERE false) b WHERE b.s = a.s EXCEPT SELECT 1 WHERE false)",
        "EXCEPT and INTERSECT cannot stand over rows that a subquery chooses",
    ),
    (
        "SELECT a.k FROM (VALUES (1, 2)) a(k, n) WHERE 1 IN (SELECT 1 FROM (VALUES (1)) b(k) WHERE b.k = a.n INTERSECT SELECT 1 FROM (VALUES (1)) b(k) WHERE b.k = a.k)",
        "EXCEPT and INTERSECT cannot stand over rows that a subquery chooses",
    ),
    (
        "SELECT a.k FROM (VALUES (1)) a(k) WHERE EXISTS (SELECT 1 FROM (VALUES (1)) b(k) WHERE b.k = a.k UNION ALL SELECT 1 WHERE false)",
        "UNION cannot stand over rows that a subquery chooses",
    ),
    ("SELECT to_timestamp(x) FROM (VALUES (CAST(1e300 AS DOUBLE))) t(x)", "1e300"),
    ("SELECT to_timestamp(CAST('NaN' AS DOUBLE))", "NaN"),
    (
        "SELECT avg(s) FROM (VALUES ('a')) t(s)",
        "function 'avg' does not take these arguments: Function 'avg' requires",
    ),
    (
        "SELECT (d - d) * n FROM (VALUES (DATE '2024-01-01', 1)) t(d, n) WHERE (d - DATE '1970-01-01') * 9223372036854775807 > 0",
        "overflow",
    ),
    (
        "SELECT * FROM generate_series(TIMESTAMP '0001-01-01', TIMESTAMP '0001-01-03', INTERVAL '1 day')",
        "a series of times lies between 1677 and 2262",
    ),
    ("SELECT 9223372036854775807 + 1", "overflow"),
    ("SELECT -n FROM (SELECT -9223372036854775807 - 1 AS n)", "overflow"),
    ("SELECT a * a FROM (VALUES (4000000000), (1)) t(a)", "overflow"),
    ("SELECT sum(n) FROM (VALUES (9223372036854775807),(1)) t(n)", "overflow"),
    (
        "SELECT sum(DISTINCT n) OVER (ORDER BY n ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM (VALUES (9223372036854775807),(1)) t(n)",
        "overflow",
    ),
    ("SELECT sum(n) FROM (VALUES (1, 9223372036854775807),(1, 1)) t(g, n) GROUP BY g", "overflow"),
    (
        "SELECT sum(d) FROM (VALUES (CAST('99999999999999999999999999999999999999' AS decimal(38,0))),(CAST('99999999999999999999999999999999999999' AS decimal(38,0)))) t(d)",
        "overflow",
    ),
    (
        "SELECT d + d FROM (VALUES (CAST('60000000000000000000000000000000000000' AS decimal(38,0)))) t(d)",
        "too large",
    ),
    (
        "SELECT a.k FROM (VALUES (1)) a(k) FULL JOIN (VALUES (2)) b(k) USING (k)",
        "`a.k` names a table's column that USING or NATURAL merges",
    ),
    ("SELECT b.* FROM (VALUES (1)) a(k) NATURAL RIGHT JOIN (VALUES (2)) b(k)", "`b.*` names"),
    (
        "SELECT k FROM (VALUES (1)) a(k) FULL JOIN (VALUES (2)) b(k) USING (k) ORDER BY b.k",
        "`b.k` names",
    ),
    (
        "SELECT 1 FROM (VALUES (1)) t(x) WHERE EXISTS (SELECT a.k FROM (VALUES (1)) a(k) WHERE a.k >= t.x LIMIT 1 OFFSET 1)",
        "LIMIT and OFFSET cannot stand",
    ),
    (
        "SELECT 1 FROM (VALUES (1)) a(k) WHERE 1 IN (SELECT b.k FROM (VALUES (1)) b(k) WHERE b.k >= a.k LIMIT 0)",
        "LIMIT and OFFSET cannot stand",
    ),
    (
        "SELECT 1 FROM (VALUES (1)) a(k) WHERE 1 IN (SELECT row_number() OVER (ORDER BY b.k) FROM (VALUES (1),(0)) b(k) WHERE b.k >= a.k)",
        "window functions cannot stand",
    ),
    (
        "SELECT * FROM (VALUES (1)) z(k) NATURAL LEFT JOIN (VALUES (2)) b(k)",
        "would not say which side's column it is",
    ),
    (
        "SELECT 1 FROM (VALUES (1)) o(x) WHERE x IN (SELECT x FROM (VALUES (1, 1)) a(k, x) JOIN (VALUES (1)) b(k) USING (k) LEFT JOIN (VALUES (1)) c(x) USING (x))",
        "of one of several tables",
    ),
    (
        "SELECT (SELECT b.y FROM (VALUES (1,10),(1,20)) b(x,y) WHERE b.x = a.x) FROM (VALUES (1)) a(x)",
        "gave more than one row",
    ),
    (
        "SELECT (SELECT b.y FROM (VALUES (1,10),(1,20)) b(x,y) WHERE b.x < a.x) FROM (VALUES (2)) a(x)",
        "gave more than one row",
    ),
    (
        "SELECT l.* FROM (VALUES (1)) a(x), LATERAL (SELECT y FROM (VALUES (1, 2)) b(x, y) WHERE b.x = a.x ORDER BY y LIMIT 1) l",
        "row_number() OVER",
    ),
    (
        "SELECT (SELECT max(b.x) FROM (VALUES (1)) b(x) LEFT JOIN (SELECT * FROM (VALUES (1)) c(x) WHERE c.x < a.x) c ON b.x = c.x) FROM (VALUES (1)) a(x)",
        "uses its outer row where that cannot be computed",
    ),
    ("SELECT a FROM (VALUES (1)) t(a) WHERE row_number() OVER () = 1", "QUALIFY"),
    ("SELECT extract(nanosecond FROM TIMESTAMP '9999-01-01' - TIMESTAMP '0001-01-01')", "overflow"),
];

#[test]
fn statements_that_the_engine_answers_wrongly_are_answered_rightly_or_refused() {
    let one =
        "SELECT arrow_cast('2026-03-01T00:00:00Z', 'Timestamp(Microsecond, Some(\"UTC\"))') AS at";
    let lists = "SELECT make_array(1, 2) AS tags, make_array(make_array(1)) AS nested";
    let project = Project::of_models(&[
        ("silver/one", &model("kind: full", one)),
        ("silver/lists", &model("kind: full", lists)),
    ]);
    project.run(&["run"]).succeeded();
    let served = Served::start(&project, &[]);
    let mut wrong = BTreeMap::new();
    for (sql, right) in RIGHT {
        let found = over_http(&served, sql);
        let rows: Vec<&str> = found.lines().skip(1).collect();
        if rows.join(" ") != *right {
            wrong.insert(*sql, found);
        }
    }
    for (sql, header) in CALLED {
        let found = over_http(&served, sql);
        if found.lines().next() != Some(header) {
            wrong.insert(*sql, found);
        }
    }
    for (sql, part) in REFUSED {
        let request = Request {
            method: "POST",
            path: "/api/v1/query",
            headers: &[("content-type", "text/plain")],
            body: sql.as_bytes(),
        };
        let reply = served.ask(&request);
        let said = reply.text();
        if reply.status != 400 || !said.contains(part) {
            wrong.insert(*sql, format!("{} {said}", reply.status));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
