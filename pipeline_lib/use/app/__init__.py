"""The local web page of `whyscore app`: images are dropped, and their scores, intervals and explanations are shown.

`queue` keeps the images and scores them one batch at a time, `guard` decides who may ask, `server` has the addresses,
`page/` is what the browser gets. Nothing is fetched from another server. Decision 21 says why there is no framework.
"""
