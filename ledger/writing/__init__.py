"""From the server's event loop to committed rows."""
