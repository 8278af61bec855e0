"""Make the bucket of a store if it is not there yet: `python docker/make_bucket.py s3://bucket/prefix`."""

import sys

import s3fs

bucket = sys.argv[1].removeprefix("s3://").split("/")[0]
files = s3fs.S3FileSystem()
if not files.exists(bucket):
    files.mkdir(bucket)
print(f"bucket {bucket} is there")
