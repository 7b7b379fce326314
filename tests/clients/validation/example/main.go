package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/apache/arrow-adbc/go/adbc"
	"github.com/apache/arrow-adbc/go/adbc/driver/flightsql"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

func main() {
	uri := os.Args[1] // grpc://127.0.0.1:31337
	if err := printDays(context.Background(), uri); err != nil {
		log.Fatal(err)
	}
}

func printDays(ctx context.Context, uri string) error {
	driver := flightsql.NewDriver(memory.DefaultAllocator)
	database, err := driver.NewDatabase(map[string]string{adbc.OptionKeyURI: uri})
	if err != nil {
		return err
	}
	defer database.Close()
	connection, err := database.Open(ctx)
	if err != nil {
		return err
	}
	defer connection.Close()
	statement, err := connection.NewStatement()
	if err != nil {
		return err
	}
	defer statement.Close()
	sql := "SELECT order_date, gmv FROM gold.daily_metrics ORDER BY 1 DESC LIMIT 2"
	if err := statement.SetSqlQuery(sql); err != nil {
		return err
	}
	reader, _, err := statement.ExecuteQuery(ctx)
	if err != nil {
		return err
	}
	defer reader.Release()
	for reader.Next() {
		batch := reader.RecordBatch()
		for row := range int(batch.NumRows()) {
			fmt.Println(batch.Column(0).ValueStr(row), batch.Column(1).ValueStr(row))
		}
	}
	return reader.Err()
}
