"""Where a report lies under an output; imported where nothing heavy may be."""

REPORT = "report/index.html"
