"""The report of a conversion: its schema and the page that shows it."""
