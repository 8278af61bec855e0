"""The bundled data set and base VLM: enough to run the whole loop on a laptop with no download."""
