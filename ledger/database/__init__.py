"""The database: tables, migrations, connections, and its errors in our words."""
