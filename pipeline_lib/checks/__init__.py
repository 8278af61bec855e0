"""Commands that compute nothing: doctor, plan, status, check-data; and the check of a Dask cluster.

May import every room but `testing`.
"""
