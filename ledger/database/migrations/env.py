"""Run by Alembic: applies the migrations on the connection of `ledger.database.migrate`."""

from alembic import context

from ledger.database.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
