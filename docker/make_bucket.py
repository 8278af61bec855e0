"""Make the bucket of a store if it does not exist: `python docker/make_bucket.py s3://bucket/prefix`."""

import sys

from pipeline_lib.store.s3_files import file_system, make_bucket

print(f"bucket {make_bucket(file_system(), sys.argv[1])} exists")
