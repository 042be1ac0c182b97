"""How people take over: staff, cases, queue, opening hours, the console."""
