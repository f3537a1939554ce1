"""What a run shows of itself: plots, the page report.html, the model card."""
