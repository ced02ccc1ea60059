"""Runs and their reports."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "ftcluster_runs",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("parent", sa.String(63), sa.ForeignKey("ftcluster_runs.name")),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("overrides", sa.Text, nullable=False),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("mlflow_run_id", sa.String(64)),
        sa.Column("rung", sa.Integer),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("ended_at", sa.Double),
        sa.UniqueConstraint("parent", "number", name="ftcluster_one_trial_per_number"),
    )
    op.create_index("ix_ftcluster_runs_mlflow_run_id", "ftcluster_runs", ["mlflow_run_id"])
    op.create_table(
        "ftcluster_reports",
        sa.Column("run", sa.String(63), sa.ForeignKey("ftcluster_runs.name"), primary_key=True),
        sa.Column("rung", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
