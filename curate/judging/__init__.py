"""Rows before people: what waits, what is said about it, and taking it back.

queue      the rows that wait, with all that is known about them
decisions  accept, reject, another text, good as it is, not now
undo       takes the last step back
standing   what holds about a row, and who said what
terminal   the queue without a browser
"""
