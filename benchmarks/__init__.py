"""Speed measured against plain references, and the published tables as runs."""
