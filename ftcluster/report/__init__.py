"""What a sweep taught: its ledger and records -> findings -> a page, sentences, numbers and tables of data."""
