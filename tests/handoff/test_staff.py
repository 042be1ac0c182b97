"""The first account: made once, also when several programs start at the same moment."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from config.database import Database
from handoff.staff import check_password, everybody, first_account, first_password


def test_programs_that_start_together_make_one_first_account(
    database: Database, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(4) as pool:
        for made in [pool.submit(database.write_now, first_account, tmp_path) for _ in range(4)]:
            made.result()
    [admin] = database.write_now(everybody)
    password = first_password(tmp_path)
    assert password is not None
    assert database.write_now(check_password, admin.login, password)
