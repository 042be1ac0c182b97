"""Alembic's entry: the engine and the tables are given by `Database.alembic`."""

from alembic import context

config = context.config
engine = config.attributes["engine"]
sqlite = engine.dialect.name == "sqlite"

with engine.connect() as connection:
    driver = connection.connection.dbapi_connection
    if sqlite:  # a table is changed by building it anew, under which no foreign key may pull
        driver.execute("PRAGMA foreign_keys=OFF")
    context.configure(
        connection=connection,
        target_metadata=config.attributes["metadata"],
        compare_type=True,
        render_as_batch=sqlite,
    )
    with context.begin_transaction():
        context.run_migrations()
        if sqlite and (broken := driver.execute("PRAGMA foreign_key_check").fetchall()):
            raise RuntimeError(f"the new tables do not fit together: {broken[:3]}")
    connection.commit()
    if sqlite:
        driver.execute("PRAGMA foreign_keys=ON")
