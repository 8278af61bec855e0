"""What `whyscore doctor`, `whyscore status` and `whyscore check-data` say, and the check of a Dask cluster.

May import every room but `testing`.
"""
