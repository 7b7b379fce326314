// The Flight SQL JDBC driver on a server over the demo's lake: what database browsers and reporting
// tools call. Prints a line per check and `N passed, N failed`; ends with 1 if any failed.
//
// Usage: java --add-opens=java.base/java.nio=ALL-UNNAMED -cp DRIVER.jar Jdbc.java URL [NAME=VALUE…]
//   URL          jdbc:arrow-flight-sql://127.0.0.1:31337
//   NAME=VALUE   properties of the driver: useEncryption=false, user=…, password=…, token=…,
//                trustStore=…, trustStorePassword=…, useSystemTrustStore=false, tlsRootCerts=…,
//                disableCertificateVerification=true
// The user must be one who reads every table. Where a check holds a limit of the driver rather than
// of the server, a comment says so.

import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.ParameterMetaData;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.time.Instant;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Calendar;
import java.util.List;
import java.util.Objects;
import java.util.Properties;
import java.util.TimeZone;
import java.util.concurrent.TimeUnit;

public class Jdbc {
    // Hundreds of seconds of work, and no memory to speak of.
    static final String SLOW =
            "SELECT count(*) FROM silver.clicks_cleaned AS one"
                    + " CROSS JOIN silver.clicks_cleaned AS other WHERE one.event_id < other.user_id";
    static final long CANCEL_SECONDS_MAX = 20;
    static final String DAILY = "SELECT * FROM gold.daily_metrics ORDER BY order_date";
    static final List<String> DAILY_ROWS =
            List.of(
                    "2026-01-05|2845|32603.16|984|11.46",
                    "2026-01-06|2852|32849.68|1072|11.52",
                    "2026-01-07|2851|32592.02|1141|11.43",
                    "2026-01-08|2847|32601.06|1214|11.45",
                    "2026-01-09|2856|32655.15|1221|11.43",
                    "2026-01-10|2845|32718.10|1291|11.50",
                    "2026-01-11|2865|32885.32|1351|11.48");
    static final long ORDERS = 19_961;

    static int passed, failed;

