"""What is kept and for how long, and the numbers of what is not."""
