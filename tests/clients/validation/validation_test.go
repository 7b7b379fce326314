// ADBC's own validation suite, on its Flight SQL driver for Go, against a running server.
//
// The suite makes its tables by DDL or bulk ingest, which this server refuses; the two that it
// looks at are models of the project that is served: `gold.bulk_ingest (int64s, strings)` and
// `gold.sample_test (ints, strings)`. Tests that do not apply to a read-only server are named in
// `skipped`, each with the reason; a name there that the suite doesn't have fails.
//
// Environment: FLOWGUARD_TEST_URL, such as grpc://127.0.0.1:31337; FLOWGUARD_TEST_VERSION and
// FLOWGUARD_TEST_ARROW_VERSION, which the server says of itself.
package validation_test

import (
	"fmt"
	"os"
	"reflect"
	"testing"

	"github.com/apache/arrow-adbc/go/adbc"
	"github.com/apache/arrow-adbc/go/adbc/driver/flightsql"
	"github.com/apache/arrow-adbc/go/adbc/validation"
	"github.com/apache/arrow-go/v18/arrow"
	metadata "github.com/apache/arrow-go/v18/arrow/flight/flightsql"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
	"github.com/stretchr/testify/suite"
)

// Why a test of the suite does not apply.
var skipped = map[string]string{
	"TestSqlIngestInts":         "the server is read-only: tables are made by models and ingestion",
	"TestSqlIngestAppend":       "the server is read-only: tables are made by models and ingestion",
	"TestSqlIngestReplace":      "the server is read-only: tables are made by models and ingestion",
	"TestSqlIngestCreateAppend": "the server is read-only: tables are made by models and ingestion",
	"TestSqlIngestErrors":       "the server is read-only: every ingest is refused with one error",
	"TestAutocommitToggle":      "the server is read-only: there are no transactions to begin",
	"TestMetadataCurrentDbSchema": "no schema is the current one until a session sets it; " +
		"adbc.py does, and reads it back",
}

// The models that stand for the suite's own tables.
var models = map[string]bool{"bulk_ingest": true, "sample_test": true}

// Our server as the suite sees it; `form` writes the placeholder of a parameter.
type quirks struct {
	url  string
	form func(index int) string
	mem  *memory.CheckedAllocator
}

func (q *quirks) SetupDriver(t *testing.T) adbc.Driver {
	q.mem = memory.NewCheckedAllocator(memory.DefaultAllocator)
	return flightsql.NewDriver(q.mem)
}

func (q *quirks) TearDownDriver(t *testing.T, _ adbc.Driver) {
	q.mem.AssertSize(t, 0)
}

func (q *quirks) DatabaseOptions() map[string]string {
	return map[string]string{
		adbc.OptionKeyURI: q.url,
		// The session is held in a cookie.
		flightsql.OptionCookieMiddleware: adbc.OptionValueEnabled,
	}
}

func (q *quirks) Alloc() memory.Allocator                     { return q.mem }
func (q *quirks) BindParameter(index int) string              { return q.form(index) }
func (q *quirks) SupportsBulkIngest(string) bool              { return false }
func (q *quirks) SupportsConcurrentStatements() bool          { return true }
func (q *quirks) SupportsCurrentCatalogSchema() bool          { return true }
func (q *quirks) SupportsErrorIngestIncompatibleSchema() bool { return false }
func (q *quirks) SupportsExecuteSchema() bool                 { return true }
func (q *quirks) SupportsGetSetOptions() bool                 { return true }
func (q *quirks) SupportsPartitionedData() bool               { return true }
func (q *quirks) SupportsStatistics() bool                    { return false }
func (q *quirks) SupportsTransactions() bool                  { return false }
func (q *quirks) SupportsGetParameterSchema() bool            { return true }
func (q *quirks) SupportsDynamicParameterBinding() bool       { return true }
func (q *quirks) Catalog() string                             { return "lake" }
func (q *quirks) DBSchema() string                            { return "gold" }

func (q *quirks) GetMetadata(code adbc.InfoCode) interface{} {
	switch code {
	case adbc.InfoDriverName:
		return "ADBC Flight SQL Driver - Go"
	case adbc.InfoDriverVersion, adbc.InfoDriverArrowVersion:
		// What the driver says of itself when it runs in a test.
		return "(unknown or development build)"
	case adbc.InfoDriverADBCVersion:
		return adbc.AdbcVersion1_1_0
	case adbc.InfoVendorName:
		return "FlowGuard"
	case adbc.InfoVendorVersion:
		return os.Getenv("FLOWGUARD_TEST_VERSION")
	case adbc.InfoVendorArrowVersion:
		return os.Getenv("FLOWGUARD_TEST_ARROW_VERSION")
	}
	return nil
}

// The tables are there already.
func (q *quirks) CreateSampleTable(name string, _ arrow.RecordBatch) error {
	if !models[name] {
		return fmt.Errorf("no model stands for the table %q", name)
	}
	return nil
}

func (q *quirks) DropTable(adbc.Connection, string) error { return nil }

func (q *quirks) SampleTableSchemaMetadata(table string, dataType arrow.DataType) arrow.Metadata {
	entries := map[string]string{
		metadata.CatalogNameKey:     q.Catalog(),
		metadata.SchemaNameKey:      q.DBSchema(),
		metadata.TableNameKey:       table,
		metadata.IsReadOnlyKey:      "1",
		metadata.IsAutoIncrementKey: "0",
		metadata.TypeNameKey:        "BIGINT",
	}
	if dataType.ID() == arrow.STRING {
		entries[metadata.TypeNameKey] = "VARCHAR"
	}
	return arrow.MetadataFrom(entries)
}

// The suites, of which the tests in `skipped` are left out.
type connectionTests struct{ validation.ConnectionTests }

func (c *connectionTests) BeforeTest(_, name string) { skip(c.T(), name) }

type statementTests struct{ validation.StatementTests }

func (s *statementTests) BeforeTest(_, name string) { skip(s.T(), name) }

func skip(t *testing.T, name string) {
	if reason, ok := skipped[name]; ok {
		t.Skipf("does not apply: %s", reason)
	}
}

func TestValidation(t *testing.T) {
	url := os.Getenv("FLOWGUARD_TEST_URL")
	require.NotEmpty(t, url, "FLOWGUARD_TEST_URL is not set")
	suites := func(q *quirks) []suite.TestingSuite {
		return []suite.TestingSuite{
			&validation.DatabaseTests{Quirks: q},
			&connectionTests{validation.ConnectionTests{Quirks: q}},
			&statementTests{validation.StatementTests{Quirks: q}},
		}
	}
	forms := map[string]func(int) string{
		"question marks":   func(int) string { return "?" },
		"numbered dollars": func(index int) string { return fmt.Sprintf("$%d", index+1) },
	}
	for name, form := range forms {
		t.Run(name, func(t *testing.T) {
			for _, tests := range suites(&quirks{url: url, form: form}) {
				suite.Run(t, tests)
			}
		})
	}
}

// A test that was renamed in the suite would otherwise run, and be skipped no longer, unnoticed.
func TestSkippedTestsExist(t *testing.T) {
	for name := range skipped {
		found := false
		for _, tests := range []any{&validation.ConnectionTests{}, &validation.StatementTests{}} {
			_, has := reflect.TypeOf(tests).MethodByName(name)
			found = found || has
		}
		require.True(t, found, "the suite has no %s", name)
	}
}
