"""Reads every Delta table of a lake on S3 with Spark and prints one JSON line per table.

An independent reader for the tests: nothing of FlowGuard's is imported, and nothing is
written. Each line is
    {"table": "silver.orders_cleaned", "rows": 3, "sums": {"price": "12.50"}}
with the exact sum, as text, of each decimal and integer column (null if no value is
there), sorted by table name. A table that cannot be read ends the script with an error.
Of a table whose only column is `k`, the sums are instead counts of rows under filters on
a third of its values: by a scan that skips files by their bounds, and by one that cannot.

Usage: read_lake.py JARS_DIR [LAYER…]      (layers: bronze silver gold)
Environment: LAKE_S3_ENDPOINT, LAKE_S3_BUCKET, LAKE_S3_ACCESS_KEY_ID,
LAKE_S3_SECRET_ACCESS_KEY, and LAKE_S3_REGION (default us-east-1).
"""

import json
import os
import sys
from pathlib import Path

from pyspark.sql import SparkSession, functions
from pyspark.sql.types import ByteType, DecimalType, IntegerType, LongType, ShortType

LAYERS = ["bronze", "silver", "gold"]
INTEGERS = (ByteType, ShortType, IntegerType, LongType)
# Spark's widest decimal; a sum of 64-bit integers in it cannot overflow unnoticed.
INTEGER_SUM = DecimalType(38, 0)


def start_spark(jars_dir):
    endpoint = os.environ["LAKE_S3_ENDPOINT"]
    jars = ",".join(str(jar) for jar in sorted(Path(jars_dir).glob("*.jar")))
    settings = {
        "spark.jars": jars,
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "2g",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "2",
        "spark.databricks.delta.snapshotPartitions": "2",
        # An overflow is an error, not a null.
        "spark.sql.ansi.enabled": "true",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.hadoop.fs.s3a.endpoint": endpoint,
        "spark.hadoop.fs.s3a.endpoint.region": os.environ.get("LAKE_S3_REGION", "us-east-1"),
        "spark.hadoop.fs.s3a.access.key": os.environ["LAKE_S3_ACCESS_KEY_ID"],
        "spark.hadoop.fs.s3a.secret.key": os.environ["LAKE_S3_SECRET_ACCESS_KEY"],
        "spark.hadoop.fs.s3a.aws.credentials.provider": "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider",
        "spark.hadoop.fs.s3a.path.style.access": "true",
        "spark.hadoop.fs.s3a.connection.ssl.enabled": str(endpoint.startswith("https:")).lower(),
        # The tests' lake must answer at once; minutes of retries would only hide it.
        "spark.hadoop.fs.s3a.attempts.maximum": "2",
        "spark.hadoop.fs.s3a.retry.limit": "2",
    }
    builder = SparkSession.builder.master("local[2]").appName("read_lake")
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def tables_of(spark, layer_uri):
    """The names of the folders under a layer that hold a Delta log, sorted."""
    java = spark.sparkContext._jvm
    path = java.org.apache.hadoop.fs.Path
    files = path(layer_uri).getFileSystem(spark.sparkContext._jsc.hadoopConfiguration())
    if not files.exists(path(layer_uri)):
        return []
    return sorted(
        entry.getPath().getName()
        for entry in files.listStatus(path(layer_uri))
        if files.exists(path(entry.getPath(), "_delta_log"))
    )


def sum_of(field):
    column = functions.col(f"`{field.name}`")
    if isinstance(field.dataType, INTEGERS):
        column = column.cast(INTEGER_SUM)
    # Through text, so that no float comes between.
    return functions.sum(column).cast("string").alias(field.name)


def compare_filters(frame):
    kind = frame.schema["k"].dataType.simpleString()
    texts = frame.selectExpr("CAST(k AS STRING) AS t").where("t IS NOT NULL").distinct()
    values = sorted(row[0] for row in texts.collect())
    quoted = [value.replace("\\", "\\\\").replace("'", "\\'") for value in values]
    filters = [f"k = CAST('{value}' AS {kind})" for value in quoted[::3]]
    filters += [f"k >= CAST('{quoted[-1]}' AS {kind})", f"k < CAST('{quoted[0]}' AS {kind})"]
    filtered = [frame.where(condition).count() for condition in filters]
    counts = [functions.count_if(functions.expr(condition)) for condition in filters]
    unfiltered = frame.agg(*counts).first()
    join = lambda counts: ",".join(map(str, counts))
    sums = {"filters": join(filters), "filtered": join(filtered), "unfiltered": join(unfiltered)}
    return {"rows": frame.count(), "sums": sums}


def describe(spark, uri):
    frame = spark.read.format("delta").load(uri)
    if frame.columns == ["k"]:
        return compare_filters(frame)
    summed = [f for f in frame.schema.fields if isinstance(f.dataType, INTEGERS + (DecimalType,))]
    row = frame.agg(functions.count(functions.lit(1)).alias("rows"), *map(sum_of, summed)).first()
    return {"rows": row[0], "sums": {field.name: row[i + 1] for i, field in enumerate(summed)}}


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    layers = sys.argv[2:] or LAYERS
    spark = start_spark(sys.argv[1])
    try:
        for layer in sorted(layers):
            layer_uri = f"s3a://{os.environ['LAKE_S3_BUCKET']}/{layer}"
            for table in tables_of(spark, layer_uri):
                line = {"table": f"{layer}.{table}", **describe(spark, f"{layer_uri}/{table}")}
                print(json.dumps(line), flush=True)
    finally:
        spark.stop()


if __name__ == "__main__":
    main()
