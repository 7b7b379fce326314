"""Reads every Delta table of a lake on S3 with Spark and prints one JSON line per table.

An independent reader for the tests: nothing of FlowGuard's is imported, and nothing is
written. Each line is
    {"table": "silver.orders_cleaned", "rows": 3, "sums": {"price": "12.50"}}
with the exact sum, as text, of each decimal and integer column (null if no value is
there), sorted by table name. A table that cannot be read ends the script with an error.

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


def describe(spark, uri):
    frame = spark.read.format("delta").load(uri)
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
