"""Run by alembic, on the connection and in the transaction that ``ledger.opening`` hands over."""

from alembic import context

from ftcluster.ledger import schema

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.metadata,
    version_table=schema.version.name,
)
context.run_migrations()
