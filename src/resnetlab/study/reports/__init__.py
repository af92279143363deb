"""Tables, pages and files of a study's results, beside published numbers."""
