"""channels: files, receipts, links between a person's channels

Cases belong to a contact from now on; files have a table of their own.
"""

import json

import sqlalchemy as sa
from alembic import op

from config.vault import vault

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STAMP = sa.DateTime(timezone=True)


def upgrade() -> None:
    old = op.get_bind().execute(
        sa.text(
            "select message.id, conversation_id, channel, attachments from message "
            "join conversation on conversation.id = conversation_id where attachments is not null"
        )
    )
    files = [
        (number, conversation, channel, one)
        for number, conversation, channel, sealed in old
        for one in json.loads(vault().open(bytes(sealed)))
    ]
    with op.batch_alter_table("contact") as table:
        table.add_column(sa.Column("preferred_id", sa.Integer(), nullable=True))
        table.add_column(sa.Column("safe_from", sa.String(5), nullable=True))
        table.add_column(sa.Column("safe_until", sa.String(5), nullable=True))
    with op.batch_alter_table("staff") as table:
        table.add_column(sa.Column("phone", sa.LargeBinary(), nullable=True))
        table.add_column(
            sa.Column("on_duty", sa.Boolean(), nullable=False, server_default=sa.false())
        )
    with op.batch_alter_table("conversation") as table:
        table.add_column(sa.Column("continues_id", sa.Integer(), nullable=True))
        table.add_column(sa.Column("member", sa.String(40), nullable=False, server_default=""))
        table.create_foreign_key(
            op.f("fk_conversation_continues_id"), "conversation", ["continues_id"], ["id"]
        )
    op.create_index(
        "ix_conversation_continues",
        "conversation",
        ["continues_id"],
        sqlite_where=sa.text("continues_id IS NOT NULL"),
        postgresql_where=sa.text("continues_id IS NOT NULL"),
    )
    with op.batch_alter_table("message") as table:
        table.add_column(sa.Column("kind", sa.String(12), nullable=False, server_default="text"))
        table.add_column(sa.Column("files", sa.Integer(), nullable=False, server_default="0"))
        table.add_column(sa.Column("edits_id", sa.Integer(), nullable=True))
        table.add_column(sa.Column("receipt_index", sa.String(64), nullable=True))
        table.add_column(sa.Column("held", sa.Boolean(), nullable=False, server_default=sa.false()))
        table.add_column(sa.Column("parts", sa.Integer(), nullable=False, server_default="0"))
        table.add_column(sa.Column("receipt", sa.String(12), nullable=False, server_default=""))
        table.drop_column("attachments")
        table.create_index(op.f("ix_message_receipt_index"), ["receipt_index"])
    with op.batch_alter_table("case") as table:
        table.add_column(sa.Column("contact_id", sa.Integer(), nullable=True))
    op.execute(
        'update "case" set contact_id = (select contact_id from conversation '
        'where conversation.id = "case".conversation_id)'
    )
    with op.batch_alter_table("case") as table:
        table.alter_column("contact_id", existing_type=sa.Integer(), nullable=False)
        table.create_foreign_key(op.f("fk_case_contact_id"), "contact", ["contact_id"], ["id"])
        table.drop_index("uq_case_open")
        table.create_index("ix_case_contact", ["contact_id"])
        table.create_index(
            "uq_case_open",
            ["contact_id"],
            unique=True,
            sqlite_where=sa.text("status != 'closed'"),
            postgresql_where=sa.text("status != 'closed'"),
        )
    op.create_table(
        "media",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("message_id", sa.Integer(), nullable=False),
        sa.Column("conversation_id", sa.Integer(), nullable=False),
        sa.Column("channel", sa.String(20), nullable=False),
        sa.Column("name", sa.LargeBinary(), nullable=False),
        sa.Column("media_type", sa.String(80), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("file", sa.String(40), nullable=False),
        sa.Column("source", sa.LargeBinary(), nullable=False),
        sa.Column("error", sa.String(200), nullable=False),
        sa.Column("erased", sa.Boolean(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", STAMP, nullable=True),
        sa.ForeignKeyConstraint(["message_id"], ["message.id"], name=op.f("fk_media_message_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_media")),
    )
    for number, (message, conversation, channel, one) in enumerate(files, 1):
        op.get_bind().execute(
            sa.text(
                "insert into media values (:id, :message, :conversation, :channel, :name, :type,"
                " :size, :sha256, '', :source, 'was not kept', :no, 0, null)"
            ),
            {
                "id": number,
                "message": message,
                "conversation": conversation,
                "channel": channel,
                "name": vault().seal(one["name"]),
                "type": one["media_type"][:80],
                "size": one["size"],
                "sha256": vault().seal(one.get("sha256", "")),
                "source": vault().seal(""),
                "no": False,
            },
        )
        op.get_bind().execute(
            sa.text("update message set files = files + 1 where id = :id"), {"id": message}
        )
    if files and op.get_bind().dialect.name == "postgresql":
        op.execute(
            "select setval(pg_get_serial_sequence('media', 'id'), (select max(id) from media))"
        )
    op.create_index(op.f("ix_media_message_id"), "media", ["message_id"])
    op.create_index(op.f("ix_media_file"), "media", ["file"])
    op.create_index(
        "ix_media_due",
        "media",
        ["due_at"],
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_table(
        "link_code",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("code_index", sa.String(64), nullable=False),
        sa.Column("conversation_id", sa.Integer(), nullable=False),
        sa.Column("expires_at", STAMP, nullable=False),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversation.id"], name=op.f("fk_link_code_conversation_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_link_code")),
        sa.UniqueConstraint("code_index", name=op.f("uq_link_code_code_index")),
    )
    op.create_table(
        "contact_link",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("conversation_id", sa.Integer(), nullable=False),
        sa.Column("from_contact_id", sa.Integer(), nullable=False),
        sa.Column("to_contact_id", sa.Integer(), nullable=False),
        sa.Column("staff_id", sa.Integer(), nullable=True),
        sa.Column("at", STAMP, nullable=False),
        sa.Column("undone_at", STAMP, nullable=True),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversation.id"], name=op.f("fk_contact_link_conversation_id")
        ),
        sa.ForeignKeyConstraint(
            ["from_contact_id"], ["contact.id"], name=op.f("fk_contact_link_from_contact_id")
        ),
        sa.ForeignKeyConstraint(
            ["to_contact_id"], ["contact.id"], name=op.f("fk_contact_link_to_contact_id")
        ),
        sa.ForeignKeyConstraint(["staff_id"], ["staff.id"], name=op.f("fk_contact_link_staff_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contact_link")),
    )
    op.create_index(op.f("ix_contact_link_conversation_id"), "contact_link", ["conversation_id"])
    op.create_index(op.f("ix_contact_link_to_contact_id"), "contact_link", ["to_contact_id"])
    op.create_table(
        "link_miss",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", STAMP, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_link_miss")),
    )
    op.create_index(op.f("ix_link_miss_at"), "link_miss", ["at"])


def downgrade() -> None:
    raise NotImplementedError("There is no way back: files and links would be lost.")
