import java.sql.DriverManager;

public class WithJdbc {
    public static void main(String[] arguments) throws Exception {
        // jdbc:arrow-flight-sql://127.0.0.1:31337?useEncryption=false
        try (var connection = DriverManager.getConnection(arguments[0]);
                var statement = connection.createStatement();
                var rows = statement.executeQuery(
                        "SELECT order_date, gmv FROM gold.daily_metrics ORDER BY 1 DESC LIMIT 2")) {
            while (rows.next()) {
                System.out.println(rows.getDate(1) + " " + rows.getBigDecimal(2));
            }
        }
        System.exit(0); // the driver leaves threads behind
    }
}
