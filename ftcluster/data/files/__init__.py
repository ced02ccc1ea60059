"""Files, wherever they are, to rows with file and line; and files written whole or not at all."""
