"""WhyScore's library: plain Python, no Prefect, and nothing heavy imported until it is used."""
