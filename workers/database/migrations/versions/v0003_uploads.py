"""Tables of what comes in: uploads, models, data sets and previews of them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("filename", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=True),
        sa.Column("architecture", sa.String(length=200), server_default="", nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("wanted_sha256", sa.String(length=64), nullable=True),
        sa.Column("place", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("facts", _JSON, nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("problem", _JSON, nullable=True),
        sa.Column("resource_id", sa.String(length=36), nullable=True),
        sa.Column("created", _MOMENT, nullable=False),
        sa.Column("expires", _MOMENT, nullable=False),
        sa.Column("finished", _MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )
    op.create_index("ix_uploads_state_expires", "uploads", ["state", "expires"], unique=False)
    op.create_index("ix_uploads_tenant_state", "uploads", ["tenant", "state"], unique=False)
    op.create_table(
        "models",
        *_shared("models"),
        sa.Column("architecture", sa.String(length=200), server_default="", nullable=False),
        sa.UniqueConstraint("tenant", "sha256", "architecture", name="uq_models_tenant_sha256_architecture"),
    )
    op.create_table(
        "datasets", *_shared("datasets"), sa.UniqueConstraint("tenant", "sha256", name="uq_datasets_tenant_sha256")
    )
    op.create_table(
        "previews",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("dataset_id", sa.String(length=36), nullable=False),
        sa.Column("model_id", sa.String(length=36), nullable=True),
        sa.Column("asked", _JSON, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("problem", _JSON, nullable=True),
        sa.Column("created", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name="fk_previews_dataset_id_datasets", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_previews_model_id_models", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_previews"),
    )
    for column in ("dataset_id", "model_id", "state"):
        op.create_index(f"ix_previews_{column}", "previews", [column], unique=False)


def _shared(table: str) -> list[sa.Column[object] | sa.Constraint]:
    return [
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=200), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("facts", _JSON, nullable=False),
        sa.Column("created", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=f"pk_{table}"),
    ]


def downgrade() -> None:
    """Drop every table, those that refer to others first."""
    for table in ("previews", "datasets", "models", "uploads"):
        op.drop_table(table)
