"""The conversation itself: decide, take a turn, compose the program, command line."""
