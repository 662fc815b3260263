"""The dashboard: pages over the same functions that the API calls; no inline script, nothing from elsewhere."""
