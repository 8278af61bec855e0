"""The bundled data set and base VLM: enough to run the whole loop on a laptop with no download.

`dataset` writes the images and scores; `make_model` makes the model in `model/` anew.
May import every room but checks and testing.
"""
