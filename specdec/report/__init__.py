"""A study's runs for readers: one HTML page that opens from a file (`page`), and plain tables (`text`)."""