    interface Group {
        void run() throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments.length == 0) {
            System.err.println("usage: Jdbc.java URL [NAME=VALUE…]");
            System.exit(64);
        }
        Properties properties = new Properties();
        for (String argument : Arrays.copyOfRange(arguments, 1, arguments.length)) {
            String[] parts = argument.split("=", 2);
            properties.setProperty(parts[0], parts[1]);
        }
        try (Connection connection = DriverManager.getConnection(arguments[0], properties)) {
            DatabaseMetaData metadata = connection.getMetaData();
            System.out.println(metadata.getDriverName() + " " + metadata.getDriverVersion());
            group("product", () -> product(metadata));
            group("tree", () -> tree(metadata));
            group("columns", () -> columns(metadata));
            group("keys and types", () -> keysAndTypes(metadata));
            group("rows", () -> rows(connection));
            group("values", () -> values(connection));
            group("parameters", () -> parameters(connection));
            group("large", () -> large(connection));
            group("cancellation", () -> cancellation(connection));
            group("errors", () -> errors(connection));
            group("session", () -> session(arguments[0], properties));
        }
        System.out.println(passed + " passed, " + failed + " failed");
        // The driver leaves threads behind.
        System.exit(failed == 0 && passed > 0 ? 0 : 1);
    }

    // --- what a browser shows --------------------------------------------------------------

    static void product(DatabaseMetaData metadata) throws Exception {
        equal("product name", metadata.getDatabaseProductName(), "FlowGuard");
        check("product version", metadata.getDatabaseProductVersion().matches("\\d+\\.\\d+\\.\\d+.*"));
        equal("read-only", metadata.isReadOnly(), true);
        equal("identifier quote", metadata.getIdentifierQuoteString(), "\"");
        equal("transactions", metadata.supportsTransactions(), false);
        equal("catalogs in SELECT", metadata.supportsCatalogsInDataManipulation(), true);
        equal("schemas in SELECT", metadata.supportsSchemasInDataManipulation(), true);
        equal("schema term", metadata.getSchemaTerm(), "schema");
        equal("outer joins", metadata.supportsOuterJoins(), true);
        check("keywords", !metadata.getSQLKeywords().isEmpty());
        check("functions", metadata.getStringFunctions().toLowerCase().contains("upper"));
    }

    static void tree(DatabaseMetaData metadata) throws Exception {
        equal("catalogs", column(metadata.getCatalogs(), "TABLE_CAT"), List.of("lake"));
        List<String> schemas = column(metadata.getSchemas(), "TABLE_SCHEM");
        check("schemas", schemas.containsAll(List.of("bronze", "gold", "silver")));
        ResultSet some = metadata.getSchemas("lake", "g%");
        equal("schemas by pattern", column(some, "TABLE_SCHEM"), List.of("gold"));
        List<String> types = column(metadata.getTableTypes(), "TABLE_TYPE");
        equal("table types", types, List.of("TABLE", "VIEW"));

        List<String> gold =
                List.of("daily_metrics", "food_item_performance", "funnel_metrics", "user_cohorts");
        equal("tables", tables(metadata, null, "gold", "%"), gold);
        equal("tables of a catalog", tables(metadata, "lake", "gold", "%"), gold);
        equal("tables elsewhere", tables(metadata, "elsewhere", "gold", "%"), List.of());
        equal("by name", tables(metadata, null, "gold", "daily\\_metrics"), gold.subList(0, 1));
        List<String> metrics = List.of("daily_metrics", "funnel_metrics");
        equal("by pattern", tables(metadata, null, "%", "%\\_metrics"), metrics);
        equal("by type", tables(metadata, null, "gold", "%", "TABLE"), gold);
        equal("by another type", tables(metadata, null, "gold", "%", "VIEW"), List.of());
    }

    static List<String> tables(
            DatabaseMetaData metadata, String catalog, String schema, String name, String... types)
            throws Exception {
        String[] wanted = types.length == 0 ? null : types;
        return column(metadata.getTables(catalog, schema, name, wanted), "TABLE_NAME");
    }

    static void columns(DatabaseMetaData metadata) throws Exception {
        List<String> found = new ArrayList<>();
        List<String> remarks = new ArrayList<>();
        try (ResultSet row = metadata.getColumns("lake", "gold", "daily\\_metrics", "%")) {
            while (row.next()) {
                found.add(
                        row.getInt("ORDINAL_POSITION")
                                + " " + row.getString("COLUMN_NAME")
                                + " " + row.getInt("DATA_TYPE")
                                + " " + row.getString("TYPE_NAME")
                                + " " + row.getString("IS_NULLABLE"));
                remarks.add(row.getString("REMARKS"));
                if (row.getString("COLUMN_NAME").equals("gmv")) {
                    equal("columns: precision", row.getInt("COLUMN_SIZE"), 18);
                    equal("columns: scale", row.getInt("DECIMAL_DIGITS"), 2);
                }
            }
        }
        equal(
                "columns",
                found,
                List.of(
                        "1 order_date " + Types.DATE + " DATE YES",
                        "2 orders " + Types.BIGINT + " BIGINT YES",
                        "3 gmv " + Types.DECIMAL + " DECIMAL YES",
                        "4 unique_users " + Types.BIGINT + " BIGINT YES",
                        "5 avg_order_value " + Types.DECIMAL + " DECIMAL YES"));
        equal("columns: remarks are the model's docs", remarks.get(1), "number of orders");
        ResultSet some = metadata.getColumns(null, "gold", "%", "%users");
        equal("columns by pattern", column(some, "COLUMN_NAME"), List.of("unique_users", "active_users"));
    }

    static void keysAndTypes(DatabaseMetaData metadata) throws Exception {
        ResultSet key = metadata.getPrimaryKeys(null, "gold", "user_cohorts");
        equal("primary key", column(key, "COLUMN_NAME"), List.of("cohort_week", "week_number"));
        check("imported keys", !metadata.getImportedKeys(null, "gold", "user_cohorts").next());
        check("exported keys", !metadata.getExportedKeys(null, "gold", "user_cohorts").next());
        check("cross references",
                !metadata.getCrossReference(null, "gold", "user_cohorts", null, "gold", "daily_metrics").next());
        check("indexes", !metadata.getIndexInfo(null, "gold", "user_cohorts", false, true).next());
        // The driver never asks the server, which has a list of types.
        equal("type info", column(metadata.getTypeInfo(), "TYPE_NAME"), List.of());
    }

    // --- results ---------------------------------------------------------------------------

    static void rows(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery(DAILY)) {
            ResultSetMetaData metadata = rows.getMetaData();
            List<String> described = new ArrayList<>();
            for (int column = 1; column <= metadata.getColumnCount(); column++) {
                described.add(
                        metadata.getColumnLabel(column)
                                + " " + metadata.getColumnType(column)
                                + " " + metadata.getColumnClassName(column)
                                + " " + metadata.isNullable(column));
            }
            // The driver knows neither classes nor nullability here: null and "no nulls" for all.
            int nullable = ResultSetMetaData.columnNoNulls;
            equal(
                    "result columns",
                    described,
                    List.of(
                            "order_date " + Types.DATE + " null " + nullable,
                            "orders " + Types.BIGINT + " null " + nullable,
                            "gmv " + Types.DECIMAL + " null " + nullable,
                            "unique_users " + Types.BIGINT + " null " + nullable,
                            "avg_order_value " + Types.DECIMAL + " null " + nullable));
            equal("result columns: precision", metadata.getPrecision(3), 18);
            equal("result columns: scale", metadata.getScale(3), 2);
            equal("result columns: type name", metadata.getColumnTypeName(3), "DECIMAL");
            List<String> found = new ArrayList<>();
            while (rows.next()) {
                found.add(
                        rows.getDate(1) + "|" + rows.getLong("orders") + "|" + rows.getBigDecimal(3)
                                + "|" + rows.getInt(4) + "|" + rows.getString(5));
            }
            equal("rows", found, DAILY_ROWS);
        }
        for (String sql : List.of("SHOW TABLES", "DESCRIBE gold.daily_metrics", "EXPLAIN " + DAILY)) {
            try (Statement statement = connection.createStatement();
                    ResultSet rows = statement.executeQuery(sql)) {
                check(sql, rows.next());
            }
        }
        try (Statement statement = connection.createStatement()) {
            statement.setMaxRows(3);
            statement.setFetchSize(2);
            equal("execute gives a result", statement.execute(DAILY), true);
            ResultSet rows = statement.getResultSet();
            int count = 0;
            while (rows.next()) count++;
            // The driver keeps setMaxRows to itself and gives all rows.
            check("at most setMaxRows, or all", count == 3 || count == 7);
            equal("no update count", statement.getUpdateCount(), -1);
        }
    }

    static void values(Connection connection) throws Exception {
        String sql =
                "SELECT TIMESTAMPTZ '2026-01-07T13:30:00.000250+01:00' AS moment,"
                        + " TIMESTAMP '2026-07-01T00:00:00' AS elsewhere,"
                        + " CAST('-12345678901234567890.12' AS DECIMAL(38, 2)) AS wide,"
                        + " CAST(NULL AS BIGINT) AS nothing, true AS yes, 0.1 AS fraction,"
                        + " arrow_cast('text', 'Dictionary(Int32, Utf8)') AS coded,"
                        + " arrow_cast('view', 'Utf8View') AS view, X'00ff' AS bytes,"
                        + " CAST(7 AS SMALLINT) AS small, DATE '2026-02-28' AS day";
        try (Statement statement = connection.createStatement();
                ResultSet row = statement.executeQuery(sql)) {
            check("one row", row.next());
            Instant moment = Instant.parse("2026-01-07T12:30:00.000250Z");
            Calendar utc = Calendar.getInstance(TimeZone.getTimeZone("UTC"));
            equal("a timestamp with zone", row.getObject("moment", Instant.class), moment);
            equal(
                    "with an offset",
                    row.getObject("moment", OffsetDateTime.class),
                    moment.atOffset(ZoneOffset.UTC));
            // The driver shifts what getTimestamp gives by Java's own time zone.
            if (TimeZone.getDefault().getRawOffset() == 0) {
                equal("by getTimestamp", row.getTimestamp("moment").toInstant(), moment);
                equal("in a calendar", row.getTimestamp("moment", utc).toInstant(), moment);
            }
            check("a timestamp without zone", row.getTimestamp("elsewhere", utc) != null);
            equal("a wide decimal", row.getBigDecimal("wide"), new BigDecimal("-12345678901234567890.12"));
            equal("null as a number", row.getLong("nothing"), 0L);
            equal("it was null", row.wasNull(), true);
            equal("null as an object", row.getObject("nothing"), null);
            equal("a boolean", row.getBoolean("yes"), true);
            equal("a fraction", row.getDouble("fraction"), 0.1);
            equal("a dictionary", row.getString("coded"), "text");
            equal("a string view", row.getString("view"), "view");
            equal("bytes", Arrays.toString(row.getBytes("bytes")), "[0, -1]");
            equal("a small integer", row.getInt("small"), 7);
            equal("a date", row.getDate("day").toString(), "2026-02-28");
            equal("an object", row.getObject("day").getClass(), Date.class);
            ResultSetMetaData metadata = row.getMetaData();
            equal("type of a dictionary", metadata.getColumnType(7), Types.VARCHAR);
            equal("type of a string view", metadata.getColumnType(8), Types.VARCHAR);
            check("no second row", !row.next());
        }
    }

    // --- parameters ------------------------------------------------------------------------

    static void parameters(Connection connection) throws Exception {
        // The driver writes values in the types that the server says it expects, so those must be
        // known: by a comparison with a column, or by a cast. It cannot bind `SELECT ?`.
        String count = "SELECT count(*) FROM silver.orders_cleaned WHERE order_date = ?";
        try (PreparedStatement statement = connection.prepareStatement(count)) {
            ParameterMetaData metadata = statement.getParameterMetaData();
            equal("parameters", metadata.getParameterCount(), 1);
            equal("parameter type", metadata.getParameterType(1), Types.DATE);
            for (String row : DAILY_ROWS) {
                String[] cells = row.split("\\|");
                statement.setDate(1, Date.valueOf(cells[0]));
                try (ResultSet found = statement.executeQuery()) {
                    found.next();
                    equal("prepared once, for " + cells[0], found.getLong(1), Long.parseLong(cells[1]));
                }
            }
            statement.setNull(1, Types.DATE);
            try (ResultSet found = statement.executeQuery()) {
                found.next();
                equal("compared with null", found.getLong(1), 0L);
            }
        }
        String each =
                "SELECT CAST(? AS BIGINT), CAST(? AS DOUBLE), CAST(? AS VARCHAR), CAST(? AS BOOLEAN),"
                        + " CAST(? AS DECIMAL(10, 2)), CAST(? AS DATE), CAST(? AS BYTEA), CAST(? AS INT)";
        try (PreparedStatement statement = connection.prepareStatement(each)) {
            statement.setLong(1, Long.MIN_VALUE);
            statement.setDouble(2, 0.1);
            statement.setString(3, "Gâteau 🎂 'quoted' ?");
            statement.setBoolean(4, true);
            statement.setBigDecimal(5, new BigDecimal("-12345678.90"));
            statement.setDate(6, Date.valueOf("2026-01-07"));
            statement.setBytes(7, new byte[] {0, -1});
            statement.setInt(8, -7);
            try (ResultSet row = statement.executeQuery()) {
                check("a row of parameters", row.next());
                equal("long", row.getLong(1), Long.MIN_VALUE);
                equal("double", row.getDouble(2), 0.1);
                equal("string", row.getString(3), "Gâteau 🎂 'quoted' ?");
                equal("boolean", row.getBoolean(4), true);
                equal("decimal", row.getBigDecimal(5), new BigDecimal("-12345678.90"));
                equal("date", row.getDate(6).toString(), "2026-01-07");
                equal("bytes", Arrays.toString(row.getBytes(7)), "[0, -1]");
                equal("int", row.getInt(8), -7);
            }
        }
        String since = "SELECT count(*) FROM silver.orders_cleaned WHERE event_timestamp >= ?";
        try (PreparedStatement statement = connection.prepareStatement(since)) {
            // What it writes is the wall clock of Java's own time zone, taken for UTC.
            Timestamp midnight = Timestamp.valueOf("2026-01-11 00:00:00");
            statement.setTimestamp(1, midnight);
            try (ResultSet row = statement.executeQuery()) {
                row.next();
                equal("timestamp", row.getLong(1), 2865L);
            }
        }
        try (PreparedStatement statement = connection.prepareStatement(DAILY)) {
            equal("columns before execution", statement.getMetaData().getColumnCount(), 5);
        }
    }

    // --- size, time and mistakes -----------------------------------------------------------

    static void large(Connection connection) throws Exception {
        String sql =
                "SELECT orders.order_id, orders.price FROM silver.orders_cleaned AS orders"
                        + " CROSS JOIN gold.daily_metrics AS one CROSS JOIN gold.daily_metrics AS other";
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery(sql)) {
            long count = 0;
            BigDecimal sum = BigDecimal.ZERO;
            while (rows.next()) {
                count++;
                sum = sum.add(rows.getBigDecimal(2));
            }
            equal("large: rows", count, ORDERS * 49);
            equal("large: sum", sum, new BigDecimal("228904.49").multiply(BigDecimal.valueOf(49)));
        }
    }

    static void cancellation(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            Thread canceller =
                    new Thread(
                            () -> {
                                try {
                                    TimeUnit.SECONDS.sleep(1);
                                    statement.cancel();
                                } catch (InterruptedException | SQLException error) {
                                    System.out.println("cannot cancel: " + error);
                                }
                            });
            canceller.start();
            long began = System.nanoTime();
            fails("cancelled", () -> statement.executeQuery(SLOW).next(), "ancel");
            canceller.join();
            long seconds = TimeUnit.NANOSECONDS.toSeconds(System.nanoTime() - began);
            check("cancelled at once", seconds < CANCEL_SECONDS_MAX);
        }
        try (Statement statement = connection.createStatement();
                ResultSet row = statement.executeQuery("SELECT 1")) {
            check("the connection lives on", row.next() && row.getInt(1) == 1);
        }
    }

    static void errors(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            fails(
                    "no such column",
                    () -> statement.executeQuery("SELECT order_dat FROM gold.daily_metrics"),
                    "1:8", "order_dat", "hint: did you mean");
            fails(
                    "no such table",
                    () -> statement.executeQuery("SELECT * FROM gold.daily_metric"),
                    "there is no table `gold.daily_metric` in the lake",
                    "hint: did you mean `gold.daily_metrics`?");
            String refused = "only queries are allowed";
            fails("refused: a table", () -> statement.execute("CREATE TABLE gold.mine (one INT)"), refused);
            fails("refused: an update", () -> statement.executeUpdate("DELETE FROM gold.daily_metrics"), refused);
            fails(
                    "refused: a prepared update",
                    () -> connection.prepareStatement("INSERT INTO gold.daily_metrics VALUES (?)").executeUpdate(),
                    refused);
            fails(
                    "while it runs",
                    () -> {
                        String sql = "SELECT 1 / (orders - orders) FROM gold.daily_metrics";
                        while (statement.executeQuery(sql).next()) {}
                    },
                    "ivide by zero");
        }
    }

    static void session(String url, Properties properties) throws Exception {
        Properties with = new Properties();
        with.putAll(properties);
        with.setProperty("catalog", "lake");
        Connection connection = DriverManager.getConnection(url, with);
        try (Statement statement = connection.createStatement();
                ResultSet row = statement.executeQuery("SELECT count(*) FROM lake.gold.daily_metrics")) {
            check("a catalog of the session", row.next() && row.getLong(1) == 7);
        }
        try {
            connection.close();
        } catch (SQLException error) {
            // With a catalog the driver closes the session twice, the second time without a channel.
            equal("closed, twice", error.getMessage(), "Channel shutdown invoked");
        }
        with.setProperty("catalog", "elsewhere");
        // Where names without a layer are looked for. The driver keeps `setSchema` to itself, and sends
        // what it does not know of its URL.
        Properties schema = new Properties();
        schema.putAll(properties);
        schema.setProperty("schema", "gold");
        try (Connection gold = DriverManager.getConnection(url, schema);
                Statement statement = gold.createStatement();
                ResultSet row = statement.executeQuery("SELECT count(*) FROM daily_metrics")) {
            check("a schema of the URL", row.next() && row.getLong(1) == 7);
        }
        fails("no such catalog", () -> DriverManager.getConnection(url, with).close(), "catalog");
    }

    // --- checking --------------------------------------------------------------------------

    static List<String> column(ResultSet rows, String name) throws SQLException {
        List<String> values = new ArrayList<>();
        try (rows) {
            while (rows.next()) values.add(rows.getString(name));
        }
        return values;
    }

    static void group(String name, Group group) {
        try {
            group.run();
        } catch (Exception | LinkageError error) {
            count(name, false, error.toString());
            error.printStackTrace(System.out);
        }
    }

    static void equal(String name, Object got, Object expected) {
        count(name, Objects.equals(got, expected), "expected " + expected + ", got " + got);
    }

    static void check(String name, boolean holds) {
        count(name, holds, "it does not hold");
    }

    static void fails(String name, Group group, String... words) {
        try {
            group.run();
            count(name, false, "nothing was raised");
        } catch (Exception error) {
            StringBuilder said = new StringBuilder();
            for (Throwable cause = error; cause != null; cause = cause.getCause()) {
                said.append(cause.getMessage()).append('\n');
            }
            boolean all = Arrays.stream(words).allMatch(said.toString()::contains);
            count(name, all, "no " + Arrays.toString(words) + " in " + said);
        }
    }

    static void count(String name, boolean holds, String otherwise) {
        if (holds) passed++;
        else failed++;
        System.out.println(holds ? "ok " + name : "FAILED " + name + ": " + otherwise);
    }
}
