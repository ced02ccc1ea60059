"""Examples to tokens: chat templates, what is trained, tools."""
