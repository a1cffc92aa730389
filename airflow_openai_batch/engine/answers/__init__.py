"""Lines of output and error files become outcomes, one for each row."""
