"""The whole loop as a play: product, users and operator against a real server.

`stream` is what the users want, `product` sends it and corrects wrong answers, `play` is the
sequence of acts, `report` the table at the end.
"""
