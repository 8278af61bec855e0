"""How WhyScore runs on a Prefect server: what is deployed there, and the stack as plain processes."""
